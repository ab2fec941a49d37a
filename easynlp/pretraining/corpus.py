"""Raw text: files of one paragraph a line, documents separated by blank lines."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from easynlp.data.lines import numbered_lines
from easynlp.errors import DataError, did_you_mean

__all__ = ["Heldout", "documents", "find_files"]

SUFFIXES = (".txt", ".txt.gz", ".txt.zst")
WINDOW = 30
"""A paragraph that shares this many characters in a row with a held-out text is left out."""


def find_files(paths: Sequence[str | Path], exclude: Sequence[str] = ()) -> list[Path]:
    """Return the corpus files under files and folders, sorted by name.

    Args:
        paths: Files, or folders searched for ``*.txt``, ``*.txt.gz`` and ``*.txt.zst``.
        exclude: Names without suffix to leave out.

    Raises:
        DataError: If a path does not exist, a name to exclude matches nothing, or nothing is left.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += [p for p in sorted(path.iterdir()) if p.name.endswith(SUFFIXES)]
        elif path.is_file():
            found.append(path)
        else:
            raise DataError("no such file or folder", path=str(path))
    names = {_stem(path) for path in found}
    for name in exclude:
        if name not in names:
            raise DataError(f'no corpus file "{name}" to exclude.{did_you_mean(name, names)}')
    kept = [path for path in found if _stem(path) not in exclude]
    if not kept:
        raise DataError(f"no corpus files ({', '.join(SUFFIXES)}) in {', '.join(map(str, paths))}")
    return kept


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

    Example:
        >>> Heldout(["这家酒店的早餐真的很不错"]).shows("昨天说：这家酒店的早餐，真的很不错！")
        True
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._windows: dict[int, set[str]] = {}
        for text in texts:
            plain = _plain(text)
            size = min(WINDOW, len(plain))
            if size >= 8:
                kept = self._windows.setdefault(size, set())
                kept.update(plain[i : i + size] for i in range(len(plain) - size + 1))

    def fingerprint(self) -> str:
        """Return a SHA-256 of all the windows."""
        digest = hashlib.sha256()
        for size in sorted(self._windows):
            for window in sorted(self._windows[size]):
                digest.update(window.encode())
        return digest.hexdigest()

    def shows(self, paragraph: str) -> bool:
        """Return whether the paragraph shows a held-out text."""
        plain = _plain(paragraph)
        return any(
            plain[i : i + size] in windows
            for size, windows in self._windows.items()
            for i in range(len(plain) - size + 1)
        )


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


def _stem(path: Path) -> str:
    return path.name.split(".txt")[0]
