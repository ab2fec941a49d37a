"""Contenders that answer together, and probes that lean towards names, on made-up splits."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from easynlp.benchmarks import label_names, vote
from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.fewclue import Split
from easynlp.benchmarks.label_names import Names
from easynlp.benchmarks.lineage import models_of
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
        ("vote:members=tfidf-svm+nb-em:weigh_from=9", "needs align=N"),
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


def made_up(tmp_path, task="eprstmt", pool=()):
    """A split on which the SVM and naive Bayes learn the same two words."""
    rows = [("房间很干净", "Positive"), ("态度太差", "Negative")] * 4
    for name in ("train", "dev"):
        lines = (f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    files = (tmp_path / f"{name}.jsonl" for name in ("train", "dev", "no"))
    return Split(task, "0", *files, unlabelled=tuple({"text": text} for text in pool))


def test_of_a_seat_the_first_that_is_made_for_the_task_takes_part(tmp_path):
    pytest.importorskip("sklearn")
    found = find("vote:members=tfidf-cnb+nb-em|tfidf-svm", BUDGET)
    assert isinstance(found, vote.Vote)
    assert [each.name for each in found.seated("eprstmt")] == ["tfidf-cnb", "nb-em"]
    assert [each.name for each in found.seated("csldcp")] == ["tfidf-cnb", "tfidf-svm"]
    assert found.takes("csldcp")
    assert not find("vote:members=tfidf-cnb+nb-em", BUDGET).takes("csldcp")
    model = "probe@runs/x"  # whom a member began with is looked at, whoever takes part
    assert models_of(find(f"vote:members=tfidf-cnb+nb-em|{model}", BUDGET)) == ["runs/x"]
    learned = found.learn(made_up(tmp_path, pool=("干净", "很差")), 1, str)
    assert [each["member"] for each in learned.chosen["members"]] == ["tfidf-cnb", "nb-em"]
    other = find("vote:members=tfidf-cnb+tfidf-svm", BUDGET)
    assert found.identity() != other.identity()


def test_dev_weighs_where_it_is_large_enough(tmp_path):
    pytest.importorskip("sklearn")
    split = made_up(tmp_path, pool=[f"{word}{i}" for i in range(20) for word in ("干净", "差")])
    answers = {}
    for rule in ("", ":align=40", ":align=40:weigh_from=8", ":align=40:weigh_from=9"):
        found = find(f"vote:members=tfidf-cnb+tfidf-svm{rule}", BUDGET)
        learned = found.learn(split, 1, str)
        answers[rule] = tuple(each["power"] for each in learned.chosen["members"])
    assert answers[":align=40:weigh_from=8"] == answers[""]  # dev has eight rows
    assert answers[":align=40:weigh_from=9"] == answers[":align=40"] != answers[""]
