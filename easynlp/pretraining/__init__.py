"""Making encoders from raw text."""
