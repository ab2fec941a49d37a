"""Contenders that answer together, and probes that lean towards names, on made-up splits."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from easynlp.benchmarks import label_names, vote
from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.label_names import Names
from easynlp.benchmarks.prompts import prompts
from easynlp.errors import ConfigError
from easynlp.fewshot.committee import pool, pool_weights

BUDGET = Budget(lrs=(1e-3,), min_steps=2, max_steps=2, evaluations=1, max_length=16)


@pytest.mark.parametrize("module", [vote, label_names])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_weights_are_the_best_of_the_grid():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 3, 60)
    members = []
    for sure in (2.0, 1.0, 0.0):
        logits = sure * np.eye(3)[gold] + rng.normal(size=(60, 3))
        members.append(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))

    def loss(weights):
        return -np.log(pool(members, weights)[np.arange(60), gold]).mean()

    found = pool_weights(members, gold)
    for member in range(3):
        for other in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0):
            tried = found.copy()
            tried[member] = other
            assert loss(found) <= loss(tried) + 1e-9


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vote:members=tfidf-svm", "two or more"),
        ("vote:members=tfidf-svm+probe:member=x", "no option"),
        ("probe:names=nosuch@tiny-zh", "no such prompt"),
        ("probe:names=labels:placebo=shuffled-words@tiny-zh", "shuffled-names"),
        ("lp-ft:placebo=shuffled-names@tiny-zh", "with names=PROMPT"),
        ("lp-ft:name=efl@tiny-zh", 'no option "name"'),
    ],
)
def test_wrong_names_are_told(name, said):
    with pytest.raises(ConfigError, match=said):
        find(name, BUDGET)


def test_labels_that_are_words_are_their_own_names():
    labels = sorted(prompts()["csldcp"]["efl"].words)
    assert Names("labels").of("csldcp", labels) == {label: label for label in labels}
    tnews = Names("labels").of("tnews", ["100", "103"])
    assert tnews == {"100": "下面报道一条故事新闻", "103": "下面报道一条体育新闻"}
    assert Names("labels").of("bustm", ["0", "1"]) == {}
    assert Names().of("csldcp", labels) == {}


def test_names_are_part_of_what_a_cell_is_told_apart_by():
    plain = find("probe:tiny-zh", BUDGET).identity()
    named = find("probe:names=labels@tiny-zh", BUDGET).identity()
    dealt = find("probe:names=labels:placebo=shuffled-names@tiny-zh", BUDGET).identity()
    assert len({plain, named, dealt}) == 3
