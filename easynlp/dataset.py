"""Labelled files to a task that knows its labels and the features a run trains on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easynlp.config import TrainConfig
from easynlp.data.columns import read_examples
from easynlp.data.diagnose import fingerprint, overlap
from easynlp.data.readers import Row
from easynlp.errors import ConfigError, DataError
from easynlp.tasks.base import Example, Features, Task
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.checkpoint import write_json

__all__ = ["Labelled", "RunData", "read", "write_fingerprints"]

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Labelled:
    """The rows of one labelled file and the examples in them, in the same order."""

    rows: Sequence[Row]
    examples: Sequence[Example]


@dataclass(frozen=True)
class RunData:
    """What a run trains and is judged on."""

    task: Task
    train: Sequence[Features]
    dev: Sequence[Example]
    test: Sequence[Example]
    columns: dict[str, str]
    """Field names to the user's column names."""


def read(config: TrainConfig, task_type: Any, task_config: Any, tokenizer: Tokenizer) -> RunData:
    """Read a run's files, learn the task's labels from the training rows and check them all.

    Args:
        config: Names the files and columns.
        task_type: The task's class.
        task_config: The task's options.
        tokenizer: Of the backbone.

    Raises:
        DataError: With the file and line of what is wrong, a label unknown in training included.
    """
    columns: dict[str, str] = {}
    files: dict[str, Labelled] = {}
    for name, path in (("train", config.train), ("dev", config.dev), ("test", config.test)):
        if path is not None:
            files[name], found = _read_file(path, config, task_type, columns)
            columns = columns or found
    train = files["train"]
    try:
        task = task_type.prepare(task_config, tokenizer, train.examples)
    except DataError as error:
        raise DataError(error.message, path=error.path or config.train, line=error.line,
                        hint=error.hint) from error  # fmt: skip
    encoded = {name: _encode(task, name, part) for name, part in files.items()}
    for name in ("dev", "test"):
        if name in files:
            _warn_overlap(name, train, files[name])
    empty: list[Example] = []
    return RunData(
        task, encoded["train"],
        files["dev"].examples if "dev" in files else empty,
        files["test"].examples if "test" in files else empty,
        columns,
    )  # fmt: skip


def write_fingerprints(config: TrainConfig, data: RunData, folder: Path) -> None:
    """Write what the run's files were (bytes, rows, SHA-256) into ``data.json``."""
    files = {
        "train": (config.train, len(data.train)),
        "dev": (config.dev, len(data.dev)),
        "test": (config.test, len(data.test)),
    }
    write_json(
        folder / "data.json",
        {
            name: {"path": path, **vars(fingerprint(path, rows=rows))}
            for name, (path, rows) in files.items()
            if path is not None
        },
    )


def _read_file(
    path: str, config: TrainConfig, task_type: Any, preferred: dict[str, str]
) -> tuple[Labelled, dict[str, str]]:
    known = {field.name for field in task_type.fields}
    typed = {name: getattr(config, name) for name in ("text", "text_b", "label", "entities")}
    chosen = {name: value for name, value in typed.items() if value is not None}
    if unknown := chosen.keys() - known:
        raise ConfigError(
            f"--{min(unknown).replace('_', '-')}: {config.task} has no such field; "
            f"its fields: {', '.join(sorted(known))}"
        )
    reader = read_examples(
        path, task_type.fields, chosen=chosen, preferred=preferred, encoding=config.encoding,
        schema=config.schema, header=config.header, format=config.format,
    )  # fmt: skip
    pairs = list(reader)
    part = Labelled([row for row, _ in pairs], [example for _, example in pairs])
    return part, dict(reader.columns.names)


def _encode(task: Task, name: str, part: Labelled) -> list[Features]:
    """Encode every example, placing errors at their line; log what was truncated."""
    try:
        features = task.encode_batch(part.examples)
    except DataError:  # again, one by one, to learn which row it is
        features = []
        for row, example in zip(part.rows, part.examples, strict=True):
            try:
                features.append(task.encode(example))
            except DataError as error:
                raise error.at(row.path, row.line) from error
    cut = sum(bool(item.get("truncated")) for item in features)
    log.info("%s: %d rows, %d cut to max_length", name, len(features), cut)
    if cut > len(features) // 10:
        log.warning("%s: %.0f%% of the rows are cut; consider a larger --max-length", name,
                    100 * cut / len(features))  # fmt: skip
    return features


def _warn_overlap(name: str, train: Labelled, other: Labelled) -> None:
    shared = overlap(
        zip(train.rows, train.examples, strict=True), zip(other.rows, other.examples, strict=True)
    )
    if shared.count:
        log.warning("%d of the %s rows are also in train: scores on them mean little (%s)",
                    shared.count, name, "; ".join(shared.places[:3]))  # fmt: skip
