"""AdamW with the usual parameter groups, fused where the build has it."""

from __future__ import annotations

import torch

__all__ = ["adamw"]


def adamw(
    model: torch.nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """Make an AdamW over a model's trainable parameters; vectors are not decayed.

    Biases and normalisation weights (all of one dimension) get no weight decay, as in BERT.

    Args:
        model: Its parameters' order is the order of the optimizer's state.
        lr: Peak learning rate.
        weight_decay: Decoupled decay of matrices.
        betas: Moment decay rates.
        eps: Added to the denominator.
    """
    named = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in named if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in named if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    try:
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    except RuntimeError:  # a device or dtype without the fused kernel
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)
