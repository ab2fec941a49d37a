"""Memory for time: activations computed twice in place of kept."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from easynlp.errors import ModelError

__all__ = ["checkpoint_activations"]


def checkpoint_activations(model: torch.nn.Module) -> None:
    """Let every layer of an encoder keep its input only, and compute the rest again backward.

    A step takes about a third longer and its layers' activations vanish from memory; loss and
    gradients stay the same bit for bit, for dropout draws the same numbers again (Chen et al.
    2016). It holds in training mode only and changes nothing that is saved.

    Args:
        model: A transformers model, or a module around some.

    Raises:
        ModelError: If a model inside cannot do it or has deep prompts, or there is none.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> shape = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1,
        ...     num_attention_heads=1, intermediate_size=4)
        >>> encoder = BertModel(shape)
        >>> checkpoint_activations(encoder)
        >>> [layer.gradient_checkpointing for layer in encoder.encoder.layer]
        [True]
    """
    found = _outermost(model)
    if any(hasattr(each, "deep_prompt") for each in found):  # its keys and values are a cache
        raise ModelError("deep prompts and --activation-checkpointing exclude each other")
    able = [each for each in found if each.supports_gradient_checkpointing]
    if not found or len(able) < len(found):
        names = ", ".join(type(each).__name__ for each in found) or type(model).__name__
        raise ModelError(f"{names} cannot checkpoint activations; leave the option away")
    for each in able:
        # Early transformers 5 has the second name only; later ones warn of it. The reentrant kind
        # would not let terms ask for gradients of their own.
        enable = getattr(each, "activation_checkpointing_enable", None)
        (enable or each.gradient_checkpointing_enable)({"use_reentrant": False})


def _outermost(module: Any) -> list[Any]:
    if isinstance(module, PreTrainedModel):
        return [module]
    return [each for child in module.children() for each in _outermost(child)]
