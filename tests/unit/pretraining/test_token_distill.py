"""Token-level distillation: a student that is its teacher has nothing to learn."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

import easynlp
from easynlp.errors import ConfigError
from easynlp.methods.fgm import fgm
from easynlp.methods.r_drop import r_drop
from easynlp.models.backbone import Backbone
from easynlp.models.heads import core
from easynlp.pretraining.teacher import Teacher
from easynlp.pretraining.token_distill import (
    TaughtModeling,
    align,
    hidden_distill,
    relation_distill,
)  # fmt: skip
from easynlp.tasks.language_modeling import Config, LanguageModeling
from easynlp.training.loop import make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS, SHARED
from tests.contract.samples import plain

TEXTS = [text for text, _ in REVIEWS]


def test_alignment_is_by_the_first_character():
    words = np.array([[0, 0], [0, 3], [3, 5], [6, 8], [0, 0]])
    letters = np.array([[0, 0], *([i, i + 1] for i in range(8)), [0, 0]])
    assert align(letters, words).tolist() == [-1, 1, 1, 1, 2, 2, -1, 3, 3, -1]
    assert align(words, letters).tolist() == [-1, 1, 4, 7, -1]


def twins(backbone, method, prefix=""):
    """A plan whose student has the teacher's weights and sees the texts without holes."""
    backbone = plain(backbone)
    teacher = Teacher(backbone.name, max_length=64, prefix=prefix)
    task = TaughtModeling(Config(max_length=64), backbone.tokenizer, teacher)
    plan = method(Plan(task, task.build(backbone), (task_term(task),)))
    rows = [{**row, "text": text} for row, text in zip(
        task.encode_batch([{"text": text} for text in TEXTS]), TEXTS, strict=True)]  # fmt: skip
    for row in rows:
        row["input_ids"][row["positions"]] = row["target"]
    batch = to_tensors(task.collate(rows), torch.device("cpu"))
    forward = make_forward(plan.model.eval(), "fp32", torch.device("cpu"))
    return plan, Pass(forward, plan.model, batch, forward(batch))


def test_relations_of_twins_do_not_diverge_and_those_of_others_do(tiny_backbone):
    plan, run = twins(tiny_backbone, lambda p: relation_distill(p, heads=4))
    term = plan.terms[-1]
    assert term.compute(run).item() == pytest.approx(0.0, abs=1e-4)
    with torch.no_grad():
        core(plan.model).bert.encoder.layer[-1].attention.self.query.weight.mul_(8.0)
    again = run.again()
    loss = term.compute(again)
    assert loss.item() > 1e-3
    loss.backward()
    assert core(plan.model).bert.encoder.layer[-1].attention.self.query.weight.grad is not None
    assert all(p.grad is None for p in plan.task.teacher.model.parameters())


def test_hidden_states_reach_the_student_at_the_aligned_tokens(tiny_backbone):
    plan, run = twins(tiny_backbone, hidden_distill, prefix="好好")
    with torch.no_grad():
        plan.model.to_teacher_hidden.weight.copy_(torch.eye(32))
        plan.model.to_teacher_hidden.bias.zero_()
    term = plan.terms[-1]
    count = term.count({"aligned": run.batch["aligned"].numpy()})
    assert count == sum(len(text) for text in TEXTS)  # every character, no special token
    # The prefix moves positions, so the states are near, not equal; without it they are equal.
    near = term.compute(run).item() / count
    plan, run = twins(tiny_backbone, hidden_distill)
    with torch.no_grad():
        plan.model.to_teacher_hidden.weight.copy_(torch.eye(32))
        plan.model.to_teacher_hidden.bias.zero_()
    assert plan.terms[-1].compute(run).item() / count == pytest.approx(0.0, abs=1e-5)
    assert near > 1e-4


@pytest.mark.parametrize("other", [r_drop, fgm])
@pytest.mark.parametrize("method", [hidden_distill, partial(relation_distill, heads=4)])
def test_passes_of_other_methods_leave_the_students_states_alone(tiny_backbone, method, other):
    """Both run the model again before the distillation's term looks."""
    plan, run = twins(tiny_backbone, lambda p: method(other(p)))
    for module in plan.model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3
    (term,) = (term for term in plan.terms if term.name.endswith("_distill"))
    torch.manual_seed(5)
    alone = term.compute(run.again())
    torch.manual_seed(5)
    _, losses = plan.total(run.again())
    assert losses[term.name].item() == alone.item()
    assert term.compute(run.again()).item() != alone.item()  # dropout makes passes differ


@pytest.mark.slow
def test_a_teacher_with_another_tokenizer_teaches(tmp_path, shared):
    folder = SHARED / "models" / "e5-small-zh"
    if not folder.is_dir():
        pytest.skip("the shared teacher is not here")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(TEXTS * 4), encoding="utf-8")
    easynlp.pretrain(
        corpus=[str(corpus)], output=str(tmp_path / "run"), vocab_size=200, layers=1,
        hidden_size=48, heads=2, ffn=64, max_positions=64, row_length=32, rows="texts",
        batch_size=16, steps=25, lr=5e-3, precision="fp32", heldout_rows=2, teacher=str(folder),
        teacher_prefix="query: ", log_every=1, method=["relation_distill", "hidden_distill"],
    )  # fmt: skip
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("relation_distill", "hidden_distill"):
        early, late = (
            np.mean([line["losses"][name] for line in part]) for part in (lines[:3], lines[-3:])
        )
        assert late < 0.9 * early, name


def test_without_a_teacher_or_with_odd_heads_it_is_refused(tiny_backbone):
    task = LanguageModeling(Config(), tiny_backbone.tokenizer)
    with pytest.raises(ConfigError, match="give --teacher"):
        hidden_distill(Plan(task, task.build(tiny_backbone), (task_term(task),)))
    with pytest.raises(ConfigError, match="not a multiple of heads=5"):
        twins(tiny_backbone, lambda p: relation_distill(p, heads=5))
    assert Backbone.load(tiny_backbone.name).config.hidden_size == 32
