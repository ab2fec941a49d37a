"""A head that learns from its own guesses: what is believed, what is gained, and the placebo."""

import numpy as np
import pytest

from easynlp.training.regression import regress
from easynlp.training.self_trained import SHARE, learn_on


def drawn(seed: int):
    rng = np.random.default_rng(seed)
    centres, gold, targets = rng.normal(size=(3, 8)), np.arange(300) % 3, np.arange(6) % 3
    pool = centres[gold] + rng.normal(size=(300, 8))
    return centres[targets] + rng.normal(size=(6, 8)), targets, pool, gold


def test_guesses_help_and_shuffled_ones_do_not() -> None:
    pytest.importorskip("sklearn")
    gains = []
    for seed in range(20):
        rows, targets, pool, gold = drawn(seed)
        head = regress(rows, targets, 3, 1.0, several=False)
        first, ours, placebo = (
            ((pool @ w.T + b).argmax(1) == gold).mean()
            for w, b in (
                head,
                learn_on(head, rows, targets, pool, 1.0)[:2],
                learn_on(head, rows, targets, pool, 1.0, shuffle=seed)[:2],
            )
        )
        gains.append((ours - first, placebo - first))
    ours, placebo = np.mean(gains, axis=0)
    assert ours > 0.015
    assert placebo < 0


def test_the_surest_of_each_label_are_believed_and_half_the_say_is_the_first_heads() -> None:
    pytest.importorskip("sklearn")
    rows, targets, pool, _ = drawn(0)
    head = regress(rows, targets, 3, 1.0, several=False)
    weight, bias, believed = learn_on(head, rows, targets, pool, 1.0)
    logits = pool @ head[0].T + head[1]
    exps = np.exp(logits - logits.max(1, keepdims=True))
    sure, guess = (exps / exps.sum(1, keepdims=True)).max(1), logits.argmax(1)
    most = int(SHARE * len(pool) / 3)
    kept = np.concatenate(
        [sorted(np.flatnonzero(guess == n), key=lambda i: -sure[i])[:most] for n in range(3)]
    )
    assert believed == len(kept) == 3 * most
    other = regress(
        np.concatenate([rows, pool[kept]]), np.concatenate([targets, guess[kept]]), 3, 1.0,
        several=False,
    )  # fmt: skip
    np.testing.assert_allclose(weight, (head[0] + other[0]) / 2, atol=1e-5)
    np.testing.assert_allclose(bias, (head[1] + other[1]) / 2, atol=1e-5)


def test_a_label_that_nothing_looks_like_has_no_guesses() -> None:
    pytest.importorskip("sklearn")
    rows, targets, pool, _ = drawn(1)
    weight, bias = regress(rows, targets, 3, 1.0, several=False)
    never = bias - np.array([0, 0, 1e3], np.float32)
    found, _, believed = learn_on((weight, never), rows, targets, pool, 1.0)
    assert np.isfinite(found).all()
    assert believed <= 2 * int(SHARE * len(pool) / 3)
