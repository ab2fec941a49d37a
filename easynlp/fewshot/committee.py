"""A committee labels text: several models' probabilities, made comparable and put together.

Models of different kinds err on different rows, so what they agree on is surer than what any of
them is sure of. Their probabilities cannot be multiplied as they are, though: naive Bayes is sure
of everything, a prompt without training prefers one label throughout. So each member's are first

- *aligned*: multiplied by a factor for each label and normalised, so that over the unlabelled rows
  the labels get the shares expected of them on average (the distribution alignment of Berthelot
  et al. 2020, ReMixMatch, arXiv 1911.09785, iterated until the shares hold);
- *evened out*: raised to the power that gives all members the same spread of log-probabilities
  over the unlabelled rows, so that they have an equal say. A few dozen dev rows cannot tell whom to
  trust: with 32 of them a weight fitted on dev came out as 0 for the best of three members.

With hundreds of dev rows each member may be tempered alone (`Calibration.fit`), so that who knows
more says more. The vote is the normalised geometric mean; how sure it is, is *tempered*: one power
for all, which makes the right labels of the dev rows likeliest (Guo et al. 2017, arXiv 1706.04599).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from easynlp.errors import DataError
from easynlp.metrics import softmax

__all__ = ["Calibration", "align", "label_shares", "pool", "pool_weights", "vote"]

LEAST = 1e-6
"""Predictions have six decimals: a probability of 0 is less than that."""
POWERS = np.geomspace(1 / 16, 8, 43)
"""Exponents to choose among; 1 is one of them."""


@dataclass(frozen=True)
class Calibration:
    """How one member's probabilities become comparable.

    Attributes:
        factors: Of each label, shape (labels,).
        power: The exponent.

    Example:
        >>> pool = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> found = Calibration.even(pool, np.array([0.5, 0.5]))
        >>> found.apply(pool).argmax(1).tolist()
        [0, 0, 1, 1]
    """

    factors: np.ndarray
    power: float

    @classmethod
    def even(cls, pool: np.ndarray, shares: np.ndarray | None) -> Calibration:
        """Align a member and even out its spread.

        Args:
            pool: Its probabilities of the unlabelled rows, shape (rows, labels).
            shares: Expected shares of the labels, shape (labels,); None leaves them alone.
        """
        factors = np.ones(pool.shape[1]) if shares is None else align(pool, shares)
        logs = np.log(np.maximum(pool, LEAST)) + np.log(factors)
        return cls(factors, 1 / max(float(logs.std(1).mean()), LEAST))

    @classmethod
    def fit(
        cls, pool: np.ndarray, shares: np.ndarray | None, dev: np.ndarray, gold: np.ndarray
    ) -> Calibration:
        """Align a member and temper it alone, where there are dev rows enough to weigh it by.

        A member that knows nothing ends near equal chances and has no say.

        Args:
            pool: See `even`.
            shares: See `even`.
            dev: See `temper`.
            gold: See `temper`.

        Raises:
            DataError: If there are no dev rows.
        """
        factors = np.ones(pool.shape[1]) if shares is None else align(pool, shares)
        told = np.maximum(dev, LEAST) * factors if len(dev) else dev
        return cls(factors, cls.temper(told, gold).power)

    @classmethod
    def temper(cls, dev: np.ndarray, gold: np.ndarray) -> Calibration:
        """Make what is said of labelled rows as sure as it is right.

        Args:
            dev: Probabilities of labelled rows that were not learned from, shape (rows, labels).
            gold: The numbers of their labels.

        Raises:
            DataError: If there are no such rows.
        """
        if not len(dev):
            raise DataError("a committee needs labelled dev rows to tell how sure it may be")
        logs = np.log(np.maximum(dev, LEAST))
        losses = []
        for power in POWERS:
            scaled = power * logs
            scaled = scaled - scaled.max(1, keepdims=True)
            normal = np.log(np.exp(scaled).sum(1))
            losses.append(float((normal - scaled[np.arange(len(gold)), gold]).mean()))
        return cls(np.ones(dev.shape[1]), float(POWERS[int(np.argmin(losses))]))

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return comparable probabilities, shape (rows, labels)."""
        logs = self.power * (np.log(np.maximum(scores, LEAST)) + np.log(self.factors))
        return softmax(logs)


def align(scores: np.ndarray, shares: np.ndarray, iterations: int = 100) -> np.ndarray:
    """Return a factor for each label so that the labels' mean probabilities are their shares.

    Args:
        scores: Probabilities, shape (rows, labels).
        shares: What the means are to be, shape (labels,).
        iterations: Most rounds.

    Example:
        >>> scores = np.array([[0.9, 0.1], [0.7, 0.3]])
        >>> found = scores * align(scores, np.array([0.5, 0.5]))
        >>> (found / found.sum(1, keepdims=True)).mean(0).round(3).tolist()
        [0.5, 0.5]
    """
    solid = np.maximum(scores, LEAST)
    factors = np.ones(scores.shape[1])
    for _ in range(iterations):
        scaled = solid * factors
        means = (scaled / scaled.sum(1, keepdims=True)).mean(0)
        factors *= shares / np.maximum(means, LEAST)
        factors /= factors.sum()
        if np.abs(means - shares).max() < 1e-4:
            break
    return factors


def label_shares(labels: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Return what to believe of the labels' shares: halfway from those of rows to equal ones.

    A few dozen rows tell shares to ten points at best, and to align to wrong ones costs as much as
    it gains.

    Example:
        >>> label_shares(["好", "好", "好", "差"], ["好", "差"]).tolist()
        [0.625, 0.375]
    """
    counts = np.array([sum(each == name for each in labels) for name in names], np.float64)
    mixed = counts / max(1, len(labels)) + 1 / len(names)
    found: np.ndarray = mixed / mixed.sum()
    return found


def vote(members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the normalised geometric mean of members' probabilities, each (rows, labels).

    Example:
        >>> vote([np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])]).round(2).tolist()
        [[0.75, 0.25]]
    """
    return pool(members, np.full(len(members), 1 / len(members)))


def pool_weights(members: Sequence[np.ndarray], gold: np.ndarray, sweeps: int = 4) -> np.ndarray:
    """Return the exponents with which members' product makes the right labels likeliest.

    The weights of a logarithmic opinion pool (Genest & Zidek 1986), found one at a time in turn
    (the loss is convex in them). A member whose errors another shares gets little or nothing.

    Args:
        members: Probabilities of labelled rows they did not learn from, each (rows, labels).
        gold: The numbers of the rows' labels.
        sweeps: Turns.

    Example:
        >>> knows = np.array([[0.8, 0.2], [0.8, 0.2], [0.3, 0.7]])
        >>> guesses = np.array([[0.1, 0.9], [0.9, 0.1], [0.9, 0.1]])
        >>> found = pool_weights([knows, guesses], np.array([0, 0, 1]))
        >>> bool(found[0] > 1), float(found[1])
        (True, 0.0)
    """
    logs = [np.log(np.maximum(each, LEAST)) for each in members]
    weights = np.ones(len(members))
    rows = np.arange(len(gold))
    choices = np.concatenate([[0.0], POWERS])

    def loss(tried: np.ndarray) -> float:
        total = sum(w * each for w, each in zip(tried, logs, strict=True))
        total = total - total.max(1, keepdims=True)
        return float((np.log(np.exp(total).sum(1)) - total[rows, gold]).mean())

    for _ in range(sweeps):
        for member in range(len(members)):
            tried = np.repeat(weights[None], len(choices), 0)
            tried[:, member] = choices
            weights = tried[int(np.argmin([loss(each) for each in tried]))]
    return weights


def pool(members: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return the normalised product of members' probabilities, each to the power of its weight.

    Example:
        >>> found = pool([np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])], np.array([1, 1]))
        >>> found.round(6).tolist()
        [[0.9, 0.1]]
    """
    logs = [w * np.log(np.maximum(each, LEAST)) for w, each in zip(weights, members, strict=True)]
    return softmax(np.sum(logs, axis=0))
