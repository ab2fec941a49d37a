"""What a compression works on: the run, its data, and what is known of its texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from easynlp import dataset
from easynlp.compression.importance import Importance, measure_importance
from easynlp.compression.recover import answered
from easynlp.compression.settings import CompressConfig
from easynlp.compression.vocabulary import Vocabulary, choose_vocabulary, texts_of
from easynlp.config import DataOptions
from easynlp.data.diagnose import example_hash
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, ModelError
from easynlp.metrics import share_interval
from easynlp.models.heads import core
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline, fingerprint
from easynlp.tasks.base import Example, Prediction, Task

__all__ = ["Material", "interval"]

log = logging.getLogger("easynlp")
DRAWS = 300
SHARE, ENTRY, LEAST = 0.35, 64, 500
"""Of a target size the share that tokens may take, the bytes of one beside its row (scale, and name
in the tokenizer's file), and the tokens that are kept in any case."""


@dataclass
class Material:
    """A run and the rows it is compressed with.

    Attributes:
        config: Options.
        run: The run's folder.
        pipeline: The run, in torch.
        splits: ``train``, ``dev`` and perhaps ``test``: labelled examples.
        unlabeled: Texts, without targets.
        sources: What was read, by its option's name.
    """

    config: CompressConfig
    run: Path
    pipeline: Pipeline
    splits: Mapping[str, Sequence[Example]]
    unlabeled: Sequence[Example]
    sources: Mapping[str, str]

    @classmethod
    def read(cls, config: CompressConfig) -> Material:
        """Read the run and its data: what is not named is what the run was trained on.

        Raises:
            ConfigError: If there is no training or dev data.
            DataError: If a row is wrong.
            ModelError: If the run cannot be read.
        """
        run = Path(config.run)
        pipeline = Pipeline.load(run, backend="torch")
        recipe = _recipe(run)
        sources: dict[str, str] = {}
        for name in ("train", "dev", "test", "unlabeled"):
            path = getattr(config, name) or (recipe.get(name) if name in ("train", "dev") else None)
            if path is not None:
                sources[name] = str(path)
        for name in ("train", "dev"):
            if name not in sources or not Path(sources[name]).is_file():
                told = f"{sources[name]} is not there" if name in sources else "the run names none"
                raise ConfigError(f"no {name} data ({told}): name it with --{name} FILE")
        names = [field.name for field in fields(DataOptions)]
        chosen: dict[str, Any] = {
            n: recipe[n] for n in names if recipe.get(n) is not None
        } | {n: getattr(config, n) for n in names if getattr(config, n) != _default(n)}  # fmt: skip
        options = DataOptions(**chosen)
        task = pipeline.task
        splits = {
            name: dataset.read_all(path, task.fields, options, task=task)
            for name, path in sources.items()
            if name != "unlabeled"
        }
        pool: list[Example] = []
        if "unlabeled" in sources:
            pool = dataset.read_all(
                sources["unlabeled"], task.fields, config, with_targets=False,
                preferred=options.columns,
            )  # fmt: skip
            seen = {example_hash(row) for rows in splits.values() for row in rows}
            fresh = [row for row in pool if example_hash(row) not in seen]
            if len(fresh) < len(pool):
                log.info("%d unlabelled texts are also in labelled data and left out",
                         len(pool) - len(fresh))  # fmt: skip
            pool = fresh
        return cls(config, run, pipeline, splits, pool, sources)

    @property
    def model(self) -> torch.nn.Module:
        """The run's model."""
        assert isinstance(self.pipeline.model, TorchModel)
        return self.pipeline.model.model

    @property
    def task(self) -> Task:
        """The run's task."""
        return self.pipeline.task

    @property
    def model_config(self) -> Any:
        """The configuration of the transformers model in the run."""
        return core(self.model).config

    @property
    def layers(self) -> int:
        """How many layers there are to cut; none in what is not shaped like a transformer."""
        return int(getattr(self.model_config, "num_hidden_layers", 0))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the run's weights and of each file."""
        weights = self.run / "model.safetensors"
        if not weights.is_file():
            raise ModelError(f"{self.run} holds no model.safetensors")
        found = {"run": fingerprint(weights)}
        return found | {name: fingerprint(Path(path)) for name, path in self.sources.items()}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What the vocabulary is cut to; neither dev nor test are counted."""
        texts = texts_of([*self.splits["train"], *self.unlabeled])
        size = self.config.vocab_size
        if not size and self.config.budget is not None:
            each = int(self.model_config.hidden_size) + ENTRY
            size = max(LEAST, int(SHARE * self.config.budget / each))
        return choose_vocabulary(
            self.task.tokenizer, texts, size=size, fallback=self.config.fallback
        )

    @cached_property
    def importance(self) -> Importance:
        """Of the run's heads and neurons, on training rows."""
        rows = EncodedRows.of(self.task.encode_batch(self.splits["train"]))
        log.info("ranking heads and neurons on %d rows ...",
                 min(len(rows.rows), self.config.importance_rows))  # fmt: skip
        return measure_importance(
            self.task, self.model, rows, most=self.config.importance_rows, seed=self.config.seed
        )

    @cached_property
    def lessons(self) -> list[Example]:
        """Rows to recover on: labelled ones, and unlabelled ones with the run's answers."""
        return [*self.splits["train"], *answered(self.pipeline, self.unlabeled)]

    @cached_property
    def timed(self) -> list[Example]:
        """Dev texts to time, without targets."""
        return [self.pipeline.example(row) for row in self.splits["dev"][: self.config.timed]]


def interval(
    task: Task, predictions: Sequence[Prediction], examples: Sequence[Example]
) -> tuple[float, float, float]:
    """Return a task's metric on predictions with its 95% interval: score, low, high.

    Of accuracy Wilson's interval; of others the bootstrap's over rows, always of the same draws.
    """
    score = float(task.score(predictions, examples)[task.metric])
    count = len(examples)
    if task.metric == "accuracy":
        return score, *share_interval(round(score * count), count)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        rows = rng.integers(0, count, count)
        drawn = task.score([predictions[i] for i in rows], [examples[i] for i in rows])
        draws.append(float(drawn[task.metric]))
    low, high = np.percentile(draws, [2.5, 97.5])
    return score, float(low), float(high)


def _recipe(run: Path) -> dict[str, Any]:
    """Return what a run folder says it was trained with; empty if it does not."""
    try:
        found = yaml.safe_load((run / "train.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _default(name: str) -> Any:
    return next(field.default for field in fields(DataOptions) if field.name == name)
