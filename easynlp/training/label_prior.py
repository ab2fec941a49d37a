"""Let a fitted head lean towards what the labels are called.

With eight rows a label, what a label is called tells about as much as its rows do. An encoder of
sentences puts 体育 near texts about sport, so the vectors of the labels' descriptions make a
classifier that needs no rows at all (zero-shot, as Yin et al. 2019, arXiv 1909.00161, by vectors in
place of entailment); its logits are added to those of the regression on the rows. Both are linear
in the vector, so the sum is one linear layer: the model gets no larger and no slower.

How much weight the names have, and how sharp the sum is, cross-validation on the training rows
decides (0 is among the weights, so names that say nothing do no harm). Dev is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from easynlp.metrics import log_softmax
from easynlp.training.regression import regress

__all__ = ["WEIGHTS", "dealt_out", "lean"]

WEIGHTS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0, 1.5)
"""Of the names' logits, in units of the spread of the rows' logits."""
SHARPNESS = np.geomspace(0.25, 16, 25)
FOLDS = 4


def lean(
    vectors: np.ndarray,
    targets: np.ndarray,
    labels: int,
    strength: float,
    names: np.ndarray,
    *,
    shuffle: int | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fit a linear layer to rows and to label names.

    Args:
        vectors: Of the training rows, shape (rows, width).
        targets: Their labels, shape (rows,).
        labels: How many labels there are.
        strength: Inverse of the L2 penalty of the regression on the rows.
        names: The vector of each label's description, shape (labels, width).
        shuffle: A placebo: the seed with which names are dealt out to other labels.

    Returns:
        Weights (labels, width) and bias (labels,), in float32, and the weight of the names.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> centres = rng.normal(size=(5, 8))
        >>> targets = np.arange(20) % 5
        >>> rows = centres[targets] + rng.normal(size=(20, 8))
        >>> weight, bias, chosen = lean(rows, targets, 5, 0.01, centres)
        >>> weight.shape, bool(chosen > 0)
        ((5, 8), True)
    """
    if shuffle is not None:
        names = names[dealt_out(labels, shuffle)]
    prior = names - names.mean(0)
    prior = prior / np.maximum(np.linalg.norm(prior, axis=1, keepdims=True), 1e-12)
    parts = [
        (_head(vectors[fit], targets[fit], labels, strength, prior), vectors[out], targets[out])
        for fit, out in _folds(targets, labels)
    ]
    if not parts:  # a row a label or so: nothing to judge a weight by
        return *regress(vectors, targets, labels, strength, several=False), 0.0
    chosen, best = (0.0, 1.0), -np.inf
    for weight in WEIGHTS:
        logits = [
            ((rows @ a.T + b + weight * (rows @ c.T + d)), gold)
            for (a, b, c, d), rows, gold in parts
        ]
        for sharpness in SHARPNESS:
            found = float(np.mean(np.concatenate(
                [log_softmax(sharpness * each)[np.arange(len(gold)), gold] for each, gold in logits]
            )))  # fmt: skip
            if found > best:
                best, chosen = found, (weight, float(sharpness))
    weight, sharpness = chosen
    a, b, c, d = _head(vectors, targets, labels, strength, prior)
    return (
        (sharpness * (a + weight * c)).astype(np.float32),
        (sharpness * (b + weight * d)).astype(np.float32),
        weight,
    )


def dealt_out(labels: int, seed: int) -> np.ndarray:
    """Return whose name each label gets in the placebo, shape (labels,): never its own.

    Example:
        >>> dealt_out(2, 0).tolist()
        [1, 0]
    """
    order = np.random.default_rng(seed).permutation(labels)
    found = np.empty(labels, np.int64)
    found[order] = np.roll(order, 1)  # one cycle through all
    return found


def _head(
    vectors: np.ndarray, targets: np.ndarray, labels: int, strength: float, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return weights and biases of the rows' and of the names' logits, both of spread 1."""
    weight, bias = regress(vectors, targets, labels, strength, several=False)
    shift = -prior @ vectors.mean(0)
    spread = _spread(vectors @ weight.T + bias)
    other = _spread(vectors @ prior.T + shift)
    return weight / spread, bias / spread, prior / other, shift / other


def _spread(logits: np.ndarray) -> float:
    return max(float(logits.std(1).mean()), 1e-12)


def _folds(targets: np.ndarray, labels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows to fit and rows to judge, each label's rows dealt out in turn."""
    turn = np.zeros(len(targets), np.int64)
    for label in range(labels):
        own = np.flatnonzero(targets == label)
        turn[own] = (np.arange(len(own)) + label) % FOLDS
    for fold in range(FOLDS):
        out = turn == fold
        if out.any() and len(set(targets[~out])) > 1:
            yield np.flatnonzero(~out), np.flatnonzero(out)
