"""LAMB against a plain reference, alone and with its tensors cut up over processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from easynlp.errors import ConfigError
from easynlp.training.checkpoint import Checkpoints
from easynlp.training.loop import State, fit
from easynlp.training.optim import Lamb, make_optimizer
from tests.invariants.test_loop import CPU, make, options

ROOT = Path(__file__).parents[3]
SHAPES = {"matrix": (6, 5), "table": (7, 4), "bias": (5,), "zeros": (3, 3)}


def lamb_in_numpy(weights, gradients, *, lr, betas, eps, decay):
    """LAMB by the paper's algorithm 2; `gradients` holds those of every step."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    mean = {name: np.zeros_like(value) for name, value in weights.items()}
    square = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, found in enumerate(gradients, 1):
        for name, gradient in found.items():
            weight = weights[name]
            mean[name] = betas[0] * mean[name] + (1 - betas[0]) * gradient
            square[name] = betas[1] * square[name] + (1 - betas[1]) * gradient**2
            unbiased = mean[name] / (1 - betas[0] ** step)
            ratio = unbiased / (np.sqrt(square[name] / (1 - betas[1] ** step)) + eps)
            trust = 1.0
            if weight.ndim > 1:
                ratio = ratio + decay * weight
                lengths = np.linalg.norm(weight), np.linalg.norm(ratio)
                trust = lengths[0] / lengths[1] if min(lengths) > 0 else 1.0
            weights[name] = weight - lr * trust * ratio
    return weights


def material(steps: int = 5):
    rng = np.random.default_rng(3)
    weights = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    weights["zeros"][:] = 0.0
    found = [{n: rng.normal(size=s) for n, s in SHAPES.items()} for _ in range(steps)]
    return weights, found


class Holder(torch.nn.Module):
    def __init__(self, weights) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_parameter(
                name, torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
            )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_the_papers(decay) -> None:
    weights, gradients = material()
    module = Holder(weights)
    optimizer = make_optimizer("lamb", module, lr=0.02, weight_decay=decay, betas=(0.9, 0.98))
    for found in gradients:
        for name, value in found.items():
            getattr(module, name).grad = torch.tensor(value)
        optimizer.step()
    expected = lamb_in_numpy(
        weights, gradients, lr=0.02, betas=(0.9, 0.98), eps=1e-6, decay=decay
    )  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(module, name).detach().numpy(), value, rtol=1e-6)


def test_vectors_are_stepped_as_by_adam() -> None:
    vector = torch.nn.Parameter(torch.linspace(-1, 1, 8))
    twin = torch.nn.Parameter(vector.detach().clone())
    holder = torch.nn.ParameterList([vector])
    ours = make_optimizer("lamb", holder, lr=0.1, weight_decay=0.5)
    adam = torch.optim.Adam([twin], lr=0.1, eps=1e-6)
    for step in range(4):
        vector.grad = torch.arange(8.0) - step
        twin.grad = vector.grad.clone()
        ours.step()
        adam.step()
    torch.testing.assert_close(vector, twin)


def test_the_first_step_has_length_lr_whatever_the_scale_of_gradients() -> None:
    for scale in (1e-3, 1.0, 1e3):
        weight = torch.nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
        before = weight.detach().clone()
        weight.grad = scale * torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
        Lamb([weight], lr=0.01).step()
        moved = float((weight.detach() - before).norm() / before.norm())
        assert moved == pytest.approx(0.01, rel=1e-4)


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(ConfigError, match=r'unknown optimizer "sgd"\. Known: adamw, lamb'):
        make_optimizer("sgd", torch.nn.Linear(2, 2), lr=0.1, weight_decay=0.0)


def test_lamb_resumes_to_the_same_weights(tiny_backbone, tmp_path) -> None:
    """Dropout on, through files: bit for bit the run that was not stopped."""
    settings = options(optimizer="lamb", lr=0.01, schedule="cosine")
    straight, source = make(tiny_backbone, dropout=0.1)
    list(fit(straight, source, settings, state=State(), device=CPU))
    checkpoints = Checkpoints(tmp_path)
    plan, source = make(tiny_backbone, dropout=0.1)
    state = State()
    for event in fit(plan, source, settings, state=state, device=CPU):
        if event.step == 3:
            checkpoints.save(plan.model, state)
            break
    plan, source = make(tiny_backbone, dropout=0.1)
    state = checkpoints.load(plan.model)
    assert state is not None
    list(fit(plan, source, settings, state=state, device=CPU))
    ends = plan.model.state_dict()
    assert all(
        torch.equal(value, ends[name]) for name, value in straight.model.state_dict().items()
    )


SHARDED = """
import json
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from easynlp.distributed import process_group
from easynlp.training.optim import make_optimizer
from tests.unit.training.test_optim import Holder, material

weights, gradients = material()
with process_group(torch.device("cpu")) as world:
    mesh = init_device_mesh("cpu", (2,))
    # Rows and columns cut, uneven parts (7 rows, 5 columns), one tensor whole on both.
    places = {"matrix": Shard(1), "table": Shard(0), "bias": Shard(0), "zeros": Replicate()}
    module = Holder(weights)
    for name, place in places.items():
        cut = distribute_tensor(getattr(module, name).detach(), mesh, [place])
        setattr(module, name, torch.nn.Parameter(cut))
    optimizer = make_optimizer("lamb", module, lr=0.02, weight_decay=0.1, betas=(0.9, 0.98))
    for found in gradients:
        for name, value in found.items():
            parameter = getattr(module, name)
            parameter.grad = distribute_tensor(torch.tensor(value), mesh, [places[name]])
        optimizer.step()
    whole = {name: getattr(module, name).full_tensor().tolist() for name in places}
    if world.is_main:
        print(json.dumps(whole))
"""


@pytest.mark.slow  # two processes that import torch's distributed tensors: 20 s of processor time
def test_norms_are_of_whole_tensors_when_they_are_cut_up(tmp_path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(textwrap.dedent(SHARDED), encoding="utf-8")
    with socket.socket() as free:  # torchrun would be a third process that imports torch
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2",
                 "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for rank in "01"
    ]  # fmt: skip
    said = [each.communicate(timeout=180) for each in ranks]
    assert [each.returncode for each in ranks] == [0, 0], said[0][1][-2000:] + said[1][1][-2000:]
    weights, gradients = material()
    expected = lamb_in_numpy(weights, gradients, lr=0.02, betas=(0.9, 0.98), eps=1e-6, decay=0.1)
    for name, value in json.loads(said[0][0].splitlines()[-1]).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)
