"""A whole compression of a tiny run: measured, resumed, and what comes out is a run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from easynlp import run
from easynlp.compression import compress as module
from easynlp.compression.candidates import Candidate, Shape, why_chosen
from easynlp.compression.compress import compress
from easynlp.compression.material import Material
from easynlp.compression.settings import CompressConfig
from easynlp.config import TrainConfig
from easynlp.errors import ConfigError, DataError, Interrupted, ModelError
from easynlp.pipeline import Pipeline
from easynlp.tasks import find_task
from tests.conftest import REVIEWS


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_folder):
    """A tiny run and its folder's parent."""
    home = tmp_path_factory.mktemp("compress")
    rows = [{"text": f"{text}{i}", "label": label} for i in range(2) for text, label in REVIEWS]
    for name, part in (("train", rows), ("dev", rows[:8]), ("pool", rows[8:])):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in part]
        (home / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    config = TrainConfig(
        task="text_classify", train=str(home / "train.jsonl"), dev=str(home / "dev.jsonl"),
        output=str(home / "run"), model=str(tiny_folder), lr=5e-3, steps=60, batch_size=8,
        precision="fp32", threads=1,
    )  # fmt: skip
    run.train(config, find_task("text_classify").Config(max_length=32, pooling="first"))
    return home


def options(home, **changes):
    plain = {"run": str(home / "run"), "output": str(home / "small"), "width": (0.5,),
             "depth": (1,), "vocab": True, "int8": True, "static": True, "qat": "always",
             "max_drop": 60.0,
             "steps": 20, "lr": 5e-3, "batch_size": 8, "precision": "fp32", "fallback": 5,
             "rounds": 2, "method": ("cap",), "timed": 4}  # fmt: skip
    return CompressConfig(**{**plain, **changes})


def test_candidates_are_measured_and_the_kept_one_is_a_run(trained, monkeypatch):
    result = compress(options(trained))
    names = [row.name for row in result.candidates]
    assert names == [f"w0.5-d1-v-{kind}" for kind in ("fp32", "static", "int8", "qat")]
    assert result.chosen in names
    whole, small = result.baseline, result.candidates[0]
    assert small.parameters < whole.parameters
    assert small.tokens < whole.tokens
    assert all(row.bytes > 0 < row.p50_ms <= row.p99_ms for row in result.candidates)
    out = trained / "small"
    assert (out / "pareto.svg").is_file()
    assert json.loads((out / "compress.json").read_text("utf-8"))["chosen"] == result.chosen

    # It reloads, in torch and as served, and both say the same of nearly all.
    texts = [text for text, _ in REVIEWS]
    torch_says = Pipeline.load(out, backend="torch").predict(texts)
    served = Pipeline.load(out).predict(texts)
    assert [p["label"] for p in torch_says] == [p["label"] for p in served]
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["model_type"] == "narrow_bert"
    assert (config["kept_heads"], config["num_hidden_layers"]) == (1, 1)
    assert config["hidden_dropout_prob"] == 0.1  # as the run had it, not as recovery wanted it
    # It trains on.
    again = TrainConfig(
        task="text_classify", train=str(trained / "train.jsonl"), output=str(trained / "again"),
        model=str(out), steps=2, precision="fp32", threads=1,
    )  # fmt: skip
    run.train(again, find_task("text_classify").Config(max_length=32, pooling="first"))
    assert Pipeline.load(trained / "again").predict(texts[:1])

    # Going on measures nothing again.
    def never(*args, **kwargs):
        raise AssertionError("measured again")

    for name in ("measure", "export"):
        monkeypatch.setattr(module, name, never)
    second = compress(options(trained, resume=True))
    assert second.candidates == result.candidates
    assert second.chosen == result.chosen
    lines = (out / "candidates.jsonl").read_text("utf-8").splitlines()
    (out / "candidates.jsonl").write_text("\n".join(lines[:-1]) + "\n", "utf-8")
    with pytest.raises(AssertionError, match="measured again"):
        compress(options(trained, resume=True))  # the one that is missing, and no other
    with pytest.raises(ConfigError, match="depth"):
        compress(options(trained, resume=True, depth=(2,)))


@pytest.mark.slow
def test_recovery_goes_on_to_the_same_weights(trained, stopped):
    from safetensors.torch import load_file

    changes = {"rounds": 1, "static": False, "qat": "never", "width": (0.5,), "vocab": False,
               "fallback": 1000, "method": ()}  # fmt: skip
    compress(options(trained, output=str(trained / "a"), **changes))
    stopped(lambda: compress(options(trained, output=str(trained / "b"), **changes)))
    compress(options(trained, output=str(trained / "b"), resume=True, **changes))
    one, other = (load_file(trained / name / "model.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.array_equal(value, other[name])


@pytest.mark.parametrize("name", ["text_cnn:width=8,filters=4", "hashed_ngram:buckets=61"])
def test_a_model_without_layers_is_quantized_but_not_cut(trained, name):
    home = trained / name.partition(":")[0]
    config = TrainConfig(
        task="text_classify", train=str(trained / "train.jsonl"), dev=str(trained / "dev.jsonl"),
        output=str(home), model=name, steps=2, batch_size=8, precision="fp32", threads=1,
    )  # fmt: skip
    run.train(config, find_task("text_classify").Config(max_length=32))
    for cut in ({"target_size": "1MB"}, {"depth": (1,)}, {"width": (0.5,)}, {"vocab": True}):
        with pytest.raises(ModelError, match="pruning works on encoders shaped like BERT"):
            compress(CompressConfig(run=str(home), output=str(trained / "cut"), **cut))
    assert not (trained / "cut").exists()
    result = compress(
        CompressConfig(run=str(home), output=f"{home}-int8", int8=True, max_drop=100, timed=2)
    )
    assert [row.kind for row in result.candidates] == ["fp32", "int8"]
    assert result.chosen is not None
    assert Pipeline.load(f"{home}-int8").predict(["房间很干净"])


def test_why_nothing_is_kept_has_units_and_says_nothing_twice():
    made = {"shape": Shape(0.5, 1, True), "kind": "int8", "score": 0.9, "low": 0.8, "high": 1.0,
            "parameters": 9, "tokens": 9, "unknown": 0.0, "unknown_unlabeled": None, "p50_ms": 1.0,
            "p99_ms": 1.0, "speedup": 2.0, "memory_mb": 1.0, "home": "", "export": ""}  # fmt: skip
    whole = Candidate("run", drop=0.0, bytes=9_000_000, **made)
    small = Candidate("small", drop=6.25, bytes=3_510_000, **made)
    near = Candidate("near", drop=2.0, bytes=5_000_000, **made)
    why = why_chosen(None, whole, [small], 3_998_000, 0.5)
    assert "at most 0.5 points lost and 4.00 MB)" in why
    assert why.count(" 3.51 MB ") == 1
    assert "least, near, has 5.00 MB and loses 2.00" in why_chosen(
        None, whole, [small, near], 3_998_000, 0.5
    )


@pytest.mark.slow
def test_no_candidate_within_the_budget_is_said(trained):
    changes = {"width": (), "depth": (), "vocab": False, "fallback": 1000, "rounds": 1,
               "static": False, "method": (), "int8": False, "qat": "never",
               "candidates": 1}  # fmt: skip
    result = compress(
        options(trained, output=str(trained / "no"), target_size="1KB", steps=1, **changes)
    )
    assert result.chosen is None
    assert "No candidate keeps to the budget" in result.why
    assert not (trained / "no" / "easynlp.json").exists()
    assert result.candidates[0].bytes > 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": ("capp",)}, 'unknown method "capp"'),
        ({"depth": (3,)}, "the run has 2 layers"),
        ({"vocab_size": 3}, "--vocab-size 3 has no room beside 5 special tokens; valid: 6 or more"),
    ],
)
def test_what_the_run_cannot_follow_is_said_before_anything_is_made(trained, changes, message):
    with pytest.raises(ConfigError, match=message):
        compress(options(trained, output=str(trained / "never"), **changes))
    assert not (trained / "never").exists()


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_label_the_run_does_not_know_is_told_at_its_line(trained, tmp_path, split):
    rows = [{"text": "房间很好", "label": REVIEWS[0][1]}, {"text": "还行", "label": "中评"}]
    odd = tmp_path / "odd.jsonl"
    odd.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with pytest.raises(DataError, match=r'odd\.jsonl:2: unknown label "中评"'):
        compress(options(trained, output=str(trained / "odd"), **{split: str(odd)}))
    assert not (trained / "odd").exists()


def test_wrong_input_leaves_no_folder_in_the_way_but_never_what_took_work(trained, monkeypatch):
    def refuse(*args, **kwargs):
        raise ModelError("cannot be exported")

    monkeypatch.setattr(module, "export", refuse)
    made = trained / "refused"
    with pytest.raises(ModelError, match="cannot be exported"):
        compress(options(trained, output=str(made)))
    assert not made.exists()

    def write_then_refuse(*args, **kwargs):
        (made / module.ROWS).write_text("{}\n", "utf-8")
        refuse()

    monkeypatch.setattr(module, "export", write_then_refuse)
    with pytest.raises(ModelError, match="cannot be exported"):
        compress(options(trained, output=str(made)))
    assert (made / "compress.yaml").is_file()


def test_an_interrupt_says_how_to_go_on(trained, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "export", stop)
    made = trained / "stopped"
    with pytest.raises(Interrupted, match=r"stopped; .* same command and --resume"):
        compress(options(trained, output=str(made)))
    assert (made / "compress.yaml").is_file()


def test_unlabelled_text_is_found_where_the_runs_own_data_had_it(trained, tmp_path):
    recipe = (trained / "run" / "train.yaml").read_text("utf-8")
    run_folder = tmp_path / "run"
    shutil.copytree(trained / "run", run_folder)
    (run_folder / "train.yaml").write_text(recipe.replace("text: null", "text: body"), "utf-8")
    rows = [{"content": "no", "body": text, "label": label} for text, label in REVIEWS[:4]]
    for name in ("train", "dev"):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"content": "no", "body": "yes"}\n', "utf-8")
    config = CompressConfig(
        run=str(run_folder), train=str(tmp_path / "train.jsonl"), dev=str(tmp_path / "dev.jsonl"),
        unlabeled=str(pool), int8=True,
    )  # fmt: skip
    assert [row["text"] for row in Material.read(config).unlabeled] == ["yes"]
    pool.write_text('{"content": "no"}\n', "utf-8")  # another layout is guessed
    assert [row["text"] for row in Material.read(config).unlabeled] == ["no"]


def test_a_text_of_test_is_known_again_in_the_pool_however_it_is_spaced(trained, tmp_path):
    text, label = REVIEWS[0]
    test, pool = tmp_path / "test.jsonl", tmp_path / "pool.jsonl"
    test.write_text(json.dumps({"text": f"{text}ABC!", "label": label}) + "\n", "utf-8")
    rows = [{"text": f" {text}ＡＢＣ！ "}, {"text": "别的话"}]
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    config = CompressConfig(
        run=str(trained / "run"), test=str(test), unlabeled=str(pool), int8=True
    )
    assert [row["text"] for row in Material.read(config).unlabeled] == ["别的话"]
