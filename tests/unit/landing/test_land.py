import json
import random
import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file

from easynlp.compression.candidates import Candidate, Shape
from easynlp.compression.settings import parse_size
from easynlp.deployment.protocol import Limits, _parse
from easynlp.deployment.settings import ServeOptions
from easynlp.errors import ConfigError, DataError, GateError, Interrupted, ModelError
from easynlp.landing import learning, measuring, shipping
from easynlp.landing.land import land
from easynlp.landing.learning import read_rows
from easynlp.landing.report import commands
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Room
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
    "augment_model": "", "threads": 1,
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
    assert {row["key"] for row in report["table"]} == set(shipping.ROWS) - {
        "small_fewshot", "small_pruned",
    }  # fmt: skip
    assert set(statuses(report).values()) <= {"done", "dropped"}
    assert sum(row["served"] for row in report["table"]) == 1
    for row in (*report["table"], *report["floors"]):
        assert row["low"] <= row["accuracy"] <= row["high"]
    for row in report["table"]:
        assert row["note"] == ""
        assert row["parameters"] > 10_000
        assert 0 < row["one"]["p50_ms"] <= row["one"]["p99_ms"]
        assert row["batch"]["calls"] >= 5
    sizes = {row["key"]: row["bytes"] for row in report["table"]}
    assert sizes["small_compressed"] < sizes["small_finetuned"]
    assert report["target"]["reached"] is True
    assert json.loads(found.page.with_name("report.json").read_text("utf-8")) == report
    assert "<h1>" in found.page.read_text("utf-8")
    served = next(row for row in report["table"] if row["served"])
    rows = read_rows(found.page.with_name("diagnose") / "test.jsonl")
    assert Pipeline.load(found.model).evaluate(rows)["accuracy"] == served["accuracy"]
    wrong = round((1 - served["accuracy"]) * len(rows))
    assert report["wrong"] == wrong == sum(p["rows"] for p in report["confusion"]["pairs"])
    assert not (found.model / "model.safetensors").exists()
    assert f"easynlp serve {options.output}/model" in report["commands"]["serve"]
    assert report["copies"] > 0
    why = {each["stage"]: each["why"] for each in report["verdicts"]}
    assert "within 4MB already" in why["prune"]
    assert [row["name"] for row in report["candidates"]][1] == "int8"


def test_the_served_model_is_calibrated(landed):
    _, found = landed
    fitted = found.report["calibrated"]
    assert fitted["rows"] == 20
    assert "no threshold is sure to give 95 % right" in fitted["refused"]  # 20 rows are too few
    served = Pipeline.load(found.model)
    assert served.calibration is not None
    assert served.calibration.temperature == fitted["temperature"]
    assert fitted["refused"] in found.page.read_text("utf-8")


def test_students_have_equal_searches_and_the_teacher_is_asked_once(landed):
    _, found = landed
    home = found.page.parent
    runs = {}
    for stage in ("finetune", "distill"):
        runs[stage] = {each.name for each in (home / stage / "tried").iterdir()}
        lines = (home / stage / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
        looks = [line for line in map(json.loads, lines) if "scores" in line]
        assert [line["step"] for line in looks] == [10, 20]
    assert runs["finetune"] == runs["distill"]
    answers = list((home / "label" / "answers").glob("*[0-9a-f].npy"))
    told = json.loads((home / "distill" / "tried" / "lr-0.003" / "distill.json").read_text("utf-8"))
    assert (told["labelled"], told["unlabelled"], told["augmented"]) == (32, 60, 0)
    # The labelled and the unlabelled texts; dev; and both with the copies.
    assert len(answers) == 3
    assert found.report["labelled"]["pool"] == 60


def test_curves_are_by_rows_of_a_label(landed):
    lines = landed[1].report["curves"]["labels"]
    assert {tuple(p["labels"] for p in line) for line in lines.values()} == {(4, 8, 16, 32)}


def test_a_target_size_prunes_where_int8_is_not_enough(landed, tmp_path, monkeypatch):
    options, found = landed
    options = replace(options, output=str(tmp_path / "moved"), skip=("curve", "latency"))
    shutil.copytree(found.page.parent, options.output)
    source, asked = found.page.parent / "compress" / "model", []

    def compress(config):
        asked.append(config)
        more = {"low": 0.9, "high": 1.0, "drop": 0.0, "tokens": 9, "unknown": 0.0,
                "unknown_unlabeled": None, "p50_ms": 1.0, "p99_ms": 1.0, "speedup": 2.0,
                "memory_mb": 1.0, "home": "", "export": str(source)}  # fmt: skip
        rows = [Candidate(name, Shape(width, 1, True), "int8", score, bytes=size, parameters=77,
                          **more) for name, width, score, size in
                (("run", 1, 1.0, 10**6), ("good", 0.5, 1.0, 9000), ("bad", 0.2, 0.5, 8000))
                ]  # fmt: skip
        chosen = "good" if config.target_size == "7000" else None
        return SimpleNamespace(baseline=rows[0], candidates=rows[1:], front=["bad", "good"],
                               chosen=chosen, why="No candidate keeps to the budget")  # fmt: skip

    with monkeypatch.context() as patch:
        patch.setattr(shipping, "compress_run", compress)
        patch.setattr(shipping, "served_bytes", lambda folder: 9500)
        report = again(options, target_size="9KB").report
        missed = again(options, target_size="8KB").report
    assert statuses(report)["distill"] == "reused"  # a folder can be moved
    assert asked[0].max_drop == options.max_drop
    assert asked[0].run.endswith("/run")
    pruned = next(row for row in report["table"] if row["key"] == "small_pruned")
    assert pruned["served"]
    assert pruned["parameters"] == 77
    chosen = {row["name"]: row["chosen"] for row in report["candidates"]}
    assert chosen == {"good": True, "bad": False, "int8": False} | {
        name: False for name in chosen if name.endswith("fp32")
    }
    why = {each["stage"]: each["why"] for each in missed["verdicts"]}
    assert why["prune"] == "No candidate keeps to the budget"
    assert missed["target"]["reached"] is False
    assert "small_pruned" not in {row["key"] for row in missed["table"]}


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
        patch.setattr(shipping, "export_run", stop)
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
        patch.setattr(shipping.Pipeline, "load", staticmethod(ruin))
        folder = options.output + "-hurt"
        found = land(
            replace(options, output=folder, target_size=None, skip=("teacher", "curve", "latency"))
        )
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


def test_a_finished_run_teaches_as_it_is(landed, files, tiny_folder, tmp_path, monkeypatch):
    _, first = landed
    monkeypatch.chdir(first.page.parent.parent)
    teacher = f"{first.page.parent.name}/finetune/run"  # seen from where the command is typed
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


def test_another_teacher_of_the_same_name_and_score_labels_anew(landed, tmp_path):
    options, found = landed
    run, handed = tmp_path / "given", []
    shutil.copytree(found.page.with_name("finetune") / "run", run)
    done = SimpleNamespace(folder=found.page.with_name("diagnose"))
    for change in (0.0, 1e-6):
        state = load_file(run / "model.safetensors")
        save_file({k: v + change for k, v in state.items()}, run / "model.safetensors")
        room = Room(tmp_path, {"diagnose": done})
        facts = learning.teacher(replace(options, teacher=str(run)), room).facts
        handed.append((facts["dev"], (tmp_path / "teacher.json").read_bytes()))
    assert handed[0][0] == handed[1][0]
    assert handed[0][1] != handed[1][1]


def test_a_wrong_stage_to_skip_is_refused_before_a_folder_is_made(files, tmp_path):
    options = LandOptions(train=files["train"], output=str(tmp_path / "x"), skip=("distil",))
    with pytest.raises(ConfigError, match='Did you mean "distill"'):
        land(options)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ways": ("lpft",)}, ConfigError, 'Did you mean "lp_ft"'),
        ({"ways": ("pet",)}, ConfigError, "needs a pattern"),
        ({"student": "tiny-hz"}, ModelError, 'Did you mean "tiny-zh"'),
        ({"teacher": "/no/such"}, ModelError, 'no model "/no/such"'),
        ({"augment_model": "tiny-hz"}, ModelError, 'Did you mean "tiny-zh"'),
        ({"test": "/no/such.jsonl"}, DataError, "no such file"),
    ],
)
def test_what_is_not_there_is_refused_before_a_folder_is_made(
    files, tiny_folder, tmp_path, changes, error, message
):
    given = {"train": files["train"], "student": str(tiny_folder), "output": str(tmp_path / "x")}
    with pytest.raises(error, match=message):
        land(LandOptions(**(given | changes)))
    assert not (tmp_path / "x").exists()


def test_a_wrong_row_leaves_no_folder_in_the_way_but_never_one_that_was_there(
    landed, files, tiny_folder, tmp_path
):
    dev = tmp_path / "dev.jsonl"
    dev.write_text('{"text": "说不清", "label": "中评"}\n', "utf-8")
    given = LandOptions(train=files["train"], dev=str(dev), student=str(tiny_folder),
                        output=str(tmp_path / "x"))  # fmt: skip
    with pytest.raises(DataError, match="not in the training data"):
        land(given)
    assert not (tmp_path / "x").exists()
    shutil.copytree(landed[0].output, tmp_path / "y")
    with pytest.raises(DataError, match="not in the training data"):
        land(replace(landed[0], dev=str(dev), output=str(tmp_path / "y"), resume=True))
    assert (tmp_path / "y" / "distill" / "run").is_dir()


def test_a_file_of_entities_is_sent_where_it_belongs(tiny_folder, tmp_path):
    train = tmp_path / "ner.jsonl"
    train.write_text('{"text": "张三在北京", "entities": []}\n', "utf-8")
    with pytest.raises(DataError, match=r"ner\.jsonl: the file marks entities, and land is for te"):
        land(LandOptions(train=str(train), student=str(tiny_folder), output=str(tmp_path / "x")))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [3_000_000, 5_000_000])
def test_the_command_says_when_the_target_size_is_missed(monkeypatch, capsys, size):
    from easynlp.cli import land as command
    from easynlp.landing import land as road

    target = {"wanted": 4_000_000, "bytes": size, "reached": size <= 4_000_000}
    report = {"verdicts": [], "commands": {"serve": "easynlp serve x"}, "target": target}
    monkeypatch.setattr(
        road, "land", lambda options: SimpleNamespace(report=report, page="report.html", model="x")
    )
    monkeypatch.setattr(command, "prepare_process", lambda threads: None)
    if size > target["wanted"]:
        with pytest.raises(GateError, match="5 MB are served, 4 MB were wanted"):
            command._land(LandOptions(train="a", output="b"))
    else:
        command._land(LandOptions(train="a", output="b"))
    assert "next: easynlp serve x" in capsys.readouterr().err


def test_sizes():
    assert parse_size("4MB") == 4_000_000
    for wrong in ("4 TB", "small", "0", "-1MB", "1e6"):
        with pytest.raises(ConfigError, match="is no size"):
            LandOptions(train="a", output="b", target_size=wrong)


def test_a_precision_no_threshold_can_promise_is_refused_at_once():
    with pytest.raises(ConfigError, match="below 1"):
        LandOptions(train="a", output="b", abstain_precision=1.0)


@pytest.mark.parametrize("pair", [False, True])
def test_what_the_report_says_to_ask_is_what_the_server_takes(pair):
    typed = shlex.split(commands(LandOptions(train="t", output="runs/l"), pair=pair)["ask"])
    limits = Limits(ServeOptions(run=("runs/l/model",)), pair)
    examples = _parse(typed[typed.index("-d") + 1].encode(), limits).examples
    assert [set(each) for each in examples] == [{"text", "text_b"} if pair else {"text"}]


def test_times_are_of_the_calls_made():
    calls = []
    found = measuring.time_in_turns({"a": lambda rows: calls.append(len(rows)) or []}, [{}] * 10)
    assert set(calls) == {1, 32}
    assert found["a"][1]["calls"] == 10
    assert found["a"][32]["calls"] == calls.count(32) - 1 >= 20
