import numpy as np
import pytest

from easynlp.benchmarks.bootstrap import Scored, difference_draws, interval_of, mean_draws


def scored(rng, chances, rows=300, seeds=3):
    return Scored({str(i): [(rng.random(rows) < p).astype(float) for _ in range(seeds)]
                   for i, p in enumerate(chances)})  # fmt: skip


def test_draws_are_centred_on_the_difference_of_means():
    rng = np.random.default_rng(1)
    a, b = scored(rng, [0.7, 0.72, 0.68, 0.71, 0.69]), scored(rng, [0.6, 0.61, 0.59, 0.6, 0.62])
    draws = difference_draws(a, b, range(300), draws=4000, seed=3)
    assert draws.mean() == pytest.approx(a.mean() - b.mean(), abs=0.003)
    found = interval_of(a.mean() - b.mean(), draws)
    assert found.low < found.mean < found.high
    assert found.better > 0.99


def test_a_contender_is_not_better_than_itself():
    a = scored(np.random.default_rng(2), [0.5, 0.9])
    assert not difference_draws(a, a, range(300), draws=300).any()


def test_with_one_split_and_seed_the_spread_is_that_of_the_rows():
    rng = np.random.default_rng(4)
    a = Scored({"0": [(rng.random(400) < 0.6).astype(float)]})
    b = Scored({"0": [np.zeros(400)]})
    draws = difference_draws(a, b, range(400), draws=5000)
    assert draws.std() == pytest.approx(np.sqrt(a.mean() * (1 - a.mean()) / 400), rel=0.05)


def test_rows_of_a_group_are_drawn_together():
    rng = np.random.default_rng(5)
    whole = np.repeat((rng.random(80) < 0.6).astype(float), 5)  # five rows, right or wrong together
    a, b = Scored({"0": [whole]}), Scored({"0": [np.zeros(400)]})
    apart = difference_draws(a, b, range(400), draws=3000).std()
    together = difference_draws(a, b, np.repeat(range(80), 5), draws=3000).std()
    assert together / apart == pytest.approx(np.sqrt(5), rel=0.08)


def test_the_spread_of_splits_counts_and_rows_are_the_same_in_all_splits():
    ones, zeros = np.ones(50), np.zeros(50)
    a = Scored({"0": [ones], "1": [zeros]})
    b = Scored({"0": [zeros], "1": [zeros]})
    draws = difference_draws(a, b, range(50), draws=4000)
    assert sorted(set(draws)) == [0.0, 0.5, 1.0]
    assert np.mean(draws == 0.5) == pytest.approx(0.5, abs=0.03)
    half = (np.arange(400) % 2).astype(float)
    many = Scored({str(i): [half] for i in range(5)})
    none = Scored({str(i): [np.zeros(400)] for i in range(5)})
    crossed = difference_draws(many, none, range(400), draws=3000).std()
    assert crossed == pytest.approx(0.5 / np.sqrt(400), rel=0.06)  # not less by the root of 5


def test_splits_both_have_are_compared_and_seeds_pair_or_not():
    a = Scored({"0": [np.ones(4)], "1": [np.ones(4)], "2": [np.ones(4)]})
    b = Scored({"0": [np.zeros(4), np.ones(4), np.ones(4)], "1": [np.ones(4)] * 3})
    draws = difference_draws(a, b, range(4), draws=500)
    assert draws.min() >= 0
    assert draws.max() <= 1


def test_means_over_tasks_are_draw_by_draw():
    found = mean_draws([np.array([0.0, 1.0]), np.array([1.0, 1.0])])
    assert found.tolist() == [0.5, 1.0]
