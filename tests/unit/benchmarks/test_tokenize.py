"""``easynlp bench tokenize`` compares before it times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easynlp.benchmarks.settings import TokenizeOptions
from easynlp.benchmarks.tokenize import bench_tokenize, tokenize_tables
from easynlp.errors import ConfigError, GateError
from easynlp.text.learned_words import Learned
from easynlp.text.tokenizer import Tokenizer


@pytest.fixture
def options(tmp_path: Path, wordpiece: Tokenizer) -> dict:
    folder = tmp_path / "fewclue_tnews"
    folder.mkdir()
    texts = [f"第{i}条新闻：北京 hotel 太贵了！" for i in range(30)]
    rows = [{"id": i, "sentence": t, "more": [t + "?"]} for i, t in enumerate(texts)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    wordpiece.save(tmp_path)
    return {
        "model": str(tmp_path),
        "data_root": str(tmp_path),
        "fuzz": 50,
        "texts": 20,
        "rounds": 2,
    }


def test_the_report_holds_both_sides_of_every_way(options: dict, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    report = bench_tokenize(TokenizeOptions(**options, output=str(output)))
    assert [row["texts"] for row in report["exact"]] == [60, 50]
    assert not any(row["different"] for row in report["exact"])
    assert {row["set"] for row in report["speed"]} == {"titles", "documents", "pairs"}
    assert all(len(row["ratios"]) == 2 and row["our_us"] > 0 for row in report["speed"])
    assert {row["peer"] for row in report["speed"]} == {
        "tokenizers encode", "transformers call", "encode_batch_fast", "encode_batch",
    }  # fmt: skip
    assert json.loads(output.read_text(encoding="utf-8"))["speed"] == report["speed"]
    assert [table.row_count for table in tokenize_tables(report)] == [2, 18]


def test_a_difference_fails_it(options: dict, monkeypatch) -> None:
    word = Learned.word
    monkeypatch.setattr(
        Learned, "word", lambda self, text: (5,) if text == "17" else word(self, text)
    )
    with pytest.raises(GateError, match="encoded otherwise"):
        bench_tokenize(TokenizeOptions(**options))


def test_another_kind_of_tokenizer_is_refused(options: dict, unigram: Tokenizer, tmp_path) -> None:
    folder = tmp_path / "unigram"
    folder.mkdir()
    unigram.save(folder)
    with pytest.raises(ConfigError, match="nothing to measure"):
        bench_tokenize(TokenizeOptions(**(options | {"model": str(folder)})))
