"""A committee's votes: shares hold, powers are the best on dev, nobody shouts."""

import numpy as np
import pytest

from easynlp.errors import DataError
from easynlp.fewshot.committee import POWERS, Calibration, align, label_shares, vote


def draw(seed, rows=200, labels=3, sharp=1.0):
    logs = sharp * np.random.default_rng(seed).normal(size=(rows, labels))
    found = np.exp(logs)
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_aligned_labels_have_their_shares(seed):
    scores = draw(seed, sharp=3.0) * [5.0, 1.0, 0.2]
    scores /= scores.sum(1, keepdims=True)
    shares = np.random.default_rng(seed).dirichlet([4, 4, 4])
    aligned = scores * align(scores, shares)
    aligned /= aligned.sum(1, keepdims=True)
    assert aligned.mean(0) == pytest.approx(shares, abs=2e-3)
    # Between two labels the order of rows stays.
    before, after = scores[:, 0] / scores[:, 1], aligned[:, 0] / aligned[:, 1]
    assert (np.argsort(before) == np.argsort(after)).all()


@pytest.mark.parametrize("true", [0.25, 1.0, 3.0])
def test_the_power_undoes_too_much_and_too_little_sureness(true):
    rng = np.random.default_rng(0)
    honest = draw(1, rows=20_000, labels=2)
    gold = (rng.random(len(honest)) < honest[:, 1]).astype(int)
    said = honest ** (1 / true)
    said /= said.sum(1, keepdims=True)
    found = Calibration.fit(said, None, said, gold)
    assert found.power == pytest.approx(true, rel=0.15)
    assert np.abs(found.apply(said) - honest).mean() < 0.02


def test_a_member_that_knows_nothing_has_no_say():
    rng = np.random.default_rng(3)
    noise, gold = draw(2, rows=2000, labels=2, sharp=4.0), rng.integers(0, 2, 2000)
    found = Calibration.fit(noise, None, noise, gold)
    assert found.power == POWERS[0]
    knows = np.array([[0.7, 0.3]] * 2000)
    assert (vote([found.apply(noise), knows]).argmax(1) == 0).mean() > 0.95


def test_evened_members_have_an_equal_say_whoever_is_surer():
    modest = draw(6, rows=400, labels=3)
    sure = modest[:, ::-1] ** 9
    sure /= sure.sum(1, keepdims=True)
    ways = [Calibration.even(each, None) for each in (modest, sure)]
    spreads = [np.log(np.maximum(way.apply(each), 1e-6)).std(1).mean()
               for way, each in zip(ways, (modest, sure), strict=True)]  # fmt: skip
    assert spreads[0] == pytest.approx(spreads[1], rel=0.05)
    # The second says the opposite of the first: evened out, neither wins everywhere.
    voted = vote([way.apply(each) for way, each in zip(ways, (modest, sure), strict=True)])
    share = (voted.argmax(1) == modest.argmax(1)).mean()
    plain = (vote([modest, sure]).argmax(1) == modest.argmax(1)).mean()
    assert plain < share < 0.9


def test_one_vote_is_itself_and_equal_ones_agree():
    scores = draw(4)
    assert vote([scores]) == pytest.approx(scores)
    assert vote([scores, scores, scores]) == pytest.approx(scores)


def test_no_dev_row_is_no_judge():
    with pytest.raises(DataError, match="needs labelled dev rows"):
        Calibration.fit(draw(5), None, np.zeros((0, 3)), np.zeros(0, int))
    assert label_shares([], ["a", "b"]).tolist() == [0.5, 0.5]
