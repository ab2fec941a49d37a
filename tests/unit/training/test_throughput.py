"""Counted FLOPs against PyTorch's own counter; the peak is measured once a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from easynlp.models.heads import MaskedPositions
from easynlp.training import throughput
from easynlp.training.loop import Event
from easynlp.training.reporting import Reporter
from easynlp.training.throughput import (
    Throughput,
    counted_flops_per_token,
    flops_per_token,
    measure_peak,
    peak_of_run,
    pick_clock,
)

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 48, "attn_implementation": "eager",
}  # fmt: skip


def models():
    yield "bert", BertForMaskedLM(BertConfig(**SHAPE))
    recurrent = AlbertConfig(**SHAPE, embedding_size=16, num_hidden_groups=1, inner_group_num=2)
    recurrent.num_hidden_layers = 3  # a stack of two layers, three times
    yield "albert", AlbertForMaskedLM(recurrent)
    small = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    yield "gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=90, attn_implementation="eager", **small))


@pytest.mark.parametrize(("name", "model"), models(), ids=lambda value: str(value)[:6])
def test_flops_are_those_pytorch_counts(name, model) -> None:
    rows, length, holes = 3, 20, 9
    ids = torch.randint(5, 90, (rows, length))
    counter = FlopCounterMode(display=False)
    everywhere = name == "gpt2"
    with counter:
        output = model(ids) if everywhere else MaskedPositions(model)(ids, torch.arange(holes))
        output.logits.sum().backward()
    lengths = np.full(rows, length, np.int32)
    predicted = 1.0 if everywhere else holes / (rows * length)
    counted = flops_per_token(model, lengths, predicted=predicted)
    assert counted * rows * length == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_attention_is_paid_by_the_square_of_each_rows_length() -> None:
    model = BertForMaskedLM(BertConfig(**SHAPE))
    together = flops_per_token(model, np.array([10, 30])) * 40
    apart = sum(flops_per_token(model, np.array([n])) * n for n in (10, 30))
    assert together == pytest.approx(apart)


def test_the_peak_is_measured_and_more_than_a_models_speed() -> None:
    """A step of wide layers is nearly all products: below the peak, but not far below."""
    shape = {**SHAPE, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2}
    model = BertForMaskedLM(BertConfig(**shape))
    rows, length = 8, 64
    ids = torch.randint(5, 90, (rows, length))
    flops = flops_per_token(model, np.full(rows, length)) * rows * length
    clock = pick_clock(CPU)
    speed = 0.0
    for _ in range(4):
        began = clock()
        model(ids).logits.sum().backward()
        speed = max(speed, flops / (clock() - began))
    assert speed < measure_peak(CPU, "fp32", seconds=0.2) < 50 * speed


def test_the_peak_is_kept_in_the_run_folder_while_it_holds(tmp_path, monkeypatch) -> None:
    measured = iter([1e9, 2e9, 3e9])
    monkeypatch.setattr(throughput, "measure_peak", lambda *given: next(measured))
    assert peak_of_run(tmp_path, CPU, "fp32") == 1e9
    assert peak_of_run(tmp_path, CPU, "fp32") == 1e9
    assert peak_of_run(tmp_path, CPU, "bf16") == 2e9
    (tmp_path / "peak.json").write_text("{", encoding="utf-8")
    assert peak_of_run(tmp_path, CPU, "bf16") == 3e9


def test_metrics_hold_the_mean_speed_and_its_share_of_the_peak(tmp_path) -> None:
    given = {"epoch": 0.0, "losses": {"loss": 1.0}, "lr": 1e-3, "grad_norm": 1.0}
    reporter = Reporter(
        tmp_path, first_step=0, every=1, show=False,
        throughput=Throughput(flops_per_token=1e6, peak=1e9, processes=2),
    )  # fmt: skip
    with reporter:
        for step, seconds in ((1, 0.5), (2, 1.5)):
            event = Event(step, 2, tokens_per_second=100 / seconds, seconds=seconds, **given)
            reporter.report(event)
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    assert last["steps_per_second"] == 1.0
    assert last["tokens_per_second"] == 100.0
    assert last["peak_share"] == 0.05


def test_without_a_counted_model_there_is_a_speed_and_no_share(tmp_path) -> None:
    with Reporter(tmp_path, first_step=0, every=1, show=False) as reporter:
        reporter.report(
            Event(1, 1, epoch=1.0, losses={"loss": 1.0}, lr=1e-3, grad_norm=1.0,
                  tokens_per_second=50.0, seconds=2.0)
        )  # fmt: skip
    line = json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8"))
    assert (line["steps_per_second"], line["tokens_per_second"]) == (0.5, 50.0)
    assert "peak_share" not in line


def test_pytorch_counts_a_plan_as_its_shape_says(tiny_backbone) -> None:
    from types import SimpleNamespace

    from easynlp.tasks.language_modeling import LanguageModeling
    from easynlp.training.plan import Plan, task_term

    task = LanguageModeling(LanguageModeling.Config(max_length=32), tiny_backbone.tokenizer)
    plan = Plan(task, task.build(tiny_backbone), (task_term(task),))
    rows = [task.encode({"text": text * 3}) for text in ("房间很干净，下次还来", "早餐丰富", "好")]
    lengths = np.array([len(row["input_ids"]) for row in rows])
    source = SimpleNamespace(lengths=lengths, features=lambda row, epoch: rows[row])
    state = torch.get_rng_state()
    counted = counted_flops_per_token(plan, source, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in plan.model.parameters())
    predicted = sum(len(row["target"]) for row in rows) / lengths.sum()
    wanted = flops_per_token(plan.model, lengths, predicted=predicted)
    assert counted == pytest.approx(wanted, rel=1e-6)
