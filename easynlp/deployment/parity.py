"""Whether an exported model says what the model it was made from says."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from easynlp.errors import DataError
from easynlp.models.runtime import POSITIONS, Model
from easynlp.tasks.base import Batch, Example, Features, Prediction, Task

__all__ = ["Agreement", "Reference", "agreement", "largest_difference", "shape_batches"]

log = logging.getLogger("easynlp")

SHAPES = ((1, 8), (1, 64), (2, 2), (4, 37), (8, 128))
"""Rows and tokens of the batches a model is compared on."""


@dataclass(frozen=True)
class Agreement:
    """How many labels two models have in common, and how each scores where labels are known.

    Attributes:
        labels: What is compared: a text's whole prediction, or each character of an entity.
        equal: Those that are the same.
        texts: Texts they come from.
        largest_difference: Between logits.
        metric: What the models are scored by; None where the texts have no labels.
        score: The other model's, 0 to 1; `run_score` is the first one's.
    """

    labels: int
    equal: int
    texts: int
    largest_difference: float
    metric: str | None = None
    score: float | None = None
    run_score: float | None = None

    @property
    def share(self) -> float:
        """Return the share of equal labels; 0 if there are none."""
        return self.equal / self.labels if self.labels else 0.0

    @property
    def drop(self) -> float | None:
        """Return the points (of 100) the other model scores below the first."""
        if self.score is None or self.run_score is None:
            return None
        return round(100 * (self.run_score - self.score), 9)

    @property
    def scored(self) -> str:
        """Return the scores for people; empty if there are none."""
        if self.score is None or self.run_score is None:
            return ""
        return (
            f", {self.metric} on {self.texts} labelled texts {100 * self.run_score:.2f} before, "
            f"{100 * self.score:.2f} after"
        )


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
        if POSITIONS in inputs:  # a hole at each row's last token, and one at the first of all
            last = np.arange(rows) * width + lengths - 1
            made[POSITIONS] = np.unique(np.concatenate([[0], last]))
        made["token_type_ids"][:, width // 2 :] = 1 if "token_type_ids" in inputs else 0
        yield {name: made[name] for name in inputs}


def largest_difference(one: Model, other: Model, batches: Iterable[Batch]) -> float:
    """Return the largest difference between two models' logits, at positions not padded."""
    worst = 0.0
    for batch in batches:
        difference = np.abs(one.logits(batch) - other.logits(batch))
        if difference.ndim == 3:  # an answer a token: those of padding mean nothing
            difference = difference[batch["attention_mask"] > 0]
        largest = float(difference.max())
        worst = max(worst, np.inf if np.isnan(largest) else largest)
    return worst


class Reference:
    """What a run says of some texts, each run alone, to compare exports with.

    Args:
        task: What is asked.
        model: The run's.
        features: The texts, encoded.
        examples: The texts.
        gold: The same with what is to be predicted, if that is known: then models are scored.
    """

    def __init__(
        self,
        task: Task,
        model: Model,
        features: Sequence[Features],
        examples: Sequence[Example],
        gold: Sequence[Example] | None = None,
    ) -> None:
        self.task, self.features, self.examples, self.gold = task, features, examples, gold
        self._said = [*self._answers(model)]
        self.run_score = self._score([prediction for _, prediction in self._said])

    def compare(self, other: Model) -> Agreement:
        """Compare what another model says, scores of labels left out.

        A prediction counts as one, with all its labels if it has several. Where predictions list
        what was found in the text, only that counts (each character of an entity, each word at a
        hole): the many characters and texts where nothing is found would hide that the others
        differ.
        """
        worst = 0.0
        pairs: list[tuple[Any, Any]] = []
        given = []
        for (first, one), (second, two) in zip(self._said, self._answers(other), strict=True):
            worst = max(worst, float(np.abs(first - second).max(initial=0.0)))
            pairs.append((_decisions(one), _decisions(two)))
            given.append(two)
        labels, equal = _count(pairs)
        scored = self.run_score is not None
        return Agreement(
            labels, equal, len(pairs), worst, self.task.metric if scored else None,
            self._score(given), self.run_score,
        )  # fmt: skip

    def _answers(self, model: Model) -> Iterator[tuple[np.ndarray, Prediction]]:
        for item, example in zip(self.features, self.examples, strict=True):
            batch = self.task.collate([item])
            logits = model.logits(batch)
            yield logits, self.task.decode(logits, batch, [example])[0]

    def _score(self, predictions: Sequence[Prediction]) -> float | None:
        """Return the task's score; None where labels are missing or unknown."""
        if not self.gold:
            return None
        targets = {field.name for field in self.task.fields if field.target}
        if not targets or any(not targets <= each.keys() for each in self.gold):
            return None
        try:
            return float(self.task.score(predictions, self.gold)[self.task.metric])
        except DataError as error:
            log.warning("the texts cannot be scored: %s", error)
            self.gold = None
            return None


def agreement(
    task: Task,
    one: Model,
    other: Model,
    features: Sequence[Features],
    examples: Sequence[Example],
) -> Agreement:
    """Compare two models' predictions on encoded texts; see `Reference.compare`."""
    return Reference(task, one, features, examples).compare(other)


def _count(said: Sequence[tuple[Any, Any]]) -> tuple[int, int]:
    """Return how many decisions there are, and how many are the same."""
    listed = {name for pair in said for each in pair for name in _lists(each)}
    if not listed:
        return len(said), sum(a == b for a, b in said)
    labels = equal = 0
    for pair in said:
        finds = [_finds(each, listed) for each in pair]
        labels += max(each.total() for each in finds)
        equal += (finds[0] & finds[1]).total()
    return labels, equal


def _lists(prediction: Any) -> list[str]:
    """Return the names under which a prediction lists what it found: mappings, not mere labels."""
    return [
        name
        for name, value in prediction.items()
        if isinstance(value, list) and any(isinstance(item, dict) for item in value)
    ]


def _finds(prediction: Any, names: Collection[str]) -> Counter[str]:
    """Return what a prediction lists under these names, with how often it does.

    A stretch of text counts character by character, the first told from the others: so one
    whose end is off by a character agrees in the rest.
    """
    found: Counter[str] = Counter()
    for name in names:
        for item in prediction.get(name) or ():
            start, end = item.get("start"), item.get("end")
            if not (isinstance(start, int) and isinstance(end, int)):
                found[repr((name, item))] += 1
                continue
            kind = {k: v for k, v in item.items() if k not in ("start", "end", "text")}
            found.update(repr((name, kind, at, at == start)) for at in range(start, end))
    return found


def _decisions(value: Any) -> Any:
    """Return a prediction without its scores; of candidates ranked by score the first."""
    if isinstance(value, dict):
        ranked = isinstance(value.get("scores"), list)
        best = {k: v[:1] if ranked and isinstance(v, list) else v for k, v in value.items()}
        kept = ((name, _decisions(item)) for name, item in best.items())
        return {name: item for name, item in kept if item is not None}
    if isinstance(value, list | tuple):
        return [_decisions(item) for item in value]
    return None if isinstance(value, float) else value
