"""Which tokens a masked language model must guess: whole words, drawn anew at every read.

Sources: BERT (Devlin et al. 2019) for 15 % and 80/10/10; whole-word masking for Chinese (Cui et
al. 2021). Deviation: the 80/10/10 choice is made once a word, not once a token, so a word is
never half visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Masked", "mask_words"]


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
    random_ids: tuple[int, int],
    rng: np.random.Generator,
) -> Masked:
    """Choose whole words that together hold `rate` of the tokens, and hide them.

    Words are taken in random order until the budget is full; the word that would overrun it is
    taken with the probability that makes the expected share exactly `rate`.

    Args:
        ids: Token ids of a row, shape (tokens,).
        words: Word number of each token, not decreasing; -1 where a token may not be hidden
            (special tokens).
        rate: Share of the hideable tokens to hide.
        mask_id: Id of ``[MASK]``.
        random_ids: Range (low, high) that random replacements are drawn from.
        rng: Source of all randomness.

    Returns:
        The row with 80 % of the chosen words masked, 10 % replaced, 10 % kept.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> row = mask_words(np.array([2, 7, 8, 9, 3]), np.array([-1, 0, 0, 1, -1]), rate=0.5,
        ...                  mask_id=4, random_ids=(5, 10), rng=rng)
        >>> bool((row.targets == np.array([2, 7, 8, 9, 3])[row.positions]).all())
        True
    """
    numbers, inverse, sizes = np.unique(words, return_inverse=True, return_counts=True)
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
    masked[by_token == 1] = mask_id
    replaced = by_token == 2
    masked[replaced] = rng.integers(*random_ids, size=int(replaced.sum()))
    return Masked(masked, positions, ids[positions])
