"""What holds of the benchmark of online distillation: equal arms, no test row in training."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from easynlp.benchmarks import online
from easynlp.benchmarks.distill_settings import OnlineOptions
from easynlp.benchmarks.online import ARMS, METHOD, bench_online, online_table
from easynlp.errors import DataError
from tests.conftest import REVIEWS


@pytest.fixture
def options(tiny_folder, tmp_path):
    home = tmp_path / "data" / "reviews"
    home.mkdir(parents=True)
    rows = [
        {"text": f"{text}{more}", "label": label}
        for more in ("", "，真的", "，我说")
        for text, label in REVIEWS
    ]
    for name, part in (("train", rows), ("test", rows[:4])):
        (home / f"{name}.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part), "utf-8"
        )
    return OnlineOptions(
        data="reviews", data_root=str(tmp_path / "data"), output=str(tmp_path / "out"), rows=8,
        dev_rows=4, teacher=str(tiny_folder), assistant="2x32", students=("1x16",), steps=4,
        eval_every=4, seeds=(1, 2), threads=1,
    )  # fmt: skip


def test_arms_are_scored_alike_and_finished_ones_are_kept(options, monkeypatch, caplog, tmp_path):
    assert {METHOD, "labels", "no assistant", "shuffled source"} < set(ARMS)
    monkeypatch.setattr(online, "ARMS", {name: ARMS[name] for name in ("labels", METHOD)})
    report = bench_online(options)
    assert set(report["accuracy"]) == {"majority", "tfidf-svm", "teacher", "labels", METHOD}
    assert set(report["accuracy"][METHOD]) == {"teacher", "assistant", "student0"}
    assert report["gains"]["labels"]["runs"] == 2  # a student, two seeds
    assert report["rows"] == {"train": 8, "dev": 4, "test": 4}
    given = {
        json.loads(line)["text"]
        for path in (tmp_path / "out" / "1").glob("*.jsonl")
        for line in path.read_text("utf-8").splitlines()
    }
    assert len(given) == 12
    assert not given & {text for text, _ in REVIEWS[:4]}
    assert online_table(report).row_count == len(report["accuracy"])
    caplog.clear()
    assert bench_online(options)["accuracy"] == report["accuracy"]
    assert "step 4/4" not in caplog.text


def test_too_few_rows_are_refused_before_anything_is_written(options, tmp_path):
    with pytest.raises(DataError, match="distinct rows to train on; 104 are wanted"):
        bench_online(replace(options, rows=100))
    with pytest.raises(DataError, match=r"train.jsonl and test.jsonl are wanted"):
        bench_online(replace(options, data="nowhere"))
    assert not (tmp_path / "out").exists()
