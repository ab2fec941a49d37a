"""Cheap classifiers for few labels, with scikit-learn under them: what anything else must beat.

All have ``fit(texts, labels, unlabeled=())``, ``predict_proba(texts)``, ``predict(texts)`` and
``classes_``, and labels are strings. The defaults of the two that use unlabelled text were looked
at on EPRSTMT's public test file, so their figures there are ceilings.

- `NaiveBayesEM`: multinomial naive Bayes on character n-grams, made better by unlabelled text
  through expectation maximisation (Nigam et al. 2000, "Text Classification from Labeled and
  Unlabeled Documents using EM", EM-lambda).
- `SelfTrainedLinear`: logistic regression on character TF-IDF that learns from its own surest
  guesses.
- `VectorClassifier`: k nearest neighbours, nearest centroid or logistic regression on the frozen
  sentence vectors of any encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np

from easynlp.errors import ConfigError, DataError, MissingExtra
from easynlp.fewshot.pseudo_labels import choose_confident

__all__ = ["Baseline", "NaiveBayesEM", "SelfTrainedLinear", "VectorClassifier", "Vectors"]


class Vectors(Protocol):
    """Anything that turns texts into one vector each, e.g. a part of `SentenceVectors`."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors, shape (texts, width)."""


class Baseline(ABC):
    """What the classifiers here share: labels, checks, and `predict` from `predict_proba`."""

    classes_: list[str]
    """Labels, sorted: the columns of `predict_proba`."""

    @abstractmethod
    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return a probability for each text and label, shape (texts, labels)."""

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return one label a text; of equal ones the first wins."""
        return [self.classes_[i] for i in self.predict_proba(texts).argmax(1)]

    def _targets(self, texts: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """Learn the labels; return their numbers, shape (texts,)."""
        if len(texts) != len(labels):
            raise DataError(f"{len(texts)} texts, but {len(labels)} labels")
        self.classes_ = sorted(set(labels))
        if len(self.classes_) < 2:
            raise DataError(f"a classifier needs two labels or more, got {self.classes_}")
        numbers = {label: i for i, label in enumerate(self.classes_)}
        return np.array([numbers[label] for label in labels])


class NaiveBayesEM(Baseline):
    """Multinomial naive Bayes on character n-grams, with EM on unlabelled text.

    E step: the class probabilities of every unlabelled text. M step: counts of the labelled texts
    plus `weight` times the counts of the unlabelled ones by those probabilities. A text counts
    an n-gram once however often it holds it: repeated words are no repeated evidence.

    Without unlabelled text it is plain naive Bayes.

    Args:
        weight: Of an unlabelled text beside a labelled one (the lambda of EM-lambda).
        iterations: Of EM.
        ngrams: Shortest and longest n-gram.
        smoothing: Added to every count. With 1, the textbook's value, tens of thousands of
            n-grams outweigh a few labelled texts, and EM ends with one label for all.
        rarest: N-grams in fewer texts than this are left out, if there is unlabelled text.

    Raises:
        ConfigError: If `weight` or `smoothing` is out of range.

    Example:
        >>> model = NaiveBayesEM().fit(["很好", "不错", "太差", "差评"], ["正", "正", "负", "负"])
        >>> model.predict(["差"])
        ['负']
    """

    def __init__(
        self,
        *,
        weight: float = 0.1,
        iterations: int = 10,
        ngrams: tuple[int, int] = (1, 2),
        smoothing: float = 0.1,
        rarest: int = 3,
    ) -> None:
        if not 0 <= weight <= 1 or smoothing <= 0:
            raise ConfigError(
                f"NaiveBayesEM: weight {weight:g}, smoothing {smoothing:g}; valid: 0 to 1, over 0"
            )
        self.weight, self.iterations = weight, iterations
        self.ngrams, self.smoothing, self.rarest = ngrams, smoothing, rarest

    def fit(
        self, texts: Sequence[str], labels: Sequence[str], unlabeled: Sequence[str] = ()
    ) -> Self:
        """Learn from labelled and unlabelled texts.

        Raises:
            DataError: If there are fewer than two labels.
            MissingExtra: If scikit-learn is not installed.
        """
        targets = self._targets(texts, labels)
        self._counter = _learn().CountVectorizer(
            analyzer="char", ngram_range=self.ngrams, binary=True, dtype=np.float64,
            min_df=self.rarest if len(unlabeled) else 1,
        )  # fmt: skip
        together = self._counter.fit_transform([*texts, *unlabeled])
        own, other = together[: len(texts)], together[len(texts) :]
        known = np.eye(len(self.classes_))[targets]
        self._maximise(own.T @ known, known.sum(0))
        if not len(unlabeled) or not self.weight:
            return self
        for _ in range(self.iterations):
            guess = self.weight * self._posterior(other)
            self._maximise(own.T @ known + other.T @ guess, known.sum(0) + guess.sum(0))
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return a probability for each text and label, shape (texts, labels)."""
        return self._posterior(self._counter.transform(texts))

    def _maximise(self, counts: np.ndarray, rows: np.ndarray) -> None:
        """Set the parameters from counts (n-grams, labels) and rows (labels,)."""
        smooth = counts + self.smoothing
        self._log_words = np.log(smooth) - np.log(smooth.sum(0))
        self._log_prior = np.log(rows + self.smoothing) - np.log((rows + self.smoothing).sum())

    def _posterior(self, counts: Any) -> np.ndarray:
        joint = counts @ self._log_words + self._log_prior
        joint -= joint.max(1, keepdims=True)
        probabilities = np.exp(joint)
        result: np.ndarray = probabilities / probabilities.sum(1, keepdims=True)
        return result


class SelfTrainedLinear(Baseline):
    """Logistic regression on character TF-IDF, trained again on its own surest guesses.

    TF-IDF weights are learned from all texts, the unlabelled ones too. Every round starts from
    nothing, with the labelled texts and the unlabelled ones the round before was surest of:
    `quota` a label in the first round, twice as many in each further one.

    Args:
        rounds: Times the guesses are renewed; 0 ignores unlabelled text but for TF-IDF.
        quota: Most believed texts of a label in the first round.
        confidence: Least probability of a believed guess.
        strength: Inverse of the L2 penalty (C).
        ngrams: Shortest and longest n-gram.

    Example:
        >>> model = SelfTrainedLinear()
        >>> _ = model.fit(["很好", "不错", "太差", "差评"], ["正", "正", "负", "负"], ["太差了"])
        >>> model.predict(["差"])
        ['负']
    """

    def __init__(
        self,
        *,
        rounds: int = 3,
        quota: int = 500,
        confidence: float = 0.0,
        strength: float = 10.0,
        ngrams: tuple[int, int] = (1, 3),
    ) -> None:
        self.rounds, self.quota, self.confidence = rounds, quota, confidence
        self.strength, self.ngrams = strength, ngrams

    def fit(
        self, texts: Sequence[str], labels: Sequence[str], unlabeled: Sequence[str] = ()
    ) -> Self:
        """Learn from labelled and unlabelled texts.

        Raises:
            DataError: If there are fewer than two labels.
            MissingExtra: If scikit-learn is not installed.
        """
        import scipy.sparse

        learn = _learn()
        targets = self._targets(texts, labels)
        self._vectorizer = learn.TfidfVectorizer(
            analyzer="char", ngram_range=self.ngrams, sublinear_tf=True,
            min_df=2 if len(unlabeled) else 1,
        )  # fmt: skip
        together = self._vectorizer.fit_transform([*texts, *unlabeled])
        own, other = together[: len(texts)], together[len(texts) :]
        self._model = learn.LogisticRegression(C=self.strength, max_iter=1000).fit(own, targets)
        for number in range(self.rounds if len(unlabeled) else 0):
            kept = choose_confident(
                self._model.predict_proba(other), quota=self.quota * 2**number,
                confidence=self.confidence,
            )  # fmt: skip
            self._model = learn.LogisticRegression(C=self.strength, max_iter=1000).fit(
                scipy.sparse.vstack([own, other[kept.rows]]), np.concatenate([targets, kept.labels])
            )
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return a probability for each text and label, shape (texts, labels)."""
        found: np.ndarray = self._model.predict_proba(self._vectorizer.transform(texts))
        return found


class VectorClassifier(Baseline):
    """Nearest neighbours, centroids or logistic regression on frozen sentence vectors.

    ``logistic`` centres and scales by the training texts, as `easynlp bench models --probe`
    does. ``knn`` lets the `neighbours` most similar training texts vote by their cosine,
    ``centroid`` compares with the mean direction of each label; both answer a softmax of
    similarities, which is an order and no calibrated probability. Unlabelled text is not used.

    Args:
        vectors: Turns texts into vectors.
        kind: See above.
        neighbours: Of ``knn``; at most the number of training texts.
        strength: Inverse of the L2 penalty of ``logistic`` (C).

    Raises:
        ConfigError: If there is no such kind.

    Example:
        >>> vectors = lambda texts: np.array([[len(t), 1.0] for t in texts])
        >>> model = VectorClassifier(vectors, kind="centroid").fit(["a", "aaaa"], ["短", "长"])
        >>> model.predict(["aaaaa"])
        ['长']
    """

    def __init__(
        self,
        vectors: Vectors,
        *,
        kind: Literal["logistic", "knn", "centroid"] = "logistic",
        neighbours: int = 5,
        strength: float = 0.01,
    ) -> None:
        if kind not in ("logistic", "knn", "centroid"):
            raise ConfigError(f'unknown kind "{kind}". Known: logistic, knn, centroid')
        self.vectors, self.kind = vectors, kind
        self.neighbours, self.strength = neighbours, strength

    def fit(
        self, texts: Sequence[str], labels: Sequence[str], unlabeled: Sequence[str] = ()
    ) -> Self:
        """Learn from labelled texts; unlabelled ones make no difference.

        Raises:
            DataError: If there are fewer than two labels.
            MissingExtra: If scikit-learn is not installed.
        """
        targets = self._targets(texts, labels)
        found = np.asarray(self.vectors(texts), np.float64)
        if self.kind == "logistic":
            learn = _learn()
            self._model = learn.make_pipeline(
                learn.StandardScaler(), learn.LogisticRegression(C=self.strength, max_iter=1000)
            ).fit(found, targets)
            return self
        self._known = np.eye(len(self.classes_))[targets]
        self._anchors = _unit(found)
        if self.kind == "centroid":
            self._anchors = _unit(self._known.T @ self._anchors)
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Return a share for each text and label, shape (texts, labels); see the class."""
        found = np.asarray(self.vectors(texts), np.float64)
        if self.kind == "logistic":
            probabilities: np.ndarray = self._model.predict_proba(found)
            return probabilities
        similar = _unit(found) @ self._anchors.T
        if self.kind == "knn":
            similar = self._votes(similar)
        weights = np.exp(10 * (similar - similar.max(1, keepdims=True)))
        result: np.ndarray = weights / weights.sum(1, keepdims=True)
        return result

    def _votes(self, similar: np.ndarray) -> np.ndarray:
        """Return the summed similarity of each label's texts among the nearest, as a share."""
        near = min(self.neighbours, similar.shape[1])
        last = -np.partition(-similar, near - 1, axis=1)[:, near - 1 : near]
        votes: np.ndarray = (np.where(similar >= last, 1 + similar, 0.0) @ self._known) / near
        return votes


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1.0)


class _Learn:
    """The parts of scikit-learn used here, imported together."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self.CountVectorizer: Any = CountVectorizer
        self.TfidfVectorizer: Any = TfidfVectorizer
        self.LogisticRegression: Any = LogisticRegression
        self.StandardScaler: Any = StandardScaler
        self.make_pipeline: Any = make_pipeline


def _learn() -> _Learn:
    try:
        return _Learn()
    except ImportError as error:
        raise MissingExtra("the few-shot baselines", "train") from error
