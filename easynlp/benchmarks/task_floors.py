"""Floors of FewCLUE's tasks: cheap classifiers a model must beat, by what the rows look like.

Text floors (`easynlp.benchmarks.floors`) see the words; those here see how two texts overlap
(`Overlap`), whether keywords stand in an abstract (`KeywordRule`, `KeywordFeatures`), where a
noun and a pronoun stand (`Positions`). All regressions are scikit-learn's logistic regression
with C = 1 on standardised features. Nothing is tuned: features were fixed as first written
down, not for their scores.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from easynlp.benchmarks.encodings import joined
from easynlp.benchmarks.floors import LinearFloor, MajorityFloor, text_vectorizer
from easynlp.errors import MissingExtra
from easynlp.fewshot.baselines import NaiveBayesEM, SelfTrainedLinear
from easynlp.tasks.base import Example, Prediction
from easynlp.tasks.labels import label_of

__all__ = [
    "Chance",
    "ExampleFloor",
    "KeywordRule",
    "Regression",
    "TextFloor",
    "chance",
    "complement_nb",
    "hypothesis_only",
    "keyword_features",
    "keyword_regression",
    "keyword_rule",
    "lsa",
    "majority",
    "nb_em",
    "overlap",
    "overlap_regression",
    "position_features",
    "position_regression",
    "right",
    "right_of_floor",
    "self_trained",
    "tfidf_svm",
]  # fmt: skip

PAUSES, STOPS = "，。；：！？、,.;:!?", "。！？!?"


class ExampleFloor(Protocol):
    """A classifier of examples without pre-training.

    Attributes:
        parameters: Numbers it learned.
    """

    parameters: int

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn from labelled examples, and from unlabelled ones if it wants any."""

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return a prediction with ``label`` and ``scores`` for each example."""


class Chance:
    """Draws a label, all being equally likely; other draws for other seeds and training rows.

    Example:
        >>> floor = Chance()
        >>> floor.fit([{"label": "1"}, {"label": "0"}], (), 13)
        >>> {each["label"] for each in floor.predict([{}] * 50)} == {"0", "1"}
        True
    """

    parameters = 0

    def __init__(self) -> None:
        self._labels: list[str] = []
        self._random = np.random.default_rng(0)

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Note the labels."""
        self._labels = sorted({str(each["label"]) for each in examples})
        rows = zlib.crc32(repr([sorted(each.items()) for each in examples]).encode())
        self._random = np.random.default_rng([seed, rows])

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return random scores; the highest is the label."""
        scores = self._random.random((len(examples), len(self._labels)))
        return _predictions(self._labels, scores)


class TextFloor:
    """A text floor on the examples' texts, both of a pair on two lines."""

    def __init__(
        self, floor: MajorityFloor | LinearFloor, view: Callable[[Example], str] = joined
    ) -> None:
        self._floor, self._view = floor, view
        self.parameters = 0

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn from the texts."""
        labels = [str(each["label"]) for each in examples]
        self._floor.fit([self._view(each) for each in examples], labels)
        self.parameters = getattr(self._floor, "parameters", 0)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return labels; a label's score is the margin, or 1 for the given one."""
        texts = [self._view(each) for each in examples]
        if isinstance(self._floor, LinearFloor):
            return _predictions(self._floor.labels, self._floor.margins(texts))
        return [{"label": label, "scores": {label: 1.0}} for label in self._floor.predict(texts)]


class Regression:
    """Logistic regression on a few standardised features of an example.

    Args:
        features: Makes them.
    """

    def __init__(self, features: Callable[[Example], Sequence[float]]) -> None:
        self._features = features
        self._model: Any = None
        self.parameters = 0

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn from the features.

        Raises:
            MissingExtra: If scikit-learn is not installed.
        """
        self._model = _regression().fit(self._matrix(examples), [str(e["label"]) for e in examples])
        self.parameters = self._model[-1].coef_.size + self._model[-1].intercept_.size

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return labels with probabilities."""
        labels = [str(label) for label in self._model.classes_]
        return _predictions(labels, self._model.predict_proba(self._matrix(examples)))

    def _matrix(self, examples: Sequence[Example]) -> np.ndarray:
        return np.array([self._features(each) for each in examples], np.float64)


class KeywordRule:
    """Keywords are all real unless all of them stand in the abstract; learns nothing.

    Real keywords of CSL are often no phrase of the abstract, while made-up ones were drawn from
    it: an artifact of how the data was made, worth ten points over chance.

    Example:
        >>> rule = KeywordRule()
        >>> rows = [{"keywords": ("蚁群", "鱼"), "text_b": "研究蚁群"}]
        >>> rule.predict(rows)[0]["label"]
        '1'
    """

    parameters = 0

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn nothing."""

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return "0" where every keyword stands in the abstract, "1" else."""
        every = [all(word in each["text_b"] for word in each["keywords"]) for each in examples]
        labels = ["0" if all_there else "1" for all_there in every]
        return [{"label": label, "scores": {label: 1.0}} for label in labels]


class ComplementBayes:
    """TF-IDF of character 1- to 3-grams and complement naive Bayes, alpha = 1."""

    def __init__(self) -> None:
        self._vectorizer: Any = None
        self._model: Any = None
        self.parameters = 0

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn from the texts."""
        self._vectorizer = text_vectorizer()
        rows = self._vectorizer.fit_transform([joined(each) for each in examples])
        from sklearn.naive_bayes import ComplementNB

        self._model = ComplementNB().fit(rows, [str(each["label"]) for each in examples])
        self.parameters = self._model.feature_log_prob_.size

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return labels with scores."""
        rows = self._vectorizer.transform([joined(each) for each in examples])
        return _predictions([str(label) for label in self._model.classes_],
                            self._model.predict_log_proba(rows))  # fmt: skip


class PoolFloor:
    """A baseline of `easynlp.fewshot.baselines`, which learns from unlabelled texts too."""

    def __init__(self, model: NaiveBayesEM | SelfTrainedLinear) -> None:
        self._model = model
        self.parameters = 0

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn from the texts."""
        labels = [str(each["label"]) for each in examples]
        self._model.fit([joined(e) for e in examples], labels, [joined(e) for e in unlabelled])
        width = self._model.predict_proba([joined(examples[0])]).shape[1]
        parts = [part for part in vars(self._model).values() if hasattr(part, "vocabulary_")]
        self.parameters = width * sum(len(part.vocabulary_) for part in parts)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return labels with probabilities."""
        found = self._model.predict_proba([joined(each) for each in examples])
        return _predictions(self._model.classes_, found)


class LatentSemantics:
    """Logistic regression on 200 latent dimensions of TF-IDF fitted on unlabelled text too."""

    dimensions = 200

    def __init__(self) -> None:
        self._road: Any = None
        self._model: Any = None
        self.parameters = 0

    def fit(self, examples: Sequence[Example], unlabelled: Sequence[Example], seed: int) -> None:
        """Learn dimensions from all texts, and the regression from the labelled ones."""
        vectorizer = text_vectorizer(min_df=2)
        from sklearn.decomposition import TruncatedSVD
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        texts = [joined(each) for each in (*examples, *unlabelled)]
        rows = vectorizer.fit_transform(texts)
        size = min(self.dimensions, len(texts) - 1, rows.shape[1] - 1)
        projection = make_pipeline(TruncatedSVD(size, random_state=seed), Normalizer())
        projection.fit(rows)
        self._road = lambda each: projection.transform(vectorizer.transform(each))
        labelled = self._road(texts[: len(examples)])
        self._model = _regression(standardise=False)
        self._model.fit(labelled, [str(each["label"]) for each in examples])
        self.parameters = projection[0].components_.size + self._model[-1].coef_.size

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Return labels with probabilities."""
        rows = self._road([joined(each) for each in examples])
        labels = [str(label) for label in self._model.classes_]
        return _predictions(labels, self._model.predict_proba(rows))


def overlap(example: Example) -> list[float]:
    """Return how two texts overlap: of their 1-, 2- and 3-grams the Jaccard similarity, and the
    share of either text's that the other has.

    Example:
        >>> overlap({"text": "你好", "text_b": "你好啊"})[:3]
        [0.6666666666666666, 1.0, 0.6666666666666666]
    """  # noqa: D205
    first, second, found = str(example["text"]), str(example["text_b"]), []
    for n in (1, 2, 3):
        a, b = _grams(first, n), _grams(second, n)
        shared = len(a & b)
        found += [shared / max(1, len(a | b)), shared / max(1, len(a)), shared / max(1, len(b))]
    return found


def keyword_features(example: Example) -> list[float]:
    """Return what of the keywords stands in the abstract: the share of them, whether all do, how
    many there are and how many stand, and mean and least share of their characters that do.
    """  # noqa: D205
    abstract, words = str(example["text_b"]), example["keywords"]
    there = [word in abstract for word in words]
    letters = set(abstract)
    covered = [len(set(word) & letters) / len(set(word)) for word in words]
    return [
        sum(there) / len(there), float(all(there)), len(there), sum(there),
        sum(covered) / len(covered), min(covered),
    ]  # fmt: skip


def position_features(example: Example) -> list[float]:
    """Return where noun and pronoun stand: log distance, which is first, pauses and full stops
    between them, how often the noun occurs, its length.
    """  # noqa: D205
    passage, noun = str(example["passage"]), str(example["span"])
    at, other = int(example["span_at"]), int(example["pronoun_at"])
    between = passage[min(at + len(noun), other) : max(at, other)]
    return [
        math.log1p(abs(other - at)), float(at < other), sum(c in PAUSES for c in between),
        sum(c in STOPS for c in between), passage.count(noun), len(noun),
    ]  # fmt: skip


def right_of_floor(
    floor: ExampleFloor, train: Sequence[Example], unlabelled: Sequence[Example],
    test: Sequence[Example], seed: int,
) -> np.ndarray:  # fmt: skip
    """Return which test rows a floor answers rightly once it has learned, (rows,) of 0 and 1."""
    floor.fit(train, unlabelled, seed)
    return right([each["label"] for each in floor.predict(test)], test)


def right(said: Sequence[str], test: Sequence[Example]) -> np.ndarray:
    """Return which answers are the labels of their rows, (rows,) of 0 and 1.

    Example:
        >>> right(["1", "0"], [{"label": "1"}, {"label": "1"}]).tolist()
        [1.0, 0.0]
    """
    gold = [label_of(each["label"]) for each in test]
    return np.array([a == b for a, b in zip(said, gold, strict=True)], np.float64)


def chance() -> ExampleFloor:
    """Return the floor that draws labels."""
    return Chance()


def majority() -> ExampleFloor:
    """Return the floor that answers the most frequent label of the training rows."""
    return TextFloor(MajorityFloor())


def tfidf_svm() -> ExampleFloor:
    """Return TF-IDF and a linear SVM."""
    return TextFloor(LinearFloor())


def complement_nb() -> ExampleFloor:
    """Return TF-IDF and complement naive Bayes."""
    return ComplementBayes()


def lsa() -> ExampleFloor:
    """Return latent semantics of unlabelled text and logistic regression."""
    return LatentSemantics()


def nb_em() -> ExampleFloor:
    """Return naive Bayes with EM on unlabelled text."""
    return PoolFloor(NaiveBayesEM())


def self_trained() -> ExampleFloor:
    """Return TF-IDF and logistic regression, trained again on their own surest guesses."""
    return PoolFloor(SelfTrainedLinear())


def overlap_regression() -> ExampleFloor:
    """Return the regression on how two texts overlap."""
    return Regression(overlap)


def hypothesis_only() -> ExampleFloor:
    """Return TF-IDF and a linear SVM that see the second text only: what needs no first one."""
    return TextFloor(LinearFloor(), lambda example: str(example["text_b"]))


def keyword_rule() -> ExampleFloor:
    """Return the rule on keywords in the abstract."""
    return KeywordRule()


def keyword_regression() -> ExampleFloor:
    """Return the regression on keywords in the abstract."""
    return Regression(keyword_features)


def position_regression() -> ExampleFloor:
    """Return the regression on where noun and pronoun stand."""
    return Regression(position_features)


def _grams(text: str, n: int) -> set[str]:
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def _predictions(labels: Sequence[str], scores: np.ndarray) -> list[Prediction]:
    """Return predictions of scores, shape (rows, labels)."""
    best = scores.argmax(axis=1)
    return [
        {"label": labels[i], "scores": dict(zip(labels, map(float, row), strict=True))}
        for i, row in zip(best, scores, strict=True)
    ]


def _regression(*, standardise: bool = True) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra("the regression of a floor", "train") from error
    return make_pipeline(*[StandardScaler()] * standardise, LogisticRegression(max_iter=1000))
