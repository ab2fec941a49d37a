"""`easynlp fewshot`: what is tried, what is chosen and why, and what it leaves behind."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

import pytest

from easynlp.cli.main import main
from easynlp.errors import ConfigError
from easynlp.fewshot import choose as module
from easynlp.fewshot.choose import Try, choose, explain
from easynlp.fewshot.settings import FewShotConfig
from easynlp.pipeline import Pipeline
from tests.conftest import REVIEWS


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


@pytest.fixture
def given(tmp_path, tiny_folder):
    rows = [{"text": text, "label": label} for text, label in REVIEWS]
    return {
        "train": write(tmp_path / "train.jsonl", rows),
        "dev": write(tmp_path / "dev.jsonl", [{**r, "text": r["text"] + "。"} for r in rows[:6]]),
        "model": str(tiny_folder), "output": str(tmp_path / "run"), "lrs": (5e-3,), "steps": 12,
        "evaluations": 2, "batch_size": 8, "precision": "fp32", "max_length": 32, "threads": 1,
    }  # fmt: skip


def test_examples_run():
    assert doctest.testmod(module).failed == 0


def test_the_best_on_dev_becomes_a_plain_run_folder(given, tmp_path):
    pool = write(tmp_path / "pool.jsonl", [{"text": f"{t}{i}"} for i in range(3)
                                           for t, _ in REVIEWS])  # fmt: skip
    test = write(tmp_path / "test.jsonl", [{"text": REVIEWS[1][0], "label": "差评"}])
    config = FewShotConfig(
        **given, unlabeled=pool, test=test, rounds=1, quota=4, ways=("probe", "lp_ft",
                                                                     "self_training"),
    )  # fmt: skip
    choice = choose(config)
    assert [t.way for t in choice.tries] == [
        "tfidf_lr", "naive_bayes_em", "probe", "lp_ft", "self_training"
    ]  # fmt: skip
    runs = [t for t in choice.tries if t.folder]
    assert choice.chosen.dev == max(t.dev for t in runs)
    report = json.loads((tmp_path / "run" / "fewshot.json").read_text("utf-8"))
    assert report["why"] == choice.why
    assert report["chosen"]["way"] == choice.chosen.way
    pipeline = Pipeline.load(tmp_path / "run")
    assert pipeline.meta["task"] == "text_classify"
    assert pipeline.meta["base_model"] == given["model"]
    assert set(pipeline.meta["scores"]) == {"dev", "test"}
    assert pipeline.meta["scores"]["dev"]["accuracy"] == pytest.approx(choice.chosen.dev)
    best = tmp_path / "run" / choice.chosen.folder
    files = [folder / "model.safetensors" for folder in (tmp_path / "run", best)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_was_tried_is_not_tried_again(given, tmp_path, monkeypatch):
    config = FewShotConfig(**given, ways=("probe", "fine_tune"))
    first = choose(config)

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(module.run, "train", refuse)
    from dataclasses import replace

    again = choose(replace(config, resume=True))
    assert again.chosen == first.chosen
    with pytest.raises(ConfigError, match="--resume"):
        choose(config)


def test_a_way_that_does_not_fit_is_noted_and_the_rest_goes_on(given):
    words = "好评=好;差评=好"  # one word for both
    config = FewShotConfig(
        **given, ways=("probe", "pet"), pattern=("{text}，很[MASK]。",), words=words
    )
    choice = choose(config)
    assert choice.chosen.way == "probe"
    (pet,) = [t for t in choice.tries if t.way == "pet"]
    assert pet.note
    assert not pet.folder


def test_bad_options_are_refused(given):
    with pytest.raises(ConfigError, match='unknown way "probes"'):
        choose(FewShotConfig(**given, ways=("probe,probes",)))
    with pytest.raises(ConfigError, match="--unlabeled"):
        choose(FewShotConfig(**given, ways=("self_training",)))
    with pytest.raises(ConfigError, match="--pattern"):
        choose(FewShotConfig(**given, ways=("pet",)))


def test_the_reason_names_the_lead_and_doubts_a_small_one():
    tries = [Try("probe", "", 0.7, -0.6, 1.0), Try("lp_ft", "lr 1e-4", 0.7, -0.5, 1.0),
             Try("tfidf_lr", "", 0.8, -0.6, 1.0),
             Try("pet", "", 0.99, 0.0, 1.0, note="no head")]  # fmt: skip
    assert explain(tries[:2], tries[1], 10).endswith("as probe; chosen by surer answers")
    assert explain(tries, tries[1], 10).endswith(
        "1 rows behind tfidf_lr, which makes no run folder"
    )
    strong = Try("setfit", "", 0.9, -0.1, 1.0)
    assert explain([*tries[:2], strong], strong, 100).endswith("20 rows ahead of lp_ft")
    assert "chance" in explain([*tries[:2], strong], strong, 20)


def test_the_command_prints_what_was_tried_and_why(given, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()
             if name != "lrs"]  # fmt: skip
    assert main(["fewshot", *flags, "--lrs", "5e-3", "--ways", "probe"]) == 0
    out = capsys.readouterr().out
    assert "naive_bayes_em" in out
    assert "probe: " in out
    assert "on 6 dev rows" in out
