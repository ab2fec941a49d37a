"""``vote:members=WAY@MODEL+WAY@MODEL``: several contenders answer together.

Their probabilities are multiplied, each to a power of its own; the powers are those that make dev's
labels likeliest (`easynlp.fewshot.committee.pool_weights`). A member that answers margins, as the
SVM over n-grams does, is given the softmax of them first. What letters a text is made of and what a
model makes of its meaning err on different rows, so ``vote:members=probe+tfidf-svm`` is often
better than both.

A few dozen dev rows weigh nothing reliably. With ``align=N`` members have an equal say instead, and
dev has none: each one's probabilities are multiplied by a factor for each label, so that over N of
the task's unlabelled texts the labels get the shares expected of them (a prompt without training
prefers one label throughout), and raised to the power that gives all members the same spread of
log-probabilities there (naive Bayes is sure of everything). ``weigh_from=M`` goes back to weights
fitted on dev for tasks with M dev rows or more.

Members are named as the teachers of ``committee`` are (`easynlp.benchmarks.taught`). Of
``nb-em|tfidf-svm`` the first that is made for the task takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from easynlp.benchmarks.contender import Budget, Contender, Learned
from easynlp.benchmarks.encodings import grade, hide
from easynlp.benchmarks.fewclue import FEWCLUE, Split, read_split_file
from easynlp.benchmarks.names import NESTED, Name, typed
from easynlp.benchmarks.pool import draw
from easynlp.benchmarks.taught import contender_of, for_contender
from easynlp.config import Steps
from easynlp.errors import ConfigError
from easynlp.fewshot.committee import Calibration, label_shares, pool, pool_weights
from easynlp.metrics import softmax
from easynlp.tasks.base import Example, Prediction

__all__ = ["Vote", "shares_of"]


@dataclass(frozen=True)
class VoteOptions:
    """Options of a vote."""

    members: str = ""
    align: Steps = 0
    weigh_from: Steps = 0


class Vote:
    """Contenders that answer together; see the module's docstring.

    Args:
        name: As typed.
        budget: What every member may spend.
        model: The model of members without one.

    Raises:
        ConfigError: If there are fewer than two members, or one is none.
    """

    def __init__(self, name: str, budget: Budget, model: str) -> None:
        options = VoteOptions(**typed(Name.parse(name, NESTED).options, VoteOptions, name))
        ways = [way for way in options.members.split("+") if way]
        if len(ways) < 2:
            raise ConfigError(f"{name}: name two or more, as in vote:members=lp-ft+tfidf-svm")
        self.name, self.align, self.weigh_from = name, options.align, options.weigh_from
        if self.weigh_from and not self.align:
            raise ConfigError(f"{name}: weigh_from needs align=N; without it dev weighs members")
        self.seats: list[list[Contender]] = [
            [contender_of(each, budget, model) for each in way.split("|")] for way in ways
        ]
        self.members = [each for seat in self.seats for each in seat]
        self.seeded = any(each.seeded for each in self.members)
        self.unlabelled = bool(self.align) or any(each.unlabelled for each in self.members)

    def takes(self, task: str) -> bool:
        """Return whether rows are told apart by labels, and all members take the task."""
        return not FEWCLUE[task].is_choice and len(self.seated(task)) == len(self.seats)

    def seated(self, task: str) -> list[Contender]:
        """Return who takes part in a task: of each seat the first that takes it."""
        able = ([each for each in seat if each.takes(task)] for seat in self.seats)
        return [each[0] for each in able if each]

    def identity(self) -> str:
        """Return what decides the members."""
        seats = ("|".join(each.identity() for each in seat) for seat in self.seats)
        weighed = f" {self.weigh_from}" if self.weigh_from else ""
        return f"vote {self.align}{weighed} " + " ".join(seats)

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Let every member learn; weigh them, on dev or on unlabelled text."""
        train, dev = (read_split_file(path, split.task) for path in (split.train, split.dev))
        names = sorted({str(each["label"]) for each in train})
        gold = np.array([names.index(str(each["label"])) for each in dev])
        members = self.seated(split.task)
        learned = [each.learn(for_contender(each, split, ()), seed, say) for each in members]
        equal = self.align and not 0 < self.weigh_from <= len(dev)
        texts = draw(split, self.align) if equal else []
        if texts:
            wanted = label_shares([str(each["label"]) for each in train], names)
            ways = [Calibration.even(shares_of(m.predict(texts), names), wanted) for m in learned]
        else:
            heard = [shares_of(each.predict(hide(dev)), names) for each in learned]
            powers = pool_weights(heard, gold)
            ways = [Calibration(np.ones(len(names)), float(power)) for power in powers]

        def predict(examples: Sequence[Example]) -> list[Prediction]:
            votes = pool([
                way.apply(shares_of(each.predict(examples), names))
                for way, each in zip(ways, learned, strict=True)
            ], np.ones(len(learned)))  # fmt: skip
            scores = [dict(zip(names, row.tolist(), strict=True)) for row in votes]
            return [
                {"label": names[row.argmax()], "scores": each}
                for row, each in zip(votes, scores, strict=True)
            ]

        about = [
            {"member": member.name, "dev": each.dev_accuracy, "power": round(way.power, 3)}
            for member, each, way in zip(members, learned, ways, strict=True)
        ]
        right = grade(dev, predict(hide(dev)))
        size = sum(each.parameters for each in learned)
        return Learned(predict, right, {"members": about}, parameters=size)


def shares_of(found: Sequence[Prediction], names: Sequence[str]) -> np.ndarray:
    """Return predictions' scores as probabilities, shape (rows, labels); of margins the softmax.

    A label without a score was in no training row: it is as unlikely as the least likely one.

    Example:
        >>> shares_of([{"scores": {"a": 2.0, "b": -1.0}}], ["a", "b"]).round(2).tolist()
        [[0.95, 0.05]]
        >>> shares_of([{"scores": {"a": 0.9, "b": 0.1}}], ["a", "b"]).tolist()
        [[0.9, 0.1]]
    """
    scores = np.array([[each["scores"].get(name, np.nan) for name in names] for each in found])
    scores = np.where(np.isnan(scores), np.nanmin(scores, axis=1, keepdims=True), scores)
    if (scores >= 0).all() and (abs(scores.sum(1) - 1) < 0.01).all():
        return scores
    return softmax(scores)
