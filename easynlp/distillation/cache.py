"""Teachers' answers on many texts: computed once, kept on disk, put together where there are many.

A block of texts is one file, named by the fingerprint of the teacher and of the texts in it, and
written whole or not at all. What was interrupted goes on, what has changed is computed anew, and
runs that share a folder share the answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from easynlp.data.blocks import Ragged, fill_blocks
from easynlp.distillation.answers import FLOOR, Wanted
from easynlp.distillation.teachers import Teacher
from easynlp.errors import ConfigError
from easynlp.fewshot.committee import Calibration, label_shares, vote
from easynlp.tasks.base import Example

__all__ = ["Ensemble", "Shuffled", "ask", "calibrated"]

log = logging.getLogger("easynlp")
BLOCK = 1024
"""Texts of one file."""


def ask(
    teacher: Teacher,
    examples: Sequence[Example],
    folder: Path | None = None,
    dtype: str = "fp16",
) -> Sequence[np.ndarray]:
    """Return a teacher's answers, computing those that are not kept.

    Args:
        teacher: Who is asked.
        examples: About what; labels are not looked at.
        folder: Where answers are kept; None keeps them in memory, as they are.
        dtype: ``fp16`` or ``fp32``, on disk.

    Example:
        >>> ask(teacher, [{"text": "很好"}], Path("runs/x/answers"))[0]     # doctest: +SKIP
        memmap([[-0.01, -4.6]], dtype=float16)
    """
    if folder is None or teacher.fickle:
        return teacher.answers(examples)
    folder.mkdir(parents=True, exist_ok=True)
    parts = [examples[i : i + BLOCK] for i in range(0, len(examples), BLOCK)]
    paths = [folder / f"{_name(teacher, part, dtype)}.npy" for part in parts]

    def write(block: int) -> int:
        kind = np.float16 if dtype == "fp16" else np.float32
        Ragged.save(paths[block], teacher.answers(parts[block]), kind)
        return len(parts[block])

    new = fill_blocks(paths, write, progress=log.info, what="texts")
    log.info("%s: %d answers, %d of them computed now", teacher.name, len(examples), new)
    return Ragged(paths)


class Ensemble(Sequence[np.ndarray]):
    """Several teachers' answers as one: the mean of their probabilities, or a calibrated vote.

    A teacher without an answer has no say.

    Args:
        members: Answers of each, on the same texts.
        calibrations: How each becomes comparable; None takes the plain mean.

    Raises:
        ConfigError: If they are not on as many texts.

    Example:
        >>> one, other = [np.log([[0.9, 0.1]])], [np.log([[0.5, 0.5]])]
        >>> np.exp(Ensemble([one, other])[0]).round(2).tolist()
        [[0.7, 0.3]]
    """

    def __init__(
        self,
        members: Sequence[Sequence[np.ndarray]],
        calibrations: Sequence[Calibration] | None = None,
    ) -> None:
        if len({len(member) for member in members}) != 1:
            raise ConfigError("the teachers of an ensemble must answer on the same texts")
        self.members, self.calibrations = members, calibrations

    def __len__(self) -> int:
        return len(self.members[0])

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        given = [np.asarray(member[index], np.float64) for member in self.members]
        if self.calibrations is not None:
            said = [
                calibration.apply(np.exp(answer))
                for calibration, answer in zip(self.calibrations, given, strict=True)
                if np.isfinite(answer).all()
            ]
            mean = vote(said) if said else np.full_like(given[0], np.nan)
        else:
            probs = np.exp(np.stack(given))
            told = np.isfinite(probs)
            count = told.sum(0)
            mean = np.where(told, probs, 0.0).sum(0) / np.where(count > 0, count, np.nan)
        with np.errstate(divide="ignore"):
            result: np.ndarray = np.maximum(np.log(mean), FLOOR)
        return result


class Shuffled(Sequence[np.ndarray]):
    """Answers dealt out among the rows by chance, as a placebo.

    A text's answer is another's; where they are of different lengths (tags of characters) it is
    repeated or cut.

    Args:
        answers: The true ones.
        seed: Of the deal.

    Example:
        >>> given = [np.full((1, 2), i) for i in range(5)]
        >>> sorted(int(each[0, 0]) for each in Shuffled(given, 0))
        [0, 1, 2, 3, 4]
    """

    def __init__(self, answers: Sequence[np.ndarray], seed: int) -> None:
        self.answers = answers
        self.order = np.random.default_rng((seed, len(answers))).permutation(len(answers))

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        own, other = self.answers[index], self.answers[int(self.order[index])]
        if len(own) == len(other) or not len(other):
            return other
        result: np.ndarray = other[np.arange(len(own)) % len(other)]
        return result


def calibrated(
    members: Sequence[Sequence[np.ndarray]],
    dev: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    wanted: Wanted,
) -> list[Calibration]:
    """Make members of an ensemble comparable; see `easynlp.fewshot.committee`.

    Args:
        members: Answers of each on the texts to learn from.
        dev: Answers of each on labelled rows none has learned from.
        labels: Their labels.
        wanted: What was asked: one label a text.

    Raises:
        ConfigError: If the texts have not one label each.
        DataError: If there are no dev rows.
    """
    if wanted.kind != "label":
        raise ConfigError("--vote calibrated is for one label a text; type --vote mean")
    gold = np.array([wanted.labels.index(label) for label in labels], np.int64)
    shares = label_shares(labels, wanted.labels)
    found = []
    for member, on_dev in zip(members, dev, strict=True):
        told = [i for i, each in enumerate(on_dev) if np.isfinite(each).all()]
        pool = np.stack([np.exp(each[0]) for each in member if np.isfinite(each).all()])
        probs = np.array([np.exp(np.asarray(on_dev[i][0], np.float64)) for i in told])
        found.append(Calibration.fit(pool.astype(np.float64), shares, probs, gold[told]))
    return found


def _name(teacher: Teacher, examples: Sequence[Example], dtype: str) -> str:
    digest = hashlib.sha256(f"{teacher.fingerprint} {dtype}".encode())
    for example in examples:
        texts = [example.get("text"), example.get("text_b")]
        digest.update(json.dumps(texts).encode())
    return digest.hexdigest()[:40]
