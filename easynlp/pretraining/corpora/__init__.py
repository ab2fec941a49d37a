"""Raw text to a corpus worth training on: cleaned, judged, de-duplicated, tokenized."""
