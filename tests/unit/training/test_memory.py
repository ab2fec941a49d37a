"""Checkpointed activations: the same numbers, less kept."""

from __future__ import annotations

import pytest
import torch

from easynlp.errors import ModelError
from easynlp.training.loop import State, fit, make_forward, to_tensors
from easynlp.training.memory import checkpoint_activations
from easynlp.training.plan import Pass
from tests.invariants.test_loop import CPU, make, options


def gradients(backbone, *, dropout: float, precision: str, checkpointed: bool):
    """Loss and gradients of one batch, and the bytes kept for the backward pass."""
    plan, source = make(backbone, dropout=dropout)
    if checkpointed:
        checkpoint_activations(plan.model)
    plan.model.train()
    batch = to_tensors(plan.task.collate([source.features(i, 0) for i in range(8)]), CPU)
    forward = make_forward(plan.model, precision, CPU)
    torch.manual_seed(5)
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total, losses = plan.total(Pass(forward, plan.model, batch, forward(batch)))
        held = kept  # what is computed again backward is kept but for a moment
        total.backward()
    found = {name: p.grad for name, p in plan.model.named_parameters() if p.grad is not None}
    return losses["loss"], found, held


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_loss_and_gradients_are_the_same(tiny_backbone, dropout, precision) -> None:
    given = {"dropout": dropout, "precision": precision}
    loss, plain, kept = gradients(tiny_backbone, **given, checkpointed=False)
    again, recomputed, left = gradients(tiny_backbone, **given, checkpointed=True)
    assert torch.equal(loss, again)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert left < 0.5 * kept


def test_the_loop_trains_the_same_with_it(tiny_backbone) -> None:
    ends = []
    for checkpointed in (False, True):
        plan, source = make(tiny_backbone, dropout=0.1)
        settings = options(activation_checkpointing=checkpointed, accumulate=2)
        list(fit(plan, source, settings, state=State(), device=CPU))
        ends.append(plan.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_model_without_it_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear cannot checkpoint activations"):
        checkpoint_activations(torch.nn.Linear(2, 2))
