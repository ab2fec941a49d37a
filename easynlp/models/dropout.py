"""The dropout rates of a configuration, under the many names transformers has for them."""

from __future__ import annotations

from typing import Any

__all__ = ["set_dropout"]

DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "classifier_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
    "seq_classif_dropout",
    "dropout_rate",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
)
"""Names of dropout rates in the configurations of transformers."""


def set_dropout(config: Any, rate: float) -> None:
    """Set all dropouts of a configuration, under whichever names it has them."""
    for name in DROPOUTS:
        if getattr(config, name, None) is not None:
            setattr(config, name, rate)
