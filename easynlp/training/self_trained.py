"""A linear head that learns on from its surest guesses about unlabelled vectors.

Self-training of one layer: the head labels unlabelled vectors, the surest of each label are
believed, a second head is fitted to rows and believed guesses alike, and the mean of the two layers
is the answer. Vectors are read once, so it costs seconds; and the mean of two linear layers is a
linear layer, so the model gets no larger. The first head keeps half of the say because the second
one is as sure of its mistakes as of the rest.
"""

from __future__ import annotations

import numpy as np

from easynlp.metrics import softmax
from easynlp.training.regression import regress

__all__ = ["SHARE", "learn_on"]

SHARE = 0.25
"""Share of the unlabelled vectors that is believed at most, the labels together. Chosen on training
and dev rows of EPRSTMT and TNEWS; from 0.05 to 0.5 it makes little difference, at 0.8 it is
worse."""


def learn_on(
    head: tuple[np.ndarray, np.ndarray],
    vectors: np.ndarray,
    targets: np.ndarray,
    pool: np.ndarray,
    strength: float,
    *,
    shuffle: int | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return a head that has learned from its own guesses too.

    Args:
        head: Weights (labels, width) and bias (labels,).
        vectors: Of the labelled rows it was fitted to, shape (rows, width).
        targets: Their labels, shape (rows,).
        pool: Unlabelled vectors, shape (texts, width).
        strength: Inverse of the L2 penalty of the second fit.
        shuffle: A placebo: the seed with which believed labels change places.

    Returns:
        Weights and bias, in float32, and how many guesses were believed.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> centres, gold, targets = rng.normal(size=(3, 8)), np.arange(300) % 3, np.arange(6) % 3
        >>> pool = centres[gold] + rng.normal(size=(300, 8))
        >>> rows = centres[targets] + rng.normal(size=(6, 8))
        >>> head = regress(rows, targets, 3, 1.0, several=False)
        >>> weight, bias, believed = learn_on(head, rows, targets, pool, 1.0)
        >>> right = [((pool @ w.T + b).argmax(1) == gold).mean() for w, b in (head, (weight, bias))]
        >>> believed, bool(right[1] > right[0])
        (75, True)
    """
    weight, bias = head
    labels = len(weight)
    sure = softmax(pool @ weight.T.astype(np.float64) + bias)
    guess, most = sure.argmax(1), max(1, int(SHARE * len(pool) / labels))
    order = np.argsort(-sure.max(1), kind="stable")
    believed = np.concatenate([order[guess[order] == label][:most] for label in range(labels)])
    said = guess[believed]
    if shuffle is not None:
        said = np.random.default_rng(shuffle).permutation(said)
    rows, known = np.concatenate([vectors, pool[believed]]), np.concatenate([targets, said])
    other = regress(rows, known, labels, strength, several=False)
    both = ((one.astype(np.float32) + two) / 2 for one, two in zip(head, other, strict=True))
    weight, bias = both
    return weight, bias, len(believed)
