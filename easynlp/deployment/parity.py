"""Whether an exported model says what the model it was made from says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from easynlp.models.runtime import Model
from easynlp.tasks.base import Batch, Example, Features, Task

__all__ = ["Agreement", "agreement", "largest_difference", "shape_batches"]

SHAPES = ((1, 8), (1, 64), (2, 2), (4, 37), (8, 128))
"""Rows and tokens of the batches a model is compared on."""


@dataclass(frozen=True)
class Agreement:
    """How many labels two models have in common.

    Attributes:
        labels: Labels compared: one a text, or one a token where tokens are labelled.
        equal: Those that are the same.
        texts: Texts they come from.
        largest_difference: Between logits.
    """

    labels: int
    equal: int
    texts: int
    largest_difference: float

    @property
    def share(self) -> float:
        """Return the share of equal labels; 0 if there are none."""
        return self.equal / self.labels if self.labels else 0.0


def shape_batches(
    inputs: Sequence[str], vocab_size: int, longest: int, seed: int = 0
) -> Iterator[Batch]:
    """Yield batches of random ids in several shapes, rows padded to different lengths.

    Args:
        inputs: Names of the model's inputs.
        vocab_size: Ids are drawn below this.
        longest: Most tokens the model takes.
        seed: Of the draw.
    """
    rng = np.random.default_rng(seed)
    for rows, width in SHAPES:
        width = min(width, longest)
        ids = rng.integers(0, vocab_size, (rows, width))
        lengths = rng.integers(1, width + 1, rows)
        lengths[-1] = width
        if rows > 1:
            lengths[0] = width // 2 or 1
        made = {
            "input_ids": ids,
            "attention_mask": (np.arange(width) < lengths[:, None]).astype(np.int64),
            "token_type_ids": np.zeros((rows, width), np.int64),
        }
        made["token_type_ids"][:, width // 2 :] = 1 if "token_type_ids" in inputs else 0
        yield {name: made[name] for name in inputs}


def largest_difference(one: Model, other: Model, batches: Iterable[Batch]) -> float:
    """Return the largest difference between two models' logits, at positions not padded."""
    worst = 0.0
    for batch in batches:
        difference = np.abs(one.logits(batch) - other.logits(batch))
        if difference.ndim == 3:  # an answer a token: those of padding mean nothing
            difference = difference[batch["attention_mask"] > 0]
        worst = max(worst, float(difference.max()))
    return worst


def agreement(
    task: Task,
    one: Model,
    other: Model,
    features: Sequence[Features],
    examples: Sequence[Example],
) -> Agreement:
    """Compare two models' labels on encoded texts, each text run alone.

    Where tokens are labelled, every token counts, special ones left out; elsewhere a text's
    whole prediction counts (all labels of a multi-label text), apart from scores.
    """
    labels = equal = 0
    worst = 0.0
    for item, example in zip(features, examples, strict=True):
        batch = task.collate([item])
        first, second = one.logits(batch), other.logits(batch)
        worst = max(worst, float(np.abs(first - second).max()))
        if first.ndim == 3:
            same = (first.argmax(-1) == second.argmax(-1))[_inner(batch)]
            labels += same.size
            equal += int(same.sum())
        else:
            said, meant = (
                _decisions(task.decode(logits, batch, [example])[0]) for logits in (first, second)
            )
            labels += 1
            equal += said == meant
    return Agreement(labels, equal, len(features), worst)


def _inner(batch: Batch) -> np.ndarray:
    """Return where a batch holds tokens of the text: not padding, not a row's first or last."""
    ids = batch["input_ids"]
    lengths = batch.get("attention_mask", np.ones_like(ids)).sum(1, keepdims=True)
    places = np.arange(ids.shape[1])
    found: np.ndarray = (places > 0) & (places < lengths - 1)
    return found


def _decisions(value: Any) -> Any:
    """Return a prediction without its scores."""
    if isinstance(value, dict):
        kept = ((name, _decisions(item)) for name, item in value.items())
        return {name: item for name, item in kept if item is not None}
    if isinstance(value, list | tuple):
        return [_decisions(item) for item in value]
    return None if isinstance(value, float) else value
