"""Raw text: files of one paragraph a line, documents separated by blank lines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.data.lines import numbered_lines, suffixes
from easynlp.data.readers import EXTENSIONS, read_rows
from easynlp.errors import DataError, did_you_mean
from easynlp.pretraining.corpora.hashing import LINE, Ladder, plain

__all__ = ["Heldout", "documents", "find_files", "leave_out"]

SUFFIXES = (".txt", ".txt.gz", ".txt.zst")
WINDOW = 30
"""A paragraph that shares this many characters in a row with a held-out text is left out."""
MARK = 16
SHORTEST = 8
"""Characters of the shortest held-out text that is looked for."""
_BATCH = 1 << 18
"""Characters judged at a time: some arrays of 8 bytes a character fit a processor's cache."""


def find_files(paths: Sequence[str | Path], exclude: Sequence[str] = ()) -> list[Path]:
    """Return the corpus files under files and folders, sorted by name.

    Args:
        paths: Files, or folders searched for ``*.txt``, ``*.txt.gz`` and ``*.txt.zst``; a folder
            ``easynlp corpus build`` wrote stands for its ``text``.
        exclude: Names without suffix to leave out.

    Raises:
        DataError: If a path does not exist, a name to exclude matches nothing, or nothing is left.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            folder = path / "text" if (path / "corpus.json").is_file() else path
            found += [p for p in sorted(folder.iterdir()) if p.name.endswith(SUFFIXES)]
        elif path.is_file():
            found.append(path)
        else:
            raise DataError("no such file or folder", path=str(path))
    kept = leave_out(found, exclude, _stem, "corpus file")
    if not kept:
        raise DataError(f"no corpus files ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}")
    return kept


def leave_out(
    found: Sequence[Path], exclude: Sequence[str], name_of: Callable[[Path], str], kind: str
) -> list[Path]:
    """Return the files whose names are not excluded.

    Args:
        found: Files.
        exclude: Names, each of at least one file.
        name_of: Gives a file's name.
        kind: What the files are, for the error.

    Raises:
        DataError: If a name matches nothing.
    """
    names = {name_of(path) for path in found}
    for name in exclude:
        if name not in names:
            raise DataError(f'no {kind} "{name}" to exclude.{did_you_mean(name, names)}')
    return [path for path in found if name_of(path) not in exclude]


def documents(path: Path) -> Iterator[list[str]]:
    """Yield the documents of a file, each a list of paragraphs.

    Raises:
        DataError: At the line that is not UTF-8, or where an archive is cut short.
    """
    document: list[str] = []
    for _, line in numbered_lines(str(path)):
        if text := line.strip():
            document.append(text)
        elif document:
            yield document
            document = []
    if document:
        yield document


class Heldout:
    """Texts that must not be trained on, and the test whether a paragraph shows one.

    A paragraph is refused if, after NFKC, lower case and without punctuation and spaces, it
    shares any 30-character window with a held-out text, or contains a shorter one of at least
    8 characters whole.

    Windows are kept and compared as 64-bit hashes, those of many paragraphs at a time. Of every
    30 characters of a held-out text one of two neighbouring marks, 16 characters each at every
    15th place, lies inside; so all but the windows around a mark pass without a search. A
    paragraph is refused wrongly with a chance of about (held-out windows) / 2**64 for each of
    its characters.

    Args:
        texts: The held-out texts.
        owners: Which of several files each text is of; all of file 0 by default.

    Example:
        >>> Heldout(["这家酒店的早餐真的很不错"]).shows("昨天说：这家酒店的早餐，真的很不错！")
        True
    """

    def __init__(self, texts: Iterable[str], owners: Iterable[int] | None = None) -> None:
        found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        heads: list[np.ndarray] = []
        marks: list[np.ndarray] = []
        numbers = iter(owners) if owners is not None else None
        remaining = iter(texts)
        while batch := list(islice(remaining, 4096)):
            own = np.array(
                [0] * len(batch) if numbers is None else list(islice(numbers, len(batch))), np.int32
            )
            points, line = _lines(batch)
            ladder = Ladder(points)
            sizes = np.minimum(np.bincount(line[points != LINE], minlength=len(batch)), WINDOW)
            first = np.searchsorted(line, np.arange(len(batch)))
            for size in sorted({int(s) for s in np.unique(sizes) if s >= SHORTEST}):
                if size == WINDOW:
                    starts = np.arange(max(0, len(points) - WINDOW + 1))
                    starts = starts[_inside(points, starts, WINDOW)]
                    at = np.arange(0, max(0, len(points) - MARK + 1))
                    at = at[(at - first[line[at]]) % (WINDOW - MARK + 1) == 0]
                    marks.append(ladder.at(at[_inside(points, at, MARK)], MARK))
                else:
                    starts = first[sizes == size]
                    heads.append(ladder.at(starts, SHORTEST))
                hashes, places = np.unique(ladder.at(starts, size), return_index=True)
                found.setdefault(size, []).append((hashes, own[line[starts[places]]]))
        self._windows = {size: _Table.of(parts) for size, parts in sorted(found.items())}
        self._heads, self._marks = (
            _Table.of([(h, np.zeros(len(h), np.int32)) for h in parts]) for parts in (heads, marks)
        )

    @classmethod
    def read(cls, paths: Sequence[str | Path]) -> Heldout:
        """Read held-out texts: a line of a .txt, every string in a row of anything else.

        Raises:
            DataError: If a file is missing, empty or broken.
        """
        owners: list[int] = []

        def texts() -> Iterator[str]:
            for number, path in enumerate(paths):
                known = suffixes(str(path))[0] in EXTENSIONS
                for row in read_rows(str(path), format=None if known else "txt"):
                    for text in _strings(list(row.values.values())):
                        owners.append(number)
                        yield text

        return cls(texts(), _following(owners))

    def fingerprint(self) -> str:
        """Return a SHA-256 of all the windows."""
        digest = hashlib.sha256()
        for size, table in self._windows.items():
            digest.update(str(size).encode() + table.hashes.tobytes())
        return digest.hexdigest()

    def shows(self, paragraph: str) -> bool:
        """Return whether the paragraph shows a held-out text."""
        return bool(self.shown([paragraph])[0] >= 0)

    def shown(self, paragraphs: Sequence[str]) -> np.ndarray:
        """Return the file whose text each paragraph shows, -1 for none, shape (n,) int32.

        Of several files it is the one whose text was found first.

        Example:
            >>> heldout = Heldout(["这家酒店的早餐很不错"])
            >>> heldout.shown(["这家酒店的早餐很不错！", "好"]).tolist()
            [0, -1]
        """
        owner = np.full(len(paragraphs), -1, np.int32)
        start = size = 0
        for stop, paragraph in enumerate(paragraphs, 1):
            size += len(paragraph)
            if size >= _BATCH or stop == len(paragraphs):
                self._judge(paragraphs[start:stop], owner[start:stop])
                start, size = stop, 0
        return owner

    def _judge(self, paragraphs: Sequence[str], owner: np.ndarray) -> None:
        points, line = _lines(paragraphs)
        ladder = Ladder(points)
        if (full := self._windows.get(WINDOW)) is not None:
            marked = np.flatnonzero(self._marks.find(ladder.windows(MARK)) >= 0)
            around = np.unique(marked[:, None] - np.arange(WINDOW - MARK + 1))
            starts = around[(around >= 0) & (around <= len(points) - WINDOW)]
            self._mark(owner, line, starts, full.find(ladder.at(starts, WINDOW)))
        if not len(self._heads.hashes):
            return
        near = np.flatnonzero(self._heads.find(ladder.windows(SHORTEST)) >= 0)
        for size, table in self._windows.items():
            if size < WINDOW:
                starts = near[near <= len(points) - size]
                self._mark(owner, line, starts, table.find(ladder.at(starts, size)))

    @staticmethod
    def _mark(owner: np.ndarray, line: np.ndarray, starts: np.ndarray, hits: np.ndarray) -> None:
        for place in np.flatnonzero(hits >= 0)[::-1]:  # backwards: the first one stays
            owner[line[starts[place]]] = hits[place]


class _Table:
    """A set of hashes with a number for each, and a table that most strangers do not pass."""

    def __init__(self, hashes: np.ndarray, numbers: np.ndarray) -> None:
        self.hashes, self.numbers = hashes, numbers
        bits = min(26, max(12, (8 * max(1, len(hashes))).bit_length()))
        self.shift = np.uint64(64 - bits)
        self.door = np.zeros(1 << bits, bool)
        self.door[(hashes >> self.shift).view(np.int64)] = True

    @classmethod
    def of(cls, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> _Table:
        """Join parts; of a hash in several the first number counts."""
        if not parts:
            return cls(np.empty(0, np.uint64), np.empty(0, np.int32))
        hashes, places = np.unique(np.concatenate([h for h, _ in parts]), return_index=True)
        return cls(hashes, np.concatenate([n for _, n in parts])[places])

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the number of each hash, -1 for strangers."""
        found = np.full(len(hashes), -1, np.int32)
        if len(self.hashes):
            close = np.flatnonzero(np.take(self.door, (hashes >> self.shift).view(np.int64)))
            places = np.searchsorted(self.hashes, hashes[close]).clip(max=len(self.hashes) - 1)
            same = self.hashes[places] == hashes[close]
            found[close[same]] = self.numbers[places[same]]
        return found


def _lines(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of texts made plain, joined, and the text each is of."""
    points = plain(texts)
    ends = points == LINE
    return points, np.cumsum(ends) - ends


def _inside(points: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """Tell which windows hold no line feed."""
    before = np.concatenate([[0], np.cumsum(points == LINE)])
    result: np.ndarray = before[starts] == before[starts + size]
    return result


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in nested lists and objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _following(growing: list[int]) -> Iterator[int]:
    """Yield the items of a list while another hand appends to it."""
    place = 0
    while place < len(growing):
        yield growing[place]
        place += 1


def _stem(path: Path) -> str:
    return path.name.split(".txt")[0]
