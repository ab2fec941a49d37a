"""Hashes of all windows of a text at once, as numpy arrays: what finding equal text rests on."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np

__all__ = ["LINE", "Ladder", "codes", "mixed", "plain"]

LINE = 10
"""Code point of the line feed, which stands between texts joined into one array."""
_DROP, _HARD = 0, 1
"""Entries of the table below: no letter or digit; not to be judged on its own."""
_MAPPED = 0x20000
_FACTORS = [np.uint64(f) for f in (
    0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93,
    0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3,
)]  # fmt: skip


def plain(texts: Sequence[str]) -> np.ndarray:
    r"""Return texts for comparison: NFKC, lower case, letters and digits only.

    Nearly every character is looked up in a table. Only texts with a character that becomes
    several or joins its neighbour (``㎡``, accents of their own) take the slow way.

    Returns:
        The code points of all texts, a line feed between two, uint32.

    Example:
        >>> "".join(map(chr, plain(["Ｈｅｌｌｏ，世界！", "第2 行", "3㎡"])))
        'hello世界\n第2行\n3m2'
    """
    points = codes("\n".join(text.replace("\n", " ") if "\n" in text else text for text in texts))
    mapped = np.take(_table(), points)
    hard = np.flatnonzero(mapped == _HARD)
    if len(hard):
        ends = np.append(np.flatnonzero(points == LINE), len(points))
        pieces: list[np.ndarray] = []
        done = 0
        for number in np.unique(np.searchsorted(ends, hard)).tolist():
            start = int(ends[number - 1]) + 1 if number else 0
            pieces += [mapped[done:start], codes(_slowly(texts[number]))]
            done = int(ends[number])
        mapped = np.concatenate([*pieces, mapped[done:]])
    kept: np.ndarray = mapped[mapped != _DROP]
    return kept


def _slowly(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


@cache
def _table() -> np.ndarray:
    """Return what each code point alone becomes, uint32; see `_DROP` and `_HARD`."""
    table = np.full(0x110000, _HARD, np.uint32)
    table[0x20000:0x2F800] = np.arange(0x20000, 0x2F800)
    table[0x30000:0x323B0] = np.arange(0x30000, 0x323B0)  # rare Chinese characters
    for point in range(_MAPPED):
        table[point] = _alone(chr(point))
    table[LINE] = LINE
    return table


def _alone(character: str) -> int:
    if 0x1100 <= ord(character) < 0x1200 or character == "Σ" or "\ud800" <= character < "\ue000":
        return _HARD  # Korean letters join to syllables; Σ depends on its place in the word
    whole = unicodedata.normalize("NFKC", character).lower()
    if unicodedata.category(whole[0]).startswith("M"):
        return _HARD  # may join the character before
    if not any(c.isalnum() for c in whole):
        return _DROP
    return ord(whole) if len(whole) == 1 else _HARD


def codes(text: str) -> np.ndarray:
    """Return the code points of a text, shape (len(text),) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def mixed(values: np.ndarray) -> np.ndarray:
    """Return values scattered over 64 bits so that near ones end far apart (splitmix64)."""
    values = values.astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


class Ladder:
    """Hashes of all windows of 1, 2, 4, 8 … characters, and of any size put together of them.

    A window's hash depends on its characters alone, not on where it stands. Twice the size costs
    one multiplication and one addition a character.

    Args:
        points: Code points, shape (n,).

    Example:
        >>> ladder = Ladder(codes("今天天气今天天气"))
        >>> hashes = ladder.windows(3)
        >>> len(hashes), bool(hashes[0] == hashes[4]), bool(hashes[0] == hashes[1])
        (6, True, False)
    """

    def __init__(self, points: np.ndarray) -> None:
        self.length = len(points)
        self.rungs = [mixed(points.astype(np.uint64) + _FACTORS[0])]

    def rung(self, level: int) -> np.ndarray:
        """Return the hashes of all windows of ``2 ** level`` characters."""
        while len(self.rungs) <= level:
            last, half = self.rungs[-1], 1 << (len(self.rungs) - 1)
            hashed = last[:-half] * _FACTORS[len(self.rungs)] + last[half:]
            hashed ^= hashed >> np.uint64(29)
            self.rungs.append(hashed)
        return self.rungs[level]

    def windows(self, size: int) -> np.ndarray:
        """Return the hashes of all windows of a size up to 64, shape (length - size + 1,)."""
        return self.at(np.arange(0), size, everywhere=True)

    def at(self, starts: np.ndarray, size: int, *, everywhere: bool = False) -> np.ndarray:
        """Return the hashes of the windows of a size that start at `starts`.

        Args:
            starts: First characters; each window must fit in the text.
            size: Characters, 1 to 64.
            everywhere: Take every start there is instead.
        """
        count = max(0, self.length - size + 1)
        if everywhere and not count:
            return np.empty(0, np.uint64)
        found: np.ndarray | None = None
        behind = 0
        for level in range(size.bit_length() - 1, -1, -1):
            if not size >> level & 1:
                continue
            rung = self.rung(level)
            part = rung[behind : behind + count] if everywhere else rung[starts + behind]
            found = part if found is None else found * _FACTORS[level] + part
            behind += 1 << level
        assert found is not None
        return mixed(found)
