"""Make a trained run smaller: prune, cut, quantize, recover, and measure every candidate."""
