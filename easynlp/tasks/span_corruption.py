"""Span corruption: what stood where the sentinels are?

Input: raw text. Spans of it are replaced by sentinels ``<extra_id_0>``, ``<extra_id_1>`` …; a
decoder writes each sentinel followed by what stood there, one more sentinel, and the end token
(T5, Raffel et al. 2020). Spans are of tokens, as in T5, not of words. Output: the likeliest token
at every place of the decoder, given the true ones before it. Deviations: the share of hidden
tokens is exact on average (T5 rounds it), and a special token inside a row ends a span.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from easynlp.errors import ConfigError, DataError
from easynlp.tasks.base import Batch, Example, Features
from easynlp.tasks.inputs import pad_rows
from easynlp.tasks.language_modeling import LanguageModeling
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["SENTINELS", "Config", "SpanCorruption", "noise_spans"]

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
"""Tokens that stand for a span, in the order they are used."""


@dataclass(frozen=True)
class SpanConfig:
    """Options of span corruption."""

    max_length: int = 128
    """Most tokens of a row, special tokens included; the rest is cut."""
    mask_rate: float = 0.15
    """Share of the tokens to hide."""
    mean_span: float = 3.0
    """Tokens of a span, on average."""
    top: int = 5
    """Candidates returned for every place."""

    def __post_init__(self) -> None:
        if self.mean_span < 1:
            raise ConfigError(f"mean_span {self.mean_span:g} is shorter than one token")


Config = SpanConfig


class SpanCorruption(LanguageModeling):
    """Write the spans that are missing; see the module's docstring.

    Args:
        config: Options.
        tokenizer: Must have the sentinels, an end token and padding.

    Raises:
        DataError: If it has fewer than two sentinels, or no token to end with.
    """

    name: ClassVar[str] = "span_corruption"
    architecture: ClassVar[str] = "AutoModelForSeq2SeqLM"
    metric: ClassVar[str] = "span_token_accuracy"
    Config: ClassVar[type[Any]] = SpanConfig
    needs_mask: ClassVar[bool] = False

    def __init__(self, config: Any, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        sentinels = [i for t in SENTINELS if (i := tokenizer.id_of(t)) is not None]
        ends = [i for t in ("[SEP]", "</s>") if (i := tokenizer.id_of(t)) is not None]
        if len(sentinels) < 2 or not ends:
            raise DataError(
                "the vocabulary has no sentinels <extra_id_0>, <extra_id_1> … or no end token: "
                "pretrain --objective t5 makes one with them"
            )
        self.sentinels, self.end = np.array(sentinels, np.int32), ends[0]
        self.special = np.union1d(self.special, self.sentinels)

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples; the same as `encode` on each.

        The draw is a function of the text alone; training rows are drawn anew every epoch by
        `pretraining.rows`.
        """
        found = []
        texts = [example["text"] for example in examples]
        for item in self.tokenizer.encode_batch(texts, self.config.max_length):
            words = np.where(np.isin(item.ids, self.special), -1, 0)
            seed = zlib.crc32(item.ids.tobytes())
            features = self.hide(item.ids, words, np.random.default_rng(seed))
            found.append({**features, "truncated": item.truncated})
        return found

    def hide(self, ids: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> Features:
        """Return features of one row with spans hidden by `rng`.

        Args:
            ids: Token ids, shape (tokens,).
            words: -1 where a token may not be hidden.
            rng: Source of all randomness.
        """
        free = np.flatnonzero(words >= 0)
        hidden = np.zeros(len(ids), bool)
        hidden[free] = noise_spans(
            len(free), self.config.mask_rate, self.config.mean_span, len(self.sentinels) - 1, rng
        )
        starts = hidden & ~np.concatenate([[False], hidden[:-1]])
        # A special token inside a span cuts it in two, so there may be too few sentinels.
        number = np.cumsum(starts)
        hidden &= number < len(self.sentinels)
        starts &= hidden
        shown = ids.astype(np.int32)
        shown[starts] = self.sentinels[: int(starts.sum())]
        pieces: list[np.ndarray] = []
        for index in range(int(starts.sum())):
            pieces += [self.sentinels[index : index + 1], ids[hidden & (number == index + 1)]]
        last = self.sentinels[int(starts.sum())]
        return {
            "input_ids": shown[~hidden | starts],
            "target": np.concatenate([*pieces, [last, self.end]]).astype(np.int32),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        """Stack rows; the decoder reads its targets moved on by one, after a padding token."""
        pad = self.tokenizer.pad_id
        batch = pad_rows([f["input_ids"] for f in features], pad)
        targets = [np.asarray(f["target"]) for f in features]
        inputs = pad_rows([np.concatenate([[pad], t[:-1]]) for t in targets], pad)
        width = inputs["input_ids"].shape[1]
        batch["decoder_input_ids"] = inputs["input_ids"]
        batch["masked_positions"] = np.concatenate(
            [row * width + np.arange(len(t)) for row, t in enumerate(targets)]
        ).astype(np.int64)
        batch["holes"] = np.array([len(t) for t in targets], np.int64)
        batch["target"] = np.concatenate(targets).astype(np.int64)
        return batch

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return an encoder-decoder that computes logits at real decoder tokens only.

        Raises:
            ModelError: If the backbone has no decoder.
        """
        from easynlp.models.heads import DecoderPositions

        return DecoderPositions(backbone.with_head(self.architecture))


def noise_spans(
    length: int, rate: float, mean_span: float, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw which tokens of a row are hidden, as spans, shape (length,) bool.

    Args:
        length: Tokens that may be hidden.
        rate: Share to hide, exact on average.
        mean_span: Tokens of a span on average.
        most: Most spans.
        rng: Source of all randomness.

    Example:
        >>> int(noise_spans(100, 0.15, 3.0, 99, np.random.default_rng(0)).sum())
        15
    """
    hidden = int(rate * length + rng.random())
    if hidden == 0 or length == 0:
        return np.zeros(length, bool)
    spans = max(1, min(round(hidden / mean_span), most, hidden, length - hidden + 1))
    inside = _parts(hidden, spans, rng)
    # Spans are apart by at least one token; before the first and behind the last may be none.
    outside = _parts(length - hidden + 2, spans + 1, rng)
    outside[0] -= 1
    outside[-1] -= 1
    lengths = np.stack([outside, np.append(inside, 0)], axis=1).reshape(-1)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Cut `total` into `count` positive parts, all cuts as likely as each other."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
