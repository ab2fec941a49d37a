"""That the data is the released data: hashes, known overlaps, labels that stand in the text.

``fewclue_released.json`` holds, for each file of the benchmark, the SHA-256 of its unpacked
bytes, its rows, and how many test rows it is near to (see `easynlp.data.near`) in the
release itself: FewCLUE's own splits of CLUEWSC, CSL and IFLYTEK share passages with the test
file. Those are counted and reported; one more is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from easynlp.benchmarks.encodings import plain_texts
from easynlp.benchmarks.fewclue import (
    FEWCLUE,
    Split,
    check_classes,
    find_file,
    find_suite,
    read_split_file,
)
from easynlp.data.near import LEAST, NearIndex
from easynlp.errors import DataError
from easynlp.tasks.base import Example

__all__ = [
    "FILES",
    "check_labels",
    "check_released",
    "check_split",
    "check_training",
    "describe",
    "digest",
    "files_of",
    "near_rows",
    "released",
]  # fmt: skip

KINDS = ("0", "1", "2", "3", "4", "few_all")
FILES = (*(f"{part}_{n}" for part in ("train", "dev") for n in KINDS), "test_public", "unlabeled")
"""Files of a task; ``unlabeled`` is there for some."""
TELLING = 0.5
"""A label that stands in its own rows this much more often than in others is in the text."""


@lru_cache
def released() -> Mapping[str, Mapping[str, Any]]:
    """Return ``fewclue_tnews/train_0`` and its like to what was released."""
    text = (
        resources.files("easynlp.benchmarks").joinpath("fewclue_released.json").read_text("utf-8")
    )
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's unpacked bytes."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _digest(path: Path, changed: int, size: int) -> str:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def check_released(path: Path, task: str) -> None:
    """Refuse a file that is not the released one.

    Raises:
        DataError: If its bytes differ; it says so if they are those of another file.
    """
    suite = find_suite(task)
    name = path.name.partition(".")[0]
    known = released()
    expected = known.get(f"{suite.folder}/{name}", {}).get("sha256")
    found = digest(path)
    if found == expected:
        return
    others = files_of(found, task)
    what = f"holds the rows of {others[0]}" if others else "is not as released"
    raise DataError(
        f"the file {what} (its SHA-256 begins with {found[:12]}, the released one's with "
        f"{(expected or 'nothing: no such file was released')[:12]}): scores on changed data "
        "cannot be compared",
        path=str(path),
        hint="Take the files from CLUEbenchmark/FewCLUE as they are.",
    )


def files_of(sha256: str, task: str) -> list[str]:
    """Return the names of a task's released files that have these bytes, such as ``train_0``."""
    folder = find_suite(task).folder
    return [
        name.partition("/")[2] for name, each in released().items()
        if name.startswith(f"{folder}/") and each["sha256"] == sha256
    ]  # fmt: skip


def check_split(split: Split) -> None:
    """Refuse a split any of whose files is changed, lacks rows or classes, or is another's.

    Raises:
        DataError: With what is wrong.
    """
    assert split.test is not None
    for path in (split.train, split.dev, split.test):
        check_released(path, split.task)
    train, test = (read_split_file(path, split.task) for path in (split.train, split.test))
    check_classes(train, split)
    suite = FEWCLUE[split.task]
    labels = {str(each["label"]) for each in test}
    expected = 2 if suite.is_choice else suite.tested_classes
    if len(labels) != expected:
        raise DataError(
            f"{len(labels)} classes, but the released test has {expected}", path=str(split.test)
        )
    for path, examples in ((split.train, train), (split.test, test)):
        check_labels(examples, path)
    check_training(split, train, test)


def near_rows(texts: Sequence[str], test: Sequence[Example]) -> set[int]:
    """Return the numbers of the test rows that are near any of the texts."""
    return set(_near(tuple(texts), tuple(plain_texts(test))))


@lru_cache(maxsize=64)
def _near(texts: tuple[str, ...], test: tuple[str, ...]) -> frozenset[int]:
    return frozenset(_index(test).rows_near(texts))


@lru_cache(maxsize=2)
def _index(texts: tuple[str, ...]) -> NearIndex:
    return NearIndex(texts)


def check_training(split: Split, train: Sequence[Example], test: Sequence[Example]) -> None:
    """Refuse training rows that are near test rows, beyond those of the release.

    Raises:
        DataError: With the number and one such row.
    """
    found = near_rows(plain_texts(train), test)
    name = f"{FEWCLUE[split.task].folder}/train_{split.number}"
    known = int(released().get(name, {}).get("near_test", 0))
    if len(found) > known:
        raise DataError(
            f"{len(found)} test rows are in the training data, word for word or nearly "
            f"(character 6-gram Jaccard >= {LEAST}); the release has {known}. One is: "
            f'"{plain_texts(test)[min(found)][:40]}"',
            path=str(split.train),
        )


def check_labels(examples: Sequence[Example], path: Path) -> None:
    """Refuse texts that say their label.

    Of every row it is looked whether its label stands in its text, and how often the labels of
    other rows do; a share more than `TELLING` higher is no chance.

    Raises:
        DataError: With both shares.
    """
    if examples and "question" in examples[0]:
        return  # 0 and 1 tell candidates apart; the passage is the same for all of a question
    names = {str(each["label"]): _names(each) for each in examples}
    own = other = 0.0
    for example, text in zip(examples, plain_texts(examples), strict=True):
        stands = {label: any(name in text for name in said) for label, said in names.items()}
        mine = stands.pop(str(example["label"]))
        own += mine
        other += sum(stands.values()) / max(1, len(stands))
    if (own - other) / max(1, len(examples)) > TELLING:
        raise DataError(
            f"the label stands in {own / len(examples):.0%} of the texts, other labels in "
            f"{other / len(examples):.0%}: the text gives the answer away",
            path=str(path),
        )


def _names(example: Example) -> set[str]:
    """Return how a row's label may be written: as it is, and as its description."""
    return {str(example[key]) for key in ("label", "label_desc") if example.get(key)}


def describe(root: Path) -> dict[str, dict[str, Any]]:
    """Return what ``fewclue_released.json`` holds, from files that are known to be whole.

    Args:
        root: Folder that holds ``fewclue_tnews`` and its like; tasks without data are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for task, suite in FEWCLUE.items():
        if not (root / suite.folder).is_dir():
            continue
        test = read_split_file(find_file(root / suite.folder, "test_public"), task)
        for name in FILES:
            try:
                path = find_file(root / suite.folder, name)
            except DataError:
                continue
            texts = plain_texts(read_split_file(path, task, labelled=name != "unlabeled"))
            near = 0 if name == "test_public" else len(near_rows(texts, test))
            found[f"{suite.folder}/{name}"] = {
                "sha256": digest(path), "rows": len(texts), "near_test": near,
            }  # fmt: skip
    return found
