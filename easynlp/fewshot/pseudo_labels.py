"""Which guesses about unlabelled rows to believe, and what a believed guess is worth.

Used by self-training of neural runs (`easynlp.fewshot.self_training`) and of linear baselines
(`easynlp.fewshot.baselines`) alike, so both are held to one rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from easynlp.errors import ConfigError

__all__ = ["Kept", "choose_confident", "shuffle_labels"]


@dataclass(frozen=True)
class Kept:
    """Rows that were believed.

    Attributes:
        rows: Numbers of the rows, rising, shape (kept,).
        labels: The label number each was given, shape (kept,).
        confident: Rows over the threshold for each label, before the quota; shape (labels,).
    """

    rows: np.ndarray
    labels: np.ndarray
    confident: np.ndarray


def choose_confident(
    scores: np.ndarray, *, quota: int, confidence: float = 0.0, balance: bool = True
) -> Kept:
    """Keep the rows whose best label is sure enough, the surest first, up to a quota.

    Args:
        scores: Probabilities, shape (rows, labels).
        quota: Most rows of each label.
        confidence: Least probability of the best label.
        balance: Whether the quota holds for each label; if not, `quota` times the number of
            labels holds for all rows together, and an easy label may crowd out the others.

    Raises:
        ConfigError: If the quota is less than 1 or the threshold no probability.

    Example:
        >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
        >>> kept = choose_confident(scores, quota=1, confidence=0.6)
        >>> kept.rows.tolist(), kept.labels.tolist(), kept.confident.tolist()
        ([0, 2], [0, 1], [2, 1])
    """
    if quota < 1 or not 0 <= confidence <= 1:
        raise ConfigError(
            f"quota {quota}, confidence {confidence:g}; valid: 1 or more rows, 0 to 1"
        )
    guesses, sureness = scores.argmax(1), scores.max(1)
    sure = np.flatnonzero(sureness >= confidence)
    sure = sure[np.argsort(-sureness[sure], kind="stable")]
    labels = scores.shape[1]
    confident = np.bincount(guesses[sure], minlength=labels)
    if balance:
        groups = [sure[guesses[sure] == label][:quota] for label in range(labels)]
        rows = np.sort(np.concatenate(groups))
    else:
        rows = np.sort(sure[: quota * labels])
    return Kept(rows, guesses[rows], confident)


def shuffle_labels(kept: Kept, seed: int) -> Kept:
    """Deal the labels of believed rows out anew by chance: a placebo of the same class counts.

    What training gains with these it would gain from any text, not from the guesses.

    Example:
        >>> kept = Kept(np.arange(6), np.array([0, 0, 0, 1, 1, 1]), np.array([3, 3]))
        >>> sorted(shuffle_labels(kept, seed=1).labels.tolist())
        [0, 0, 0, 1, 1, 1]
    """
    shuffled = np.random.default_rng((seed, 0x5EED)).permutation(kept.labels)
    return Kept(kept.rows, shuffled, kept.confident)
