"""Real texts to check an export on, or to load a server with."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from easynlp.data.columns import read_examples
from easynlp.data.readers import Row
from easynlp.errors import EasyNLPError
from easynlp.tasks.base import Example, Field, Task

__all__ = [
    "MOST_ROWS",
    "MOST_TEXTS",
    "labelled_examples",
    "labelled_rows",
    "read_texts",
    "recorded_examples",
    "spread",
]

MOST_TEXTS = 1000
"""Texts that are plenty."""
MOST_ROWS = 20_000
"""Labelled rows that are plenty."""

T = TypeVar("T")

log = logging.getLogger("easynlp")


def recorded_examples(run: str | Path, task: Task, most: int = MOST_TEXTS) -> list[Example]:
    """Return examples of the data a run was made with: its dev file, else its training file.

    Empty if the run does not say, or the files are no longer there.
    """
    for path, columns, reading in _recorded(run, ("dev", "train")):
        try:
            return read_texts(path, task.fields, most, columns, **reading)
        except EasyNLPError as error:
            log.warning("%s cannot be read any more: %s", path, error)
    return []


def labelled_examples(run: str | Path, task: Task, most: int = MOST_ROWS) -> list[Example]:
    """Return examples of the dev file a run was made with, targets included; empty as above.

    Never of the training file: what was learned by heart tells nothing of new texts.
    """
    for path, columns, reading in _recorded(run, ("dev",)):
        try:
            rows = labelled_rows(path, task.fields, most, preferred=columns, **reading)
            return [example for _, example in rows]
        except EasyNLPError as error:
            log.warning("%s cannot be read any more: %s", path, error)
    return []


def _recorded(
    run: str | Path, names: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, str] | None, dict[str, Any]]]:
    """Yield those files of a run that are still there, with how to read them."""
    folder = Path(run)
    folder = folder if (folder / "train.yaml").is_file() else folder.parent
    try:
        recipe = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
        columns = json.loads((folder / "easynlp.json").read_text(encoding="utf-8")).get("columns")
    except (OSError, ValueError, yaml.YAMLError):
        return
    reading = {
        name: recipe[name]
        for name in ("encoding", "schema", "header", "format")
        if recipe.get(name) is not None
    }
    for name in names:
        path = recipe.get(name)
        if path and Path(path).is_file():
            yield path, columns, reading


def labelled_rows(
    path: str,
    fields: Sequence[Field],
    most: int = MOST_ROWS,
    *,
    preferred: Mapping[str, str] | None = None,
    chosen: Mapping[str, str | None] | None = None,
    **reading: Any,
) -> list[tuple[Row, Example]]:
    """Return examples from all over a file, targets included, with their rows; see `read_texts`.

    Raises:
        DataError: If the file cannot be read or a row has no target.
        ConfigError: If a column is wrong.
    """
    pairs = read_examples(path, fields, chosen=chosen, preferred=preferred, **reading)
    return spread(pairs, most)


def read_texts(
    path: str,
    fields: Sequence[Field],
    most: int = MOST_TEXTS,
    columns: Mapping[str, str] | None = None,
    **reading: Any,
) -> list[Example]:
    """Return examples from all over a file, without targets and without empty ones.

    Files are often sorted by label or source, so the first rows would stand for few of them. Of
    more than `most` examples some are drawn, always the same ones, and kept in their order.

    Args:
        path: Any file `easynlp.data.readers` reads, read to its end in constant memory.
        fields: The task's fields.
        most: Most examples to return.
        columns: Columns to try before guessing.
        **reading: ``encoding``, ``schema``, ``header``.

    Raises:
        DataError: If the file cannot be read.
    """
    pairs = read_examples(
        path, fields, preferred=columns, with_targets=False, on_empty="keep", **reading
    )
    whole = (example for _, example in pairs if all(str(v).strip() for v in example.values()))
    return spread(whole, most)


def spread(items: Iterable[T], most: int) -> list[T]:
    """Draw items, each as likely as every other, and keep their order.

    How many there are need not be known (reservoir sampling: Vitter 1985, "Random Sampling with
    a Reservoir", algorithm R); the draw repeats.

    Example:
        >>> spread(range(5), 9)
        [0, 1, 2, 3, 4]
        >>> [number // 1000 for number in spread(range(4000), 8)]
        [0, 1, 2, 2, 2, 3, 3, 3]
    """
    rng = random.Random(0)
    kept: list[tuple[int, T]] = []
    for number, item in enumerate(items):
        if number < most:
            kept.append((number, item))
        elif (place := rng.randint(0, number)) < most:
            kept[place] = number, item
    return [item for _, item in sorted(kept, key=lambda pair: pair[0])]
