"""Tensors in, tensors out: backbones, heads and the runtimes that run them."""
