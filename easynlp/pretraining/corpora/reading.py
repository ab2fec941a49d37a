"""Source files to shards of documents, in constant memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from easynlp.data.columns import read_examples
from easynlp.data.lines import numbered_lines
from easynlp.errors import DataError
from easynlp.pretraining.corpus import leave_out
from easynlp.tasks.base import Field

__all__ = ["SUFFIXES", "Shard", "Source", "find_sources", "name_of", "shards"]

SUFFIXES = tuple(
    kind + packed for kind in (".txt", ".jsonl", ".ndjson") for packed in ("", ".gz", ".zst")
)
TEXT = Field("text", ("text", "content", "paragraph", "article", "body"))
LONGEST = 200_000
"""Characters after which a document is cut at the end of a paragraph: a file without blank
lines would be one document, as large as the file."""


@dataclass(frozen=True)
class Source:
    """A source file and what tells it from another."""

    path: Path
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Source:
        """Hash a file."""
        with path.open("rb") as file:
            return cls(path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Shard:
    """A run of documents, as read: the unit of work.

    Attributes:
        number: From 0, over all sources.
        source: Number of its source.
        name: Name of its source, without suffix.
        documents: Lists of paragraphs.
    """

    number: int
    source: int
    name: str
    documents: list[list[str]]


def find_sources(paths: Sequence[str], exclude: Sequence[str] = ()) -> list[Path]:
    """Return the source files under files and folders (and folders in them), sorted by path.

    Raises:
        DataError: If a path does not exist, a name to exclude matches nothing, or nothing is left.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.name.endswith(SUFFIXES))
        elif not path.is_file():
            raise DataError("no such file or folder", path=str(path))
        elif not path.name.endswith(SUFFIXES):
            raise DataError(f"no source file: its name ends in none of {' '.join(SUFFIXES)}",
                            path=str(path))  # fmt: skip
        else:
            found.append(path)
    empty = [path for path in map(Path, paths) if path.is_file() and not path.stat().st_size]
    if empty:
        raise DataError("the file is empty", path=str(empty[0]))
    found = [path for path in dict.fromkeys(found) if path.stat().st_size]
    kept = leave_out(found, exclude, name_of, "source file")
    if not kept:
        raise DataError(f"no source files ({' '.join(SUFFIXES)}) in {', '.join(map(str, paths))}")
    return kept


def name_of(path: Path) -> str:
    """Return a file's name without suffixes.

    Example:
        >>> name_of(Path("a/news.2024.jsonl.zst"))
        'news.2024'
    """
    return path.name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[0]


def shards(
    sources: Sequence[Source], column: str | None, size: int, known: Sequence[int | None]
) -> Iterator[Shard]:
    """Yield the documents of all sources in shards of `size` characters or a little more.

    A shard is of one source. Where shards are cut depends on the sources and the size alone.

    Args:
        sources: Files.
        column: Column of .jsonl files that holds the text.
        size: Characters of a shard.
        known: How many shards each source has where that is known, else None: sources known are
            numbered past, not read.

    Raises:
        DataError: At the line that is broken.
    """
    number = 0
    for place, source in enumerate(sources):
        if (count := known[place]) is not None:
            number += count
            continue
        batch: list[list[str]] = []
        characters = 0
        for document in _documents(source.path, column):
            batch.append(document)
            characters += sum(map(len, document))
            if characters >= size:
                yield Shard(number, place, name_of(source.path), batch)
                number, batch, characters = number + 1, [], 0
        if batch:
            yield Shard(number, place, name_of(source.path), batch)
            number += 1


def _documents(path: Path, column: str | None) -> Iterator[list[str]]:
    """Yield documents as lists of paragraphs, the long ones cut."""
    document: list[str] = []
    characters = 0
    for line in _paragraphs(path, column):
        if line:
            document.append(line)
            characters += len(line)
        if document and (not line or characters >= LONGEST):
            yield document
            document, characters = [], 0
    if document:
        yield document


def _paragraphs(path: Path, column: str | None) -> Iterator[str]:
    """Yield the lines of a source, an empty one after each document."""
    if name_of(path) + ".txt" in path.name:
        for _, line in numbered_lines(str(path)):
            yield line.strip()
        return
    chosen = {"text": column} if column else None
    for _, example in read_examples(str(path), (TEXT,), chosen=chosen, on_empty="keep"):
        for line in example["text"].split("\n"):
            if line := line.strip():
                yield line
        yield ""
