"""R-Drop against its formula."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from easynlp.errors import ConfigError
from easynlp.methods.r_drop import r_drop
from easynlp.tasks.text_classify import Config, TextClassify
from easynlp.training.loop import make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, Term, task_term
from tests.conftest import REVIEWS

CPU = torch.device("cpu")
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]


def make(backbone, dropout):
    """Return a plan, a pass over eight rows, and a list that counts forwards."""
    config = copy.deepcopy(backbone.config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    config.initializer_range = 0.2  # so that passes differ visibly
    task = TextClassify.prepare(Config(max_length=32), backbone.tokenizer, ROWS)
    torch.manual_seed(0)
    model = task.build(replace(backbone, config=config, folder=None)).train()
    forward = make_forward(model, "fp32", CPU)
    passes = []

    def counted(batch):
        passes.append(forward(batch))
        return passes[-1]

    batch = to_tensors(task.collate(task.encode_batch(ROWS)), CPU)
    run = Pass(counted, model, batch, counted(batch))
    return Plan(task, model, (task_term(task),)), run, passes


def test_the_formula(tiny_backbone):
    plan, run, passes = make(tiny_backbone, dropout=0.3)
    total, losses = r_drop(plan, alpha=4.0).total(run)
    assert len(passes) == 2, "one pass more, shared by both terms"
    p, q = (output.logits.softmax(-1) for output in passes)
    wanted = 0.5 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
    target = run.batch["target"]
    entropies = [cross_entropy(output.logits, target, reduction="sum") for output in passes]
    assert wanted > 1e-3
    assert losses["r_drop"].item() == pytest.approx(wanted.item(), rel=1e-3)
    assert losses["loss"].item() == pytest.approx(sum(entropies).item() / 2, rel=1e-5)
    assert total.item() == pytest.approx(sum(entropies).item() / 2 + 4 * wanted.item(), rel=1e-3)


def test_both_passes_are_learned_from(tiny_backbone):
    plan, run, passes = make(tiny_backbone, dropout=0.3)
    for output in passes:
        output.logits.retain_grad()
    total, _ = r_drop(plan, alpha=1.0).total(run)
    passes[1].logits.retain_grad()
    total.backward()
    assert all(output.logits.grad.abs().sum() > 0 for output in passes)


def test_without_dropout_nothing_is_added(tiny_backbone):
    plan, run, _ = make(tiny_backbone, dropout=0.0)
    plain, _ = plan.total(run)
    total, losses = r_drop(plan, alpha=4.0).total(run)
    assert losses["r_drop"].item() == pytest.approx(0.0, abs=1e-6)
    assert total.item() == pytest.approx(plain.item(), rel=1e-6)


def test_a_new_pass_gets_a_new_second_pass(tiny_backbone):
    plan, run, passes = make(tiny_backbone, dropout=0.3)
    plan = r_drop(plan)
    plan.total(run)
    plan.total(replace(run, output=run.forward(run.batch)))
    assert len(passes) == 4


def test_the_weight_of_the_loss_is_kept_and_other_terms_untouched(tiny_backbone):
    plan, _, _ = make(tiny_backbone, dropout=0.3)
    other = Term("other", lambda run: run.output.logits.sum(), 0.5)
    changed = r_drop(replace(plan, terms=(replace(plan.terms[0], weight=0.25), other)), alpha=2.0)
    assert [(t.name, t.weight) for t in changed.terms] == [
        ("loss", 0.25), ("other", 0.5), ("r_drop", 2.0),
    ]  # fmt: skip
    assert changed.terms[1] is other
    assert [t.name for t in plan.terms] == ["loss"], "the plan given stays as it was"


def test_wrong_use_is_refused(tiny_backbone):
    plan, _, _ = make(tiny_backbone, dropout=0.0)
    with pytest.raises(ConfigError, match="alpha is -1; valid: 0 or more"):
        r_drop(plan, alpha=-1)
    with pytest.raises(ConfigError, match="once"):
        r_drop(r_drop(plan))
    with pytest.raises(ConfigError, match="needs a plan with the task's loss"):
        r_drop(replace(plan, terms=()))
