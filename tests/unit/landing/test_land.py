import json
import random
from dataclasses import replace

import pytest

from easynlp.errors import ConfigError, Interrupted, ModelError
from easynlp.landing import measuring
from easynlp.landing.land import land
from easynlp.landing.learning import read_rows
from easynlp.landing.settings import LandOptions, parse_size
from easynlp.pipeline import Pipeline, fingerprint

pytest.importorskip("sklearn")

GOOD = ["很好", "干净", "喜欢", "优美", "热情", "丰富", "方便", "性价比高"]
BAD = ["太差", "又贵又脏", "坏了", "不推荐", "一夜没睡", "没人管", "再也不来", "隔音不好"]
FILLER = ["房间", "早餐", "位置", "服务", "空调", "老板", "孩子", "景色", "态度", "下次"]


def reviews(count, seed):
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = GOOD if i % 2 else BAD
        text = "，".join(draw.choice(FILLER) + draw.choice(words) for _ in range(3))
        rows.append(
            {"text": f"{text}{draw.randrange(10**6)}", "label": "好评" if i % 2 else "差评"}
        )
    return rows


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sets = {"train": reviews(32, 1), "dev": reviews(20, 2), "test": reviews(40, 3)}
    sets["unlabeled"] = [{"text": row["text"]} for row in reviews(60, 4)]
    for name, rows in sets.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in sets}


QUICK = {
    "teacher_steps": 10, "teacher_lrs": (3e-3,), "ways": ("probe", "fine_tune"),
    "student_steps": 20, "student_lrs": (3e-3,), "evaluations": 2, "timed": 8, "max_length": 48,
}  # fmt: skip


@pytest.fixture(scope="module")
def landed(files, tiny_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("land") / "runs"
    options = LandOptions(**files, **QUICK, student=str(tiny_folder), teacher=str(tiny_folder),
                          target_size="4MB", output=str(output))  # fmt: skip
    return options, land(options)


def statuses(report):
    return {each["stage"]: each["status"] for each in report["verdicts"]}


def again(options, **changes):
    return land(replace(options, resume=True, **changes))


def test_the_whole_road(landed):
    options, found = landed
    report = found.report
    assert {row["key"] for row in report["table"]} == set(measuring.ROWS) - {"small_fewshot"}
    assert set(statuses(report).values()) <= {"done", "dropped"}
    assert sum(row["served"] for row in report["table"]) == 1
    for row in (*report["table"], *report["floors"]):
        assert row["low"] <= row["accuracy"] <= row["high"]
    for row in report["table"]:
        assert row["parameters"] > 10_000
        assert 0 < row["one"]["p50_ms"] <= row["one"]["p99_ms"]
        assert row["batch"]["calls"] >= 5
    sizes = {row["key"]: row["bytes"] for row in report["table"]}
    assert sizes["small_compressed"] < sizes["small_finetuned"]
    assert report["target"]["reached"] is True
    assert json.loads(found.page.with_name("report.json").read_text("utf-8")) == report
    assert "<h1>" in found.page.read_text("utf-8")
    served = next(row for row in report["table"] if row["served"])
    from easynlp.landing.parts import Part  # noqa: F401

    rows = read_rows(found.page.with_name("diagnose") / "test.jsonl")
    assert Pipeline.load(found.model).evaluate(rows)["accuracy"] == served["accuracy"]
    wrong = round((1 - served["accuracy"]) * len(rows))
    assert report["wrong"] == wrong == sum(p["rows"] for p in report["confusion"]["pairs"])
    assert not (found.model / "model.safetensors").exists()
    assert f"easynlp serve {options.output}/model" in report["commands"]["serve"]


def test_nothing_runs_twice_and_only_what_changed_runs_again(landed):
    options, _ = landed
    assert set(statuses(again(options).report).values()) <= {"reused", "dropped"}
    changed = statuses(again(options, timed=6).report)
    assert {name for name, status in changed.items() if status == "done"} == {"latency"}
    changed = statuses(again(options, skip=("curve,latency",)).report)
    assert changed["curve"] == changed["latency"] == "skipped"
    with pytest.raises(ConfigError, match="--resume"):
        land(options)


def test_a_stopped_road_goes_on_to_the_same_weights(landed, tmp_path, monkeypatch):
    options, found = landed
    skipped = ("teacher", "latency", "curve")
    halted = replace(options, output=str(tmp_path / "halted"), skip=skipped)

    def stop(*given, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "export_run", stop)
        with pytest.raises(Interrupted, match="stopped in the stage compress"):
            land(halted)
    finished = again(halted)
    weights = "finetune/run/model.safetensors"
    ours, theirs = (fingerprint(f.page.parent / weights) for f in (finished, found))
    assert ours == theirs
    assert statuses(finished.report)["finetune"] == "reused"
    assert statuses(finished.report)["distill"] == "skipped"


def test_compression_that_hurts_is_dropped_and_said(landed, monkeypatch):
    options, _ = landed

    class Ruined:
        def evaluate(self, rows):
            return {"accuracy": 0.1}

    load = Pipeline.load

    def ruin(path, **more):
        return Ruined() if "compress" in str(path) and not more else load(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(measuring.Pipeline, "load", staticmethod(ruin))
        folder = options.output + "-hurt"
        found = land(replace(options, output=folder, skip=("teacher", "curve", "latency")))
    report = found.report
    verdict = next(each for each in report["verdicts"] if each["stage"] == "compress")
    assert verdict["status"] == "dropped"
    assert "10.0 on dev" in verdict["why"]
    assert [row["key"] for row in report["table"] if row["served"]] == ["small_finetuned"]
    assert (found.model / "model.onnx").is_file()
    assert "compress was dropped" in found.page.read_text("utf-8")


def test_without_dev_test_pool_and_teacher(files, tiny_folder, tmp_path):
    found = land(
        LandOptions(train=files["train"], output=str(tmp_path / "bare"), student=str(tiny_folder),
                    **QUICK, skip=("curve", "latency", "compress", "distill"))
    )  # fmt: skip
    report = found.report
    assert report["split"] == "dev"
    assert report["table"][0]["key"] == "small_fewshot"
    text = found.page.read_text("utf-8")
    for said in ("There was no test file", "There was no teacher", "There was no dev file"):
        assert said in text
    assert report["labelled"]["pool"] == 0


def test_a_finished_run_teaches_as_it_is(landed, files, tiny_folder, tmp_path):
    _, first = landed
    teacher = str(first.page.with_name("finetune") / "run")
    options = LandOptions(
        **files, **QUICK, student=str(tiny_folder), teacher=teacher,
        output=str(tmp_path / "taught"), skip=("curve", "latency", "compress", "distill"),
    )  # fmt: skip
    report = land(options).report
    assert report["teaching"]["way"] == "as given"
    assert not (tmp_path / "taught" / "teacher" / "run").exists()
    table = {row["key"]: row for row in report["table"]}
    assert "large_finetuned" not in table
    old = next(r for r in first.report["table"] if r["key"] == "small_finetuned")
    assert table["large_fewshot"]["accuracy"] == old["accuracy"]
    other = tmp_path / "other.jsonl"
    other.write_text(
        "".join(f'{{"text": "{t}文{i}", "label": "{t}"}}\n' for t in "甲乙" for i in range(4))
    )
    with pytest.raises(ModelError, match="knows the labels"):
        land(LandOptions(train=str(other), teacher=teacher, student=str(tiny_folder), **QUICK,
                         output=str(tmp_path / "wrong")))  # fmt: skip


def test_a_wrong_stage_to_skip_is_refused_before_a_folder_is_made(files, tmp_path):
    options = LandOptions(train=files["train"], output=str(tmp_path / "x"), skip=("distil",))
    with pytest.raises(ConfigError, match='Did you mean "distill"'):
        land(options)
    assert not (tmp_path / "x").exists()


def test_sizes():
    assert parse_size("4MB") == parse_size("4 m") == 4_000_000
    for wrong in ("4 TB", "small", "0", "-1MB", "1e6"):
        with pytest.raises(ConfigError, match="is no size"):
            LandOptions(train="a", output="b", target_size=wrong)


def test_times_are_of_the_calls_made():
    calls = []
    found = measuring.time_in_turns({"a": lambda rows: calls.append(len(rows)) or []}, [{}] * 10)
    assert set(calls) == {1, 32}
    assert found["a"][1]["calls"] == 10
    assert found["a"][32]["calls"] == calls.count(32) - 1 >= 20
