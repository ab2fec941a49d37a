"""Sketches of documents, from which the share of text two have in common can be told.

One-permutation MinHash (Li, Owen, Zhang 2012): every stretch of 5 characters falls into one of
120 bins by its hash, and a bin keeps the least. A byte of each is stored (Li, König 2010), 0
where the bin is empty. Two documents agree in about as many of the bins that either fills as
they have stretches in common (Jaccard). For finding candidates, empty bins borrow from others
in an order of their own (Shrivastava 2017), else short documents would all look alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from easynlp.pretraining.corpora.hashing import LINE, Ladder, mixed, plain

__all__ = ["BANDS", "BINS", "band_keys", "filled", "similarities", "sketches"]

BINS = 120
BANDS = 20
"""Groups of 6 bins: documents that agree in all bins of a group are compared. At a Jaccard of
0.8 that happens with a chance of 1 - (1 - 0.8**6)**20 = 0.998, at 0.4 of 0.08."""
SHINGLE = 5
_CHANCE = 1 / 255
"""That bytes of different hashes agree."""


def sketches(documents: Sequence[str]) -> np.ndarray:
    """Return a sketch of each document, shape (documents, 120) uint8.

    Case, spaces and punctuation do not count. A document of fewer than 5 letters is all 0.

    Example:
        >>> a, b = sketches(["今天天气很好，我们去公园。", "今天天气很好我们去公园"])
        >>> bool((a == b).all()), bool(a.any())
        (True, True)
    """
    points = plain(documents)
    ends = points == LINE
    document = np.cumsum(ends) - ends
    hashes = Ladder(points).windows(SHINGLE)
    first, last = document[: len(hashes)], document[SHINGLE - 1 :]
    inside = (first == last) & ~ends[SHINGLE - 1 :]  # no line feed in it
    hashes, document = hashes[inside], first[inside]
    least = np.full(len(documents) * BINS, 0xFFFFFFFF, np.uint32)
    bins = ((hashes >> np.uint64(32)) * np.uint64(BINS) >> np.uint64(32)).astype(np.int64)
    np.minimum.at(least, document * BINS + bins, hashes.astype(np.uint32))
    empty = least == 0xFFFFFFFF
    sketch = (least % np.uint32(255) + np.uint32(1)).astype(np.uint8)
    sketch[empty] = 0
    return sketch.reshape(-1, BINS)


@cache
def _lenders() -> np.ndarray:
    """Return for each bin the others in the order it asks them, shape (BINS, BINS - 1)."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(np.delete(np.arange(BINS), b)) for b in range(BINS)])


def filled(sketch: np.ndarray) -> np.ndarray:
    """Return sketches whose empty bins have borrowed; all 0 where there is nothing to borrow.

    Args:
        sketch: Sketches, shape (documents, 120).
    """
    full = sketch.copy()
    rows, columns = np.nonzero((sketch == 0) & sketch.any(1, keepdims=True))
    for turn in range(BINS - 1):
        if not len(rows):
            break
        full[rows, columns] = sketch[rows, _lenders()[columns, turn]]
        still = full[rows, columns] == 0
        rows, columns = rows[still], columns[still]
    return full


def band_keys(full: np.ndarray, band: int) -> np.ndarray:
    """Return what documents must have equal to be compared, shape (documents,) uint64.

    Args:
        full: Filled sketches, shape (documents, 120).
        band: Number of the group of bins, below `BANDS`.
    """
    wide = BINS // BANDS
    bytes_ = np.zeros((len(full), 8), np.uint8)
    bytes_[:, :wide] = full[:, band * wide : (band + 1) * wide]
    return mixed(bytes_.view("<u8").ravel())


def similarities(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Estimate the Jaccard similarity of pairs of documents, shape (pairs,).

    Bins that are empty in both say nothing, so that of a short document, whose stretches have
    bins of their own, nearly every stretch is compared.

    Args:
        one: Sketches (not filled), shape (pairs, 120).
        other: Those to compare them with.

    Example:
        >>> text = "今天天气很好，我们去公园散步，孩子们在草地上放风筝。"
        >>> a, b = sketches([text, text + "真好"])
        >>> bool(similarities(a[None], b[None])[0] > 0.8)
        True
    """
    either = ((one | other) != 0).sum(1)
    agree = ((one == other) & (one != 0)).sum(1) / np.maximum(1, either)
    result: np.ndarray = np.maximum(0.0, (agree - _CHANCE) / (1 - _CHANCE))
    return result
