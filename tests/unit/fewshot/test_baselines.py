"""Baselines against scikit-learn by hand, and on data where unlabelled text decides."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest

from easynlp.errors import ConfigError, DataError
from easynlp.fewshot import baselines, pseudo_labels
from easynlp.fewshot.baselines import NaiveBayesEM, SelfTrainedLinear, VectorClassifier
from easynlp.fewshot.pseudo_labels import choose_confident, shuffle_labels
from tests.conftest import REVIEWS

TEXTS, LABELS = [list(column) for column in zip(*REVIEWS, strict=True)]


def two_dialects(rows: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of two labels whose letters overlap a little: 甲 uses a-l, 乙 uses i-t."""
    rng = np.random.default_rng(seed)
    labels = ["甲", "乙"] * (rows // 2)
    alphabets = {"甲": list("abcdefghijkl"), "乙": list("ijklmnopqrst")}
    return ["".join(rng.choice(alphabets[label], 6)) for label in labels], labels


@pytest.mark.parametrize("module", [baselines, pseudo_labels])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_without_unlabelled_text_naive_bayes_is_scikit_learns():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB

    counter = CountVectorizer(analyzer="char", ngram_range=(1, 2), binary=True)
    reference = MultinomialNB(alpha=0.5, class_prior=[0.5, 0.5])
    reference.fit(counter.fit_transform(TEXTS), LABELS)
    ours = NaiveBayesEM(smoothing=0.5).fit(TEXTS, LABELS)
    texts = ["房间脏", "热情优美", "再来"]
    expected = reference.predict_proba(counter.transform(texts))
    np.testing.assert_allclose(ours.predict_proba(texts), expected, rtol=1e-9)
    assert ours.classes_ == list(reference.classes_)


def test_em_never_lowers_what_it_maximises():
    texts, labels = two_dialects(8, 0)
    pool, _ = two_dialects(60, 1)

    def objective(iterations: int) -> float:
        """Penalised log likelihood: labelled jointly, unlabelled marginally with weight."""
        model = NaiveBayesEM(iterations=iterations, weight=0.3, rarest=1, smoothing=0.2)
        model.fit(texts, labels, pool)
        joint = lambda rows: model._counter.transform(rows) @ model._log_words + model._log_prior  # noqa: E731
        own = joint(texts)[np.arange(8), [model.classes_.index(label) for label in labels]].sum()
        other = np.logaddexp.reduce(joint(pool), axis=1).sum()
        penalty = 0.2 * (model._log_words.sum() + model._log_prior.sum())
        return float(own + 0.3 * other + penalty)

    values = [objective(i) for i in range(6)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))
    assert values[-1] > values[0]


@pytest.mark.parametrize("kind", [NaiveBayesEM, SelfTrainedLinear])
def test_unlabelled_text_helps_where_labels_do_not_reach(kind):
    texts, labels = two_dialects(4, 5)
    pool, _ = two_dialects(400, 1)
    test, gold = two_dialects(200, 2)
    right = [
        np.mean([a == b for a, b in zip(kind().fit(texts, labels, more).predict(test), gold,
                                        strict=True)])
        for more in ([], pool)
    ]  # fmt: skip
    assert right[1] > right[0]
    assert right[1] > 0.9


def test_neighbours_and_centroids_by_hand():
    points = {"a": [1.0, 0.0], "b": [0.9, 0.1], "c": [0.0, 1.0], "x": [0.8, 0.2], "y": [0.1, 0.9]}
    vectors = lambda texts: np.array([points[t] for t in texts])  # noqa: E731
    for kind in ("knn", "centroid", "logistic"):
        model = VectorClassifier(vectors, kind=kind, neighbours=1, strength=1.0)
        model.fit(["a", "b", "c"], ["1", "1", "2"])
        assert model.predict(["x", "y"]) == ["1", "2"]
        np.testing.assert_allclose(model.predict_proba(["x", "y"]).sum(1), 1.0)
    three = VectorClassifier(vectors, kind="knn", neighbours=3).fit(["a", "b", "c"], list("112"))
    assert three.predict(["y"]) == ["1"]  # two votes beat one, however near


def test_what_cannot_be_learned_is_said():
    with pytest.raises(DataError, match="two labels or more"):
        NaiveBayesEM().fit(["一", "二"], ["甲", "甲"])
    with pytest.raises(DataError, match="2 texts, but 1 labels"):
        SelfTrainedLinear().fit(["一", "二"], ["甲"])
    with pytest.raises(ConfigError, match="unknown kind"):
        VectorClassifier(lambda texts: np.zeros((1, 1)), kind="tree")
    with pytest.raises(ConfigError, match="weight 2"):
        NaiveBayesEM(weight=2)
    with pytest.raises(ConfigError, match="quota 0"):
        choose_confident(np.ones((2, 2)) / 2, quota=0)


def test_kept_rows_hold_to_quota_threshold_and_balance():
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = rng.normal(size=(50, 3)) * 2 + [1.5, 0, 0]
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        kept = choose_confident(scores, quota=4, confidence=0.6)
        assert (scores[kept.rows].max(1) >= 0.6).all()
        assert (scores[kept.rows].argmax(1) == kept.labels).all()
        counts = np.bincount(kept.labels, minlength=3)
        np.testing.assert_array_equal(counts, np.minimum(kept.confident, 4))
        left = np.setdiff1d(np.flatnonzero(scores.max(1) >= 0.6), kept.rows)
        for row in left:  # what was left out is no surer than what was kept of its label
            mine = kept.rows[kept.labels == scores[row].argmax()]
            assert scores[row].max() <= scores[mine].max(1).min()
        free = choose_confident(scores, quota=4, balance=False)
        assert len(free.rows) == 12
        shuffled = shuffle_labels(kept, seed=3)
        np.testing.assert_array_equal(np.bincount(shuffled.labels, minlength=3), counts)
