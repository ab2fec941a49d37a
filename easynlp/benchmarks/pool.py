"""A task's unlabelled text, fit to be learned from: each text once, none that is scored on.

Of the released file are left out, and counted in every cell: texts that repeat; texts that are rows
of the test file, word for word or nearly (see `easynlp.data.near`), which is refused unless
asked for; and texts that are such rows of the split's dev file, on which models are chosen.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easynlp.benchmarks.encodings import joined, plain_texts, rows_of
from easynlp.benchmarks.fewclue import Split, find_file, find_suite, read_split_file
from easynlp.benchmarks.released import check_released, released
from easynlp.data.near import LEAST, NearIndex
from easynlp.errors import DataError
from easynlp.tasks.base import Example

__all__ = ["PLACEBO_LABELS", "Pool", "draw", "has_unlabelled", "read_unlabelled"]

PLACEBO_LABELS = "random-pseudo-labels"


@dataclass(frozen=True)
class Pool:
    """Unlabelled text, and how much was left out of its file.

    Attributes:
        examples: Without labels, each text once.
        repeated: Rows left out as the text of an earlier row.
        near_test: Rows left out as near a test row.
        near_dev: Rows left out as near a dev row of the split.
    """

    examples: tuple[Example, ...]
    repeated: int = 0
    near_test: int = 0
    near_dev: int = 0

    def for_split(self, split: Split) -> Pool:
        """Return the text without what is near a row of the split's dev file."""
        index = NearIndex(plain_texts(read_split_file(split.dev, split.task)))
        rows, texts = rows_of(self.examples), plain_texts(self.examples)
        near = {each.text for each in index.find(texts)}
        kept = (row for number, row in enumerate(rows) if number not in near)
        examples = tuple(example for row in kept for example in row)
        return replace(self, examples=examples, near_dev=len(near))

    def noted(self) -> Mapping[str, Any]:
        """Return what a cell says of the text it was learned from."""
        return {
            "unlabelled": len(rows_of(self.examples)),
            "unlabelled_repeated_dropped": self.repeated,
            "unlabelled_near_test_dropped": self.near_test,
            "unlabelled_near_dev_dropped": self.near_dev,
        }


def draw(split: Split, texts: int) -> list[Example]:
    """Return at most so many of a split's unlabelled examples, whichever the split or the seed.

    The draw is by a hash of the text, so that what is computed of a text can be kept for the
    next cell.
    """
    order = sorted(split.unlabelled, key=lambda each: (zlib.crc32(joined(each).encode()),
                                                       joined(each)))  # fmt: skip
    return order[:texts]


def has_unlabelled(task: str) -> bool:
    """Return whether unlabelled text of a task is at hand as it was released."""
    return f"{find_suite(task).folder}/unlabeled" in released()


def read_unlabelled(
    root: Path, task: str, *, drop_near: bool = False, path: Path | None = None
) -> Pool:
    """Read a task's unlabelled text, without what is near a test row.

    Args:
        root: Folder that holds ``fewclue_tnews`` and its like.
        task: Key of `FEWCLUE`.
        drop_near: Leave such rows out; otherwise they are an error.
        path: Another file of the same columns; by default the released ``unlabeled``.

    Raises:
        DataError: If the text is not there or changed, or near test rows without `drop_near`.
    """
    folder = root / find_suite(task).folder
    if path is None:
        path = find_file(folder, "unlabeled")
        check_released(path, task)
    test = read_split_file(find_file(folder, "test_public"), task)
    examples = read_split_file(path, task, labelled=False)
    texts = plain_texts(examples)
    near = NearIndex(plain_texts(test)).find(texts)
    if near and not drop_near:
        raise DataError(
            f"{len(near)} of {len(texts)} unlabelled texts are test rows, word for word or nearly "
            f"(character 6-gram Jaccard >= {LEAST}), the first at text {near[0].text + 1}",
            path=str(path),
            hint="Leave them out with --drop-near-test; the report says how many.",
        )
    bad = {texts[each.text] for each in near}
    kept: dict[str, list[Example]] = {}
    for row, text in zip(rows_of(examples), texts, strict=True):
        if text not in bad:
            kept.setdefault(text, row)
    rows = tuple(example for row in kept.values() for example in row)
    return Pool(rows, len(texts) - len(near) - len(kept), len(near))
