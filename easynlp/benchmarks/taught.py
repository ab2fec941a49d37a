"""Contenders over unlabelled text: teachers label it, a student learns from what is believed.

``self-training:OPTION=VALUE:…@MODEL`` is `easynlp.fewshot.self_training` in the harness: one
contender labels the task's unlabelled text, its surest guesses are believed, and it learns anew
from them and the training rows, `rounds` times; the round that is best on dev answers.
``committee:…@MODEL`` puts several teachers together (`easynlp.fewshot.committee`) and lets another
contender learn from their vote. Both are one thing, with these options:

- ``teacher=WAY@MODEL+WAY@MODEL``: any contenders that answer probabilities: ``finetune``,
  ``lp-ft``, ``probe``, ``knn``, ``centroid``, ``zero-shot``, methods such as ``pet`` and
  ``setfit``, ``nb-em`` and ``self-trained``; options of theirs stand behind two colons
  (``pet::prompt=lm-bff@MODEL``).
  Without it, ``lp-ft``. Of several, those made for the task take part.
- ``student=WAY@MODEL``: who answers in the end. Without it the teacher itself, or, of several,
  ``lp-ft``; with another model than the teacher's, what a large one knows goes into a small one.
- ``texts``: most texts of the pool that are labelled, the same for all splits and seeds; teachers
  that learn from unlabelled text themselves see all of it.
- ``rounds``, ``quota``, ``growth``, ``confidence``, ``balance``, ``restart`` and
  ``patience_rounds``: as in `easynlp.fewshot.settings.SelfTrainingOptions`.
- ``align``: fit teachers' answers to the labels' shares before they are believed, give all an equal
  say but those that know no more of dev than its commonest label, and make the vote as sure as dev
  says it may be; always so for several.
- ``soft``: the student learns the probabilities of believed rows (where it is plain fine-tuning).
- ``placebo=random-pseudo-labels``: labels of believed rows change places.

On a task without unlabelled text the student learns from the training rows alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from easynlp.benchmarks.contender import Budget, Contender, Learned
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.encodings import hide
from easynlp.benchmarks.fewclue import FEWCLUE, Split, read_split_file
from easynlp.benchmarks.finetuned import FineTuned
from easynlp.benchmarks.names import NESTED, Name, typed
from easynlp.benchmarks.pool import PLACEBO_LABELS, draw
from easynlp.config import Count, Share, Steps
from easynlp.errors import ConfigError
from easynlp.fewshot.committee import Calibration, label_shares, vote
from easynlp.fewshot.pseudo_labels import Kept, choose_confident, shuffle_labels
from easynlp.fewshot.settings import SelfTrainingOptions
from easynlp.methods import METHODS
from easynlp.options import Range
from easynlp.tasks.base import Example

__all__ = ["WAYS", "Taught", "TaughtOptions", "believed_rows", "chances", "contender_of",
           "for_contender"]  # fmt: skip

WAYS = ("self-training", "committee")


@dataclass(frozen=True, kw_only=True)
class TaughtOptions:
    """Options of learning from labelled guesses; see the module's docstring."""

    teacher: str = ""
    student: str = ""
    texts: Count = 4000
    rounds: Count = SelfTrainingOptions.rounds
    quota: Count = SelfTrainingOptions.quota
    growth: Annotated[float, Range(1)] = SelfTrainingOptions.growth
    confidence: Share = SelfTrainingOptions.confidence
    balance: bool = SelfTrainingOptions.balance
    restart: bool = SelfTrainingOptions.restart
    patience_rounds: Steps = SelfTrainingOptions.patience_rounds
    align: bool = False
    soft: bool = False
    placebo: str = ""


DEFAULTS: dict[str, dict[str, Any]] = {
    "self-training": {},
    "committee": {"rounds": 1, "quota": 1000, "align": True, "soft": True},
}
"""What differs from `TaughtOptions` for each name."""


class Taught:
    """Teachers, a student and what passes between them; see the module's docstring.

    Args:
        name: As typed.
        budget: What every teacher and the student may spend, each time they learn.
        model: The model of ways without one, if the name has none.

    Raises:
        ConfigError: If an option is wrong or does not go with the teachers.
    """

    unlabelled = True

    def __init__(self, name: str, budget: Budget, model: str) -> None:
        parsed = Name.parse(name, NESTED)
        given = typed(parsed.options, TaughtOptions, name)
        self.name, self.options = name, TaughtOptions(**{**DEFAULTS[parsed.way], **given})
        options, model = self.options, parsed.model or model
        check_placebo(name, options.placebo)
        ways = (options.teacher or "lp-ft").split("+")
        self.teachers = [contender_of(way, budget, model) for way in ways]
        own = options.student or (ways[0] if len(ways) == 1 else "lp-ft")
        self.alone = len(ways) == 1 and own == ways[0]
        self.student = self.teachers[0] if self.alone else contender_of(own, budget, model)
        self.align = options.align or len(ways) > 1
        if not options.restart and not (self.alone and isinstance(self.student, FineTuned)):
            raise ConfigError(
                f"{name}: without restart a round goes on from the weights of the one before, so "
                "the student must be the teacher, and trained"
            )
        self.seeded = any(each.seeded for each in (*self.teachers, self.student))

    def takes(self, task: str) -> bool:
        """Return whether the student takes the task, and its rows are told apart by labels."""
        return not FEWCLUE[task].is_choice and self.student.takes(task)

    def identity(self) -> str:
        """Return the options and what decides teachers and student."""
        parts = (each.identity() for each in (*self.teachers, self.student))
        return f"{self.options} {' '.join(parts)}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Let the teachers label the pool and the student learn, round by round."""
        if isinstance(self.student, FineTuned):
            self.student.carry = not self.options.restart
            self.student.forget()
        pool = draw(split, self.options.texts)
        teachers = [each for each in self.teachers if each.takes(split.task)]
        if not pool or not teachers:
            learned = self.student.learn(for_contender(self.student, split, ()), seed, say)
            return replace(learned, chosen={**learned.chosen, "pool": 0})
        rounds: list[dict[str, Any]] = []
        answers: list[Learned] = []
        believed: tuple[Example, ...] = ()
        for number in range(1, self.options.rounds + 1):
            say(f"round {number}, teachers")
            if not (self.alone and answers):
                learned_ = [
                    each.learn(for_contender(each, split, believed), seed, say) for each in teachers
                ]
                answers = learned_ if self.alone else []
            else:
                learned_ = answers[-1:]
            believed, about = self._believe(learned_, split, pool, seed, number)
            rounds.append(about)
            say(f"round {number}, student")
            if self.alone or number == self.options.rounds:
                answers.append(
                    self.student.learn(for_contender(self.student, split, believed), seed, say)
                )
                rounds[-1]["dev"] = answers[-1].dev_accuracy
            if _worse_for_long(answers, self.options.patience_rounds):
                break
        # Of equal ones the later, which has seen more text.
        best = max(range(len(answers)), key=lambda i: (answers[i].dev_accuracy, i))
        chosen = {**answers[best].chosen, "pool": len(pool), "rounds": rounds}
        if self.alone:
            chosen["round"] = best
        return replace(answers[best], chosen=chosen)

    def _believe(
        self, teachers: Sequence[Learned], split: Split, pool: Sequence[Example], seed: int,
        number: int,
    ) -> tuple[tuple[Example, ...], dict[str, Any]]:  # fmt: skip
        """Return the rows of the pool that are believed, and what to report of them."""
        train, dev = (read_split_file(path, split.task) for path in (split.train, split.dev))
        names = sorted({str(each["label"]) for each in train})
        gold = np.array([names.index(str(each["label"])) for each in dev])
        shares = label_shares([str(each["label"]) for each in train], names)
        found = [chances(learned, pool, names) for learned in teachers]
        about = [{"dev": learned.dev_accuracy} for learned in teachers]
        scores = found[0]
        if self.align:
            made = [Calibration.even(each, shares) for each in found]
            heard = [
                way.apply(chances(learned, dev, names))
                for way, learned in zip(made, teachers, strict=True)
            ]
            # Dev is too small to weigh members by, but not to find one that knows nothing.
            most = np.bincount(gold).max()
            able = [int((each.argmax(1) == gold).sum() > most) for each in heard]
            for said, kept_ in zip(about, able, strict=True):
                said["voted"] = kept_
            chosen = [i for i, kept_ in enumerate(able) if kept_] or list(range(len(found)))
            sure = Calibration.temper(vote([heard[i] for i in chosen]), gold)
            scores = sure.apply(vote([made[i].apply(found[i]) for i in chosen]))
        options = self.options
        kept = choose_confident(
            scores, quota=round(options.quota * options.growth ** (number - 1)),
            confidence=options.confidence, balance=options.balance,
        )  # fmt: skip
        placebo = (seed + number) if options.placebo else None
        rows = believed_rows(pool, kept, names, scores if options.soft else None, placebo)
        given = np.bincount(kept.labels, minlength=len(names)).tolist()
        return rows, {"teachers": about, "kept": dict(zip(names, given, strict=True))}


def contender_of(way: str, budget: Budget, model: str) -> Contender:
    """Return the contender that a way to teach or to learn names.

    Args:
        way: E.g. ``lp-ft``, ``probe@MODEL``, ``pet::prompt=lm-bff``, ``nb-em``.
        budget: What it may spend.
        model: The model, if the way has none.

    Raises:
        ConfigError: If there is no such contender.
    """
    name = way.replace("::", ":")
    head = re.split(r"[:@]", name)[0]
    if head == "probe" and "=" not in name:
        name = "probe:" + (name.partition("@")[2] or model)
    elif head in METHODS:
        name = "method:" + name
    return find(name, budget, model)


def chances(learned: Learned, examples: Sequence[Example], names: Sequence[str]) -> np.ndarray:
    """Return the probabilities of what a contender answers, shape (examples, labels).

    Raises:
        ConfigError: If it answers no probabilities.
    """
    found = learned.predict(hide(examples))
    scores = np.array([[each["scores"].get(name, np.nan) for name in names] for each in found])
    if not np.isfinite(scores).all() or (scores < 0).any() or (abs(scores.sum(1) - 1) > 0.01).any():
        raise ConfigError(
            "a teacher answers no probabilities of all labels. Ways that do: lp-ft, finetune, "
            "probe, knn, centroid, zero-shot, pet, setfit, nb-em, self-trained"
        )
    return scores


def believed_rows(
    pool: Sequence[Example], kept: Kept, names: Sequence[str],
    scores: np.ndarray | None = None, placebo: int | None = None,
) -> tuple[Example, ...]:  # fmt: skip
    """Return the kept rows of a pool with their labels.

    Args:
        pool: Unlabelled examples.
        kept: Which are believed, and as what.
        names: The labels.
        scores: Probabilities, (pool, labels), to be learned from in place of labels.
        placebo: A seed by which labels and probabilities change places among the rows.
    """
    order = np.arange(len(kept.rows))
    if placebo is not None:
        order = shuffle_labels(Kept(kept.rows, order, kept.confident), placebo).labels
    found = []
    for row, other in zip(kept.rows, order, strict=True):
        example = {**pool[row], "label": names[kept.labels[other]]}
        if scores is not None:
            own = scores[kept.rows[other]].tolist()
            example["scores"] = dict(zip(names, own, strict=True))
        found.append(example)
    return tuple(found)


def check_placebo(name: str, placebo: str) -> None:
    """Refuse a placebo that learning from unlabelled text does not have.

    Raises:
        ConfigError: With the one there is.
    """
    if placebo not in ("", PLACEBO_LABELS):
        raise ConfigError(f'{name}: no placebo "{placebo}" here. Known: {PLACEBO_LABELS}')


def for_contender(contender: Contender, split: Split, believed: tuple[Example, ...]) -> Split:
    """Return the split as a teacher or student sees it."""
    return replace(
        split, believed=believed, unlabelled=split.unlabelled if contender.unlabelled else ()
    )


def _worse_for_long(answers: Sequence[Learned], patience: int) -> bool:
    if not patience or not answers:
        return False
    best = max(range(len(answers)), key=lambda i: (answers[i].dev_accuracy, i))
    return len(answers) - 1 - best >= patience
