"""``prompt check``: the head's verdict, the comparison of patterns, and what it refuses."""

from __future__ import annotations

import json

import pytest

from easynlp.cli.main import main
from easynlp.errors import ConfigError
from easynlp.fewshot.check_prompts import check_prompts
from easynlp.fewshot.prompt_settings import PromptCheckOptions
from tests.conftest import REVIEWS

PATTERNS = ("{text}，总之很[MASK]。", "总体来说很[MASK]。{text}")
WORDS = "好评=好;差评=差"


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [{"text": t, "label": label} for t, label in REVIEWS] + [
        {"text": "很好", "label": "好评"}
    ]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in lines), "utf-8")
    return str(path)


def test_patterns_are_compared_untrained_and_trained(rows, tiny_folder):
    model = str(tiny_folder)
    options = PromptCheckOptions(
        model=model, dev=rows, train=rows, pattern=PATTERNS, words=WORDS, epochs=30, lr=5e-3,
        max_length=32,
    )  # fmt: skip
    report = check_prompts(options)
    assert report["mask_head"]["verdict"] == "unproven"  # its weights are random
    assert report["rows"] == {"scored_on": "dev", "rows": 9, "labels": 2}
    assert report["majority"] == pytest.approx(5 / 9)
    first, second = report["patterns"]
    assert [first["pattern"], second["pattern"]] == list(PATTERNS)
    assert first["trained"] == second["trained"] == 1.0  # they are the very rows
    better = max(report["patterns"], key=lambda each: each["zero_shot"])
    assert report["best"]["zero_shot"] == better["pattern"]
    spread = report["spread"]["zero_shot"]
    assert spread["range"] == pytest.approx(abs(first["zero_shot"] - second["zero_shot"]))
    assert report["spread"]["trained"] == {"range": 0.0, "sd": 0.0, "noise": 0.0}
    again = check_prompts(
        PromptCheckOptions(model=model, train=rows, pattern=PATTERNS, words=WORDS)
    )
    assert again["rows"]["scored_on"] == "train"
    assert "trained" not in again["patterns"][0]
    assert again["patterns"][0]["zero_shot"] == first["zero_shot"]


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(rows, capsys):
    given = ["prompt", "check", "--dev", rows, "--words", WORDS, "--pattern", PATTERNS[0]]
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "masked-LM head of tiny-zh: " in shown
    assert PATTERNS[0] in shown
    assert "always the commonest label: 55.6" in shown
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["zero_shot"] == PATTERNS[0]


def test_a_model_without_a_head_fails_the_check(rows, tiny_folder, tmp_path, capsys):
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(tiny_folder).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "bare")
    code = main(["prompt", "check", "--model", str(tmp_path / "bare"), "--dev", rows])
    shown = capsys.readouterr()
    assert code == 1
    assert "missing" in shown.out
    assert "cannot fill holes" in shown.err


def test_wrong_input_is_told_before_the_model_is_run(rows):
    with pytest.raises(ConfigError, match="give some with --dev FILE"):
        check_prompts(PromptCheckOptions(pattern=PATTERNS))
    with pytest.raises(ConfigError, match='share the word "好"'):
        check_prompts(PromptCheckOptions(pattern=PATTERNS, words="好评=好;差评=好", dev=rows))
