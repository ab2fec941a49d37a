"""A student alone, taught, and taught by a shuffled teacher: same steps, same search, same looks.

What a student learns with is `easynlp.distillation.run.distill`; without a teacher it is a plain
`run.train`. Every arm is trained with every learning rate; dev chooses, and the test rows are
answered once by what was chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.benchmarks.bootstrap import Scored, difference_draws, interval_of
from easynlp.benchmarks.landing_data import Rows
from easynlp.benchmarks.landing_settings import LandingBenchOptions
from easynlp.benchmarks.task_floors import majority, right, right_of_floor, self_trained, tfidf_svm
from easynlp.config import TrainConfig
from easynlp.distillation.run import distill
from easynlp.distillation.settings import DistillConfig, DistillOptions
from easynlp.errors import ConfigError
from easynlp.fewshot.choose import choose
from easynlp.fewshot.phases import plain_reading, train_once
from easynlp.fewshot.settings import FewShotConfig
from easynlp.metrics import share_interval
from easynlp.pipeline import META, Pipeline
from easynlp.tasks.base import Example
from easynlp.tasks.text_classify import ClassifyConfig

__all__ = ["ARMS", "Arm", "School", "accuracy", "check_names", "floors", "gain", "right_of"]

log = logging.getLogger("easynlp")
ARMS = ("plain", "distilled", "shuffled teacher")
"""How a student learns; the last is the placebo."""
LARGE_LOOKS = 5
"""Looks at dev while a large model is fine-tuned: each takes as long as some steps of it."""


@dataclass(frozen=True)
class Arm:
    """What dev chose.

    Attributes:
        folder: Run folder.
        lr: Its learning rate.
        dev: Its accuracy on dev.
        tries: Learning rate to accuracy on dev, of all tries.
    """

    folder: Path
    lr: float
    dev: float
    tries: Mapping[str, float]


class School:
    """A teacher and its students on the same rows.

    Args:
        options: Of the benchmark.
        rows: What to learn from.
        home: Folder of all runs; what is complete there is not trained again.
    """

    def __init__(self, options: LandingBenchOptions, rows: Rows, home: Path) -> None:
        self.options, self.rows, self.home = options, rows, home
        self.files = rows.write(home / "rows")
        self.task = ClassifyConfig(max_length=options.max_length, labels=rows.labels)

    def few_shot_teacher(self) -> Path:
        """Return the run that is best on dev of all ways to learn from few labels.

        A teacher that is a run folder is taken as it is.
        """
        options = self.options
        if (Path(options.teacher) / META).is_file():
            return Path(options.teacher)
        folder = self.home / "teacher"
        if not (folder / META).is_file():
            choose(FewShotConfig(
                train=self.files["train"], dev=self.files["dev"], output=str(folder),
                model=options.teacher, ways=options.teacher_ways, lrs=options.teacher_lrs,
                steps=options.teacher_steps, max_length=options.max_length, seed=options.seed,
                threads=options.threads, resume=(folder / "fewshot.yaml").is_file(),
                **plain_reading(),
            ))  # fmt: skip
        return folder

    def tuned(self, name: str, model: str, steps: int, lr: float) -> Path:
        """Return the run of a model fine-tuned on the labels with one learning rate.

        Its head is fitted first (LP-FT): a large model that spends its steps on finding a head is
        an easy teacher to be level with.
        """
        if (Path(model) / META).is_file():
            return Path(model)
        folder = self.home / name
        config = self._config(model, folder, steps, lr)
        looks = min(LARGE_LOOKS, self.options.evaluations)
        train_once(replace(config, probe="first", eval_every=-(-steps // looks)), self.task)
        return folder

    def search(self, student: str, arm: str, teacher: Path) -> Arm:
        """Train a student with every learning rate; of equal ones on dev the first is kept.

        Args:
            student: As ``--model`` takes it.
            arm: One of `ARMS`.
            teacher: Run folder.
        """
        tries: dict[str, float] = {}
        home = self.home / f"{_plain(student)}-{_plain(arm)}"
        for lr in self.options.student_lrs:
            found = self._train(student, arm, teacher, lr, home / f"lr-{lr:g}")
            tries[f"{lr:g}"] = float(found.meta["scores"]["dev"]["accuracy"])
            log.info("%s, %s, lr %g: dev %.4f", student, arm, lr, tries[f"{lr:g}"])
        best = max(self.options.student_lrs, key=lambda lr: tries[f"{lr:g}"])
        return Arm(home / f"lr-{best:g}", best, tries[f"{best:g}"], tries)

    def _train(self, student: str, arm: str, teacher: Path, lr: float, folder: Path) -> Pipeline:
        options = self.options
        config = self._config(student, folder, options.student_steps, lr)
        if arm == ARMS[0] or (folder / META).is_file():
            return train_once(config, self.task)
        given = {**vars(config), "resume": (folder / "distill.yaml").is_file()}
        given.pop("model")
        lessons = DistillOptions(
            teacher=(str(teacher),), unlabeled=self.files["pool"] if self.rows.pool else None,
            alpha=options.alpha, temperature=options.temperature,
            cache=str(self.home / "answers"),
            placebo="shuffled-teacher" if arm == ARMS[2] else "none",
        )  # fmt: skip
        return distill(DistillConfig(**given, student=student), lessons, task_config=self.task)

    def _config(self, model: str, folder: Path, steps: int, lr: float) -> TrainConfig:
        options = self.options
        return TrainConfig(
            task="text_classify", model=model, train=self.files["train"], dev=self.files["dev"],
            output=str(folder), steps=steps, eval_every=-(-steps // options.evaluations),
            batch_size=options.batch_size, lr=lr, seed=options.seed, threads=options.threads,
            **plain_reading(),
        )  # fmt: skip


def check_names(students: Sequence[str]) -> None:
    """Refuse students whose runs would lie in one folder: the second would be given the first's.

    Raises:
        ConfigError: With both names.
    """
    taken: dict[str, str] = {}
    for each in students:
        other = taken.setdefault(_plain(each), each)
        if other != each or students.count(each) > 1:
            raise ConfigError(
                f"--students {other} and {each} would be told apart by nothing: name them so that "
                "what stands behind the last / differs"
            )


def right_of(run: Path, test: Sequence[Example], backend: Any = "torch") -> np.ndarray:
    """Return which test rows a run answers rightly, (rows,) of 0 and 1."""
    pipeline = Pipeline.load(run, backend=backend)
    said = [each["label"] for each in pipeline.predict([{"text": e["text"]} for e in test])]
    return right(said, test)


def floors(rows: Rows, seed: int) -> dict[str, np.ndarray]:
    """Return which test rows the floors answer rightly; the last learns from the pool too."""
    found = {}
    for name, make in (("majority", majority), ("tfidf-svm", tfidf_svm),
                       ("self-trained tfidf", self_trained)):  # fmt: skip
        if make is self_trained and not rows.pool:
            continue
        found[name] = right_of_floor(make(), rows.train, rows.pool, rows.test, seed)
    return found


def accuracy(right: np.ndarray) -> dict[str, float]:
    """Return a share of right answers with its 95% interval.

    Example:
        >>> accuracy(np.array([1, 1, 0, 1]))["accuracy"]
        0.75
    """
    low, high = share_interval(int(right.sum()), len(right))
    return {"accuracy": float(right.mean()), "low": low, "high": high}


def gain(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Return a gain in points with the 95% interval of a paired bootstrap over test rows.

    Example:
        >>> gain(np.array([1, 1, 1, 0]), np.array([1, 0, 0, 0]))["points"]
        50.0
    """
    mine, other = (Scored({"all": [each]}) for each in (ours, theirs))
    draws = difference_draws(mine, other, range(len(ours)), draws=2000)
    found = interval_of(float(ours.mean() - theirs.mean()), draws)
    return {"points": 100 * found.mean, "low": 100 * found.low, "high": 100 * found.high}


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.rpartition("/")[2])
