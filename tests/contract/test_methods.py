"""What holds of every method in METHODS on every app it claims, alone and composed."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from easynlp.data.sampling import EncodedRows
from easynlp.methods import METHODS, apply_methods
from easynlp.pretraining.material import BY_TOKEN
from easynlp.pretraining.teacher import Teacher
from easynlp.pretraining.token_distill import TaughtModeling
from easynlp.training.loop import FitOptions, State, fit
from easynlp.training.plan import Plan, task_term
from tests.contract.samples import (
    CLAIMS,
    PRETRAINING_ONLY,
    SAMPLES,
    SPECS,
    TERMS,
    plain,
    teacher_of,
)

CPU = torch.device("cpu")
CASES = [(m, name) for m, apps in CLAIMS.items() for name, s in SAMPLES.items() if s.task in apps]
ORDERS = [
    (both, name)
    for both in itertools.permutations(("r_drop", "fgm"))
    for name in ("text_classify", "sequence_labeling")
]


def train(backbone, sample, methods, *, dropout=0.0, **changes):
    """Train briefly with methods; return the plan, the weights and the events."""
    task = sample.make(backbone)
    taught = set(BY_TOKEN) & set(methods)
    if taught:
        teacher = Teacher(backbone.name, max_length=32)
        task = TaughtModeling(task.config, backbone.tokenizer, teacher)
    torch.manual_seed(0)
    backbone = plain(backbone, dropout)
    plan = Plan(task, task.build(backbone), (task_term(task),), backbone)
    with tempfile.TemporaryDirectory() as home:
        specs = [SPECS[name] for name in methods]
        if any("{teacher}" in spec for spec in specs):
            teacher = teacher_of(sample, backbone, Path(home))
            specs = [spec.replace("{teacher}", teacher) for spec in specs]
        return _train(apply_methods(plan, specs), sample, methods, taught, changes)


def _train(plan, sample, methods, taught, changes):
    options = FitOptions(**{"steps": 40, "batch_size": 8, "lr": 5e-3, "warmup": 0.0, **changes})
    rows = plan.task.encode_batch(sample.rows)  # a method may have wrapped the task
    if "sentence_distill" in methods:  # a made-up teacher's vectors, of the tiny model's width
        rng = np.random.default_rng(0)
        rows = [{**row, "vector": rng.normal(size=32).astype(np.float32)} for row in rows]
    if taught:
        rows = [{**row, "text": r["text"]} for row, r in zip(rows, sample.rows, strict=True)]
    source = EncodedRows.of(rows)
    events = list(fit(plan, source, options, state=State(), device=CPU))
    return plan, plan.model.state_dict(), events


def test_every_method_says_what_it_is_for():
    assert set(CLAIMS) == set(METHODS), "add the method to CLAIMS in tests/contract/samples.py"
    assert set(SPECS) == set(METHODS) >= set(PRETRAINING_ONLY)


@pytest.mark.parametrize(("method", "name"), CASES)
def test_trains_with_dropout_and_lowers_the_loss(tiny_backbone, method, name):
    _, _, events = train(tiny_backbone, SAMPLES[name], [method], dropout=0.1)
    assert events[-1].losses["loss"] < 0.8 * events[0].losses["loss"]
    assert {"loss", TERMS.get(method, method)} == set(events[0].losses)


@pytest.mark.parametrize(("method", "name"), CASES)
def test_adds_no_parameter_to_what_is_saved_of_a_task(tiny_backbone, method, name):
    if method in PRETRAINING_ONLY:
        pytest.skip(PRETRAINING_ONLY[method])
    plan, weights, _ = train(tiny_backbone, SAMPLES[name], [method], steps=1)
    assert weights.keys() == plan.task.build(plain(tiny_backbone)).state_dict().keys()


@pytest.mark.parametrize(("method", "name"), CASES)
def test_accumulation_changes_nothing(tiny_backbone, method, name):
    check_accumulation(tiny_backbone, SAMPLES[name], [method])


@pytest.mark.parametrize(("methods", "name"), ORDERS)
def test_methods_compose_in_any_order(tiny_backbone, methods, name):
    plan, _, events = train(tiny_backbone, SAMPLES[name], methods, dropout=0.1)
    assert {term.name for term in plan.terms} == {"loss", "r_drop", "fgm"}
    assert events[-1].losses["loss"] < 0.8 * events[0].losses["loss"]
    assert events[-1].losses["fgm"] < events[0].losses["fgm"]
    assert all(event.losses["r_drop"] > 0 for event in events)


def test_order_makes_no_difference_without_dropout(tiny_backbone):
    one, other = (
        train(tiny_backbone, SAMPLES["text_classify"], methods, steps=6)[1]
        for methods in (["r_drop", "fgm"], ["fgm", "r_drop"])
    )
    for name, weights in one.items():
        torch.testing.assert_close(weights, other[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", [n for n, s in SAMPLES.items() if s.task in CLAIMS["fgm"]])
def test_accumulation_changes_nothing_of_a_composition(tiny_backbone, name):
    check_accumulation(tiny_backbone, SAMPLES[name], ["r_drop", "fgm"])


def check_accumulation(backbone, sample, methods):
    sizes = {"steps": 4, "lr": 1e-3}
    _, whole, events = train(backbone, sample, methods, **sizes)
    _, parts, again = train(backbone, sample, methods, accumulate=3, **sizes)
    # cap begins where its gradient is nothing but rounding, and Adam divides by its size.
    near = 1e-4 if methods == ["cap"] else 1e-5
    for name, weights in whole.items():
        torch.testing.assert_close(parts[name], weights, rtol=0, atol=near)
    for one, other in zip(events, again, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-4, abs=1e-6)
