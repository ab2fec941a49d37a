"""Numbers with their uncertainty: intervals of means, shares and ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from easynlp.metrics import Z_975

__all__ = ["Mean", "Ratio", "mean_interval", "ratio_interval"]

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5% points of Student's t with 1, 2, 3 … degrees of freedom."""


@dataclass(frozen=True)
class Mean:
    """A mean over runs: sample standard deviation (n - 1) and the half-width of its interval.

    Of one run the last two are not known.
    """

    mean: float
    sd: float | None
    half_width: float | None
    runs: int


@dataclass(frozen=True)
class Ratio:
    """How many times faster: the median of paired ratios, and its interval."""

    median: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Mean:
    """Return the mean of runs with its 95% Student t interval; one run has none.

    Example:
        >>> mean_interval([0.5, 0.6, 0.7])
        Mean(mean=0.6, sd=0.1, half_width=0.2484, runs=3)
    """
    runs = len(values)
    mean = math.fsum(values) / runs
    if runs == 1:
        return Mean(round(mean, 6), None, None, 1)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (runs - 1))
    t = _T_975[runs - 2] if runs - 2 < len(_T_975) else Z_975
    return Mean(round(mean, 6), round(sd, 6), round(t * sd / math.sqrt(runs), 4), runs)


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], *, draws: int = 2000, seed: int = 0
) -> Ratio:
    """Compare two speeds measured in the same rounds.

    The ratio is taken round by round, so that what disturbs a whole round cancels; the interval
    is the 95% bootstrap interval of the median over rounds.

    Args:
        ours: Speed of each round, higher is better.
        theirs: The peer's speed in the same rounds.
        draws: Bootstrap samples.
        seed: Seed of the samples.

    Example:
        >>> ratio_interval([4.0, 4.0, 4.0], [2.0, 2.0, 2.0])
        Ratio(median=2.0, low=2.0, high=2.0)
    """
    ratios = np.asarray(ours) / np.asarray(theirs)
    picks = np.random.default_rng(seed).integers(0, len(ratios), (draws, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high))
