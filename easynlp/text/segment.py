"""Chinese word boundaries, for whole-word masking. The segmenter is the library rjieba."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from easynlp.errors import MissingExtra

__all__ = ["continues", "word_ids", "word_lengths"]


@lru_cache(maxsize=1)
def _segmenter() -> Any:
    try:
        import rjieba
    except ImportError as error:
        raise MissingExtra("whole-word masking", "train") from error
    return rjieba.Jieba()


def word_lengths(text: str) -> list[int]:
    """Return the characters of each word of a text; their sum is that of the text.

    Example:
        >>> word_lengths("我喜欢北京")
        [1, 2, 2]
    """
    return list(map(len, _segmenter().cut(text)))


def word_ids(text: str) -> np.ndarray:
    """Return the number of the word each character belongs to, shape (len(text),) int32.

    Example:
        >>> word_ids("我喜欢北京").tolist()
        [0, 1, 1, 2, 2]
    """
    lengths = word_lengths(text)
    return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)


def continues(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return whether each token goes on with the word of the token before it, bool (tokens,).

    Args:
        first: Number of the word that a token's first character is in, shape (tokens,).
        last: The same of its last character.

    Example:
        >>> continues(np.array([0, 0, 2]), np.array([0, 1, 2])).tolist()
        [False, True, False]
        >>> continues(np.array([0, 1, 2]), np.array([1, 1, 2])).tolist()
        [False, True, False]
    """
    found = np.zeros(len(first), bool)
    found[1:] = first[1:] == last[:-1]
    return found
