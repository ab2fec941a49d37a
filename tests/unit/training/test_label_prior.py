"""Heads that lean towards label names: what helps, what must do nothing, what must be told."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

import easynlp
from easynlp.config import TrainConfig
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError
from easynlp.run import label_names
from easynlp.tasks import find_task
from easynlp.training import label_prior, regression
from easynlp.training.head import LabelNames, fit_head, last_layer
from easynlp.training.label_prior import dealt_out, lean
from easynlp.training.regression import regress
from tests.conftest import REVIEWS

LABELS, WIDTH = 12, 24


def drawn(seed: int, rows: int):
    """Return rows around the labels' centres, their labels, and the centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(LABELS, WIDTH))
    targets = np.arange(rows) % LABELS
    return centres[targets] + 1.5 * rng.normal(size=(rows, WIDTH)), targets, centres


def accuracy(head, seed=99):
    rng = np.random.default_rng(seed)
    targets = np.arange(1200) % LABELS
    centres = drawn(0, LABELS)[2]
    rows = centres[targets] + 1.5 * rng.normal(size=(1200, WIDTH))
    weight, bias = head[:2]
    return float(((rows @ weight.T + bias).argmax(1) == targets).mean())


@pytest.mark.parametrize("module", [label_prior, regression])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


def test_names_near_the_rows_help_and_shuffled_ones_are_given_no_weight():
    rows, targets, centres = drawn(0, 4 * LABELS)
    alone = regress(rows, targets, LABELS, 0.01, several=False)
    leaning = lean(rows, targets, LABELS, 0.01, centres)
    dealt = lean(rows, targets, LABELS, 0.01, centres, shuffle=3)
    assert leaning[2] > 0.2
    assert accuracy(leaning) > accuracy(alone) + 0.03
    assert dealt[2] == 0
    assert accuracy(dealt) == accuracy(alone)


def test_without_weight_the_answers_are_those_of_the_rows_alone():
    rows, targets, _ = drawn(1, 4 * LABELS)
    names = np.random.default_rng(5).normal(size=(LABELS, WIDTH))
    weight, bias, share = lean(rows, targets, LABELS, 0.01, names)
    alone = regress(rows, targets, LABELS, 0.01, several=False)
    assert share == 0
    assert ((rows @ weight.T + bias).argmax(1) == (rows @ alone[0].T + alone[1]).argmax(1)).all()


@pytest.mark.parametrize("rows", [LABELS, LABELS + 1])
def test_a_row_a_label_is_enough(rows):
    vectors, targets, centres = drawn(2, rows)
    weight, bias, _ = lean(vectors, targets, LABELS, 0.01, centres)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


def test_two_rows_in_all_fall_back_to_the_regression():
    vectors, names = np.eye(2), np.eye(2)
    weight, bias, share = lean(vectors, np.array([0, 1]), 2, 1.0, names)
    plain = regress(vectors, np.array([0, 1]), 2, 1.0, several=False)
    assert share == 0
    assert np.array_equal(weight, plain[0])
    assert np.array_equal(bias, plain[1])


def test_a_label_s_name_is_its_own_whatever_the_order_of_the_rows(tiny_backbone):
    rows = [{"text": text, "label": label} for text, label in REVIEWS[:12]]
    kind = find_task("text_classify")
    task = kind.prepare(kind.Config(max_length=32), tiny_backbone.tokenizer, rows)
    source = EncodedRows.of(task.encode_batch(rows))
    heads = []
    for order in (("好评", "差评"), ("差评", "好评")):
        torch.manual_seed(0)
        model = task.build(tiny_backbone)
        named = [{"text": {"好评": "好", "差评": "差"}[label], "label": label} for label in order]
        names = LabelNames(EncodedRows.of(task.encode_batch(named)))
        fit_head(task, model, source, torch.device("cpu"), 0.01, names)
        heads.append(last_layer(model).weight.detach().clone())
    torch.testing.assert_close(heads[0], heads[1])


def options(**given) -> TrainConfig:
    return TrainConfig(**{"task": "text_classify", "train": "x", "output": "y", **given})


@pytest.mark.parametrize(
    ("labels", "given", "rows", "named"),
    [
        (("好评", "差评"), {"probe": "first"}, 32, True),
        (("好评", "差评"), {"probe": "no"}, 32, False),
        (("好评", "差评"), {"probe": "first"}, 10_000, False),
        (("好评", "差评"), {"probe": "first", "label_names": "no"}, 32, False),
        (("0", "1"), {"probe": "first"}, 32, False),
        (("0", "1"), {"probe": "first", "label_names": "0=差;1=好"}, 10_000, True),
    ],
)
def test_when_names_are_taken(tiny_backbone, labels, given, rows, named):
    kind = find_task("text_classify")
    task = kind(kind.Config(labels=labels), tiny_backbone.tokenizer)
    assert (label_names(options(**given), task, rows) is not None) == named


@pytest.mark.parametrize(
    ("config", "written", "said"),
    [
        ({"labels": ("0", "1")}, "labels", "give some"),
        ({"labels": ("0", "1")}, "0=差", "no word for 1"),
        ({"labels": ("0", "1"), "pair": True}, "0=差;1=好", "one label each"),
        ({"labels": ("a", "b"), "multi_label": True}, "labels", "one label each"),
    ],
)
def test_names_that_do_not_fit_are_told(tiny_backbone, config, written, said):
    kind = find_task("text_classify")
    task = kind(kind.Config(**config), tiny_backbone.tokenizer)
    with pytest.raises(ConfigError, match=said):
        label_names(options(probe="only", label_names=written), task, 32)


def test_a_run_leans_and_answers_without_the_names(tmp_path, tiny_folder, reviews_file):
    run = easynlp.train(
        task="text_classify", train=str(reviews_file), output=str(tmp_path / "run"), probe="only",
        model=str(tiny_folder), label_names="好评=好,满意;差评=差,失望",
    )  # fmt: skip
    assert run.predict(["房间干净"])[0]["label"] in ("好评", "差评")


def test_in_the_placebo_no_label_keeps_its_name():
    for labels in (2, 3, 15, 119):
        for seed in range(20):
            found = dealt_out(labels, seed)
            assert sorted(found) == list(range(labels))
            assert not (found == np.arange(labels)).any()
