import numpy as np
import pytest

from easynlp.landing.noise import FEWEST, find_noise, joint, out_of_sample, suspects


def test_the_joint_is_what_the_papers_formulas_give_by_hand():
    # Thresholds: mean p(0) of label 0 = (.9 + .7 + .2) / 3 = .6, of label 1 (.8 + .6 + .4) / 3 = .6
    chances = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.2, 0.8], [0.4, 0.6], [0.6, 0.4]])
    given = np.array([0, 0, 0, 1, 1, 1])
    # Counted: label 0: two as 0, one as 1; label 1: two as 1, one as 0; already fits the labels.
    assert joint(given, chances) == pytest.approx(np.array([[2, 1], [1, 2]]) / 6)
    assert [(row, likely) for row, likely, _ in suspects(given, chances)] == [(2, 1), (5, 0)]


def test_a_collision_goes_to_the_most_probable_label_over_its_threshold():
    # Row 4 is over the thresholds of 1 (.4) and 2 (.3); its most probable label 0 is not (.7).
    chances = np.array(
        [[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.3, 0.4, 0.3]]
    )
    given = np.array([0, 0, 1, 2, 0])
    found = joint(given, chances)
    assert found[0] == pytest.approx(np.array([2, 1, 0]) / 5)


def test_the_joint_keeps_the_labels_shares():
    random = np.random.default_rng(3)
    for size in (2, 3, 7):
        chances = random.dirichlet(np.ones(size), 200)
        given = random.integers(0, size, 200)
        given[:size] = range(size)
        found = joint(given, chances)
        assert found.sum() == pytest.approx(1)
        assert found.sum(1) == pytest.approx(np.bincount(given, minlength=size) / 200)
        for row, likely, margin in suspects(given, chances):
            assert likely == chances[row].argmax() != given[row]
            assert margin < 0


def test_wrong_labels_are_found(tmp_path):
    pytest.importorskip("sklearn")
    random = np.random.default_rng(5)
    words = {"好": ["干净", "热情", "喜欢", "满意"], "差": ["脏乱", "冷淡", "讨厌", "失望"]}
    labels = [("好", "差")[i % 2] for i in range(120)]
    texts = ["，".join(random.choice(words[label], 3)) + f"{i}" for i, label in enumerate(labels)]
    wrong = sorted(random.choice(120, 12, replace=False).tolist())
    noisy = list(labels)
    for row in wrong:
        noisy[row] = "差" if labels[row] == "好" else "好"
    found = find_noise(texts, noisy)
    assert found.rate == pytest.approx(0.1, abs=0.03)
    named = [each.row for each in found.issues]
    assert len(set(named) & set(wrong)) >= 11
    assert len(named) <= 14
    assert all(each.likely == labels[each.row] for each in found.issues if each.row in wrong)
    assert [each.margin for each in found.issues] == sorted(each.margin for each in found.issues)
    assert find_noise(texts, noisy) == found
    again = find_noise(texts, noisy, lambda batch: np.array([[float(len(t))] for t in batch]))
    assert len({each.row for each in again.issues} & set(wrong)) >= 10


def test_rows_are_judged_by_models_that_have_not_seen_them():
    pytest.importorskip("sklearn")
    seen = []

    class Spy:
        def fit(self, texts, labels):
            self.known = set(texts)
            return self

        def predict_proba(self, texts):
            seen.extend(texts)
            assert not self.known & set(texts)
            return np.full((len(texts), 2), 0.5)

    texts = [f"t{i}" for i in range(30)]
    found = out_of_sample(texts, np.arange(30) % 2, Spy)
    assert sorted(seen) == sorted(texts)
    assert found.shape == (30, 2)


def test_too_few_rows_are_not_judged():
    texts = [f"t{i}" for i in range(2 * FEWEST - 1)]
    labels = ["好"] * FEWEST + ["差"] * (FEWEST - 1)
    assert find_noise(texts, labels) is None
