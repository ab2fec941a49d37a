"""How deep a parameter lies: for freezing the lowest layers and for layer-wise learning rates."""

from __future__ import annotations

import re

import torch

from easynlp.errors import ConfigError

__all__ = ["LAYER", "depths", "freeze"]

LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h|block|blocks)\.(\d+)\.")
"""The number of the layer in a parameter's name."""
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embeddings|wte|wpe|shared|embed_tokens|embed_positions)\.")


def depths(model: torch.nn.Module) -> dict[str, int]:
    """Return each parameter's depth: 0 for embeddings, i + 1 for layer i, then head and pooler.

    Names tell, as stock transformers writes them. A layer whose weights are used at every depth
    (ALBERT's) lies, like a head, above all numbered ones.

    Example:
        >>> model = torch.nn.ModuleDict({
        ...     "embeddings": torch.nn.Linear(1, 1, bias=False),
        ...     "layer": torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False)]),
        ...     "classifier": torch.nn.Linear(1, 1, bias=False)})
        >>> list(depths(model).values())
        [0, 1, 2]
    """
    found: dict[str, int | None] = {}
    for name, _ in model.named_parameters():
        layer = LAYER.search(name)
        if layer and "albert_layer" not in name:
            found[name] = int(layer[1]) + 1
        else:
            found[name] = 0 if _EMBEDDINGS.search(name) else None
    top = max((depth for depth in found.values() if depth is not None), default=0) + 1
    return {name: top if depth is None else depth for name, depth in found.items()}


def freeze(model: torch.nn.Module, layers: int = 0, *, embeddings: bool = False) -> int:
    """Take the embeddings and the lowest layers out of training; return the parameters frozen.

    Args:
        model: Its parameters are marked, not changed.
        layers: Lowest layers to freeze; the embeddings go with them.
        embeddings: Freeze the embeddings even if no layer is.

    Raises:
        ConfigError: If the model has not so many layers of its own.
    """
    if not layers and not embeddings:
        return 0
    known = depths(model)
    there = max(known.values()) - 1
    if layers > there:
        raise ConfigError(
            f"--freeze-layers {layers}: the model has {there} layers with weights of their own"
        )
    frozen = 0
    for name, parameter in model.named_parameters():
        if known[name] <= layers:
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen
