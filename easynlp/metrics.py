"""Scores of predictions against the truth, with numpy only, so the base install has them.

They agree with scikit-learn and nervaluate (tests compare). A class counts in a macro average
if it occurs in the truth or in the predictions; a class never predicted has an F1 of 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence

import numpy as np

__all__ = ["Span", "accuracy", "macro_f1", "multi_label", "span_f1"]

Span = tuple[int, int, str]
"""Start, end (exclusive) and type of an entity, in characters."""


def accuracy(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Return the share of answers that are right; 0 of none.

    Example:
        >>> accuracy(["好", "坏"], ["好", "好"])
        0.5
    """
    _check(gold, predicted)
    right = sum(g == p for g, p in zip(gold, predicted, strict=True))
    return right / max(1, len(gold))


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
