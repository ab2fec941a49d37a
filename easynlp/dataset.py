"""Labelled files to a task that knows its labels and the features a run trains on."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easynlp.atomic import write_json
from easynlp.config import DataOptions, TrainConfig
from easynlp.data.columns import Reading, read_examples
from easynlp.data.diagnose import fingerprint, overlap
from easynlp.data.readers import Row
from easynlp.errors import ConfigError, DataError
from easynlp.tasks.base import Example, Features, Field, Task
from easynlp.tasks.inputs import check_rows, encode_rows
from easynlp.text.tokenizer import Tokenizer

__all__ = [
    "Labelled",
    "RunData",
    "check_fingerprints",
    "encode",
    "read",
    "read_all",
    "read_splits",
    "write_fingerprints",
]

log = logging.getLogger("easynlp")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Labelled:
    """The rows of one labelled file and the examples in them, in the same order."""

    rows: Sequence[Row]
    examples: Sequence[Example]


@dataclass(frozen=True)
class RunData:
    """What a run trains and is judged on, read but not yet encoded."""

    task: Task
    splits: Mapping[str, Labelled]
    """``train``, and ``dev`` and ``test`` where there are such files."""
    columns: dict[str, str]
    """Field names to the user's column names."""

    def examples(self, name: str) -> Sequence[Example]:
        """Return a split's examples; empty if there is no such split."""
        return self.splits[name].examples if name in self.splits else []


def read(config: TrainConfig, task_type: Any, task_config: Any, tokenizer: Tokenizer) -> RunData:
    """Read a run's files and learn the task's labels from the training rows.

    Args:
        config: Names the files and columns.
        task_type: The task's class.
        task_config: The task's options.
        tokenizer: Of the backbone.

    Raises:
        DataError: With the file and line of what is wrong.
    """
    columns: dict[str, str] = {}
    splits: dict[str, Labelled] = {}
    for name in SPLITS:
        if (path := getattr(config, name)) is not None:
            splits[name], found = _read_file(path, config, task_type, columns)
            columns = columns or found
    train = splits["train"]
    try:
        task = task_type.prepare(task_config, tokenizer, train.examples)
    except DataError as error:
        raise DataError(error.message, path=error.path or config.train, line=error.line,
                        hint=error.hint) from error  # fmt: skip
    for name in ("dev", "test"):
        if name in splits:
            _warn_overlap(name, train, splits[name])
    return RunData(task, splits, columns)


def read_all(
    path: str, fields: Sequence[Field], options: DataOptions, *, with_targets: bool = True,
    preferred: Mapping[str, str] | None = None, task: Task | None = None,
) -> list[Example]:  # fmt: skip
    """Return the examples of one file, read as the options say.

    Args:
        path: The file.
        fields: The task's fields.
        options: Columns and format.
        with_targets: Whether targets are needed or left out.
        preferred: Columns to try before guessing, where the options name none.
        task: Must be able to take every row, and know its label; by default nothing is asked.

    Raises:
        DataError: With the line of what is wrong.
    """
    found: Sequence[tuple[Row, Example]] = [
        *read_examples(
            path, fields, chosen=options.columns, preferred=preferred, with_targets=with_targets,
            **_reading(options),
        )
    ]  # fmt: skip
    return [example for _, example in found] if task is None else check_rows(task, found)


def read_splits(
    options: DataOptions, fields: Sequence[Field], names: Sequence[str] = SPLITS,
    task: Task | None = None,
) -> dict[str, list[Example]]:  # fmt: skip
    """Return the examples of each split whose file is given.

    Args:
        options: Columns and format; they hold the files as well, under the splits' names.
        fields: The task's fields.
        names: The splits.
        task: See `read_all`.

    Raises:
        DataError: With the line of what is wrong.
    """
    return {
        name: read_all(path, fields, options, task=task)
        for name in names
        if (path := getattr(options, name)) is not None
    }


def encode(task: Task, data: RunData) -> dict[str, list[Features]]:
    """Encode every split; this checks each row, a label unknown in training included.

    Args:
        task: The plan's task: a method may have wrapped the one that was read for.
        data: What was read.

    Raises:
        DataError: At the file and line of the first row that is wrong.
    """
    return {name: _encode(task, name, part) for name, part in data.splits.items()}


def check_fingerprints(config: TrainConfig, folder: Path) -> None:
    """Refuse to resume a run whose files have changed since it began.

    Raises:
        ConfigError: With the file that changed.
    """
    written = folder / "data.json"
    if not written.is_file():
        return
    before = json.loads(written.read_text(encoding="utf-8"))
    for name in SPLITS:
        path = getattr(config, name)
        if path and name in before and fingerprint(path).sha256 != before[name]["sha256"]:
            raise ConfigError(
                f"cannot resume {folder}: --{name} {path} has changed since. Start anew with "
                "--overwrite, or bring the file back"
            )


def write_fingerprints(config: TrainConfig, data: RunData, folder: Path) -> None:
    """Write what the run's files were (bytes, rows, SHA-256) into ``data.json``."""
    found = {}
    for name, part in data.splits.items():
        path = getattr(config, name)
        found[name] = {"path": path, **vars(fingerprint(path, rows=len(part.rows)))}
    write_json(folder / "data.json", found)


def _reading(options: DataOptions) -> Reading:
    return {
        "encoding": options.encoding, "schema": options.schema, "header": options.header,
        "format": options.format,
    }  # fmt: skip


def _read_file(
    path: str, config: TrainConfig, task_type: Any, preferred: dict[str, str]
) -> tuple[Labelled, dict[str, str]]:
    known = {field.name for field in task_type.fields}
    chosen = config.columns
    if unknown := chosen.keys() - known:
        raise ConfigError(
            f"--{min(unknown).replace('_', '-')}: {config.task} has no such field; "
            f"its fields: {', '.join(sorted(known))}"
        )
    reader = read_examples(
        path, task_type.fields, chosen=chosen, preferred=preferred, **_reading(config)
    )
    pairs = list(reader)
    part = Labelled([row for row, _ in pairs], [example for _, example in pairs])
    return part, dict(reader.columns.names)


def _encode(task: Task, name: str, part: Labelled) -> list[Features]:
    """Encode every example; log what was truncated."""
    features = encode_rows(task, list(zip(part.rows, part.examples, strict=True)))
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
