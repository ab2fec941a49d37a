"""Causal language modeling: which token comes next?

Input: raw text, ``今天天气很好``. Output: how well the model foresaw it: the log-probability of
its tokens, each given those before it, and the perplexity. The objective of GPT-2 (Radford et al.
2019), over any transformers model with a causal head; an encoder is given a causal mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from easynlp.tasks.base import Batch, Example, Features, Prediction
from easynlp.tasks.language_modeling import LanguageModeling

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["CausalLanguageModeling", "Config"]


@dataclass(frozen=True)
class CausalConfig:
    """Options of causal language modeling."""

    max_length: int = 128
    """Most tokens of a row, special tokens included; the rest is cut."""


Config = CausalConfig


class CausalLanguageModeling(LanguageModeling):
    """Guess every next token; see the module's docstring.

    Args:
        config: Options.
        tokenizer: Frames a text with its special tokens; the first is never a target.

    Example:
        >>> import numpy as np
        >>> task = CausalLanguageModeling.__new__(CausalLanguageModeling)
        >>> task.hide(np.array([2, 7, 8, 3]), np.array([]), np.random.default_rng(0))["target"]
        array([7, 8, 3])
    """

    name: ClassVar[str] = "causal_language_modeling"
    architecture: ClassVar[str] = "AutoModelForCausalLM"
    metric: ClassVar[str] = "next_token_accuracy"
    Config: ClassVar[type[Any]] = CausalConfig
    needs_mask: ClassVar[bool] = False

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples; the same as `encode` on each."""
        texts = [example["text"] for example in examples]
        rng = np.random.default_rng(0)  # nothing is drawn
        return [
            {**self.hide(item.ids, item.ids, rng), "truncated": item.truncated}
            for item in self.tokenizer.encode_batch(texts, self.config.max_length)
        ]

    def hide(self, ids: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> Features:
        """Return features of one row; nothing is hidden, every token but the first is a target."""
        return {"input_ids": ids, "positions": np.arange(len(ids) - 1), "target": ids[1:]}

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return a causal model that computes no logits at last tokens and padding."""
        from easynlp.models.heads import MaskedPositions

        encoder = "is_decoder" in vars(backbone.config)
        return MaskedPositions(
            backbone.with_head(self.architecture, **({"is_decoder": True} if encoder else {}))
        )

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return for each text its log-probability, perplexity, and how many tokens were best."""
        top = logits.max(-1, keepdims=True)
        log_probs = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        target = batch["target"]
        of_target = log_probs[np.arange(len(target)), target]
        right = log_probs.argmax(-1) == target
        found: list[Prediction] = []
        start = 0
        for count in batch["holes"].tolist():
            part = slice(start, start + count)
            total = float(of_target[part].sum())
            found.append({
                "log_prob": total, "perplexity": math.exp(min(-total / max(1, count), 700.0)),
                "tokens": count, "foreseen": int(right[part].sum()),
            })  # fmt: skip
            start += count
        return found

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share of tokens that were foreseen, and the perplexity of all."""
        tokens = max(1, sum(p["tokens"] for p in predictions))
        nats = -sum(p["log_prob"] for p in predictions) / tokens
        return {
            self.metric: sum(p["foreseen"] for p in predictions) / tokens,
            "perplexity": math.exp(min(nats, 700.0)),
        }
