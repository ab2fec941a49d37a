"""`pretrain` from text to a model folder that we and stock transformers load."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import easynlp
from easynlp.errors import ConfigError, Interrupted
from easynlp.models.backbone import Backbone
from easynlp.training import session

TEXT = (
    "今天天气很好，我们去公园散步。\n孩子们在草地上放风筝。\n\n"
    "这家酒店的早餐很不错，房间也很干净。\n服务员态度热情，下次还会再来。\n\n"
) * 60


@pytest.fixture
def go(tmp_path: Path):
    """Pre-train a minute model; keyword arguments override."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text(TEXT, encoding="utf-8")

    def pretrain(**options):
        given = {
            "corpus": [str(tmp_path / "corpus")], "output": str(tmp_path / "run"),
            "vocab_size": 200, "layers": 2, "hidden_size": 64, "heads": 2, "ffn": 128,
            "max_positions": 64, "row_length": 32, "batch_size": 8, "steps": 8, "lr": 3e-3,
            "precision": "fp32", "save_every": 2, "heldout_rows": 8, "method": ["bag_of_words"],
        }  # fmt: skip
        return easynlp.pretrain(**{**given, **options})

    return pretrain


def test_it_learns_and_leaves_a_model_stock_transformers_loads(go, tmp_path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = go(steps=150, batch_size=32, lr=4e-3, save_every=0)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first, last = (line["losses"] for line in (lines[0], lines[-1]))
    assert last["loss"] < first["loss"] - 0.4
    assert last["bag_of_words"] < first["bag_of_words"]
    model = AutoModelForMaskedLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert model.config.hidden_dropout_prob == 0.1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = Backbone.load(str(folder))
    text = "今天天气很好"
    assert tokenizer(text)["input_ids"] == ours.tokenizer.encode(text, max_length=32).ids.tolist()
    pooler = ours.with_head("AutoModelForSequenceClassification", num_labels=2).bert.pooler
    fresh = Backbone.load(f"random:{folder}").with_head(
        "AutoModelForSequenceClassification", num_labels=2
    )
    assert pooler.dense.weight.std() > 1.2 * fresh.bert.pooler.dense.weight.std()  # it was trained


def test_stopped_and_resumed_it_ends_with_the_same_weights(go, tmp_path, monkeypatch) -> None:
    straight = (go(output=str(tmp_path / "straight")) / "model.safetensors").read_bytes()
    real = session.Reporter.report

    def report(self, event):
        real(self, event)
        if event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(session.Reporter, "report", report)
    with pytest.raises(Interrupted, match="stopped at step 3 of 8"):
        go()
    monkeypatch.undo()
    assert (go(resume=True) / "model.safetensors").read_bytes() == straight


def test_options_that_do_not_fit(go) -> None:
    with pytest.raises(ConfigError, match="multiple of --heads"):
        go(hidden_size=65)
    with pytest.raises(ConfigError, match="longer than --max-positions"):
        go(row_length=128)


def test_logits_at_the_holes_are_those_of_the_whole_row(tiny_backbone) -> None:
    from easynlp.models.heads import core
    from easynlp.tasks.language_modeling import Config, LanguageModeling
    from easynlp.training.loop import to_tensors

    task = LanguageModeling(Config(mask_rate=0.3), tiny_backbone.tokenizer)
    model = task.build(tiny_backbone).eval()
    batch = task.collate([task.encode({"text": t}) for t in ("今天天气真好", "我在北京大学读书")])
    tensors = to_tensors(batch, torch.device("cpu"))
    with torch.no_grad():
        some = model(tensors["input_ids"], tensors["masked_positions"], tensors["attention_mask"])
        whole = core(model)(
            input_ids=tensors["input_ids"], attention_mask=tensors["attention_mask"]
        ).logits
    flat = whole.reshape(-1, whole.shape[-1])[batch["masked_positions"]]
    assert np.allclose(some.logits.numpy(), flat.numpy(), atol=1e-5)
