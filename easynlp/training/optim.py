"""Optimizers with the usual parameter groups: AdamW, fused where the build has it, and LAMB."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from easynlp.errors import ConfigError
from easynlp.training.depth import depths

__all__ = ["OPTIMIZERS", "Lamb", "adamw", "lamb", "make_optimizer"]


def make_optimizer(
    name: str,
    model: torch.nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """Make an optimizer by its name over a model's trainable parameters.

    Args:
        name: Key of `OPTIMIZERS`.
        model: The order of its parameters is the order of the optimizer's state.
        lr: Peak learning rate.
        weight_decay: Decoupled decay of matrices.
        betas: Moment decay rates.
        layer_decay: Groups carry ``scale``, this to the power of the layers above them.

    Raises:
        ConfigError: If there is no optimizer of this name.

    Example:
        >>> type(make_optimizer("lamb", torch.nn.Linear(2, 2), lr=1e-3, weight_decay=0.01))
        <class 'easynlp.training.optim.Lamb'>
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f'unknown optimizer "{name}". Known: {", ".join(OPTIMIZERS)}')
    return OPTIMIZERS[name](
        model, lr=lr, weight_decay=weight_decay, betas=betas, layer_decay=layer_decay
    )


def adamw(
    model: torch.nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """Make an AdamW over a model's trainable parameters; vectors are not decayed.

    Biases and normalisation weights (all of one dimension) get no weight decay, as in BERT.

    Args:
        model: Its parameters' order is the order of the optimizer's state.
        lr: Peak learning rate.
        weight_decay: Decoupled decay of matrices.
        betas: Moment decay rates.
        eps: Added to the denominator.
        layer_decay: See `make_optimizer`.
    """
    groups = _groups(model, weight_decay, layer_decay)
    try:
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
    except RuntimeError:  # a device or dtype without the fused kernel
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)


def lamb(
    model: torch.nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    layer_decay: float = 1.0,
) -> Lamb:
    """Make a `Lamb`; vectors are neither decayed nor adapted.

    Args:
        model: Its parameters' order is the order of the optimizer's state.
        lr: Peak learning rate: about the length of a step relative to that of a matrix.
        weight_decay: Decoupled decay of matrices.
        betas: Moment decay rates.
        eps: Added to the denominator.
        layer_decay: See `make_optimizer`.
    """
    groups = _groups(model, weight_decay, layer_decay)
    for group in groups:
        group["adapt"] = group["params"][0].dim() > 1
    return Lamb(groups, lr=lr, betas=betas, eps=eps)


class Lamb(torch.optim.Optimizer):
    """LAMB (You et al. 2020): Adam whose step is as long as the tensor it moves, times `lr`.

    With r = m̂ / (√v̂ + ε) and u = r + λw, a tensor moves by ``-lr * ‖w‖ / ‖u‖ * u``; where
    either norm is zero, by ``-lr * u``. Norms are of whole tensors, also of tensors sharded
    over processes: there, every process must call `step`. φ is the identity, as in the
    authors' code for BERT. Moments are named as AdamW names them.

    Args:
        params: Parameters or groups; a group with ``adapt`` false is stepped as by AdamW.
        lr: Learning rate.
        betas: Moment decay rates.
        eps: Added to the denominator.
        weight_decay: Decoupled decay λ, of groups that do not have their own.

    Example:
        >>> weight = torch.nn.Parameter(torch.full((2, 2), 3.0))
        >>> weight.grad = torch.ones(2, 2)
        >>> Lamb([weight], lr=0.1).step()
        >>> weight.detach()  # moved by a tenth of its length
        tensor([[2.7000, 2.7000],
                [2.7000, 2.7000]])
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step along the gradients; a closure is called first for the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)
        return loss

    def _move(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        taken = int(state["step"])
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(weight.grad, 1 - beta1)
        square.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        update = square.sqrt().div_(math.sqrt(1 - beta2**taken)).add_(group["eps"])
        update = update.reciprocal_().mul_(mean).div_(1 - beta1**taken)
        if group["weight_decay"]:
            update.add_(weight, alpha=group["weight_decay"])
        if group["adapt"]:
            length, step = _norm(weight), _norm(update)
            known = (length > 0) & (step > 0)
            _local(update).mul_(torch.where(known, length / step, torch.ones_like(step)))
        weight.add_(update, alpha=-group["lr"])


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": adamw, "lamb": lamb}


def _groups(
    model: torch.nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return matrices and vectors apart; with `layer_decay` below 1, apart for each layer too.

    ``scale`` is what the loop multiplies the learning rate with: 1 at the head, times
    `layer_decay` for each layer below (Clark et al. 2020 and Howard and Ruder 2018).
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    depth = depths(model) if layer_decay != 1 else dict.fromkeys(trained, 0)
    top = max(depth.values(), default=0)
    groups: list[dict[str, Any]] = []
    for level in sorted({depth[name] for name in trained}, reverse=True):
        here = [p for name, p in trained.items() if depth[name] == level]
        about = {"scale": layer_decay ** (top - level)} if layer_decay != 1 else {}
        groups += [
            {"params": [p for p in here if p.dim() > 1], "weight_decay": weight_decay, **about},
            {"params": [p for p in here if p.dim() <= 1], "weight_decay": 0.0, **about},
        ]
    return [group for group in groups if group["params"]]


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    """Return the norm of a whole tensor, wherever its parts are (then, a collective)."""
    norm = torch.linalg.vector_norm(tensor)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor this process holds, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
