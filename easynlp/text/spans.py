"""Spans of characters and of tokens, BIO tags, and windows over long texts.

Offsets count characters (Python's, so an emoji is one), `end` is exclusive. Tags are numbers:
0 is O, ``1 + 2k`` is B of type k, ``2 + 2k`` is I of type k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = [
    "TokenSpans",
    "Window",
    "align",
    "spans_to_tags",
    "tag_names",
    "tags_to_spans",
    "windows",
]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a long text's tokens, and the part of it whose answers count."""

    start: int
    stop: int
    own_start: int
    own_stop: int


@dataclass(frozen=True, slots=True)
class TokenSpans:
    """Spans found in tags: first and last token (inclusive) and type of each, 1-D arrays."""

    first: np.ndarray
    last: np.ndarray
    kind: np.ndarray


def windows(tokens: int, size: int, overlap: int) -> list[Window]:
    """Cover a long text with windows that overlap.

    Every token is owned by exactly one window, the one where it has more context: two
    neighbours share their overlap half and half. The last window is moved back to be full.

    Args:
        tokens: Tokens of the text.
        size: Most tokens of a window.
        overlap: Least tokens two neighbours share; less than `size`.

    Example:
        >>> [(w.start, w.stop, w.own_start, w.own_stop) for w in windows(10, 6, 2)]
        [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} does not fit windows of {size}")
    if tokens <= size:
        return [Window(0, tokens, 0, tokens)]
    starts = [*range(0, tokens - size, size - overlap), tokens - size]
    cuts = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), tokens]
    return [
        Window(start, start + size, own, end)
        for start, (own, end) in zip(starts, pairwise(cuts), strict=True)
    ]


def align(starts: np.ndarray, ends: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return the tokens that spans of characters touch.

    Args:
        starts: First character of each token, not decreasing, shape (tokens,).
        ends: Character after each token, not decreasing, shape (tokens,).
        spans: Start and end of each span in characters, shape (spans, 2).

    Returns:
        First token and last token + 1 of each span, shape (spans, 2); equal where a span touches
        no token (spaces).

    Example:
        >>> align(np.array([0, 1, 5]), np.array([1, 5, 6]), np.array([[1, 5], [3, 6]])).tolist()
        [[1, 2], [1, 3]]
    """
    spans = np.asarray(spans, np.int64).reshape(-1, 2)
    first = np.searchsorted(ends, spans[:, 0], side="right")
    stop = np.searchsorted(starts, spans[:, 1], side="left")
    return np.stack([first, np.maximum(first, stop)], 1)


def tag_names(kinds: Iterable[str]) -> list[str]:
    """Return the names of the tags in order.

    Example:
        >>> tag_names(["LOC", "PER"])
        ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    return ["O", *(f"{role}-{kind}" for kind in kinds for role in "BI")]


def spans_to_tags(tokens: int, spans: Iterable[Sequence[int]]) -> np.ndarray:
    """Return BIO tags of spans of tokens, shape (tokens,).

    Args:
        tokens: Number of tokens.
        spans: First token, last token + 1, and type of each span; they do not overlap.

    Example:
        >>> spans_to_tags(5, [(1, 3, 0), (3, 4, 1)]).tolist()
        [0, 1, 2, 3, 0]
    """
    tags = np.zeros(tokens, np.int64)
    for first, stop, kind in spans:
        if first < stop:
            tags[first:stop] = 2 + 2 * kind
            tags[first] = 1 + 2 * kind
    return tags


def tags_to_spans(tags: np.ndarray, texts: np.ndarray | None = None) -> TokenSpans:
    """Return the spans that tags describe, any sequence of tags being valid.

    An I that continues nothing (after O, after another type, at the beginning) begins a span,
    as in conlleval; so every token that is not O belongs to exactly one span.

    Args:
        tags: BIO tags, shape (tokens,); may be of several texts after one another.
        texts: Number of the text each token is of; spans do not cross from one to the next.

    Example:
        >>> found = tags_to_spans(np.array([2, 2, 1, 4, 0]))
        >>> list(zip(found.first.tolist(), found.last.tolist(), found.kind.tolist()))
        [(0, 1, 0), (2, 2, 0), (3, 3, 1)]
    """
    inside = tags > 0
    kinds = (tags - 1) // 2
    follows = np.zeros(len(tags), bool)
    follows[1:] = inside[1:] & (tags[1:] % 2 == 0) & (kinds[1:] == kinds[:-1])
    if texts is not None:
        follows[1:] &= texts[1:] == texts[:-1]
    begins = inside & ~follows
    ends = inside.copy()
    ends[:-1] &= ~follows[1:]
    first = np.flatnonzero(begins)
    return TokenSpans(first, np.flatnonzero(ends), kinds[first])
