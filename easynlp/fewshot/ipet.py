"""Several patterns: an ensemble labels a pile of text, and one classifier learns from that.

Schick & Schütze 2021 (PET and iPET, arXiv 2001.07676). A model is trained for each pattern. Their
scores are averaged, each weighted by the accuracy its pattern has *before* training, turned into
probabilities at a temperature of 2, and a classifier is trained on the unlabelled texts with these
soft labels.

With `generations` (iPET) the models first teach each other: every model is trained anew, from the
pre-trained weights, on the labelled rows and on texts that a random share of the other models has
labelled, so many that each generation has `growth` times the rows of the one before, label by
label. A text is drawn with a chance proportional to the probability of its label, as in the paper:
always taking the surest ones would teach what is known already.

Deviations: scores are log-probabilities of the labels (a shift of a row's logits that changes
nothing within a model); the auxiliary language model is that of `easynlp.fewshot.pet`, on the
labelled rows; where the models call too few texts a label, there are fewer of it in a generation.

Every model is a plain `run.train` below ``models/``; one that is complete is not trained again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.config import TrainConfig, to_yaml
from easynlp.data.diagnose import example_hash
from easynlp.dataset import read_all, read_splits
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.committee import LEAST
from easynlp.fewshot.phases import plain_reading, train_once, write_rows
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.fewshot.prompt_settings import IpetOptions
from easynlp.fewshot.soft_classify import SoftClassify
from easynlp.metrics import softmax
from easynlp.models.backbone import Backbone
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import META, Pipeline, read_meta, save_meta
from easynlp.tasks.base import Example
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.folder import check_folder, claim_folder

__all__ = ["IpetOptions", "draw_rows", "ipet", "rows_from_others", "soft_labels"]

log = logging.getLogger("easynlp")
STUDENT = f"{SoftClassify.__module__}:{SoftClassify.__qualname__}"


@dataclass(frozen=True)
class Member:
    """A model of the ensemble: its pattern's number, its seed and its pattern's weight."""

    pattern: int
    seed: int
    weight: float


def ipet(config: TrainConfig, options: IpetOptions, task_config: Any = None) -> Pipeline:
    """Train an ensemble of prompts and distil it into one classifier.

    Args:
        config: Of every model, as for `run.train`; the task is text_classify. `output` gets the
            classifier's run, ``ipet.json`` (weights, scores, rows of each generation) and
            ``models/``.
        options: Patterns, words, unlabelled text, generations.
        task_config: Options of text_classify; of the prompts `max_length` and `labels`.

    Returns:
        The classifier, as `easynlp.load` would return it.

    Raises:
        ConfigError: If options are wrong or the output folder is taken.
        DataError: If a file or row is wrong, or nothing is left of the unlabelled text.
        ModelError: If the model cannot be had or has no masked-LM head.

    Example:
        >>> ipet(config, IpetOptions(patterns=("{text}。很[MASK]", "[MASK]！{text}"),
        ...      words="好评=好;差评=差", unlabeled="pool.jsonl"))        # doctest: +SKIP
    """
    plain = task_config if task_config is not None else ClassifyConfig()
    if config.task != "text_classify" or plain.multi_label:
        raise ConfigError("several patterns make a text_classify model with one label a text")
    count = len(options.patterns) * options.runs
    if options.generations and count < 2:
        raise ConfigError("with one model there is none to teach it: give more patterns or --runs")
    if options.weighting == "dev" and config.dev is None:
        raise ConfigError("weighting on dev needs dev data: type --dev FILE")
    folder = Path(config.output)
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": "ipet",
        "written": to_yaml(config, options, plain),
        "inputs": (config.model, config.train, config.dev, config.test, options.unlabeled),
    }  # fmt: skip
    check_folder(folder, **claim)
    rows = read_splits(config, TextClassify.fields)
    pool = _pool(config, options, rows)
    labels = TextClassify.prepare(plain, Backbone.load(config.model).tokenizer, rows["train"])
    plain = replace(plain, labels=labels.config.labels, pair=labels.config.pair)
    work = Work(config, options, plain, folder, rows, pool)
    work.check()
    claim_folder(folder, **claim)
    return work.run()


class Work:
    """One call of `ipet`: what was read, and the steps over it."""

    def __init__(
        self,
        config: TrainConfig,
        options: IpetOptions,
        plain: ClassifyConfig,
        folder: Path,
        rows: Mapping[str, Sequence[Example]],
        pool: Sequence[Example],
    ) -> None:
        self.options, self.plain, self.folder = options, plain, folder
        self.rows, self.pool, self.labels = rows, pool, plain.labels
        self.config = config
        self.report: dict[str, Any] = {"pool": len(pool), "generations": []}

    def check(self) -> None:
        """Make every prompt's task, and the first one's model.

        So a wrong pattern, word or model ends the call before a folder is made.
        """
        backbone = Backbone.load(self.config.model)
        tasks = [
            PromptClassify(self._prompt(number), backbone.tokenizer)
            for number in range(len(self.options.patterns))
        ]
        tasks[0].language_model(backbone)

    def run(self) -> Pipeline:
        """Train the generations and the classifier."""
        members = [
            Member(number, self.config.seed + turn, weight)
            for number, weight in enumerate(self._weights())
            for turn in range(self.options.runs)
        ]
        weights = np.array([member.weight for member in members])
        answers = self._generation(0, members, [self.rows["train"]] * len(members))
        for generation in range(1, self.options.generations + 1):
            lessons = [self._lesson(generation, i, answers, weights) for i in range(len(members))]
            answers = self._generation(generation, members, lessons)
        taught = soft_labels(answers, weights, self.options.temperature)
        return self._student(taught)

    def _weights(self) -> list[float]:
        """Return each pattern's accuracy before training."""
        patterns, on = self.options.patterns, self.options.weighting
        if on == "uniform":
            return [1.0] * len(patterns)
        backbone, found = Backbone.load(self.config.model), []
        for number in range(len(patterns)):
            task = PromptClassify(self._prompt(number), backbone.tokenizer)
            pipeline = Pipeline(task, TorchModel(task.build(backbone).eval()))
            found.append(pipeline.evaluate(self.rows[on])["accuracy"])
        self.report["weights"] = dict(zip(patterns, found, strict=True))
        return found

    def _generation(
        self, generation: int, members: Sequence[Member], lessons: Sequence[Sequence[Example]]
    ) -> np.ndarray:
        """Train all models on their rows; return their answers on the pool, (models, rows, labels).

        Answers are logarithms of probabilities.
        """
        answers, scores = [], []
        for number, (member, lesson) in enumerate(zip(members, lessons, strict=True)):
            home = self.folder / "models" / f"generation-{generation}" / str(number)
            config = self._base(home, lesson, member.seed)
            config = replace(config, task="prompt_classify")
            model = train_once(config, self._prompt(member.pattern))
            scores.append({"pattern": self.options.patterns[member.pattern], "rows": len(lesson),
                           **model.meta.get("scores", {})})  # fmt: skip
            said = model.predict(self.pool)
            answers.append([[each["scores"][label] for label in self.labels] for each in said])
        self.report["generations"].append(scores)
        self._write()
        return np.log(np.maximum(np.array(answers), LEAST))

    def _lesson(
        self, generation: int, number: int, answers: np.ndarray, weights: np.ndarray
    ) -> Sequence[Example]:
        """Return the rows a model learns from: the labelled ones and those others label for it."""
        given = [str(example["label"]) for example in self.rows["train"]]
        picked = rows_from_others(
            answers, weights, [given.count(label) for label in self.labels],
            number=number, generation=generation, seed=self.config.seed,
            share=self.options.share, growth=self.options.growth,
        )  # fmt: skip
        extra = [{**self.pool[row], "label": self.labels[label]} for row, label in picked]
        return [*self.rows["train"], *extra]

    def _student(self, taught: np.ndarray) -> Pipeline:
        """Train the classifier on the soft labels, and move its run to the output folder."""
        lesson = [
            {**example, "label": self.labels[int(row.argmax())],
             "scores": dict(zip(self.labels, row.tolist(), strict=True))}
            for example, row in zip(self.pool, taught, strict=True)
        ]  # fmt: skip
        home = self.folder / "models" / "classifier"
        config = self._base(home, lesson, self.config.seed)
        config = replace(
            config, task=STUDENT, epochs=self.options.student_epochs, steps=0,
            test=self._copy("test"),
        )  # fmt: skip
        train_once(config, self.plain)
        for file in (f for f in home.iterdir() if f.is_file() and f.name != META):
            shutil.copyfile(file, self.folder / file.name)
        meta = read_meta(home)
        self.report["classifier"] = meta.get("scores", {})
        self._write()
        save_meta(self.folder, {**meta, "task": "text_classify"})  # what it is, from now on
        return Pipeline.load(self.folder, backend="torch")

    def _prompt(self, number: int) -> PromptConfig:
        options = self.options
        return PromptConfig(
            pattern=options.patterns[number], words=options.words, loss=options.loss,
            max_length=self.plain.max_length, labels=self.labels,
        )  # fmt: skip

    def _base(self, home: Path, lesson: Sequence[Example], seed: int) -> TrainConfig:
        """Return the options of one model's run, its rows written beside it."""
        path = home.parent / f"{home.name}.jsonl"
        write_rows(path, lesson)
        return replace(
            self.config, train=str(path), dev=self._copy("dev"), test=None, output=str(home),
            seed=seed, overwrite=False, **plain_reading(),
        )  # fmt: skip

    def _copy(self, name: str) -> str | None:
        """Write a split's examples under the fields' own names; return the path."""
        if name not in self.rows:
            return None
        path = self.folder / "models" / f"{name}.jsonl"
        if not path.is_file():
            write_rows(path, self.rows[name])
        return str(path)

    def _write(self) -> None:
        write_json(self.folder / "ipet.json", {"options": asdict(self.options), **self.report})


def soft_labels(answers: np.ndarray, weights: np.ndarray, temperature: float) -> np.ndarray:
    """Return the ensemble's probabilities, (rows, labels).

    Args:
        answers: Log-probabilities of each model, (models, rows, labels).
        weights: Of the models; all 0 counts as all equal.
        temperature: The mean scores are divided by it.

    Example:
        >>> logs = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
        >>> soft_labels(logs, np.array([1.0, 1.0]), 1.0).round(3).tolist()
        [[0.75, 0.25]]
    """
    shares = weights if weights.sum() > 0 else np.ones_like(weights)
    return softmax(np.tensordot(shares / shares.sum(), answers, 1) / temperature)


def rows_from_others(
    answers: np.ndarray, weights: np.ndarray, counts: Sequence[int], *,
    number: int, generation: int, seed: int, share: float, growth: float,
) -> list[tuple[int, int]]:  # fmt: skip
    """Draw the rows that a random share of the other models labels for one; (row, label) pairs.

    Args:
        answers: Log-probabilities of each model, (models, rows, labels).
        weights: Of the models.
        counts: Labelled rows of each label.
        number: The model that is to learn from the rows.
        generation: From 1.
        seed: Of the draw, with `generation` and `number`.
        share: Of the other models; at least one labels.
        growth: How many times the rows of a generation the next one has.
    """
    rng = np.random.default_rng((seed, generation, number))
    others = np.delete(np.arange(len(answers)), number)
    chosen = rng.permutation(others)[: max(1, round(share * len(others)))]
    probs = soft_labels(answers[chosen], weights[chosen], 1.0)
    wanted = [round(count * (growth**generation - 1)) for count in counts]
    return draw_rows(probs, wanted, rng)


def draw_rows(
    probs: np.ndarray, wanted: Sequence[int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw rows of each label without replacement, the likelier the oftener; (row, label) pairs.

    Args:
        probs: (rows, labels); a row is a candidate for its likeliest label.
        wanted: How many of each label; fewer if there are no more.
        rng: Draws.
    """
    guess, picked = probs.argmax(-1), []
    for label, size in enumerate(wanted):
        rows = np.flatnonzero(guess == label)
        chance = probs[rows, label]
        if len(rows):
            chosen = rng.choice(rows, min(size, len(rows)), replace=False, p=chance / chance.sum())
            picked += [(int(row), label) for row in np.sort(chosen)]
    return picked


def _pool(
    config: TrainConfig, options: IpetOptions, rows: Mapping[str, Sequence[Example]]
) -> list[Example]:
    """Read the unlabelled text, less what is in the other files and what is there twice."""
    known = {example_hash(example) for part in rows.values() for example in part}
    found: list[Example] = []
    everything = read_all(
        options.unlabeled, TextClassify.fields, replace(config, label=None), with_targets=False
    )
    for example in everything:
        if (key := example_hash(example)) not in known:
            known.add(key)
            found.append({k: v for k, v in example.items() if k in ("text", "text_b")})
    log.info("unlabelled: %d of %d rows; the rest are twice or in train, dev or test",
             len(found), len(everything))  # fmt: skip
    if not found:
        raise DataError("no row is left of the unlabelled text", path=options.unlabeled)
    return found
