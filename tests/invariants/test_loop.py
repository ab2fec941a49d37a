"""What must hold of the one loop, checked on a real (tiny) encoder and the real task."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from easynlp.data.sampling import EncodedRows, Sampler, micro_batches
from easynlp.distributed import World, process_group
from easynlp.errors import Interrupted, RunError
from easynlp.models.backbone import Backbone
from easynlp.models.runtime import TorchModel
from easynlp.tasks.text_classify import Config, TextClassify
from easynlp.training.checkpoint import Checkpoints
from easynlp.training.loop import FitOptions, State, fit
from easynlp.training.plan import Plan, task_term
from easynlp.training.session import Habits, train_to_folder
from tests.conftest import REVIEWS

CPU = torch.device("cpu")
ROWS = [{"text": text * (1 + i % 4), "label": label} for i, (text, label) in enumerate(REVIEWS * 4)]


def make(backbone, *, dropout: float = 0.0):
    task = TextClassify.prepare(Config(max_length=64), backbone.tokenizer, ROWS)
    torch.manual_seed(1)
    config = dataclasses.replace(backbone)
    config.config.hidden_dropout_prob = config.config.attention_probs_dropout_prob = dropout
    plan = Plan(task, task.build(config), ())
    plan = dataclasses.replace(plan, terms=(task_term(task),))
    return plan, EncodedRows.of([task.encode(row) for row in ROWS])


def options(**changes) -> FitOptions:
    return FitOptions(**{"steps": 8, "batch_size": 8, "lr": 1e-3, "warmup": 0.0, **changes})


def run(backbone, dropout: float = 0.0, **changes):
    plan, source = make(backbone, dropout=dropout)
    events = list(fit(plan, source, options(**changes), state=State(), device=CPU))
    return plan.model.state_dict(), events


def same(one, other, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(one[k], other[k], rtol=0, atol=tolerance) for k in one)


def test_accumulating_two_times_four_is_one_times_eight(tiny_backbone) -> None:
    whole, _ = run(tiny_backbone)
    halves, _ = run(tiny_backbone, accumulate=2)
    assert same(whole, halves, 2e-6)


def test_training_learns_its_rows(tiny_backbone) -> None:
    _, events = run(tiny_backbone, steps=60, lr=5e-3)
    assert events[0].losses["loss"] > 0.6
    assert events[-1].losses["loss"] < 0.1


def test_a_token_budget_does_not_change_the_weights(tiny_backbone) -> None:
    whole, _ = run(tiny_backbone)
    cut, _ = run(tiny_backbone, batch_tokens=60)
    assert same(whole, cut, 2e-6)


def test_same_seed_same_weights_and_another_seed_others(tiny_backbone) -> None:
    one, _ = run(tiny_backbone, dropout=0.1)
    again, _ = run(tiny_backbone, dropout=0.1)
    other, _ = run(tiny_backbone, dropout=0.1, seed=7)
    assert same(one, again)
    assert not same(one, other, 1e-6)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_resumed_run_ends_with_the_same_weights(tiny_backbone, tmp_path, stop_after) -> None:
    """Dropout on, mid-epoch, through files: bit for bit the uninterrupted run."""
    straight, _ = run(tiny_backbone, dropout=0.1)
    checkpoints = Checkpoints(tmp_path)
    plan, source = make(tiny_backbone, dropout=0.1)
    state = State()
    for event in fit(plan, source, options(), state=state, device=CPU):
        if event.step == stop_after:
            checkpoints.save(plan.model, state)
            break
    plan, source = make(tiny_backbone, dropout=0.1)
    torch.manual_seed(999)  # whatever happened in between must not matter
    state = checkpoints.load(plan.model)
    assert state is not None
    assert state.step == stop_after
    list(fit(plan, source, options(), state=state, device=CPU))
    assert same(straight, plan.model.state_dict())


def test_early_stopping_keeps_the_best_and_stays_stopped(tiny_backbone, tmp_path) -> None:
    scores = iter([0.5, 0.9, 0.4, 0.3, 0.2, 0.1])
    plan, source = make(tiny_backbone)
    arguments = {
        "device": CPU, "world": World(), "evaluate": lambda: {"accuracy": next(scores)},
    }  # fmt: skip
    state = train_to_folder(
        plan, source, options(eval_every=1, patience=2), tmp_path,
        habits=Habits(show=False), **arguments,
    )  # fmt: skip
    assert (state.step, state.best_step, state.best_score) == (4, 2, 0.9)
    best = {k: v.clone() for k, v in plan.model.state_dict().items()}
    plan, source = make(tiny_backbone)
    again = train_to_folder(
        plan, source, options(eval_every=1, patience=2), tmp_path,
        habits=Habits(show=False, resume=True), **arguments,
    )  # fmt: skip
    assert again.step == 4
    assert same(best, plan.model.state_dict())


def test_sigterm_saves_and_resuming_gives_the_same_weights(tiny_backbone, tmp_path) -> None:
    straight, _ = run(tiny_backbone, dropout=0.1)
    plan, source = make(tiny_backbone, dropout=0.1)

    class Killer:
        """A source that sends SIGTERM while the third step is under way."""

        lengths = source.lengths
        seen = 0

        def features(self, index: int, epoch: int):
            self.seen += 1
            if self.seen == 20:
                os.kill(os.getpid(), signal.SIGTERM)
            return source.features(index, epoch)

    arguments = {"device": CPU, "world": World()}
    with pytest.raises(Interrupted, match="stopped at step 3 of 8"):
        train_to_folder(plan, Killer(), options(), tmp_path, habits=Habits(show=False), **arguments)
    plan, source = make(tiny_backbone, dropout=0.1)
    train_to_folder(
        plan, source, options(), tmp_path, habits=Habits(resume=True, show=False), **arguments
    )
    assert same(straight, plan.model.state_dict())


@pytest.mark.parametrize("where", ["last step", "last checkpoint"])
def test_a_signal_at_the_end_is_not_lost(tiny_backbone, tmp_path, monkeypatch, where) -> None:
    """A longer road (several tries, stages) has to hear it; resuming only loads what is there."""
    plan, source = make(tiny_backbone)
    save = Checkpoints.save

    def save_and_kill(self, model, state) -> None:
        save(self, model, state)
        if where == "last checkpoint" and state.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    def score() -> dict[str, float]:
        if where == "last step":
            os.kill(os.getpid(), signal.SIGTERM)
        return {"accuracy": 0.5}

    monkeypatch.setattr(Checkpoints, "save", save_and_kill)
    arguments = {"device": CPU, "world": World()}
    with pytest.raises(Interrupted, match="stopped at step 8 of 8"):
        train_to_folder(plan, source, options(), tmp_path, habits=Habits(show=False),
                        evaluate=score, **arguments)  # fmt: skip
    monkeypatch.setattr(Checkpoints, "save", save)
    trained = {key: value.clone() for key, value in plan.model.state_dict().items()}
    plan, source = make(tiny_backbone)
    train_to_folder(
        plan, source, options(), tmp_path, habits=Habits(resume=True, show=False),
        evaluate=score, **arguments,
    )  # fmt: skip
    assert same(trained, plan.model.state_dict())


def test_padding_and_batch_size_do_not_change_logits(tiny_backbone) -> None:
    plan, _ = make(tiny_backbone)
    model = TorchModel(plan.model.eval())
    features = [plan.task.encode(row) for row in ROWS[:8]]
    together = model.logits(plan.task.collate(features))
    alone = np.concatenate([model.logits(plan.task.collate([f])) for f in features])
    assert np.abs(together - alone).max() < 1e-5


def test_a_loss_that_is_not_finite_ends_the_run(tiny_backbone) -> None:
    plan, source = make(tiny_backbone)
    with torch.no_grad():
        next(plan.model.parameters()).fill_(float("nan"))
    with pytest.raises(RunError, match="loss, gradient not finite; the step was not taken"):
        list(fit(plan, source, options(), state=State(), device=CPU))


def test_every_row_is_seen_once_an_epoch_and_budgets_hold() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    sampler = Sampler(lengths, batch_size=32, seed=3)
    first, second = sampler.epoch(0), sampler.epoch(1)
    assert sorted(np.concatenate(first)) == list(range(1000))
    assert len(first) == sampler.steps_per_epoch == len(second)
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    padded = sum(len(rows) * lengths[rows].max() for rows in first)
    assert padded < 1.1 * lengths.sum()  # random batches of 32 would pad by some 80 %
    for rows in first:
        parts = [micro_batches(rows, lengths, max_tokens=256, rank=r, world=2) for r in (0, 1)]
        assert sorted(np.concatenate([p for part in parts for p in part])) == sorted(rows)
        assert all(len(p) * lengths[p].max() <= 256 or len(p) == 1 for part in parts for p in part)


def end_of_shared_run(folder: str) -> list[object]:
    """Train with an odd batch in as many processes as the environment says; losses, weights."""
    with process_group(CPU) as world:
        plan, source = make(Backbone.load(folder))
        habits = options(batch_size=9)
        events = list(fit(plan, source, habits, state=State(), device=CPU, world=world))
    weight = float(sum(p.double().abs().sum() for p in plan.model.parameters()))
    return [[each.losses["loss"] for each in events], weight, world.is_main]


def test_two_processes_train_as_one(tiny_folder) -> None:
    """With what torchrun sets; gloo, an odd batch of 9 rows that ends in one of 5."""
    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from tests.invariants.test_loop import end_of_shared_run\n"
        "print(json.dumps(end_of_shared_run(sys.argv[1])))"
    )
    root = Path(__file__).parents[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
              "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}  # fmt: skip
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tiny_folder)], cwd=root, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    losses, weight, _ = end_of_shared_run(str(tiny_folder))
    for main, process in zip((True, False), begun, strict=True):
        printed, failure = process.communicate(timeout=120)
        assert process.returncode == 0, failure[-2000:]
        shared_losses, shared_weight, is_main = json.loads(printed.splitlines()[-1])
        assert is_main == main
        assert losses == pytest.approx(shared_losses, abs=1e-5)
        assert weight == pytest.approx(shared_weight, rel=1e-6)


def test_every_term_is_divided_by_its_own_targets_whatever_the_accumulation(tiny_backbone):
    """Rows of very different lengths: tokens and rows are not in proportion in any part."""
    from easynlp.methods import apply_methods
    from easynlp.tasks.language_modeling import Config, LanguageModeling
    from tests.conftest import REVIEWS
    from tests.contract.samples import plain

    task = LanguageModeling(Config(max_length=64, mask_rate=0.4), tiny_backbone.tokenizer)
    texts = [(text * 4)[: 4 + 7 * i] for i, (text, _) in enumerate(REVIEWS)]
    source = EncodedRows.of(task.encode_batch([{"text": text} for text in texts]))
    ends = []
    for accumulate in (1, 3):
        torch.manual_seed(0)
        plan = Plan(task, task.build(plain(tiny_backbone)), (task_term(task),))
        plan = apply_methods(plan, ["bag_of_words"])
        options = FitOptions(steps=2, batch_size=8, lr=1e-3, warmup=0.0, accumulate=accumulate)
        events = list(fit(plan, source, options, state=State(), device=torch.device("cpu")))
        ends.append((events[-1].losses, plan.model.state_dict()))
    (whole, weights), (parts, others) = ends
    assert parts == pytest.approx(whole, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5)
