"""FewCLUE's classification tasks: which files a split is made of, and that they are whole.

Models are trained on ``train_i``, chosen on ``dev_i`` and scored once on ``test_public``, for
each of the five official splits i. Every row and every class counts; a folder with rows or
classes taken out is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from easynlp.data.columns import read_examples
from easynlp.errors import ConfigError, DataError, did_you_mean
from easynlp.tasks import find_task
from easynlp.tasks.base import Example

__all__ = ["FEWCLUE", "Split", "Suite", "find_split", "read_split_file"]

_ONE = {"text": "text", "label": "label"}
_TWO = {"text": "text_a", "text_b": "text_b", "label": "label"}


@dataclass(frozen=True)
class Suite:
    """One task of the benchmark.

    Attributes:
        folder: Its folder under the data root.
        test_rows: Rows of ``test_public``, all of them.
        classes: Labels in training.
        columns: Field names to column names.
    """

    folder: str
    test_rows: int
    classes: int
    columns: dict[str, str] = field(default_factory=lambda: dict(_ONE))


FEWCLUE: dict[str, Suite] = {
    "eprstmt": Suite("fewclue_eprstmt", 610, 2),
    "tnews": Suite("fewclue_tnews", 2010, 15),
    "csldcp": Suite("fewclue_csldcp", 1784, 67),
    "iflytek": Suite("fewclue_iflytek", 1749, 119),
    "ocnli": Suite("fewclue_ocnli", 2520, 3, _TWO),
    "bustm": Suite("fewclue_bustm", 1772, 2, _TWO),
}
"""Task names to what they are; rows and classes as released in 2021."""


@dataclass(frozen=True)
class Split:
    """The three files of a task's split."""

    task: str
    number: str
    train: Path
    dev: Path
    test: Path


def find_split(root: Path, task: str, number: str) -> Split:
    """Return the files of a split.

    Args:
        root: Folder that holds ``fewclue_tnews`` and its like.
        task: Key of `FEWCLUE`.
        number: ``0`` to ``4``, or ``few_all`` (five times the labels; not one of the five).

    Raises:
        ConfigError: If there is no such task or split.
        DataError: If the data is not there.
    """
    if task not in FEWCLUE:
        raise ConfigError(
            f'unknown task "{task}".{did_you_mean(task, FEWCLUE)} Known: {", ".join(FEWCLUE)}'
        )
    if number not in ("0", "1", "2", "3", "4", "few_all"):
        raise ConfigError(f'unknown split "{number}". Known: 0 to 4, and few_all')
    folder = root / FEWCLUE[task].folder
    found = {
        name: _file(folder, name) for name in (f"train_{number}", f"dev_{number}", "test_public")
    }
    return Split(task, number, *found.values())


def _file(folder: Path, name: str) -> Path:
    for suffix in (".jsonl", ".jsonl.gz"):
        if (path := folder / (name + suffix)).is_file():
            return path
    raise DataError(
        f"{folder / name}.jsonl(.gz) is not there",
        hint="Name the folder that holds fewclue_tnews, fewclue_eprstmt … with --data-root",
    )


def read_split_file(path: Path, task: str) -> list[Example]:
    """Read a file of a task; a test file must be whole.

    Raises:
        DataError: If rows are wrong, or rows of the test file are missing or added.
    """
    suite = FEWCLUE[task]
    fields = find_task("text_classify").fields
    reader = read_examples(str(path), fields, chosen=suite.columns)
    examples = [example for _, example in reader]
    if path.name.startswith("test_public") and len(examples) != suite.test_rows:
        raise DataError(
            f"{len(examples)} rows, but the released test has {suite.test_rows}: scores on "
            "anything else cannot be compared",
            path=str(path),
        )
    return examples


def check_classes(examples: Sequence[Example], split: Split) -> None:
    """Refuse training rows from which classes have been taken out.

    Raises:
        DataError: If the number of labels is not the released one.
    """
    labels = {str(example["label"]) for example in examples}
    if len(labels) != FEWCLUE[split.task].classes:
        raise DataError(
            f"{len(labels)} classes, but {split.task} has {FEWCLUE[split.task].classes}",
            path=str(split.train),
        )
