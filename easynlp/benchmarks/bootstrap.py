"""The paired hierarchical bootstrap: is one contender better, given so few splits and rows?

Two things are drawn at random in a FewCLUE figure: which rows were labelled (the splits), and
which rows are tested. So each draw takes splits with replacement, then seeds within each, then
groups of test rows (all rows of an abstract, premise or text together); both contenders are
scored on the same draw, and the interval is that of their difference. The test rows of all
splits are the same ones, so one draw of groups serves all splits: drawn anew for each split,
their luck would average out and the interval come out too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Difference", "Scored", "difference_draws", "interval_of", "mean_draws"]

CHUNK = 500
"""Draws at a time: bounds the memory."""


@dataclass(frozen=True)
class Scored:
    """Which test rows a contender answered rightly: split to seeds to (rows,) of 0 and 1."""

    right: Mapping[str, Sequence[np.ndarray]]

    def mean(self) -> float:
        """Return the mean over splits of the mean over seeds."""
        return float(np.mean([np.mean([run.mean() for run in runs])
                              for runs in self.right.values()]))  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95% interval, as shares; `better` is the share of draws above 0."""

    mean: float
    low: float
    high: float
    better: float


def difference_draws(
    ours: Scored, theirs: Scored, groups: Sequence[int], *, draws: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Return the difference in accuracy of each draw, shape (draws,).

    Seeds are paired by place where both have as many, else each side's are drawn by themselves.

    Args:
        ours: One contender.
        theirs: The other, on the same splits and rows.
        groups: Group of each test row, from 0.
        draws: Bootstrap samples.
        seed: Seed of the samples.

    Example:
        >>> a = Scored({"0": [np.array([1, 1, 1, 0])], "1": [np.array([1, 1, 0, 1])]})
        >>> b = Scored({"0": [np.array([1, 0, 0, 0])], "1": [np.array([0, 1, 0, 0])]})
        >>> found = difference_draws(a, b, [0, 1, 2, 3], draws=200)
        >>> found.shape, bool(found.mean() > 0.3)
        ((200,), True)
    """
    splits = [split for split in ours.right if split in theirs.right]
    numbers = np.asarray(groups)
    sizes = np.bincount(numbers).astype(np.float64)
    mine = [_by_group(ours.right[split], numbers) for split in splits]
    other = [_by_group(theirs.right[split], numbers) for split in splits]
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        rows = _multiplicities(random, count, len(sizes))
        # (splits, seeds, draws): rows answered rightly in each draw of groups
        scores = [(np.einsum("sg,dg->sd", a, rows), np.einsum("sg,dg->sd", b, rows))
                  for a, b in zip(mine, other, strict=True)]  # fmt: skip
        picked = random.integers(0, len(splits), (count, len(splits)))
        total = np.zeros(count)
        for column in picked.T:
            for split, (a, b) in enumerate(scores):
                chosen = np.flatnonzero(column == split)
                if len(chosen):
                    total[chosen] += _seed_difference(random, a[:, chosen], b[:, chosen])
        found.append(total / len(splits) / (rows @ sizes))
    return np.concatenate(found)


def mean_draws(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the draws of a mean over tasks: splits of different tasks are drawn apart."""
    result: np.ndarray = np.mean(parts, axis=0)
    return result


def interval_of(mean: float, draws: np.ndarray) -> Difference:
    """Return a difference with the 95% percentile interval of its draws.

    Example:
        >>> interval_of(0.5, np.linspace(0, 1, 1001))
        Difference(mean=0.5, low=0.025, high=0.975, better=0.999)
    """
    low, high = np.percentile(draws, [2.5, 97.5])
    return Difference(mean, round(float(low), 6), round(float(high), 6),
                      round(float((draws > 0).mean()), 4))  # fmt: skip


def _by_group(runs: Sequence[np.ndarray], numbers: np.ndarray) -> np.ndarray:
    """Return right answers of each run and group, shape (runs, groups)."""
    return np.stack([np.bincount(numbers, weights=run) for run in runs])


def _multiplicities(random: np.random.Generator, count: int, groups: int) -> np.ndarray:
    """Return how often each group is drawn, shape (count, groups)."""
    picks = random.integers(0, groups, (count, groups)) + groups * np.arange(count)[:, None]
    found: np.ndarray = np.bincount(picks.ravel(), minlength=count * groups)
    return found.reshape(count, groups).astype(np.float64)


def _seed_difference(random: np.random.Generator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean over drawn seeds of a - b, both (seeds, draws)."""
    first = random.integers(0, len(a), a.shape)
    second = first if len(a) == len(b) else random.integers(0, len(b), b.shape)
    difference: np.ndarray = np.take_along_axis(a, first, 0).mean(0) - np.take_along_axis(
        b, second, 0
    ).mean(0)
    return difference
