"""Which tokens a masked language model must guess: drawn anew at every read.

Four strategies choose the *units* that are hidden whole: ``char`` (single tokens, BERT, Devlin et
al. 2019), ``word`` (Chinese whole words, Cui et al. 2021), ``ngram`` (spans of one to four whole
words) and ``similar`` (such spans, with similar words instead of ``[MASK]``; MacBERT, Cui et al.
2020). Deviations: the 80/10/10 choice is made once a unit, not once a token, so a unit is never
half visible; and rows are cut into spans before any is chosen, so the share of hidden tokens is
exact whatever their lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from easynlp.errors import ConfigError

__all__ = ["MASKINGS", "Masked", "Masking", "Similar", "mask_words", "units"]

Masking = Literal["char", "word", "ngram", "similar"]
MASKINGS: tuple[str, ...] = get_args(Masking)
SPANS = (0.4, 0.3, 0.2, 0.1)
"""Shares of spans of one, two, three and four words (MacBERT)."""

Similar = Callable[[np.ndarray, np.random.Generator], "np.ndarray | None"]
"""``(ids of a word, rng) -> ids of a similar word of as many tokens``, or None if it has none."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked row: `ids` with holes, the hole `positions` and the `targets` there."""

    ids: np.ndarray
    positions: np.ndarray
    targets: np.ndarray


def mask_words(
    ids: np.ndarray,
    words: np.ndarray,
    *,
    rate: float,
    mask_id: int,
    random_ids: tuple[int, int] | np.ndarray,
    rng: np.random.Generator,
    masking: str = "word",
    similar: Similar | None = None,
) -> Masked:
    """Choose whole words (or other units) that together hold `rate` of the tokens; hide them.

    Words are taken in random order until the budget is full; the word that would overrun it is
    taken with the probability that makes the expected share exactly `rate`.

    Args:
        ids: Token ids of a row, shape (tokens,).
        words: Word number of each token, not decreasing; -1 where a token may not be hidden
            (special tokens).
        rate: Share of the hideable tokens to hide.
        mask_id: Id of ``[MASK]``.
        random_ids: Range (low, high) that random replacements are drawn from, or the ids.
        rng: Source of all randomness.
        masking: What is hidden whole: see `units`.
        similar: Finds replacements; needed by ``similar``. A word without any similar one is
            replaced by random tokens, as in MacBERT.

    Returns:
        The row with 80 % of the chosen units masked (``similar``: each of their words replaced by
        a similar one), 10 % replaced by random tokens, 10 % kept.

    Raises:
        ConfigError: If `masking` is ``similar`` and there is nothing to look similar words up in.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> row = mask_words(np.array([2, 7, 8, 9, 3]), np.array([-1, 0, 0, 1, -1]), rate=0.5,
        ...                  mask_id=4, random_ids=(5, 10), rng=rng)
        >>> bool((row.targets == np.array([2, 7, 8, 9, 3])[row.positions]).all())
        True
    """
    if masking == "similar" and similar is None:
        raise ConfigError("masking by similar words needs a table of them: give --similar-words")
    numbers, inverse, sizes = np.unique(
        units(words, masking, rng), return_inverse=True, return_counts=True
    )
    hideable = np.flatnonzero(numbers >= 0)
    order = rng.permutation(hideable)
    filled = np.cumsum(sizes[order])
    budget = rate * sizes[hideable].sum()
    taken = int(np.searchsorted(filled, budget, side="right"))
    if taken < len(order):
        before = filled[taken - 1] if taken else 0
        taken += int(rng.random() < (budget - before) / sizes[order[taken]])
    action = np.zeros(len(numbers), np.int8)  # 0 leave, 1 mask, 2 replace, 3 keep but predict
    draws = rng.random(taken)
    action[order[:taken]] = np.where(draws < 0.8, 1, np.where(draws < 0.9, 2, 3))
    by_token = action[inverse]
    positions = np.flatnonzero(by_token)
    masked = ids.copy()
    replaced = by_token == 2
    if masking == "similar" and similar is not None:
        replaced |= _put_similar(masked, words, by_token == 1, similar, rng)
    else:
        masked[by_token == 1] = mask_id
    pool = np.arange(*random_ids) if isinstance(random_ids, tuple) else random_ids
    masked[replaced] = pool[rng.integers(len(pool), size=int(replaced.sum()))]
    return Masked(masked, positions, ids[positions])


def units(words: np.ndarray, masking: str, rng: np.random.Generator) -> np.ndarray:
    """Return the number of the unit each token belongs to, as `mask_words` reads word numbers.

    Args:
        words: Word number of each token, not decreasing; -1 for special tokens.
        masking: ``char``: every token alone; ``word``: as given; ``ngram`` and ``similar``: spans
            of one to four words, which special tokens end.
        rng: Draws the lengths of spans.

    Raises:
        ConfigError: If there is no such masking.

    Example:
        >>> units(np.array([-1, 0, 0, 1, -1]), "char", np.random.default_rng(0)).tolist()
        [-1, 1, 2, 3, -1]
    """
    if masking == "word":
        return words
    if masking == "char":
        return np.where(words < 0, -1, np.arange(len(words)))
    if masking not in MASKINGS:
        raise ConfigError(f'masking "{masking}" is none of {", ".join(MASKINGS)}')
    inside = words >= 0
    starts = inside & np.concatenate([[True], words[1:] != words[:-1]])
    runs = inside & np.concatenate([[True], ~inside[:-1]])  # the first token after a special one
    lengths = rng.choice(len(SPANS), size=int(starts.sum()), p=SPANS) + 1
    first_of_run = runs[starts]
    heads = np.zeros(len(lengths), bool)
    left = drawn = 0
    for number in range(len(heads)):
        if left == 0 or first_of_run[number]:
            heads[number], left = True, int(lengths[drawn])
            drawn += 1
        left -= 1
    opens = np.zeros(len(words), np.int64)
    opens[starts] = heads
    return np.where(inside, np.cumsum(opens), -1)


def _put_similar(
    ids: np.ndarray,
    words: np.ndarray,
    chosen: np.ndarray,
    similar: Similar,
    rng: np.random.Generator,
) -> np.ndarray:
    """Replace chosen words in place; return where there was no similar one, shape (tokens,)."""
    lacking = np.zeros(len(ids), bool)
    for word in np.unique(words[chosen]):
        here = words == word
        found = similar(ids[here], rng)
        if found is None:
            lacking |= here
        else:
            ids[here] = found
    return lacking
