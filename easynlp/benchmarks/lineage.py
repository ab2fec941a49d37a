"""What a contender's weights were made of: a run that has seen a task's labels is no start for it.

The test file is closed while a contender learns, but a model may have learned before: a run folder
trained on ``test_public``, or on the rows of another split, brings them along in its weights. Every
run writes down what files it read (``data.json``) and which model it began with; both are followed
back. A published checkpoint without such a record is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from easynlp.atomic import read_json
from easynlp.benchmarks.fewclue import Split, read_split_file
from easynlp.benchmarks.released import digest, files_of, near_rows
from easynlp.data.near import LEAST
from easynlp.data.readers import read_rows
from easynlp.errors import DataError

__all__ = ["check_lineage", "models_of"]

SCORED = "test"
"""Files of a run that it was scored on, and learned nothing from."""


def check_lineage(contender: Any, split: Split) -> None:
    """Refuse a contender whose weights have seen labels or test rows of the split's task.

    Args:
        contender: Any; its models are found by `models_of`.
        split: Its test file is open.

    Raises:
        DataError: With the run and the file it learned from.
    """
    assert split.test is not None
    for model in models_of(contender):
        for folder in _runs(Path(model)):
            _check(folder, split.task, split.test)


def models_of(contender: Any) -> list[str]:
    """Return the models a contender begins with, those of its teachers, student and members too."""
    own = (getattr(contender, name, None) for name in ("model", "_model"))
    found = [each for each in own if isinstance(each, str)]
    parts = [*getattr(contender, "teachers", ()), *getattr(contender, "members", ())]
    for part in (*parts, getattr(contender, "student", None)):
        found += models_of(part) if part is not None else []
    return list(dict.fromkeys(found))


def _runs(folder: Path) -> Iterator[Path]:
    """Yield a run's folder and those it began with."""
    seen: set[Path] = set()
    while folder.is_dir() and folder.resolve() not in seen:
        seen.add(folder.resolve())
        yield folder
        meta = read_json(folder / "easynlp.json")
        folder = Path(str(meta.get("base_model") or folder))


@lru_cache(maxsize=256)
def _check(folder: Path, task: str, test: Path) -> None:
    for name, file in read_json(folder / "data.json").items():
        if name == SCORED or not isinstance(file, dict):
            continue
        path = Path(str(file.get("path", "")))
        hashes = [str(file.get("sha256")), *([digest(path)] if path.is_file() else [])]
        known = [each for sha256 in hashes for each in files_of(sha256, task)]
        if labelled := [each for each in known if each != "unlabeled"]:
            raise _refusal(folder, f"{labelled[0]} of {task}")
        if path.is_file() and (near := _near(path, task, test)):
            raise _refusal(folder, f"{near} test rows of {task} (6-gram Jaccard >= {LEAST})")


def _near(path: Path, task: str, test: Path) -> int:
    texts = []
    for row in read_rows(str(path)):
        strings = [value for value in row.values.values() if isinstance(value, str)]
        texts += [*strings, "\n".join(strings[:2])]
    return len(near_rows(texts, read_split_file(test, task)))


def _refusal(folder: Path, what: str) -> DataError:
    return DataError(
        f"the run was trained on {what}: its weights bring along what the split does not have",
        path=str(folder),
        hint="Begin with the model that the run began with; the harness trains it on each split.",
    )
