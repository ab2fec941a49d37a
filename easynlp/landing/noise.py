"""Which labels are probably wrong? Confident learning on out-of-sample probabilities.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"
(JAIR 70, arXiv 1911.00068). A row given label i counts as one of label j if its probability of j is
at least the mean probability of j over the rows given j; of several such j the most probable one
(equation 1, "collisions"). These counts, made to fit the labels' own (equation 3), estimate the
joint distribution of given and true labels. Rows to look at are taken off the diagonal by "prune by
noise rate" (section 3.2): of each cell as many rows as the estimate says, those with the largest
margin first. The worst come first by normalised margin, ``p(given) - max p(other)``.

Like the package cleanlab, and unlike the paper's equation 1, rows whose given label is also the
most probable one are never named. Unlike cleanlab, which resolves a collision by the most probable
of *all* labels, only labels over their thresholds compete, as the paper has it.

Rows are told how probable each label is by models that have not seen them: cross-validated logistic
regression on character n-grams and, if there is an encoder, on its sentence vectors, their
probabilities put together as a geometric mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from easynlp.errors import MissingExtra
from easynlp.fewshot.baselines import SelfTrainedLinear, VectorClassifier, Vectors
from easynlp.fewshot.committee import vote

__all__ = ["FEWEST", "Issue", "Noise", "find_noise", "joint", "out_of_sample", "suspects"]

FEWEST = 8
"""Rows of a label below which its noise cannot be told."""
FOLDS = 5


@dataclass(frozen=True)
class Issue:
    """A row whose label is probably wrong.

    Attributes:
        row: Its number.
        given: Its label.
        likely: The label it probably has.
        margin: Normalised margin, -1 to 0: probability of the given label less that of the likely.
    """

    row: int
    given: str
    likely: str
    margin: float


@dataclass(frozen=True)
class Noise:
    """What confident learning says of a set of labels.

    Attributes:
        rate: Estimated share of wrong labels.
        accuracy: Of the out-of-sample probabilities, on the given labels: what to think of them.
        labels: Names of the labels.
        joint: Estimated shares of rows by given (rows) and true label (columns).
        issues: Suspected rows, worst first.
    """

    rate: float
    accuracy: float
    labels: Sequence[str]
    joint: Sequence[Sequence[float]]
    issues: Sequence[Issue]


def joint(given: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Estimate how given and true labels occur together.

    Args:
        given: Numbers of the labels, shape (rows,).
        chances: Out-of-sample probabilities, shape (rows, labels).

    Returns:
        Shares that sum to 1, shape (labels, labels): given by true.

    Example:
        >>> chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9]])
        >>> joint(np.array([0, 0, 0, 1, 1]), chances).round(2).tolist()
        [[0.4, 0.2], [0.0, 0.4]]
    """
    size = chances.shape[1]
    thresholds = np.array(
        [chances[given == k, k].mean() if (given == k).any() else np.inf for k in range(size)]
    )
    over = chances >= thresholds - 1e-6
    guess = np.where(over, chances, -1.0).argmax(1)
    sure = over.any(1)
    counts = np.zeros((size, size))
    np.add.at(counts, (given[sure], guess[sure]), 1)
    own = np.bincount(given, minlength=size).astype(float)
    empty = counts.sum(1) == 0
    counts[empty, empty] = 1  # nothing is known of such a label: take it as given
    scaled: np.ndarray = counts / counts.sum(1, keepdims=True) * own[:, None]
    return scaled / max(1, len(given))


def suspects(given: np.ndarray, chances: np.ndarray) -> list[tuple[int, int, float]]:
    """Return rows whose label is probably wrong: number, likely label, normalised margin.

    Args:
        given: Numbers of the labels, shape (rows,).
        chances: Out-of-sample probabilities, shape (rows, labels).

    Example:
        >>> chances = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.1, 0.9]])
        >>> [(row, likely) for row, likely, _ in suspects(np.array([0, 0, 0, 1, 1]), chances)]
        [(2, 1)]
    """
    wanted = np.rint(joint(given, chances) * len(given)).astype(int)
    found: set[int] = set()
    for i, k in zip(*np.nonzero(wanted), strict=True):
        if i == k:
            continue
        rows = np.flatnonzero(given == i)
        margins = chances[rows, k] - chances[rows, i]
        found |= set(rows[np.argsort(-margins, kind="stable")][: wanted[i, k]].tolist())
    named = []
    for row in found:
        likely = int(chances[row].argmax())
        if likely != given[row]:
            named.append((row, likely, float(chances[row, given[row]] - chances[row, likely])))
    return sorted(named, key=lambda each: (each[2], each[0]))


def out_of_sample(
    texts: Sequence[str],
    given: np.ndarray,
    make: Callable[[], SelfTrainedLinear | VectorClassifier],
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> np.ndarray:
    """Return each row's probabilities by a model that learned from the other folds.

    Args:
        texts: The rows.
        given: Numbers of their labels, each of at least `folds` rows, shape (rows,).
        make: Makes a classifier to fit.
        folds: Parts; labels are spread over them evenly.
        seed: Of the parting.

    Returns:
        Shape (rows, labels).

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    try:
        from sklearn.model_selection import StratifiedKFold
    except ImportError as error:
        raise MissingExtra("telling noisy labels", "train") from error
    found = np.zeros((len(texts), int(given.max()) + 1))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(given, given)
    for learn, judge in parts:
        model = make().fit([texts[i] for i in learn], [f"{given[i]:06d}" for i in learn])
        found[judge] = model.predict_proba([texts[i] for i in judge])
    return found


def find_noise(
    texts: Sequence[str], labels: Sequence[str], vectors: Vectors | None = None, seed: int = 0
) -> Noise | None:
    """Estimate the share of wrong labels and name the rows to look at.

    Args:
        texts: The rows; no text twice, or its other label is known to the model that judges it.
        labels: Their labels.
        vectors: Turns texts into sentence vectors, for a second opinion.
        seed: Of the parting into folds.

    Returns:
        None if a label has fewer than `FEWEST` rows: nothing can be said then.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    names = sorted(set(labels))
    given = np.array([names.index(label) for label in labels])
    if len(names) < 2 or np.bincount(given).min() < FEWEST:
        return None
    opinions = [out_of_sample(texts, given, lambda: SelfTrainedLinear(rounds=0), seed=seed)]
    if vectors is not None:
        opinions.append(out_of_sample(texts, given, lambda: VectorClassifier(vectors), seed=seed))
    chances = vote(opinions)
    shares = joint(given, chances)
    issues = [
        Issue(row, names[given[row]], names[likely], round(margin, 4))
        for row, likely, margin in suspects(given, chances)
    ]
    return Noise(
        rate=float(1 - np.trace(shares)),
        accuracy=float((chances.argmax(1) == given).mean()),
        labels=names,
        joint=[[round(float(value), 4) for value in row] for row in shares],
        issues=issues,
    )
