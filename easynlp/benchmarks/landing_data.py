"""Rows of the parts of ``easynlp bench landing``, without what leaks into the test rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easynlp.benchmarks.fewclue import find_file, find_split, read_split_file, read_training
from easynlp.benchmarks.landing_settings import LandingBenchOptions
from easynlp.benchmarks.pool import read_unlabelled
from easynlp.benchmarks.released import check_split
from easynlp.benchmarks.settings import FEW_ALL
from easynlp.config import DataOptions
from easynlp.data.diagnose import example_hash
from easynlp.data.near import NearIndex
from easynlp.dataset import read_all
from easynlp.errors import DataError
from easynlp.fewshot.phases import keep_rows
from easynlp.tasks.base import Example
from easynlp.tasks.labels import sort_labels
from easynlp.tasks.text_classify import TextClassify

__all__ = ["Rows", "eprstmt", "labelled_set"]


@dataclass(frozen=True)
class Rows:
    """What a part learns from and is scored on.

    Attributes:
        train: Labelled.
        dev: Everything is chosen on them.
        test: Scored on once.
        pool: Texts without labels.
        notes: What was left out.
    """

    train: Sequence[Example]
    dev: Sequence[Example]
    test: Sequence[Example]
    pool: Sequence[Example] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of the training rows, in order."""
        return tuple(sort_labels({str(each["label"]) for each in self.train}))

    def digest(self) -> str:
        """Return the SHA-256 of all rows."""
        parts = [[dict(row) for row in part] for part in (self.train, self.dev, self.test)]
        told = json.dumps([*parts, [dict(row) for row in self.pool]], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def write(self, folder: Path) -> dict[str, str]:
        """Write train, dev and pool as files; the test rows stay in memory, out of reach."""
        found = {}
        for name, rows in (("train", self.train), ("dev", self.dev), ("pool", self.pool)):
            path = folder / f"{name}.jsonl"
            keep_rows(path, rows)
            found[name] = str(path)
        return found

    def counts(self) -> dict[str, int]:
        """Return how many rows there are of each kind."""
        return {"train": len(self.train), "dev": len(self.dev), "test": len(self.test),
                "pool": len(self.pool)}  # fmt: skip


def eprstmt(options: LandingBenchOptions) -> Rows:
    """Read FewCLUE's EPRSTMT few_all as released, and its unlabelled texts.

    Each text of the pool stands there once, and none that is near a test or dev row.

    Raises:
        DataError: If files are missing or not as released.
    """
    root = Path(options.data_root)
    split = find_split(root, "eprstmt", FEW_ALL)
    check_split(split)
    pool = read_unlabelled(root, "eprstmt", drop_near=True).for_split(split)
    texts = _some(pool.examples, options.pool_rows or len(pool.examples))
    test = read_split_file(split.test, "eprstmt")
    return Rows(read_training(split), read_split_file(split.dev, "eprstmt"), test, texts,
                {**pool.noted(), "taught_on": len(texts)})  # fmt: skip


def labelled_set(options: LandingBenchOptions, name: str, *, pool: bool = True) -> Rows:
    """Read a labelled set; training rows near a test or dev row are left out, and counted.

    Rows are taken in the order of a hash of their texts, so which ones is chance, and the same
    ones every time.

    Args:
        options: Says how many rows of each kind.
        name: Folder under the data root, with train, dev and test.
        pool: Take further training texts without their labels.

    Raises:
        DataError: If files are missing or wrong.
    """
    folder = Path(options.data_root) / name
    text, _, label = TextClassify.fields
    read = {
        part: read_all(str(find_file(folder, part)), [text, label], DataOptions(label="label"))
        for part in ("train", "dev", "test")
    }
    test = _some(read["test"], options.set_test)
    dev = _some(read["dev"], options.set_dev)
    wanted = options.set_rows + (options.set_pool if pool else 0)
    found = _some(read["train"], 2 * wanted)
    index = NearIndex([str(each["text"]) for each in (*test, *dev)])
    near = {each.text for each in index.find([str(row["text"]) for row in found])}
    clean = [row for number, row in enumerate(found) if number not in near]
    train = clean[: options.set_rows]
    missing = {str(e["label"]) for e in test} - {str(each["label"]) for each in train}
    if missing:
        raise DataError(
            f"no row of {', '.join(sorted(missing))} among the first {len(train)} training rows",
            path=str(folder), hint="Raise --set-rows.",
        )  # fmt: skip
    rest = [{"text": row["text"]} for row in clean[len(train) : wanted]]
    return Rows(train, dev, test, rest, {"near_test_or_dev_dropped": len(near), "of": len(found)})


def _some(rows: Sequence[Example], count: int) -> list[Example]:
    """Return rows in an order of chance, each text once."""
    distinct = {example_hash({"text": each["text"]}): each for each in rows}
    return [distinct[key] for key in sorted(distinct)[:count]]
