"""iPET as a contender: ``ipet:OPTION=VALUE:…@MODEL``, over the task's patterns and its own text.

PET is trained for every pattern of the task (`easynlp.benchmarks.prompts`), with the words that
belong to the pattern, on the budget of fine-tuning; the models label the task's unlabelled text
together and a classifier learns their probabilities: `easynlp.fewshot.ipet`, whose functions and
options these are, in the harness. Options: ``generations`` (0 is PET with several patterns),
``growth``, ``share``, ``temperature``, ``weighting`` (``train``, ``dev``, ``uniform``), ``texts``
and ``student`` (by default ``finetune``; see `easynlp.benchmarks.taught`), and
``placebo=random-pseudo-labels``, which holds for the generations and for the classifier. The
classifier also sees the labelled rows, as certain ones.

The patterns must be two at least, and there must be unlabelled text: other tasks are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from easynlp.benchmarks.contender import Budget, Learned
from easynlp.benchmarks.encodings import grade, hide
from easynlp.benchmarks.few_shot import MethodTuned
from easynlp.benchmarks.fewclue import FEWCLUE, Split, read_split_file
from easynlp.benchmarks.names import Name, typed
from easynlp.benchmarks.pool import draw, has_unlabelled
from easynlp.benchmarks.prompts import prompts
from easynlp.benchmarks.taught import (
    believed_rows,
    chances,
    check_placebo,
    contender_of,
)
from easynlp.config import Count, Positive, Share, Steps
from easynlp.fewshot.committee import LEAST
from easynlp.fewshot.ipet import IpetOptions, rows_from_others, soft_labels
from easynlp.fewshot.pseudo_labels import Kept
from easynlp.options import Range
from easynlp.tasks.base import Example

__all__ = ["Generations", "GenerationsOptions"]


@dataclass(frozen=True, kw_only=True)
class GenerationsOptions:
    """Options of the contender; see the module's docstring."""

    generations: Steps = IpetOptions.generations
    growth: Annotated[float, Range(1, above=True)] = IpetOptions.growth
    share: Share = IpetOptions.share
    temperature: Positive = IpetOptions.temperature
    weighting: Literal["train", "dev", "uniform"] = IpetOptions.weighting
    texts: Count = 4000
    student: str = "finetune"
    placebo: str = ""


class Generations:
    """PET with several patterns, and iPET; see the module's docstring.

    Args:
        name: As typed.
        budget: What every model may spend, each time it learns.
        model: The model, if the name has none.

    Raises:
        ConfigError: If an option is wrong.
    """

    seeded, unlabelled = True, True

    def __init__(self, name: str, budget: Budget, model: str) -> None:
        parsed = Name.parse(name, ("student",))
        self.name, self.budget, self.model = name, budget, parsed.model or model
        self.options = GenerationsOptions(**typed(parsed.options, GenerationsOptions, name))
        check_placebo(name, self.options.placebo)
        self.student = contender_of(self.options.student, budget, self.model)

    def takes(self, task: str) -> bool:
        """Return whether there are two patterns with words, and unlabelled text."""
        return (
            not FEWCLUE[task].is_choice and has_unlabelled(task) and len(self._patterns(task)) > 1
        )

    def identity(self) -> str:
        """Return the options and what decides the models and the classifier."""
        return f"{self.options} {self._member('').identity()} {self.student.identity()}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Train the generations and the classifier."""
        options = self.options
        names = self._patterns(split.task)
        members = [self._member(name) for name in names]
        train, dev = (read_split_file(path, split.task) for path in (split.train, split.dev))
        labels = sorted({str(each["label"]) for each in train})
        pool = draw(split, options.texts)
        plain = replace(split, unlabelled=(), believed=())
        weights = np.ones(len(members))
        if options.weighting != "uniform":
            on = train if options.weighting == "train" else dev
            untrained = [self._member(name, 0).learn(plain, seed, say) for name in names]
            weights = np.array([grade(on, each.predict(hide(on))) for each in untrained])
        lessons: list[tuple[Example, ...]] = [()] * len(members)
        report: list[dict[str, Any]] = []
        answers = np.zeros(0)
        for generation in range(options.generations + 1):
            if generation:
                lessons = [
                    self._lesson(number, generation, answers, weights, train, pool, labels, seed)
                    for number in range(len(members))
                ]
            found = []
            for number, (member, lesson) in enumerate(zip(members, lessons, strict=True)):
                say(f"generation {generation}, {names[number]}")
                learned = member.learn(replace(plain, believed=lesson), seed, say)
                found.append(chances(learned, pool, labels))
                report.append({"pattern": names[number], "believed": len(lesson),
                               "dev": learned.dev_accuracy})  # fmt: skip
            answers = np.log(np.maximum(np.array(found), LEAST))
        taught = soft_labels(answers, weights, options.temperature)
        every = Kept(np.arange(len(pool)), taught.argmax(1), np.zeros(len(labels)))
        placebo = seed if options.placebo else None
        believed = believed_rows(pool, every, labels, taught, placebo)
        say("classifier")
        student = self.student.learn(replace(plain, believed=believed), seed, say)
        said = dict(zip(names, weights.round(4).tolist(), strict=True))
        chosen = {**student.chosen, "pool": len(pool), "weights": said, "models": report}
        return replace(student, chosen=chosen)

    def _lesson(
        self, number: int, generation: int, answers: np.ndarray, weights: np.ndarray,
        train: Sequence[Example], pool: Sequence[Example], labels: Sequence[str], seed: int,
    ) -> tuple[Example, ...]:  # fmt: skip
        """Return the rows that a share of the other models labels for one."""
        options = self.options
        given = [str(example["label"]) for example in train]
        picked = rows_from_others(
            answers, weights, [given.count(label) for label in labels],
            number=number, generation=generation, seed=seed,
            share=options.share, growth=options.growth,
        )  # fmt: skip
        rows, numbers = (np.array([pair[i] for pair in picked], np.int64) for i in (0, 1))
        kept = Kept(rows, numbers, np.zeros(len(labels)))
        placebo = seed + generation if options.placebo else None
        return believed_rows(pool, kept, labels, placebo=placebo)

    def _member(self, prompt: str, steps: int | None = None) -> MethodTuned:
        given = {"prompt": prompt} if prompt else {}
        if steps is not None:
            given["steps"] = str(steps)
        return MethodTuned(self.name, self.budget, self.model, ("pet",), given)

    def _patterns(self, task: str) -> list[str]:
        return [name for name, each in prompts().get(task, {}).items()
                if "pattern" in each.options() and not each.extra]  # fmt: skip
