"""BERT with fewer attention heads than its width would say: what is left after pruning.

Stock BERT ties three numbers: a head is as wide as the hidden size divided by the heads. Where
heads have been removed that no longer holds, and transformers has neither a configuration for it
nor ``prune_heads``. Here ``num_attention_heads`` still says how wide a head is, and ``kept_heads``
how many every layer has. Everything else is transformers' BERT: same names of weights, same heads.

This file imports nothing of easynlp: transformers copies it beside saved weights, so that without
easynlp they load with ``trust_remote_code=True``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import transformers
from huggingface_hub.dataclasses import strict
from transformers import (
    AutoConfig,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

__all__ = ["NarrowBertConfig", "NarrowBertModel", "narrow_attention"]

_HEADS = {
    "AutoModel": "NarrowBertModel",
    "AutoModelForMaskedLM": "NarrowBertForMaskedLM",
    "AutoModelForSequenceClassification": "NarrowBertForSequenceClassification",
    "AutoModelForTokenClassification": "NarrowBertForTokenClassification",
}


@strict
class NarrowBertConfig(BertConfig):  # type: ignore[no-untyped-call]
    """BERT's configuration and the heads a layer kept; a head has hidden_size / heads values."""

    model_type = "narrow_bert"
    kept_heads: int = 12

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration, with where its code is for every head and not only one."""
        found: dict[str, Any] = super().to_dict()
        home = __name__.rpartition(".")[2]
        names = {"AutoConfig": type(self).__name__, **_HEADS}
        return {**found, "auto_map": {auto: f"{home}.{name}" for auto, name in names.items()}}


def narrow_attention(encoder: Any, heads: int) -> None:
    """Give every layer of a BERT encoder this many heads of the size they have.

    The four matrices of a layer are made anew, with random weights.

    Args:
        encoder: A ``BertModel``; changed.
        heads: Heads to have.
    """
    for layer in encoder.encoder.layer:
        inner = layer.attention.self
        width, size = inner.query.in_features, heads * inner.attention_head_size
        inner.num_attention_heads, inner.all_head_size = heads, size
        for name in ("query", "key", "value"):
            setattr(inner, name, torch.nn.Linear(width, size))
        layer.attention.output.dense = torch.nn.Linear(size, width)


class _Narrow:
    """Puts narrow attention where a BERT model has its own."""

    config_class: ClassVar[Any] = NarrowBertConfig

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)  # type: ignore[call-arg]
        narrow_attention(self.base_model, int(config.kept_heads))  # type: ignore[attr-defined]
        self.post_init()  # type: ignore[attr-defined]


class NarrowBertModel(_Narrow, BertModel):  # type: ignore[no-untyped-call]
    """The encoder."""


class NarrowBertForMaskedLM(_Narrow, BertForMaskedLM):  # type: ignore[no-untyped-call]
    """With BERT's masked-LM head."""


class NarrowBertForSequenceClassification(_Narrow, BertForSequenceClassification):  # type: ignore[no-untyped-call]
    """With BERT's head for texts."""


class NarrowBertForTokenClassification(_Narrow, BertForTokenClassification):  # type: ignore[no-untyped-call]
    """With BERT's head for tokens."""


AutoConfig.register("narrow_bert", NarrowBertConfig)
NarrowBertConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
for _auto, _name in _HEADS.items():
    getattr(transformers, _auto).register(NarrowBertConfig, globals()[_name])
    globals()[_name].register_for_auto_class(_auto)
