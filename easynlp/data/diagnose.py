"""What is in a data file, and what is wrong with it, in one pass and little memory.

Texts are compared after NFKC normalisation and with spaces collapsed, through 64-bit hashes;
a row costs 24 bytes, so ten million rows fit in 240 MB.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from easynlp.data.columns import Reading, read_examples
from easynlp.data.readers import Row
from easynlp.data.values import is_nothing, target_value
from easynlp.errors import DataError
from easynlp.tasks.base import Example, Field

__all__ = [
    "FIELDS",
    "Fingerprint",
    "Inspection",
    "Overlap",
    "fingerprint",
    "inspect_data",
    "overlap",
    "text_hash",
]

FIELDS = (
    Field("text", ("text", "sentence", "content", "text_a", "sentence1", "sent1", "review",
                   "title", "question", "query", "文本", "内容", "句子", "评论")),
    Field("text_b", ("text_b", "sentence2", "sent2", "text2"), required=False),
    Field("label", ("label", "labels", "category", "class", "标签", "类别"), required=False,
          target=True),
    Field("entities", ("entities", "spans"), required=False, target=True),
)  # fmt: skip
"""What to look for in a file whose task is not known."""

MOST_LABELS = 10_000
"""Distinct labels that are counted; a column with more is no label."""
PLACES = 5
"""Places shown of each kind of trouble."""
LONG = 1024
"""Characters up to which lengths are counted one by one; above, to 1 %."""


@dataclass(frozen=True)
class Inspection:
    """What `inspect_data` found. Lists of places hold lines, the first few of each kind."""

    path: str
    rows: int
    columns: tuple[str, ...]
    roles: dict[str, str]
    """Field names to the columns they were found in."""
    labels: dict[str, int]
    """Rows with each label, the most frequent first; entities count by type."""
    label_overflow: bool
    """True if there are more than `MOST_LABELS` labels and the rest was not counted."""
    majority: float
    """Share of the most frequent label: what always answering it would score."""
    lengths: dict[str, int]
    """Characters of the text at percentiles: min, p50, p90, p95, p99, max."""
    duplicates: int
    """Rows that repeat an earlier row's text and label."""
    duplicate_places: list[str]
    conflicts: int
    """Texts that stand in the file with different labels."""
    conflict_places: list[str]
    empty: int
    """Rows without text."""
    empty_places: list[str]
    unusable: int
    """Rows whose text or label is missing or of a wrong type; see `unusable_places`."""
    unusable_places: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "columns": list(self.columns)}


def inspect_data(
    path: str,
    *,
    fields: Sequence[Field] = FIELDS,
    chosen: Mapping[str, str | None] | None = None,
    **reading: Unpack[Reading],
) -> Inspection:
    r"""Look through a data file.

    Bad values are counted, not raised; a file that cannot be read is an error as ever.

    Args:
        path: The file.
        fields: What to look for, of a task if it is known.
        chosen: Field names to columns, as the user typed them.
        **reading: Options of `read_rows`.

    Raises:
        DataError: If the file cannot be read, or has no column for the text.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "a.tsv")
        >>> _ = file.write_text("text\tlabel\n好看\t1\n好看\t0\n", encoding="utf-8")
        >>> found = inspect_data(str(file))
        >>> found.rows, found.labels, found.conflicts
        (2, {'1': 1, '0': 1}, 1)
    """
    present = [f for f in fields if not f.target] + [
        Field(f.name, f.guesses, required=False, target=True) for f in fields if f.target
    ]
    examples = read_examples(path, present, chosen=chosen, on_empty="keep", **reading)
    tally = Tally(
        [(f, examples.columns.names[f.name]) for f in present if f.name in examples.columns.names],
        expected={f.name for f in fields if f.target and f.required},
    )
    for row in examples.rows:
        tally.add(row)
    duplicates, duplicate_lines, conflicts, conflict_lines = tally.repeats()
    counted = sum(tally.labels.values())
    return Inspection(
        path=str(path),
        rows=tally.rows,
        columns=examples.header,
        roles=dict(examples.columns.names),
        labels=dict(tally.labels.most_common()),
        label_overflow=tally.overflow,
        majority=max(tally.labels.values()) / counted if counted else 0.0,
        lengths=percentiles(tally.lengths, tally.longest),
        duplicates=duplicates,
        duplicate_places=[f"{path}:{line}" for line in duplicate_lines],
        conflicts=conflicts,
        conflict_places=[f"{path}:{line}" for line in conflict_lines],
        empty=tally.empty,
        empty_places=tally.empty_places,
        unusable=tally.unusable,
        unusable_places=tally.unusable_places,
    )


class Tally:
    """Counts over rows, in memory that grows by 24 bytes a row.

    Args:
        columns: Fields with the columns that hold them.
        expected: Targets that every row should have.
    """

    def __init__(self, columns: Sequence[tuple[Field, str]], expected: set[str]) -> None:
        self.texts = [(field, name) for field, name in columns if not field.target]
        self.targets = [(field, name) for field, name in columns if field.target]
        self.expected = expected
        self.rows = self.empty = self.unusable = 0
        self.empty_places: list[str] = []
        self.unusable_places: list[str] = []
        self.labels: Counter[str] = Counter()
        self.overflow = False
        self.lengths: Counter[int] = Counter()
        self.longest = 0
        self.hashes, self.answers, self.lines = array("Q"), array("Q"), array("Q")

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        texts = [row.values.get(name) for _, name in self.texts]
        if any(not is_nothing(text) and not isinstance(text, str) for text in texts[:1]):
            self.note(row, f"{self.texts[0][0].name} is {type(texts[0]).__name__}, not a string")
        if all(is_nothing(text) for text in texts):
            self.empty += 1
            if len(self.empty_places) < PLACES:
                self.empty_places.append(str(row))
            return
        length = sum(len(text) for text in texts if isinstance(text, str))
        self.longest = max(self.longest, length)
        self.lengths[length if length <= LONG else coarse(length)] += 1
        answers = [self.answer(row, field, name) for field, name in self.targets]
        self.hashes.append(text_hash(*(str(text) for text in texts)))
        self.answers.append(text_hash(*answers))
        self.lines.append(row.line)

    def answer(self, row: Row, field: Field, name: str) -> str:
        """Count the labels of a row and return them as one string."""
        value = row.values.get(name)
        if is_nothing(value) and field.name not in self.expected and field.name != "label":
            return ""
        try:
            target = target_value(field, value)
        except ValueError as error:
            self.note(row, f"{field.name} {error}")
            return ""
        items = target if isinstance(target, list) else [target]
        for item in items:
            kind = item.get("type") if isinstance(item, dict) else item
            if str(kind) in self.labels or len(self.labels) < MOST_LABELS:
                self.labels[str(kind)] += 1
            else:
                self.overflow = True
        return repr(target)

    def note(self, row: Row, said: str) -> None:
        """Count a row that cannot be used."""
        self.unusable += 1
        if len(self.unusable_places) < PLACES:
            self.unusable_places.append(f"{row}: {said}")

    def repeats(self) -> tuple[int, list[int], int, list[int]]:
        """Count duplicates and conflicts, with the lines of the first few of each."""
        texts = np.frombuffer(self.hashes, np.uint64) if self.hashes else np.zeros(0, np.uint64)
        answers = np.frombuffer(self.answers, np.uint64) if self.answers else texts
        lines = np.frombuffer(self.lines, np.uint64) if self.lines else texts
        order = np.lexsort((lines, answers, texts))
        texts, answers, lines = texts[order], answers[order], lines[order]
        same_text = texts[1:] == texts[:-1]
        same_row = same_text & (answers[1:] == answers[:-1])
        # A text conflicts once, however many labels it has.
        changes = np.flatnonzero(same_text & ~same_row) + 1
        _, first = np.unique(texts[changes], return_index=True)
        doubled = np.sort(lines[1:][same_row])
        conflicting = np.sort(lines[changes[first]])
        return (
            len(doubled), doubled[:PLACES].tolist(), len(conflicting),
            conflicting[:PLACES].tolist(),
        )  # fmt: skip


def coarse(length: int) -> int:
    """Round a length to about 1 %, so that few distinct ones remain."""
    step = int(10 ** (len(str(length)) - 3))
    return length // step * step


def percentiles(lengths: Counter[int], longest: int) -> dict[str, int]:
    """Return the lengths that shares of the rows do not exceed, and the longest.

    Example:
        >>> percentiles(Counter({1: 99, 7: 1}), 7)
        {'min': 1, 'p50': 1, 'p90': 1, 'p95': 1, 'p99': 1, 'max': 7}
    """
    if not lengths:
        return {}
    values = np.array(sorted(lengths))
    running = np.cumsum([lengths[int(value)] for value in values])
    at = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    found = {
        name: int(values[np.searchsorted(running, max(1, share * running[-1]))])
        for name, share in at.items()
    }
    return {**found, "max": longest}


def text_hash(*texts: str) -> int:
    """Return 64 bits that equal texts share, whatever their width forms and spacing.

    Example:
        >>> text_hash("ＡＢ　c") == text_hash(" AB  c ")
        True
    """
    plain = "\0".join(" ".join(unicodedata.normalize("NFKC", text).split()) for text in texts)
    digest = hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True)
class Overlap:
    """Rows of one file that also stand in another.

    Attributes:
        count: How many.
        places: The first few, as ``dev.jsonl:3 = train.jsonl:17``.
    """

    count: int
    places: list[str]


def overlap(train: Iterable[tuple[Row, Example]], dev: Iterable[tuple[Row, Example]]) -> Overlap:
    """Count the dev rows whose text (both texts of a pair) also stands in train.

    Labels do not matter: a known text is no test, whatever its label.

    Args:
        train: Rows and examples, streamed.
        dev: The same of the smaller file, whose hashes are kept in memory.

    Example:
        >>> train = [(Row({}, "train.csv", 2), {"text": "很 好"})]
        >>> dev = [(Row({}, "dev.csv", 9), {"text": "很　好"})]
        >>> overlap(train, dev)
        Overlap(count=1, places=['dev.csv:9 = train.csv:2'])
    """
    waiting: dict[int, list[str]] = {}
    for row, example in dev:
        waiting.setdefault(example_hash(example), []).append(str(row))
    count = 0
    places: list[str] = []
    for row, example in train:
        found = waiting.pop(example_hash(example), ())
        count += len(found)
        places += [f"{place} = {row}" for place in found[: PLACES - len(places)]]
    return Overlap(count, places)


def example_hash(example: Example) -> int:
    """Return the hash of an example's texts."""
    return text_hash(
        *(value for name, value in example.items() if name.startswith("text") and value)
    )


@dataclass(frozen=True)
class Fingerprint:
    """What a file was: enough to tell whether it is still the same."""

    sha256: str
    bytes: int
    rows: int | None
    """None if nobody counted."""


def fingerprint(path: str, *, rows: int | None = None) -> Fingerprint:
    """Return the fingerprint of a file as it lies on the disk, compressed or not.

    Args:
        path: The file.
        rows: How many rows were read from it.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return Fingerprint(digest, stream.tell(), rows)
    except OSError as error:
        raise DataError(f"cannot read the file: {error.strerror}", path=str(path)) from error
