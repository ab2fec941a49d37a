from __future__ import annotations

import numpy as np
import pytest

from easynlp.calibration import (
    Calibration,
    _chance,
    calibration_error,
    choose_threshold,
    fit_temperature,
    lower_bound,
    negative_log_likelihood,
    withhold,
)
from easynlp.errors import ConfigError


def drawn(temperature, rows=4000, labels=5, seed=0):
    """Return logits that are too sharp by a known factor, and labels drawn from the true ones."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=(rows, labels)) * 2
    probs = np.exp(true) / np.exp(true).sum(-1, keepdims=True)
    targets = np.array([rng.choice(labels, p=p) for p in probs])
    return true * temperature, targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_logits_is_found(temperature):
    logits, targets = drawn(temperature)
    found = fit_temperature(logits, targets)
    assert found == pytest.approx(temperature, rel=0.06)
    best = negative_log_likelihood(logits / found, targets)
    for other in (0.8 * found, 0.98 * found, 1.02 * found, 1.25 * found):
        assert negative_log_likelihood(logits / other, targets) > best
    np.testing.assert_array_equal((logits / found).argmax(-1), logits.argmax(-1))


def test_calibration_lowers_the_error_and_agrees_with_scipy():
    from scipy.optimize import minimize_scalar

    logits, targets = drawn(3.0, seed=3)

    def error(logits):
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        return calibration_error(probs.max(-1), probs.argmax(-1) == targets)

    found = fit_temperature(logits, targets)
    assert error(logits) > 0.15
    assert error(logits / found) < 0.03
    peer = minimize_scalar(
        lambda t: negative_log_likelihood(logits / t, targets), bounds=(0.05, 20), method="bounded"
    ).x
    assert found == pytest.approx(peer, abs=1e-3)


def test_where_every_row_is_right_nothing_is_changed():
    logits = np.eye(3).repeat(5, 0)
    assert fit_temperature(logits, logits.argmax(-1)) == 1.0
    assert fit_temperature(-logits[:, :2], np.zeros(15, int)) > 1.0


def test_bounds_agree_with_scipy():
    from scipy.stats import beta, binom

    for right, of in ((90, 90), (88, 100), (3, 7), (0, 5), (999, 1000)):
        expected = beta.ppf(0.01, right, of - right + 1) if right else 0.0
        assert lower_bound(right, of) == pytest.approx(expected, abs=1e-6)
        assert _chance(of, right, 0.9) == pytest.approx(binom.sf(right - 1, of, 0.9), abs=1e-9)


def test_few_rows_prove_little():
    scores = np.linspace(0.9, 1, 89)
    assert choose_threshold(scores, np.ones(89, bool), 0.95) is None
    more = choose_threshold(np.append(scores, 1.0), np.ones(90, bool), 0.95)
    assert more is not None
    assert (more.threshold, more.accepted, more.coverage) == (0.9, 90, 1.0)
    with pytest.raises(ConfigError, match="above 0, below 1"):
        choose_threshold(scores, np.ones(89, bool), 1.0)


def test_the_threshold_is_the_smallest_that_does():
    rng = np.random.default_rng(1)
    scores = np.round(rng.random(600), 3)
    right = rng.random(600) < 0.5 + scores / 2
    found = choose_threshold(scores, right, 0.85)
    assert found is not None
    rows = scores >= found.threshold
    assert (found.accepted, found.right) == (rows.sum(), right[rows].sum())
    assert found.measured > found.lower >= 0.85
    for lower in np.unique(scores[scores < found.threshold]):
        rows = scores >= lower
        assert lower_bound(int(right[rows].sum()), int(rows.sum())) < 0.85


def test_the_promise_is_kept_even_by_scores_that_mean_nothing():
    """Of all rows 90 % are right whatever the score; 90.01 % must seldom be found."""
    rng = np.random.default_rng(0)
    found = [
        choose_threshold(np.round(rng.random(200), 3), rng.random(200) < 0.9, 0.9001)
        for _ in range(150)
    ]
    assert sum(each is not None for each in found) / len(found) < 0.1


def test_only_the_label_is_withheld():
    said = {"label": "好", "score": 0.7, "scores": {"好": 0.7, "坏": 0.3}}
    assert withhold(said, 0.7) == withhold(said, None) == said
    assert withhold(said, 0.71) == {**said, "label": None}
    assert said["label"] == "好"


def test_a_calibration_comes_back_from_json():
    made = Calibration(1.5, 10, 0.9, 0.5, 0.4, 0.1, 0.05, None)
    assert Calibration.from_dict(made.as_dict()) == made
    assert Calibration.from_dict(None) is None
    with pytest.raises(ValueError, match="temperature 0"):
        Calibration.from_dict({**made.as_dict(), "temperature": 0.0})
