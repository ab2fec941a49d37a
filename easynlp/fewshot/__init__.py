"""Learning from few labels: prompts, contrast, entailment, self-training, and honest baselines."""
