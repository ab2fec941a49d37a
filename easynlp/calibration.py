"""How sure an answer is: temperature, calibration error, and when to give no answer; numpy only.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599): logits are divided
by one number, fitted on labelled rows that were not trained on. It changes no label, since the
largest logit stays the largest; it only makes a score of 0.9 mean right nine times in ten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from easynlp.errors import ConfigError
from easynlp.metrics import softmax
from easynlp.tasks.base import OneLabel, Task

__all__ = [
    "Abstention",
    "Calibration",
    "calibration_error",
    "choose_threshold",
    "fit_temperature",
    "least_score",
    "lower_bound",
    "negative_log_likelihood",
    "one_label",
    "withhold",
]

BINS = 15
"""Bins of the expected calibration error, as in the paper."""
SHARPEST, FLATTEST = 0.05, 20.0
"""Temperatures fitted lie between these."""
RISK = 0.01
"""Chance, for one threshold, that the accepted rows look precise enough by luck. A threshold is
chosen among many: where scores say nothing at all about what is right, which is the worst case,
the chance is about 0.05 for all of them together (a test simulates it)."""


@dataclass(frozen=True)
class Abstention:
    """From which score on an answer is given.

    Attributes:
        precision: Share of right answers that was wanted of those given.
        threshold: Least score of an answer that is given.
        accepted: Rows of the data with such a score.
        right: Those of them that are right.
        coverage: Share of the rows that are accepted.
        measured: Share of the accepted rows that are right.
        lower: What that share is at least with 99 % (Clopper and Pearson 1934).
    """

    precision: float
    threshold: float
    accepted: int
    right: int
    coverage: float
    measured: float
    lower: float


@dataclass(frozen=True)
class Calibration:
    """What was fitted, on how much, and what it changed; ``calibration`` in ``easynlp.json``.

    Attributes:
        temperature: What logits are divided by; above 1 where the model was too sure.
        rows: Rows it was fitted on.
        accuracy: Share of them that are right; the same before and after.
        nll: Mean negative log-likelihood (nats) before; `nll_after` after.
        ece: Expected calibration error, 15 bins, before; `ece_after` after.
        abstention: When to give no answer, if a precision was asked for.
    """

    temperature: float
    rows: int
    accuracy: float
    nll: float
    nll_after: float
    ece: float
    ece_after: float
    abstention: Abstention | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any] | None) -> Calibration | None:
        """Read what `as_dict` returned; None of None.

        Raises:
            ValueError: If a temperature or threshold is not as it should be.
        """
        if value is None:
            return None
        kept = value.get("abstention")
        found = cls(**{**value, "abstention": Abstention(**kept) if kept else None})
        if not SHARPEST <= found.temperature <= FLATTEST:
            raise ValueError(f"temperature {found.temperature}")
        return found


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature of least negative log-likelihood.

    The likelihood is convex in one over the temperature, so the zero of its slope is bisected: no
    step size, no seed. Where every row is right (or there is none), it would grow with ever
    sharper scores and says nothing of errors: then 1, which changes nothing.

    Args:
        logits: (rows, labels).
        targets: (rows,) numbers of the right labels.

    Example:
        >>> logits = np.log([[0.99, 0.01]] * 10)              # surer than right: 8 of 10
        >>> round(fit_temperature(logits, np.array([0] * 8 + [1] * 2)), 3)
        3.315
    """
    wide = logits.astype(np.float64)
    if not (wide.argmax(-1) != targets).any():
        return 1.0
    own = wide[np.arange(len(wide)), targets]

    def slope(sharpness: float) -> float:
        return float(((softmax(wide * sharpness) * wide).sum(-1) - own).mean())

    low, high = 1 / FLATTEST, 1 / SHARPEST
    if slope(low) >= 0:
        return FLATTEST
    if slope(high) <= 0:
        return SHARPEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of minus the log-probability of the right label, in nats.

    Example:
        >>> round(negative_log_likelihood(np.zeros((3, 2)), np.zeros(3, int)), 4)
        0.6931
    """
    wide = logits.astype(np.float64)
    wide = wide - wide.max(-1, keepdims=True)
    total = np.log(np.exp(wide).sum(-1))
    return float((total - wide[np.arange(len(wide)), targets]).mean())


def calibration_error(scores: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error: how far scores are from shares of right answers.

    Rows are put into equal bins of score; what counts is the distance between mean score and
    share right in each, weighted by its rows (Guo et al. 2017, equation 3).

    Args:
        scores: (rows,) of the answers given, 0 to 1.
        right: (rows,) whether they are right.
        bins: How many.

    Example:
        >>> calibration_error(np.array([0.9] * 10), np.arange(10) < 6).__round__(6)
        0.3
    """
    number = np.clip(np.ceil(scores * bins).astype(int) - 1, 0, bins - 1)
    found = 0.0
    for each in np.unique(number):
        rows = number == each
        found += abs(scores[rows].mean() - right[rows].mean()) * rows.mean()
    return float(found)


def choose_threshold(
    scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray, precision: float
) -> Abstention | None:
    """Return the smallest threshold whose accepted rows are precise enough, and not by luck.

    The lower Clopper-Pearson bound of the accepted rows' share of right ones must reach the wanted
    precision: 20 of 20 do not prove 95 %, 90 of 90 do. None if no threshold does.

    Args:
        scores: (rows,) of the answers given; compared as given, so round them as they are shown.
        right: (rows,) whether they are right.
        precision: Wanted share, above 0 and below 1.

    Example:
        >>> scores = np.linspace(0.5, 1, 400)
        >>> right = (np.arange(400) >= 100) | (np.arange(400) % 2 == 0)    # the surest 300 are
        >>> found = choose_threshold(scores, right, 0.95)
        >>> found.accepted, found.right, round(found.threshold, 3), round(found.lower, 3)
        (312, 306, 0.61, 0.954)
    """
    if not 0 < precision < 1:
        raise ConfigError(f"a precision of {precision} cannot be aimed at: above 0, below 1")
    scores, right = np.asarray(scores, np.float64), np.asarray(right, bool)
    for threshold in np.unique(scores):
        rows = scores >= threshold
        accepted, hits = int(rows.sum()), int(right[rows].sum())
        if hits < precision * accepted or _chance(accepted, hits, precision) > RISK:
            continue
        return Abstention(
            precision, float(threshold), accepted, hits, accepted / len(scores), hits / accepted,
            lower_bound(hits, accepted),
        )  # fmt: skip
    return None


def lower_bound(right: int, of: int, risk: float = RISK) -> float:
    """Return the exact lower bound of a share (Clopper and Pearson 1934); no scipy needed.

    Example:
        >>> round(lower_bound(90, 90), 3), round(lower_bound(90, 100), 3)
        (0.95, 0.809)
    """
    low, high = 0.0, right / of if of else 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _chance(of, right, middle) > risk else (middle, high)
    return low


def one_label(task: Task) -> OneLabel | None:
    """Return a task that answers with one label of several as such; None for all others."""
    several = getattr(task.config, "multi_label", False)
    return task if isinstance(task, OneLabel) and not several else None


def least_score(
    task: Task, calibration: Calibration | None, threshold: float | None, abstain: bool
) -> float | None:
    """Return the score below which no label is given: as asked, as calibrated, or None.

    Args:
        task: What is asked.
        calibration: Of the run, if there is one.
        threshold: The score itself.
        abstain: Take the calibrated one.

    Raises:
        ConfigError: If there is none, both are asked for, or the task gives no single label.
    """
    if threshold is None and not abstain:
        return None
    if threshold is not None and abstain:
        raise ConfigError("threshold and abstain exclude each other: give one")
    if one_label(task) is None:
        raise ConfigError(f"{task.name} gives no single label that could be withheld")
    if threshold is not None:
        if not 0 <= threshold <= 1:
            raise ConfigError(f"a threshold of {threshold} is no score: 0 to 1 is wanted")
        return threshold
    if calibration is None or calibration.abstention is None:
        raise ConfigError(
            "the run knows no threshold to abstain below. Type: easynlp calibrate RUN "
            "--dev dev.jsonl --abstain-precision 0.95, or give a threshold"
        )
    return calibration.abstention.threshold


def withhold(prediction: Mapping[str, Any], threshold: float | None) -> dict[str, Any]:
    """Return a prediction whose label is None if its score is below a threshold; scores stay.

    Example:
        >>> withhold({"label": "好评", "score": 0.6}, 0.8)
        {'label': None, 'score': 0.6}
        >>> withhold({"label": "好评", "score": 0.9}, 0.8)
        {'label': '好评', 'score': 0.9}
    """
    if threshold is None or prediction["score"] >= threshold:
        return dict(prediction)
    return {**prediction, "label": None}


def _chance(rows: int, right: int, share: float) -> float:
    """Return the chance of so many right ones or more, if that share is right (binomial tail)."""
    if right <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    wrong = np.arange(rows - right + 1)
    whole = np.array([math.lgamma(n + 1) for n in (rows, *wrong)])
    rest = np.array([math.lgamma(rows - n + 1) for n in wrong])
    terms = (
        whole[0] - whole[1:] - rest + (rows - wrong) * math.log(share) + wrong * math.log1p(-share)
    )
    return min(1.0, float(np.exp(terms).sum()))
