"""Logistic regression on vectors, folded into the weights of a linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from easynlp.errors import MissingExtra

__all__ = ["fold", "regress"]


def fold(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights that do on raw vectors what these do on centred and scaled ones.

    Example:
        >>> w, b = fold(np.array([[2.0]]), np.array([1.0]), np.array([3.0]), np.array([4.0]))
        >>> w.tolist(), b.tolist()  # 2 * (x - 3) / 4 + 1
        ([[0.5]], [-0.5])
    """
    folded = weight / scale
    return folded, bias - folded @ mean


def regress(
    vectors: np.ndarray, targets: np.ndarray, labels: int, strength: float, *, several: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic regression on centred and scaled vectors; return it for raw ones.

    Args:
        vectors: Shape (rows, width).
        targets: Labels (rows,), or 0 and 1 for each label, (rows, labels).
        labels: How many there are.
        strength: Inverse of the L2 penalty.
        several: Whether rows may have several labels.

    Returns:
        Weights (labels, width) and bias (labels,), in float32.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtra("fitting a head by logistic regression", "train") from error
    mean, scale = vectors.mean(0, dtype=np.float64), vectors.std(0, dtype=np.float64)
    scale[scale == 0] = 1.0
    features = (vectors - mean) / scale
    weight, bias = np.zeros((labels, vectors.shape[1])), np.zeros(labels)

    def solve(answers: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[int]]:
        found = LogisticRegression(C=strength, max_iter=1000).fit(features, answers)
        return found.coef_, found.intercept_, found.classes_

    if several:
        for label in range(labels):
            if len(set(targets[:, label])) == 2:
                (weight[label],), (bias[label],), _ = solve(targets[:, label])
            else:  # all rows have it, or none
                bias[label] = 10.0 * (2 * targets[0, label] - 1)
    else:
        rows, offsets, classes = solve(targets)
        if len(classes) == 2:  # one row of weights: half for the label, half against the other
            rows, offsets = np.stack([-rows[0], rows[0]]) / 2, np.array([-1, 1]) * offsets[0] / 2
        weight[list(classes)], bias[list(classes)] = rows, offsets
    weight, bias = fold(weight, bias, mean, scale)
    return weight.astype(np.float32), bias.astype(np.float32)
