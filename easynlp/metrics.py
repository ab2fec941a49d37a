"""Scores of predictions against the truth, with numpy only, so the base install has them.

They agree with scikit-learn and nervaluate (tests compare). A class counts in a macro average
if it occurs in the truth or in the predictions; a class never predicted has an F1 of 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import numpy as np

__all__ = [
    "Span",
    "accuracy",
    "log_softmax",
    "macro_f1",
    "multi_label",
    "room_for",
    "share_interval",
    "softmax",
    "span_f1",
]

Span = tuple[int, int, str]
"""Start, end (exclusive) and type of an entity, in characters."""
Z_975 = 1.960
"""The 97.5% point of the normal distribution."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities over the last axis.

    Example:
        >>> softmax(np.log([[3.0, 1.0]])).round(2).tolist()
        [[0.75, 0.25]]
    """
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    found: np.ndarray = exps / exps.sum(-1, keepdims=True)
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis."""
    shifted = logits - logits.max(-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def accuracy(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Return the share of answers that are right; 0 of none.

    Example:
        >>> accuracy(["好", "坏"], ["好", "好"])
        0.5
    """
    _check(gold, predicted)
    right = sum(g == p for g, p in zip(gold, predicted, strict=True))
    return right / max(1, len(gold))


def share_interval(right: int, of: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share, such as accuracy on `of` test rows.

    Example:
        >>> low, high = share_interval(90, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    z2 = Z_975**2
    share = right / of
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z_975 / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return middle - half, middle + half


def room_for(points: float, rows: int) -> float:
    """Return how many points a score over some rows may drop where so many are allowed.

    At least one row's worth: of 32 rows each is 3 points, and a limit of half a point would hang on
    the luck of one. A limit of 0 stays one.

    Example:
        >>> room_for(0.5, 1000), room_for(0.5, 32), room_for(0, 32)
        (0.5, 3.125, 0)
    """
    return max(points, 100 / rows) if points and rows else points


def macro_f1(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Return the mean of the classes' F1.

    Example:
        >>> round(macro_f1(["好", "坏", "坏"], ["好", "好", "坏"]), 4)
        0.6667
    """
    return multi_label([[g] for g in gold], [[p] for p in predicted])["macro_f1"]


def multi_label(
    gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]
) -> dict[str, float]:
    """Return ``micro_f1``, ``macro_f1`` and ``exact_match`` (rows with all labels right).

    Example:
        >>> multi_label([["体育"], ["财经", "股票"]], [["体育"], ["股票"]])
        {'micro_f1': 0.8, 'macro_f1': 0.6666666666666666, 'exact_match': 0.5}
    """
    _check(gold, predicted)
    pairs = [(set(g), set(p)) for g, p in zip(gold, predicted, strict=True)]
    right, wanted, given = (
        Counter(label for row in rows for label in row)
        for rows in ([g & p for g, p in pairs], [g for g, _ in pairs], [p for _, p in pairs])
    )
    classes = wanted.keys() | given.keys()
    each = [_f1(right[c], wanted[c], given[c])[2] for c in classes]
    return {
        "micro_f1": _f1(right.total(), wanted.total(), given.total())[2],
        "macro_f1": float(np.mean(each)) if each else 0.0,
        "exact_match": sum(g == p for g, p in pairs) / max(1, len(pairs)),
    }


def span_f1(
    gold: Sequence[Collection[Span]], predicted: Sequence[Collection[Span]]
) -> dict[str, float]:
    """Return strict entity scores: start, end and type must all be right.

    Returns:
        ``precision``, ``recall`` and ``f1`` over all entities, and ``f1/TYPE`` of each type.

    Example:
        >>> span_f1([[(0, 2, "PER"), (5, 7, "LOC")]], [[(0, 2, "PER"), (5, 6, "LOC")]])
        {'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'f1/LOC': 0.0, 'f1/PER': 1.0}
    """
    _check(gold, predicted)
    pairs = [(set(g), set(p)) for g, p in zip(gold, predicted, strict=True)]
    right, wanted, given = (
        Counter(kind for row in rows for _, _, kind in row)
        for rows in ([g & p for g, p in pairs], [g for g, _ in pairs], [p for _, p in pairs])
    )
    precision, recall, f1 = _f1(right.total(), wanted.total(), given.total())
    scores = {"precision": precision, "recall": recall, "f1": f1}
    for kind in sorted(wanted.keys() | given.keys()):
        scores[f"f1/{kind}"] = _f1(right[kind], wanted[kind], given[kind])[2]
    return scores


def _f1(right: int, wanted: int, given: int) -> tuple[float, float, float]:
    """Return precision, recall and F1; 0 where undefined."""
    return right / max(1, given), right / max(1, wanted), 2 * right / max(1, wanted + given)


def _check(gold: Sequence[object], predicted: Sequence[object]) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} answers but {len(predicted)} predictions")
