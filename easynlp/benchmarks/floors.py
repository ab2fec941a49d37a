"""What a model must beat: the most frequent label, and a linear model on character n-grams.

On long Chinese texts with many classes a small neural model often loses to the second, so
every table of ours shows both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.errors import DataError, MissingExtra, ModelError

__all__ = ["LinearFloor", "MajorityFloor", "text_vectorizer"]


class MajorityFloor:
    """Answers the most frequent training label (the first in order among equals).

    Example:
        >>> floor = MajorityFloor()
        >>> floor.fit(["好", "很好", "差"], ["正面", "正面", "负面"])
        >>> floor.predict(["一般"])
        ['正面']
    """

    name = "majority"

    def __init__(self) -> None:
        self.label = ""

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Count the labels."""
        counts = Counter(labels)
        self.label = min(counts, key=lambda label: (-counts[label], label))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return the same label for every text."""
        return [self.label] * len(texts)


class LinearFloor:
    """TF-IDF of character 1- to 3-grams (1 + log tf) and a linear support vector machine, C = 1.

    Nothing is tuned. Needs scikit-learn.

    Example:
        >>> floor = LinearFloor()                                     # doctest: +SKIP
        >>> floor.fit(["很好", "不错", "太差", "差评"], ["正", "正", "负", "负"])  # doctest: +SKIP
        >>> floor.predict(["差"])                                     # doctest: +SKIP
        ['负']
    """

    name = "tfidf-svm"

    def __init__(self) -> None:
        self.labels: list[str] = []
        self._vectorizer: Any = None
        self._weights = np.zeros((0, 0), np.float32)
        """Shape (n-grams, rows): one row for two labels, else one a label."""
        self._bias = np.zeros(0, np.float32)

    def fit(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        """Learn from labelled texts.

        Raises:
            DataError: If there are fewer than two labels.
            MissingExtra: If scikit-learn is not installed.
        """
        if len(set(labels)) < 2:
            raise DataError(f"a classifier needs two labels or more, got {sorted(set(labels))}")
        vectorizer = text_vectorizer()
        features = vectorizer.fit_transform(texts)
        from sklearn.svm import LinearSVC

        svm = LinearSVC(C=1.0, random_state=0).fit(features, labels)
        self._vectorizer = vectorizer
        self.labels = [str(label) for label in svm.classes_]
        self._weights = np.ascontiguousarray(svm.coef_.T, np.float32)
        self._bias = svm.intercept_.astype(np.float32)

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return one label a text."""
        return [self.labels[i] for i in self.margins(texts).argmax(axis=1)]

    def margins(self, texts: Sequence[str]) -> np.ndarray:
        """Return how far each text is on each label's side, shape (texts, labels)."""
        scores: np.ndarray = self._vectorizer.transform(texts) @ self._weights + self._bias
        return np.hstack((-scores, scores)) if scores.shape[1] == 1 else scores

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self._weights.size + self._bias.size

    def save(self, path: Path) -> int:
        """Write all that prediction needs into one compressed npz file.

        Its arrays are ``grams`` (UTF-8 bytes of a JSON list), ``labels`` (the same), ``idf``,
        ``bias`` and the non-zero weights as ``index`` and ``weight``; floats are 32-bit.
        Nothing is pickled.

        Returns:
            The size of the file in bytes.
        """
        grams = sorted(self._vectorizer.vocabulary_, key=self._vectorizer.vocabulary_.get)
        flat = self._weights.ravel()
        index = np.flatnonzero(flat).astype(np.uint32)
        np.savez_compressed(
            path, grams=_pack(grams), labels=_pack(self.labels), bias=self._bias,
            idf=self._vectorizer.idf_.astype(np.float32), index=index, weight=flat[index],
        )  # fmt: skip
        return path.stat().st_size

    @classmethod
    def load(cls, path: Path) -> LinearFloor:
        """Read what `save` wrote.

        Raises:
            ModelError: If the file is not such a file.
        """
        floor = cls()
        try:
            with np.load(path, allow_pickle=False) as saved:
                grams, floor.labels = _unpack(saved["grams"]), _unpack(saved["labels"])
                floor._bias, idf = saved["bias"], saved["idf"]
                flat = np.zeros(len(grams) * len(floor._bias), np.float32)
                flat[saved["index"]] = saved["weight"]
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ModelError(f"{path} is not a saved TF-IDF + SVM floor: {error}") from error
        floor._weights = flat.reshape(len(grams), len(floor._bias))
        floor._vectorizer = text_vectorizer({gram: i for i, gram in enumerate(grams)})
        floor._vectorizer.idf_ = idf.astype(np.float64)
        return floor


def text_vectorizer(vocabulary: dict[str, int] | None = None, *, min_df: int = 1) -> Any:
    """Return TF-IDF of character 1- to 3-grams with 1 + log tf.

    Args:
        vocabulary: The grams to use, with their numbers; by default those of the texts.
        min_df: Fewest texts a gram must stand in.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtra("the TF-IDF + SVM floor", "train") from error
    return TfidfVectorizer(
        analyzer="char",
        ngram_range=(1, 3),
        sublinear_tf=True,
        vocabulary=vocabulary,
        min_df=min_df,
    )


def _pack(words: Sequence[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(list(words), ensure_ascii=False).encode(), np.uint8)


def _unpack(packed: np.ndarray) -> list[str]:
    words: list[str] = json.loads(packed.tobytes())
    return words
