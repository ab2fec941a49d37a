"""Quantization-aware training: the forward pass rounds as the int8 export will, the backward not.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (arXiv 1712.05877), for what `easynlp.deployment.quantize`
writes: weights of the encoder's matrices symmetric with a scale for each output, embedding tables
with a scale for each row, activations asymmetric with the smallest and largest value of the row as
it runs. Gradients pass the rounding as if it were not there. Heads stay as they are: so they do in
the export. Deviation: the ranges of activations are those of the row at hand and not a moving
average, because the export takes them so; padding, which the export does not see, is left out.
Where the export computes the last layer for the first token alone, its range is that token's, and
here the whole row's.

The weights that are trained and saved are the ones before rounding, under their usual names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import embedding, linear

from easynlp.errors import ConfigError, ModelError
from easynlp.models.heads import core
from easynlp.training.plan import Plan

__all__ = ["RoundedEmbedding", "RoundedLinear", "qat", "round_activations", "round_weights"]


def round_weights(weight: torch.Tensor) -> torch.Tensor:
    """Return a matrix as int8 would hold it, a scale a row; its gradient passes unchanged.

    Args:
        weight: Shape (rows, columns).

    Example:
        >>> (round_weights(torch.tensor([[1.27, 0.514]])) * 100).round().tolist()
        [[127.0, 51.0]]
    """
    with torch.no_grad():
        scale = weight.abs().amax(-1, keepdim=True) / 127
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        moved = (weight / scale).round() * scale - weight
    return weight + moved


def round_activations(values: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """Return activations as dynamic uint8 would hold them; their gradient passes unchanged.

    Args:
        values: Shape (rows, tokens, width); each row has a range of its own, which includes 0.
        real: Shape (rows, tokens), 0 at padding, which does not count for the range.
    """
    with torch.no_grad():
        seen = values if real is None else values * real.unsqueeze(-1)
        low = seen.amin((1, 2), keepdim=True).clamp(max=0)
        high = seen.amax((1, 2), keepdim=True).clamp(min=0)
        scale = ((high - low) / 255).clamp(min=1e-12)
        zero = (-low / scale).round()
        whole = ((values / scale).round() + zero).clamp(0, 255)
        moved = (whole - zero) * scale - values
    return values + moved


class RoundedLinear(torch.nn.Linear):
    """A linear layer that computes with rounded weights and inputs.

    Attributes:
        sight: Which tokens of the pass are padding; None: inputs are not rounded.
    """

    sight: _Sight | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return what the int8 export would, up to the order of sums."""
        if self.sight is not None and input.dim() == 3:
            mask = self.sight.mask
            fits = mask is not None and mask.shape == input.shape[:2]
            input = round_activations(input, mask if fits else None)
        return linear(input, round_weights(self.weight), self.bias)


class _Sight:
    """The attention mask of the pass under way."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.mask: torch.Tensor | None = None
        model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: torch.nn.Module, args: Any, options: dict[str, Any]) -> None:
        self.mask = options.get("attention_mask")


class RoundedEmbedding(torch.nn.Embedding):
    """A table that is looked up with its rows rounded."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return rounded rows."""
        return round_weights(embedding(input, self.weight, self.padding_idx))


def qat(plan: Plan, *, activations: bool = True, tables: bool = True) -> Plan:
    """Make the model compute as its int8 export will, while it trains and is scored.

    Args:
        plan: What to change; its model is a transformers encoder with a head.
        activations: Round what matrices read as well.
        tables: Round embedding tables as well: those the export rounds, which are the large ones.

    Raises:
        ConfigError: If the plan's model rounds already.
        ModelError: If there is nothing to round.

    Example:
        >>> plan = qat(plan)                                          # doctest: +SKIP
    """
    base: Any = core(plan.model).base_model
    body = getattr(base, "encoder", base)
    if any(isinstance(module, RoundedLinear | RoundedEmbedding) for module in base.modules()):
        raise ConfigError("the plan has qat twice; apply a method once")
    matrices = [module for module in body.modules() if type(module) is torch.nn.Linear]
    if not matrices:
        raise ModelError(f"qat finds no linear layers in {type(base).__name__}")
    sight = _Sight(plan.model) if activations else None
    for module in matrices:
        # The class and not the module: names, ties and hooks of its weights stay what they are.
        module.__class__ = RoundedLinear
        setattr(module, "sight", sight)  # noqa: B010 - to mypy it is a plain layer still
    if tables:
        from easynlp.deployment.quantize import SMALLEST_TABLE

        for module in base.modules():
            if type(module) is torch.nn.Embedding and module.weight.numel() >= SMALLEST_TABLE:
                module.__class__ = RoundedEmbedding
    return replace(plan)
