"""Self-training: what it keeps, leaves out, resumes, and that its placebo is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from easynlp import run
from easynlp.config import TrainConfig
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot import self_training
from easynlp.fewshot.self_training import Round, best_round, read_pool, self_train
from easynlp.fewshot.settings import SelfTrainingOptions
from tests.conftest import REVIEWS


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


@pytest.fixture
def go(tmp_path, tiny_folder):
    """Self-train on four reviews, dev the other four, a pool made of both with numbers."""
    rows = [{"text": text, "label": label} for text, label in REVIEWS]
    pool = [{"sentence": f"{text}{i}"} for i in range(4) for text, _ in REVIEWS]
    pool += [{"sentence": REVIEWS[0][0]}, {"sentence": REVIEWS[5][0]}, {"sentence": "孩子很热情"},
             {"sentence": "孩子很热情"}]  # fmt: skip
    files = {
        "train": write(tmp_path / "train.jsonl", rows[:4]),
        "dev": write(tmp_path / "dev.jsonl", rows[4:6]),
        "test": write(tmp_path / "test.jsonl", rows[6:]),
    }
    options = {"unlabeled": write(tmp_path / "pool.jsonl", pool), "rounds": 2, "quota": 4}

    def train(output="run", resume=False, **changes):
        config = TrainConfig(
            task="text_classify", output=str(tmp_path / output), model=str(tiny_folder), lr=5e-3,
            epochs=4.0, batch_size=4, precision="fp32", resume=resume, threads=1, **files,
        )  # fmt: skip
        return self_train(config, SelfTrainingOptions(**{**options, **changes}))

    return train


def report(folder: Path) -> dict:
    return json.loads((folder / "self_training.json").read_text("utf-8"))


def test_rounds_keep_a_quota_and_end_in_a_plain_run_folder(go, tmp_path):
    pipeline = go()
    found = report(tmp_path / "run")
    assert found["left_out"] == {
        "also in train": 1, "also in dev": 1, "also in test": 0, "repeated": 1
    }  # fmt: skip
    assert found["pool"] == 33
    assert [r["number"] for r in found["rounds"]] == [0, 1, 2]
    assert found["rounds"][0]["kept"] == {}
    for each, quota in zip(found["rounds"][1:], (4, 8), strict=True):
        for label, kept in each["kept"].items():
            assert kept == min(quota, each["confident"][label])
    lines = (tmp_path / "run" / "rounds" / "train-2.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 4 + sum(found["rounds"][2]["kept"].values())
    assert set(pipeline.meta["scores"]) == {"dev", "test"}
    best = tmp_path / "run" / "rounds" / str(found["best"])
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        best / "model.safetensors"
    ).read_bytes()
    assert pipeline.predict(["房间很干净"])[0]["label"] in ("好评", "差评")


def test_an_interrupted_self_training_ends_as_it_would_have(go, tmp_path, monkeypatch):
    go()
    original, calls = run.train, []

    def dies(config, task_config=None):
        calls.append(config.output)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(config, task_config)

    monkeypatch.setattr(run, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        go("other")
    with pytest.raises(ConfigError, match="--resume"):
        go("other")
    go("other", resume=True)
    assert [Path(path).name for path in calls] == ["0", "1", "1", "2"]  # round 0 is not done again
    for name in ("rounds/train-2.jsonl", "rounds/2/model.safetensors", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    with pytest.raises(ConfigError, match="quota"):
        go("other", resume=True, quota=5)


def test_the_placebo_keeps_the_same_rows_with_labels_of_the_same_counts(go, tmp_path):
    go(rounds=1)
    go("placebo", rounds=1, placebo=True)
    rows, dealt = (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()[4:]]
        for path in (tmp_path / name / "rounds" / "train-1.jsonl" for name in ("run", "placebo"))
    )
    assert [r["text"] for r in rows] == [r["text"] for r in dealt]
    assert sorted(r["label"] for r in rows) == sorted(r["label"] for r in dealt)
    assert report(tmp_path / "placebo")["options"]["placebo"] is True


def test_rounds_may_go_on_from_the_round_before(go, tmp_path):
    go(rounds=1)
    go("on", rounds=1, restart=False)
    recipes = [
        (tmp_path / name / "rounds" / "1" / "train.yaml").read_text("utf-8")
        for name in ("run", "on")
    ]
    assert "rounds/0" in recipes[1]
    assert "rounds/0" not in recipes[0]


def test_the_best_round_is_the_later_of_equals():
    rounds = [Round(i, {}, {}, {}, m) for i, m in enumerate((0.5, 0.7, 0.7, 0.6))]
    assert best_round(rounds).number == 2
    assert best_round([Round(i, {}, {}, {}, None) for i in range(3)]).number == 2
    assert self_training._worse_for_long(rounds, 1)
    assert not self_training._worse_for_long(rounds[:3], 1)


def test_a_pool_without_anything_new_is_refused(go, tmp_path):
    with pytest.raises(ConfigError, match="--unlabeled"):
        go(unlabeled=None)
    pool = write(tmp_path / "same.jsonl", [{"text": REVIEWS[0][0]}])
    with pytest.raises(DataError, match="no unlabelled row is left"):
        go(unlabeled=pool)
    config = TrainConfig(task="text_classify", train="x", output="y")
    options = SelfTrainingOptions(
        unlabeled=write(tmp_path / "a.jsonl", [{"text": "一"}, {"text": "二"}]),
        exclude=(write(tmp_path / "b.jsonl", [{"text": "二"}]),),
    )
    found = read_pool(config, options, {})
    assert [e["text"] for e in found.examples] == ["一"]
    assert found.left_out == {"also in b.jsonl": 1, "repeated": 0}
