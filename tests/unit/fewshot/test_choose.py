"""`easynlp fewshot`: what is tried, what is chosen and why, and what it leaves behind."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest

from easynlp.cli.main import main
from easynlp.errors import ConfigError
from easynlp.fewshot import choose as module
from easynlp.fewshot import phases, verdict
from easynlp.fewshot.choose import Try, check_ways, choose, explain
from easynlp.fewshot.settings import FewShotConfig
from easynlp.fewshot.verdict import sign_test
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
    assert doctest.testmod(verdict).failed == 0


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
    assert not list((tmp_path / "run").rglob("optimizer.safetensors"))  # several times the weights


def test_what_was_tried_is_not_tried_again(given, tmp_path, monkeypatch):
    config = FewShotConfig(**given, ways=("probe", "fine_tune"))
    first = choose(config)

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(phases.run, "train", refuse)
    again = choose(replace(config, resume=True))
    assert again.chosen == first.chosen
    with pytest.raises(ConfigError, match="--resume"):
        choose(config)


def test_a_way_that_does_not_fit_is_noted_and_the_rest_goes_on(given, tmp_path, tiny_backbone):
    headless = tmp_path / "headless"  # a model without a masked-LM head
    tiny_backbone.with_head("AutoModel").save_pretrained(headless)
    tiny_backbone.save_tokenizer(headless)
    config = FewShotConfig(**{
        **given, "model": str(headless), "ways": ("probe", "pet"),
        "pattern": ("{text}，很[MASK]。",), "words": "好评=好;差评=差",
    })  # fmt: skip
    choice = choose(config)
    assert choice.chosen.way == "probe"
    (pet,) = [t for t in choice.tries if t.way == "pet"]
    assert "masked-LM head" in pet.note
    assert not pet.folder


@pytest.mark.parametrize(
    ("pattern", "words", "said"),
    [
        ("{text}，很好。", "好评=好;差评=差", r"has no \[MASK\]; write it as"),
        ("{text}，很[MASK]。", "好评=好;差评=好", "share the word"),
        ("{text}，很[MASK]。", "好评=好", "no word for 差评"),
    ],
)
def test_wrong_prompts_are_refused_before_anything_is_trained(
    given, tmp_path, pattern, words, said
):
    config = FewShotConfig(**given, ways=("probe", "pet"), pattern=(pattern,), words=words)
    with pytest.raises(ConfigError, match=said):
        choose(config)
    assert not (tmp_path / "run").exists()


def test_bad_options_are_refused(given):
    with pytest.raises(ConfigError, match='--ways: unknown way "probes"'):
        choose(FewShotConfig(**given, ways=("probe,probes",)))
    with pytest.raises(ConfigError, match="--unlabeled"):
        choose(FewShotConfig(**given, ways=("self_training",)))
    with pytest.raises(ConfigError, match="--pattern"):
        choose(FewShotConfig(**given, ways=("pet",)))
    with pytest.raises(ConfigError, match="--ways probe,self_training"):
        choose(FewShotConfig(**given, ways=("self_training",), unlabeled="pool.jsonl"))


def test_ways_may_be_spelled_with_hyphens(given):
    check_ways(FewShotConfig(**given, ways=("lp-ft,fine-tune", "probe")))


def row(way, right, surety=-0.6, looks=1, note="", folder="x"):
    share = right.count("1") / len(right)
    return Try(way, "", share, surety, 1.0, note, folder, looks, right)


def test_the_reason_names_the_lead_and_doubts_a_small_one():
    tries = [row("probe", "1" * 7 + "000"), row("lp_ft", "1" * 7 + "000", -0.5),
             row("tfidf_lr", "1" * 8 + "00", folder=""),
             row("pet", "1" * 10, 0.0, note="no head")]  # fmt: skip
    assert explain(tries[:2], tries[1], 10).endswith("as probe; chosen by surer answers")
    assert explain(tries, tries[1], 10).endswith("1 row behind tfidf_lr, which makes no run folder")


def test_a_lead_is_tested_on_the_rows_that_differ_and_corrected_for_the_looks():
    """Eight rows ahead is plenty if no row speaks against it, and nothing among thirty that do."""
    clean = [row("probe", "1" * 60 + "0" * 20), row("setfit", "1" * 72 + "0" * 8, looks=4)]
    told = explain(clean, clean[1], 80)
    assert "12 rows ahead of probe: alone right on 12, alone wrong on 0" in told
    p = binomtest(12, 12).pvalue
    assert f"p {p:.2g} by a sign test, {5 * p:.2g} after 5 looks at dev" in told
    assert not told.endswith("chance")
    many = [clean[0], replace(clean[1], looks=200)]
    assert explain(many, many[1], 80).endswith("which may well be chance")
    noisy = [row("probe", "1" * 30 + "0" * 50), row("setfit", "0" * 19 + "1" * 42 + "0" * 19)]
    told = explain(noisy, noisy[1], 80)
    assert "12 rows ahead of probe: alone right on 31, alone wrong on 19" in told
    assert f"p {binomtest(19, 50).pvalue:.2g} by a sign test" in told
    assert told.endswith("which may well be chance")
    failed = replace(clean[0], way="pet", note="no head", looks=10_000)
    assert "after 5 looks" in explain([*clean, failed], clean[1], 80)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 3), (2, 9), (30, 12)])
def test_the_sign_test_is_the_exact_one(counts):
    wins, losses = counts
    expected = binomtest(wins, wins + losses).pvalue if sum(counts) else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)
    assert sign_test(losses, wins) == sign_test(wins, losses)


def test_no_way_looks_at_dev_more_often_than_it_may(given, tmp_path):
    config = FewShotConfig(**{**given, "evaluations": 7},
                           ways=("probe", "lp_ft", "fine_tune", "setfit", "cp_tuning"))  # fmt: skip
    choice = choose(config)
    for each in (t for t in choice.tries if t.folder):
        path = tmp_path / "run" / each.folder / "metrics.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        checkpoints = sum("dev" in json.loads(x) or "scores" in json.loads(x) for x in lines)
        looks = {"probe": 1, "lp_ft": 1 + checkpoints, "cp_tuning": 3 * checkpoints}
        assert each.looks == looks.get(each.way, checkpoints)
        assert each.looks <= 7
        assert len(each.right) == 6
        assert each.right.count("1") / 6 == pytest.approx(each.dev)
    assert [t.looks for t in choice.tries if t.folder] == [1, 7, 6, 6, 6]


def test_the_command_prints_what_was_tried_and_why(given, capsys):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()
             if name != "lrs"]  # fmt: skip
    assert main(["fewshot", *flags, "--lrs", "5e-3", "--ways", "probe"]) == 0
    out = capsys.readouterr().out
    assert "naive_bayes_em" in out
    assert "probe: " in out
    assert "on 6 dev rows" in out
