"""Deep prompts: learned keys and values before every layer's own, on an encoder of transformers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from easynlp.errors import ModelError
from easynlp.models.compact import stored_layer
from easynlp.models.heads import core, first_position

__all__ = ["KNOWN", "Prefix", "add_prefix"]

KNOWN = ("bert", "ngram_bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie")
"""Architectures whose attention takes past keys and values in an encoder."""


class Prefix(torch.nn.Module):
    """Keys and values of prompt tokens for every layer of an encoder.

    Args:
        config: The encoder's configuration.
        tokens: Prompt tokens; 0 leaves the encoder as it is.

    Attributes:
        weight: Shape (layers, 2, tokens, width): keys, then values.
    """

    def __init__(self, config: Any, tokens: int) -> None:
        super().__init__()
        self.heads, self.tokens = int(config.num_attention_heads), tokens
        self.first = first_position(config)
        shape = (config.num_hidden_layers, 2, tokens, config.hidden_size)
        self.weight = torch.nn.Parameter(torch.empty(shape))
        torch.nn.init.normal_(self.weight, std=getattr(config, "initializer_range", 0.02))
        rate = getattr(config, "hidden_dropout_prob", 0.0) or 0.0
        self.dropout = torch.nn.Dropout(float(rate))

    def past(self, rows: int) -> DynamicCache:
        """Return the prompt as a cache of keys and values for a batch; every pass needs a new one.

        Args:
            rows: Rows of the batch.
        """
        layers, _, tokens, width = self.weight.shape
        split = self.dropout(self.weight).view(layers, 2, tokens, self.heads, -1).transpose(2, 3)
        size = (rows, self.heads, tokens, width // self.heads)
        cache = DynamicCache()  # type: ignore[no-untyped-call]
        for number, (key, value) in enumerate(split):
            cache.update(key.expand(size), value.expand(size), number)
        return cache

    def before(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give a call of the encoder the prompt; a forward pre-hook.

        The prompt is in front of the keys and no row has it as padding; the tokens keep the
        positions they have without it.
        """
        if not self.tokens:
            return None
        if encoder.training and any(
            getattr(each, "gradient_checkpointing", False) for each in encoder.modules()
        ):
            raise ModelError("deep prompts and --activation-checkpointing exclude each other")
        names = list(inspect.signature(encoder.forward).parameters)
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        ids = call["input_ids"]
        rows, length = ids.shape
        mask = call.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        seen = torch.ones((rows, self.tokens), dtype=mask.dtype, device=mask.device)
        places = torch.arange(length, device=ids.device) + self.first
        return (), {
            **call, "attention_mask": torch.cat([seen, mask], 1),
            "position_ids": places.expand(rows, -1), "past_key_values": self.past(rows),
        }  # fmt: skip


def add_prefix(model: torch.nn.Module, tokens: int, folder: Path | None = None) -> Prefix:
    """Put a prompt before every layer of the encoder in a model; it is saved with the model.

    Args:
        model: A transformers model or a module around one; changed in place.
        tokens: Prompt tokens.
        folder: Weights that may hold a prompt of this shape, which is taken then.

    Raises:
        ModelError: If the architecture is none of `KNOWN`.
    """
    inner: Any = core(model)
    config = inner.config
    if config.model_type not in KNOWN or getattr(config, "is_decoder", False):
        raise ModelError(
            f"deep prompts are for encoders whose attention takes past keys and values "
            f"({', '.join(KNOWN)}), not for {config.model_type}"
        )
    prefix = Prefix(config, tokens).train(model.training)
    state = stored_layer(folder, "deep_prompt")
    if state and state["weight"].shape == prefix.weight.shape:
        prefix.load_state_dict(state)
    inner.deep_prompt = prefix
    inner.base_model.register_forward_pre_hook(prefix.before, with_kwargs=True)
    return prefix
