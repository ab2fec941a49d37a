"""FGM against the same thing written by hand with `inputs_embeds`."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from easynlp.errors import ConfigError
from easynlp.methods.fgm import fgm
from easynlp.tasks.text_classify import Config, TextClassify
from easynlp.training.loop import make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS

CPU = torch.device("cpu")
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]


@pytest.fixture
def plan(tiny_backbone):
    config = copy.deepcopy(tiny_backbone.config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    config.initializer_range = 0.2  # so that gradients are not all tiny
    task = TextClassify.prepare(Config(max_length=32), tiny_backbone.tokenizer, ROWS)
    torch.manual_seed(0)
    model = task.build(replace(tiny_backbone, config=config, folder=None)).train()
    return Plan(task, model, (task_term(task),))


def a_pass(plan, rows=ROWS):
    batch = to_tensors(plan.task.collate(plan.task.encode_batch(rows)), CPU)
    forward = make_forward(plan.model, "fp32", CPU)
    return Pass(forward, plan.model, batch, forward(batch))


def by_hand(model, batch, epsilon):
    """Return the adversarial loss with the perturbation worked out row by row."""
    mask, target = batch["attention_mask"], batch["target"]
    words = model.get_input_embeddings().weight[batch["input_ids"]]
    steps = []
    for row in range(len(words)):
        leaf = words[row : row + 1].detach().requires_grad_()
        logits = model(inputs_embeds=leaf, attention_mask=mask[row : row + 1]).logits
        cross_entropy(logits, target[row : row + 1], reduction="sum").backward()
        steps.append(epsilon * leaf.grad / leaf.grad.norm())
    model.zero_grad()
    logits = model(inputs_embeds=words + torch.cat(steps), attention_mask=mask).logits
    return cross_entropy(logits, target, reduction="sum")


@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_loss_and_gradients_are_those_written_by_hand(plan, epsilon):
    run = a_pass(plan)
    wanted = by_hand(plan.model, run.batch, epsilon)
    wanted.backward()
    gradients = {n: p.grad.clone() for n, p in plan.model.named_parameters() if p.grad is not None}
    plan.model.zero_grad()
    term = fgm(plan, epsilon=epsilon).terms[-1]
    found = term.compute(run)
    assert all(p.grad is None for p in plan.model.parameters()), "no gradient but by the loop"
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, parameter in plan.model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


def test_without_epsilon_it_is_the_clean_loss(plan):
    run = a_pass(plan)
    _, losses = fgm(plan, epsilon=0.0).total(run)
    assert losses["fgm"].item() == losses["loss"].item()


def test_the_perturbation_makes_it_worse_and_more_so_the_longer_it_is(plan):
    run = a_pass(plan)
    losses = [fgm(plan, epsilon=e).terms[-1].compute(run).item() for e in (0.0, 0.05, 0.1, 0.2)]
    assert losses == sorted(losses)
    assert losses[-1] > losses[0] * 1.01


def test_a_row_does_not_depend_on_its_neighbours(plan):
    term = fgm(plan).terms[-1]
    alone = sum(term.compute(a_pass(plan, [row])).item() for row in ROWS)
    assert term.compute(a_pass(plan)).item() == pytest.approx(alone, rel=1e-5)


def test_frozen_embeddings_are_perturbed_all_the_same(plan):
    run = a_pass(plan)
    wanted = fgm(plan).terms[-1].compute(run).item()
    plan.model.get_input_embeddings().requires_grad_(False)
    assert fgm(plan).terms[-1].compute(a_pass(plan)).item() == pytest.approx(wanted, rel=1e-6)


def test_no_hook_is_left_behind(plan):
    run = a_pass(plan)
    embeddings = plan.model.get_input_embeddings()
    broken = replace(run, forward=lambda batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fgm(plan).terms[-1].compute(broken)
    assert not embeddings._forward_hooks
    fgm(plan).terms[-1].compute(run)
    assert not embeddings._forward_hooks


def test_nothing_to_learn_is_no_nan(plan):
    """A gradient of exactly zero has no direction: nothing is added."""
    torch.nn.init.zeros_(plan.model.classifier.weight)
    run = a_pass(plan)
    _, losses = fgm(plan).total(run)
    assert losses["fgm"].item() == pytest.approx(losses["loss"].item(), rel=1e-6)


def test_wrong_use_is_refused(plan):
    with pytest.raises(ConfigError, match="epsilon -1, weight 1; valid: 0 or more"):
        fgm(plan, epsilon=-1)
    with pytest.raises(ConfigError, match="once is enough"):
        fgm(fgm(plan))
