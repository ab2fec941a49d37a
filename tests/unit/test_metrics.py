"""Own scores against scikit-learn and nervaluate."""

from __future__ import annotations

import numpy as np
import pytest
from nervaluate import Evaluator
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from easynlp.metrics import accuracy, macro_f1, multi_label, span_f1

LABELS = ["体育", "财经", "房产", "教育", "科技"]
TYPES = ["人名", "地名", "机构"]


@pytest.mark.parametrize("seed", range(20))
def test_single_label_scores_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    gold = rng.choice(LABELS[: 2 + seed % 4], 40).tolist()
    predicted = rng.choice(LABELS, 40).tolist()
    assert accuracy(gold, predicted) == pytest.approx(accuracy_score(gold, predicted))
    wanted = f1_score(gold, predicted, average="macro", zero_division=0)
    assert macro_f1(gold, predicted) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(20))
def test_multi_label_scores_agree_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)

    def draw():
        return [[label for label in LABELS if rng.random() < 0.3] for _ in range(30)]

    gold, predicted = draw(), draw()
    binarizer = MultiLabelBinarizer().fit(gold + predicted)
    y, z = binarizer.transform(gold), binarizer.transform(predicted)
    found = multi_label(gold, predicted)
    assert found["micro_f1"] == pytest.approx(f1_score(y, z, average="micro", zero_division=0))
    assert found["macro_f1"] == pytest.approx(f1_score(y, z, average="macro", zero_division=0))
    assert found["exact_match"] == pytest.approx(accuracy_score(y, z))


def random_spans(rng):
    """Return disjoint spans of a text of 60 characters."""
    cuts = np.sort(rng.choice(61, 2 * rng.integers(0, 6), replace=False))
    return [(int(a), int(b), str(rng.choice(TYPES))) for a, b in cuts.reshape(-1, 2)]


def perturb(rng, spans):
    """Return some spans as they are, some with another end or type, some dropped."""
    out = []
    for start, end, kind in spans:
        draw = rng.random()
        if draw < 0.5:
            out.append((start, end, kind))
        elif draw < 0.7 and end - start > 1:
            out.append((start, end - 1, kind))
        elif draw < 0.85:
            out.append((start, end, TYPES[(TYPES.index(kind) + 1) % 3]))
    return out


@pytest.mark.parametrize("seed", range(20))
def test_span_scores_agree_with_nervaluate(seed):
    rng = np.random.default_rng(seed)
    gold = [random_spans(rng) for _ in range(25)]
    predicted = [perturb(rng, spans) for spans in gold]

    def dicts(rows):
        # nervaluate counts the end in.
        return [[{"start": s, "end": e - 1, "label": k} for s, e, k in row] for row in rows]

    oracle = Evaluator(dicts(gold), dicts(predicted), tags=TYPES, loader="dict").evaluate()
    strict = oracle["overall"]["strict"]
    found = span_f1(gold, predicted)
    assert found["precision"] == pytest.approx(strict.precision)
    assert found["recall"] == pytest.approx(strict.recall)
    assert found["f1"] == pytest.approx(strict.f1)
    for kind in TYPES:
        # Of one type, a prediction of that type where the truth has another is spurious.
        of_kind = [[[s for s in row if s[2] == kind] for row in rows] for rows in (gold, predicted)]
        right = sum(len(set(g) & set(p)) for g, p in zip(*of_kind, strict=True))
        total = sum(len(row) for rows in of_kind for row in rows)
        assert found[f"f1/{kind}"] == pytest.approx(2 * right / total)


def test_nothing_gives_zero_not_an_error():
    assert accuracy([], []) == 0.0
    assert span_f1([[]], [[]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert multi_label([[]], [[]]) == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="2 answers but 1 predictions"):
        accuracy(["好", "坏"], ["好"])
