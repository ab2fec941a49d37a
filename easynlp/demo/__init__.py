"""``easynlp demo``: real Chinese reviews, from raw rows to a served int8 model, in minutes."""
