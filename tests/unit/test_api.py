from __future__ import annotations

import gzip
import json
import sys
import types
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import easynlp
from easynlp import api
from easynlp.cli import main
from easynlp.errors import ConfigError, DataError, MissingExtra, ModelError
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Field


@dataclass(frozen=True)
class Config:
    """Options of the task below."""

    long: int = 5
    """Characters from which a text is long."""


class Lengths:
    """Is a text long? A task that needs no training, to look at what surrounds it."""

    name: ClassVar[str] = "lengths"
    metric: ClassVar[str] = "accuracy"
    fields = (
        Field("text", ("text", "正文")),
        Field("label", ("label", "标签"), target=True),
    )
    Config: ClassVar[type] = Config

    def __init__(self, config):
        self.config = config

    def encode(self, example):
        if "坏" in example["text"]:
            raise DataError("a bad character")
        ids = np.zeros(len(example["text"]) + 2, np.int32)
        return {"input_ids": ids, "truncated": len(ids) > 50}

    def collate(self, features):
        lengths = [len(f["input_ids"]) for f in features]
        mask = np.arange(max(lengths))[None] < np.asarray(lengths)[:, None]
        return {"attention_mask": mask.astype(np.int64)}

    def decode(self, logits, batch, examples):
        return [{"label": "长" if n - 2 >= self.config.long else "短"} for n in logits[:, 0]]

    def score(self, predictions, examples):
        right = [p["label"] == e["label"] for p, e in zip(predictions, examples, strict=True)]
        return {"accuracy": float(np.mean(right))}


class Counting:
    """A model: logits are the number of tokens."""

    row_wise = False
    call_cost = 0

    def logits(self, batch):
        return batch["attention_mask"].sum(1, keepdims=True).astype(np.float32)


TASK = f"{__name__}:Lengths"


@pytest.fixture
def loaded(monkeypatch):
    calls = []

    def load(path, backend="auto", threads=1):
        calls.append((str(path), backend, threads))
        return Pipeline(Lengths(Config()), Counting(), {"columns": {"text": "内容"}})

    monkeypatch.setattr(Pipeline, "load", load)
    return calls


@pytest.fixture
def trained(monkeypatch):
    calls = []
    stub = types.ModuleType("easynlp.run")
    stub.train = lambda config, own: calls.append((config, own)) or "pipeline"
    monkeypatch.setitem(sys.modules, "easynlp.run", stub)
    monkeypatch.setattr(easynlp, "run", stub, raising=False)
    return calls


def write_rows(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def read_rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_train_takes_options_as_keywords(trained, tmp_path, monkeypatch):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("lr: 1e-3\nseed: 1\nbatch_size: 4\n")
    monkeypatch.setenv("EASYNLP_BATCH_SIZE", "16")
    made = easynlp.train(TASK, config=recipe, train="a.jsonl", output="runs/x", seed=2, long=7)
    assert made == "pipeline"
    ((config, own),) = trained
    assert (config.task, config.lr, config.seed, config.batch_size) == (TASK, 1e-3, 2, 16)
    assert own == Config(long=7)


def test_train_finds_the_task_in_the_recipe(trained, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"task: {TASK}\ntrain: a.jsonl\noutput: runs/x\nlong: 9\n")
    easynlp.train(config=recipe)
    assert trained[0][1].long == 9


def test_train_says_what_is_wrong_as_python_writes_it(trained):
    with pytest.raises(ConfigError) as caught:
        easynlp.train(TASK, lon=3, lr="快")
    assert str(caught.value).splitlines() == [
        'unknown option "lon". Did you mean "long"?',
        'lr=: "快" is not a number',
        "train= is missing: training data: jsonl, csv, tsv, parquet or CoNLL, also .gz and .zst.",
        "output= is missing: folder of the run: the model, its checkpoints, metrics and the "
        "resolved recipe.",
    ]
    with pytest.raises(ConfigError, match="which task"):
        easynlp.train(train="a", output="b")
    assert not trained


def test_train_without_torch_says_what_to_install(monkeypatch):
    monkeypatch.delattr(easynlp, "run", raising=False)
    monkeypatch.delitem(sys.modules, "easynlp.run", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r'pip install "easynlp\[train\]"'):
        easynlp.train(TASK, train="a.jsonl", output="runs/x")


def test_evaluate_scores_a_file(loaded, tmp_path):
    rows = [{"内容": "很好", "标签": "短"}, {"内容": "房间干净得很", "标签": "短"}]
    data = write_rows(tmp_path / "测试.jsonl", rows)
    assert easynlp.evaluate("runs/x", data, backend="onnx", threads=2) == {"accuracy": 0.5}
    assert loaded == [("runs/x", "onnx", 2)]


def test_evaluate_needs_targets_and_names_the_file(loaded, tmp_path):
    with pytest.raises(DataError, match="label"):
        easynlp.evaluate("runs/x", write_rows(tmp_path / "a.jsonl", [{"text": "好"}]))
    bad = write_rows(tmp_path / "b.jsonl", [{"text": "坏", "label": "短"}])
    with pytest.raises(DataError, match=r"b\.jsonl:1: a bad character"):
        easynlp.evaluate("runs/x", bad)


def test_predict_keeps_order_and_columns(loaded, tmp_path):
    rows = [{"id": i, "内容": "好" * (1 + i * 7 % 11), "label": "原"} for i in range(2500)]
    out = tmp_path / "out.jsonl"
    counts = easynlp.predict("runs/x", write_rows(tmp_path / "in.jsonl", rows), out, batch_size=8)
    assert counts == {"rows": 2500, "truncated": 0}
    assert read_rows(out) == [
        {**row, "predicted_label": "长" if len(row["内容"]) >= 5 else "短"} for row in rows
    ]


def test_predict_counts_what_was_cut_and_reads_and_writes_packed(loaded, tmp_path):
    source = tmp_path / "in.csv.gz"
    source.write_bytes(gzip.compress("编号,评论\n1,好\n2,{}\n".format("长" * 60).encode("gb18030")))
    out = tmp_path / "new" / "out.tsv.gz"
    counts = easynlp.predict("runs/x", source, out, columns={"text": "评论"}, encoding="gb18030")
    assert counts == {"rows": 2, "truncated": 1}
    lines = gzip.decompress(out.read_bytes()).decode("utf-8").splitlines()
    assert lines[0].split("\t") == ["编号", "评论", "label"]
    assert lines[1].split("\t") == ["1", "好", "短"]


def test_predict_leaves_nothing_behind_when_a_row_is_wrong(loaded, tmp_path):
    rows = [{"text": "好"}] * 2000 + [{"text": "坏"}]
    source = write_rows(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError, match=r"in\.jsonl:2001: a bad character"):
        easynlp.predict("runs/x", source, tmp_path / "out.jsonl", batch_size=4)
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_predict_replaces_an_output_only_when_told(loaded, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"text": "好"}])
    out = write_rows(tmp_path / "out.jsonl", [{"old": 1}])
    with pytest.raises(ConfigError, match="--overwrite"):
        easynlp.predict("runs/x", source, out)
    assert read_rows(out) == [{"old": 1}]
    easynlp.predict("runs/x", source, out, overwrite=True)
    assert read_rows(out) == [{"text": "好", "label": "短"}]


def test_inspect_tells_a_run(tmp_path):
    meta = {"format": 1, "task": "text_classify", "config": {"labels": ["好", "坏"]}}
    (tmp_path / "easynlp.json").write_text(json.dumps(meta))
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.int8.onnx").write_bytes(b"123")
    found = easynlp.inspect(tmp_path)
    assert found["models"] == {"model.safetensors": 5, "onnx/model.int8.onnx": 3}
    assert found["task"] == "text_classify"
    with pytest.raises(ModelError, match="is not a run"):
        easynlp.inspect(tmp_path / "onnx")


def test_inspect_looks_through_a_data_file(tmp_path, capsys):
    rows = [{"text": "很好", "label": "短"}, {"text": "很好", "label": "短"}]
    data = str(write_rows(tmp_path / "数据.jsonl", rows))
    assert easynlp.inspect(data)["duplicates"] == 1
    assert main(["inspect", data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == {"短": 2}
    assert main(["inspect", data, "--task", TASK]) == 0
    assert "短: 2" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "none.jsonl")]) == 2


def test_commands_print_results_to_stdout(loaded, tmp_path, capsys):
    data = write_rows(tmp_path / "a.jsonl", [{"text": "很好", "label": "短"}])
    assert main(["evaluate", "runs/x", "--data", str(data)]) == 0
    assert capsys.readouterr().out == "accuracy  1.0000\n"
    assert main(["evaluate", "runs/x", "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"accuracy": 1.0}
    out = str(tmp_path / "b.jsonl")
    assert main(["predict", "runs/x", "--input", str(data), "--output", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"output": out, "rows": 1, "truncated": 0}
    assert main(["predict", "runs/x", "--input", str(data), "--output", out]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["evaluate", "runs/x", "--data", str(tmp_path / "none.jsonl")]) == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_predict_to_standard_output_writes_rows_only(loaded, tmp_path, capfdbinary):
    data = write_rows(tmp_path / "a.jsonl", [{"text": "很好"}])
    assert main(["predict", "runs/x", "--input", str(data), "--output", "-"]) == 0
    shown = capfdbinary.readouterr()
    assert json.loads(shown.out) == {"text": "很好", "label": "短"}
    assert b"1 rows" in shown.err


def test_api_needs_no_task_to_load(loaded):
    assert api.load("runs/x").predict(["好"]) == [{"label": "短"}]
