"""Documents and paragraphs that were there before, found in bounded memory.

Equal hashes are brought together through files: each hash is written to one of as many buckets
as are needed for a bucket to fit in memory, and buckets are sorted one by one. Sketches and the
marks of what to leave out are memory-mapped files. So memory does not grow with the corpus; the
disk takes, while it lasts, 240 bytes a document for sketches, 16 bytes a document or paragraph
for hashes, and a byte for its mark.

Of equal ones the first in the order of the sources stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from easynlp.pretraining.corpora.minhash import BANDS, BINS, band_keys, filled, similarities

__all__ = ["Marks", "mark_near", "mark_repeated", "repeats"]

BUCKET = 1 << 22
"""Hashes sorted at a time: 64 MiB with their places."""
_BLOCK = 1 << 15
_RECORD = np.dtype([("key", "<u8"), ("place", "<i8")])


class Marks:
    """A byte for each document or paragraph, 0 to keep it, in a memory-mapped file.

    Args:
        path: The file, made anew.
        length: How many.
    """

    def __init__(self, path: Path, length: int) -> None:
        with path.open("wb") as file:
            file.truncate(max(1, length))
        self.path, self.length = path, length
        self.values = np.memmap(path, np.uint8, "r+")

    def slice(self, start: int, length: int) -> np.ndarray:
        """Return a copy of the marks of a stretch."""
        return np.array(self.values[start : start + length])


def repeats(
    keys: Iterable[tuple[np.ndarray, np.ndarray]], total: int, folder: Path
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Bring equal keys together.

    Args:
        keys: Arrays of keys (uint64, hashes) and of their places (int64, ascending throughout).
        total: About how many keys there are.
        folder: For buckets; left empty.

    Yields:
        Places sorted by key and then by place, and whether each has the key of the one before.

    Example:
        >>> keys = np.array([7, 9, 7], np.uint64)
        >>> [(a.tolist(), b.tolist())
        ...  for a, b in repeats([(keys, np.arange(3))], 3, Path("unused"))]
        [([0, 2, 1], [False, True, False])]
    """
    count = -(-total // BUCKET)
    if count <= 1:
        parts = list(keys)
        if parts:
            yield _sorted(np.concatenate([k for k, _ in parts]),
                          np.concatenate([p for _, p in parts]))  # fmt: skip
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [folder / f"{number}" for number in range(count)]
    for key, place in keys:
        records = np.empty(len(key), _RECORD)
        records["key"], records["place"] = key, place
        bucket = (key >> np.uint64(16)) % np.uint64(count)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(count + 1, dtype=np.uint64))
        for number in np.flatnonzero(np.diff(edges)):
            with names[number].open("ab") as file:
                file.write(records[order[edges[number] : edges[number + 1]]].tobytes())
    for name in names:
        if name.is_file():
            records = np.fromfile(name, _RECORD)
            name.unlink()
            yield _sorted(records["key"], records["place"])
    shutil.rmtree(folder)


def _sorted(key: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(key, kind="stable")
    key = key[order]
    return place[order], np.concatenate([np.zeros(min(1, len(key)), bool), key[1:] == key[:-1]])


def mark_repeated(
    keys: Iterable[tuple[np.ndarray, np.ndarray]], marks: Marks, value: int, folder: Path
) -> None:
    """Mark all but the first of equal keys; see `repeats` for the arguments."""
    for places, again in repeats(keys, marks.length, folder):
        marks.values[places[again]] = value


def mark_near(
    sketches: Iterable[np.ndarray], marks: Marks, value: int, similarity: float, folder: Path
) -> None:
    """Mark documents that are near an earlier one, itself marked for that or not.

    Each document is compared with the first of its group and with the one before it in it, in
    each of 20 groups, not with all: a page that a million others are near costs no more.

    Args:
        sketches: Of all documents, in order.
        marks: Documents marked already are passed over.
        value: What to mark with.
        similarity: The least Jaccard similarity.
        folder: For temporary files; left empty.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "raw").open("wb") as raw, (folder / "full").open("wb") as full:
        for block in sketches:
            raw.write(block.tobytes())
            for start in range(0, len(block), _BLOCK):
                full.write(filled(block[start : start + _BLOCK]).tobytes())
    if marks.length:
        raw_map = np.memmap(folder / "raw", np.uint8, "r").reshape(-1, BINS)
        full_map = np.memmap(folder / "full", np.uint8, "r").reshape(-1, BINS)
        for band in range(BANDS):
            keys = _band(full_map, marks, value, band)
            for places, again in repeats(keys, marks.length, folder / "buckets"):
                _compare(places, again, raw_map, marks, value, similarity)
    shutil.rmtree(folder)


def _band(
    full: np.ndarray, marks: Marks, value: int, band: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(full), _BLOCK):
        block = np.asarray(full[start : start + _BLOCK])
        mark = marks.slice(start, len(block))
        chosen = np.flatnonzero(((mark == 0) | (mark == value)) & (block[:, 0] != 0))
        yield band_keys(block[chosen], band), chosen + start


def _compare(
    places: np.ndarray,
    again: np.ndarray,
    sketches: np.ndarray,
    marks: Marks,
    value: int,
    similarity: float,
) -> None:
    """Mark those of a sorted bucket that are near the first of their group or the one before."""
    begins = np.maximum.accumulate(np.where(again, 0, np.arange(len(places))))
    later = np.flatnonzero(again)
    for partner in (begins[later], later - 1):
        for start in range(0, len(later), _BLOCK):
            part = slice(start, start + _BLOCK)
            mine, theirs = places[later[part]], places[partner[part]]
            open_ = marks.values[mine] == 0
            mine, theirs = mine[open_], theirs[open_]
            near = similarities(sketches[mine], sketches[theirs]) >= similarity
            marks.values[mine[near]] = value
