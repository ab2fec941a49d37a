"""``bench landing`` on a small release with tiny models: verdicts, equal arms, resuming, skips."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from easynlp.benchmarks import landing
from easynlp.benchmarks.landing import bench_landing
from easynlp.benchmarks.landing_data import labelled_set
from easynlp.benchmarks.landing_figures import FIGURES, judge
from easynlp.benchmarks.landing_page import landing_tables, write_landing_page
from easynlp.benchmarks.landing_settings import LandingBenchOptions
from easynlp.benchmarks.landing_teach import ARMS, School, gain
from easynlp.benchmarks.landing_time import (
    run_of_shape,
    shape_folder,
    take_turns,
    texts_of_length,
)
from easynlp.cli.main import main
from easynlp.errors import ConfigError, DataError
from tests.unit.benchmarks.release import BAD, GOOD, TEST, labelled, write

THIRTIETH, HUNDREDTH = "hashed_ngram:buckets=101,width=4", "hashed_ngram:buckets=31,width=4"
SET = "chnsenticorp"


@pytest.fixture
def options(root, tmp_path, tiny_folder):
    """Small enough for a test: a step or two of everything."""
    rows = labelled((text, "1") for text in GOOD) + labelled((text, "0") for text in BAD)
    write(root / SET / "test.jsonl", labelled((t, "01"[y == "Positive"]) for t, y in TEST))
    write(root / SET / "dev.jsonl", [{**row, "text": row["text"] + "啊啊"} for row in rows])
    many = [{**row, "text": f"第{i}条{i * 7919}：{row['text']}"} for i in range(4) for row in rows]
    write(root / SET / "train.jsonl", [*many, {"text": TEST[0][0] + "。", "label": "1"}])
    return LandingBenchOptions(
        data_root=str(root), output=str(tmp_path / "out"), teacher=str(tiny_folder),
        teacher_ways=("probe",), teacher_lrs=(1e-3,), students=(THIRTIETH, HUNDREDTH),
        student_lrs=(0.01, 0.03), student_steps=4, evaluations=2, max_length=32, batch_size=8,
        sets=(SET,), set_rows=12, set_pool=8, set_teacher_steps=2, set_student=THIRTIETH,
        compress_model=str(tiny_folder), compress_steps=2, base_shape="2x24", small_shape="1x24",
        tiny_model=THIRTIETH, timed=8, rounds=2, threads=1,
    )  # fmt: skip


def figures_of(report):
    return {each["key"]: each for each in report["figures"]}


def test_students_are_taught_in_equal_arms_and_finished_parts_are_kept(options, monkeypatch):
    options = replace(options, parts=("eprstmt",))
    report = bench_landing(options)
    found = figures_of(report)
    assert list(found) == list(FIGURES)  # what was not run stands there too, with its reason
    assert found["size_30"]["value"] > 30
    assert found["size_100"]["value"] > 100
    assert THIRTIETH in found["gain_30"]["note"]
    assert HUNDREDTH in found["gain_100"]["note"]
    assert found["tiny_p99"]["reached"] is None
    assert found["tiny_p99"]["note"] == "not asked for"
    rows = {each["arm"]: each for each in report["details"]["eprstmt"]["rows"]}
    taught, plain = (rows[f"{THIRTIETH}, {arm}"]["accuracy"] for arm in (ARMS[1], ARMS[0]))
    assert found["gain_30"]["value"] == pytest.approx(100 * (taught - plain))
    share = 100 * taught / rows["teacher"]["accuracy"]
    assert found["share_30"]["value"] == pytest.approx(share)
    assert {"floor: majority", "floor: tfidf-svm", "floor: self-trained tfidf"} <= set(rows)
    home = next(Path(options.output).glob("eprstmt-*"))
    logs = [*home.glob("hashed-ngram*/lr-*/metrics.jsonl")]
    last = [json.loads(path.read_text("utf-8").splitlines()[-1])["step"] for path in logs]
    assert last == [4] * 2 * len(ARMS) * 2  # learning rates x arms x students

    monkeypatch.setattr(School, "few_shot_teacher", lambda self: pytest.fail("ran again"))
    again = bench_landing(options)
    assert again["figures"] == report["figures"]
    with pytest.raises(pytest.fail.Exception, match="ran again"):
        bench_landing(replace(options, alpha=0.4))


def test_a_part_goes_on_where_it_was_stopped(options, stopped, tmp_path):
    options = replace(options, parts=("eprstmt",), students=(THIRTIETH,))
    whole = bench_landing(replace(options, output=str(tmp_path / "whole")))
    stopped(lambda: bench_landing(options))
    assert not [*Path(options.output).glob("*/part.json")]
    report = bench_landing(options)
    assert report["details"] == whole["details"]
    numbers = {k: (e["value"], e["reached"]) for k, e in figures_of(report).items()}
    assert numbers == {k: (e["value"], e["reached"]) for k, e in figures_of(whole).items()}


def test_a_small_student_stands_for_both_sizes_and_a_large_one_for_none():
    def of(times, dev):
        return times, dev, {"size": (times, "")}

    small, middle, better, large = of(150, 0.9), of(40, 0.7), of(35, 0.8), of(20, 0.99)
    assert landing._of_size([small, middle, better, large], 30) is better[2]
    assert landing._of_size([small, large], 30) is small[2]
    assert landing._of_size([middle, large], 100) == {}


def test_what_is_not_there_is_left_out_with_its_reason(options, tmp_path):
    options = replace(options, data_root=str(tmp_path / "none"), parts=("eprstmt", "titles"))
    report = bench_landing(options)
    assert "train_few_all" in report["skipped"]["eprstmt"]
    assert SET in report["skipped"]["titles"]
    assert {each["reached"] for each in report["figures"]} == {None}
    assert "--metakd" in bench_landing(replace(options, parts=("metakd",)))["skipped"]["metakd"]
    absent = replace(options, data_root=options.data_root, parts=("eprstmt",))
    assert bench_landing(replace(absent, teacher=str(tmp_path / "no")))["skipped"]["eprstmt"]
    with pytest.raises(ConfigError, match="Did you mean"):
        bench_landing(replace(options, parts=("latncy",)))


@pytest.mark.slow
def test_a_set_is_served_and_timed_beside_its_teacher(options, tmp_path):
    report = bench_landing(replace(options, parts=("titles",)))
    found, about = figures_of(report), report["details"]["titles"][SET]
    folder = next(Path(options.output).glob(f"{SET}-*"))
    served = [*folder.glob("hashed-ngram*-distilled/*-int8/*.onnx")]
    assert len(served) == 1
    assert found[f"{SET}_bytes"]["value"] == served[0].stat().st_size / 1e6
    assert found[f"{SET}_bytes"]["reached"]
    assert about["counts"] == {"train": 12, "dev": 8, "test": 6, "pool": 8}
    assert {each["model"] for each in about["times"]} == {"student", "teacher", "2x24, fp32"}
    assert found["thucnews_title10_speed"]["reached"] is None
    write_landing_page(report, tmp_path / "docs" / "page.md")
    page = (tmp_path / "docs" / "page.md").read_text("utf-8")
    for said in ("shuffled teacher", "floor: tfidf-svm", "| student |", "as served", "<= 4 MB"):
        assert said in page
    assert len(landing_tables(report)) == 3


def test_training_rows_near_test_rows_are_left_out(options):
    rows = labelled_set(replace(options, set_rows=32, set_pool=8), SET)
    assert rows.notes["near_test_or_dev_dropped"] == 1
    assert not {row["text"] for row in rows.train} & {TEST[0][0] + "。"}
    assert rows.labels == ("0", "1")
    with pytest.raises(DataError, match="--set-rows"):
        labelled_set(replace(options, set_rows=1), SET)


@pytest.mark.slow
def test_compression_is_measured_beside_the_same_model_in_fp32(options):
    options = replace(options, parts=("compress",))
    plain = figures_of(bench_landing(options))
    assert "int8 export" in plain["compress_bytes"]["note"]
    assert 0 < plain["compress_bytes"]["value"] < 93
    assert not plain["compress_bytes"]["reached"]
    folder = next(Path(options.output).glob("compress-*"))
    asked = []

    def measured(answer):
        def compress(run, output, files, budget):
            asked.append((set(files), budget))
            return answer

        bench = landing._Bench(options, folder.parent, compress)
        figures, _ = bench._compress(SET, "easynlp compress", labelled_set(options, SET), folder)
        return {each.key: each for each in figures}

    found = measured(folder / "run-int8")
    assert found["compress_bytes"].value == plain["compress_bytes"]["value"]
    assert "easynlp compress" in found["compress_speed"].note
    assert asked[0][0] == {"train", "dev", "pool"}
    whole = (folder / "run-onnx" / "model.onnx").stat().st_size
    assert asked[0][1] == pytest.approx(0.07 * whole, abs=1)
    assert "no candidate of" in measured(None)["compress_bytes"].note


@pytest.mark.slow
def test_the_command_compresses_with_easynlp_compress(options, tmp_path, capsys):
    given = ["--parts", "compress", "--data-root", options.data_root, "--sets", SET]
    given += ["--set-rows", "12", "--set-pool", "8", "--compress-model", options.compress_model]
    given += ["--compress-steps", "2", "--evaluations", "2", "--batch-size", "8", "--timed", "8"]
    given += ["--rounds", "2", "--max-length", "32", "--output", str(tmp_path / "cli")]
    given += ["--compress-drop", "100", "--compress-epochs", "1", "--compress-candidates", "1"]
    assert main(["bench", "landing", *given, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    about = figures_of(report)["compress_bytes"]
    assert next(tmp_path.glob("cli/compress-*/compressed/candidates.jsonl")).is_file()
    assert about["value"] > 50
    assert about["note"].startswith(("easynlp compress", "int8 export, for no candidate"))


@pytest.mark.slow
def test_tiers_are_timed(options):
    report = bench_landing(replace(options, parts=("latency",)))
    found = figures_of(report)
    for key in ("tiny_p99", "small_p99", "end_to_end"):
        assert found[key]["value"] > 0
        assert found[key]["reached"] is FIGURES[key].reached(found[key]["value"])
    rows = report["details"]["latency"]["rows"]
    assert [each["calls"] for each in rows] == [16] * 4
    assert {len(text) for text in texts_of_length(30, 50)} == {30}
    with pytest.raises(ConfigError, match="4x312"):
        shape_folder("4y312", Path(options.output) / "x")


def test_models_take_turns(monkeypatch):
    calls = []
    sides = {name: lambda text, name=name: calls.append(name) for name in "ab"}
    found = take_turns(sides, ["x"] * 8, 2)
    assert calls == ["a"] * 8 + ["b"] * 8 + (["a"] * 9 + ["b"] * 9) * 2  # one untimed a turn
    assert found["a"]["calls"] == 16
    assert len(found["a"]["passes"]) == 2


def test_weights_of_a_timed_run_tell_texts_apart(options, tmp_path):
    run = run_of_shape(options, "hashed_ngram:buckets=997", tmp_path)
    meta = json.loads((run / "easynlp.json").read_text("utf-8"))
    assert meta["config"]["labels"] == ["好", "差"]


def test_a_model_that_is_a_path_is_timed_within_the_output(options, tiny_folder, tmp_path):
    before = sorted(tiny_folder.iterdir())
    run = run_of_shape(options, str(tiny_folder), tmp_path / "out", steps=1)
    assert run.is_relative_to(tmp_path / "out")
    assert sorted(tiny_folder.iterdir()) == before


def test_students_of_one_folder_are_refused(options):
    found = bench_landing(replace(options, parts=("eprstmt",), students=("a/model", "b/model")))
    assert "--students a/model and b/model" in found["skipped"]["eprstmt"]


def test_reports_of_other_commands_are_read(options, tmp_path, capsys):
    means = {"kd": 0.025, "kd, pooled": 0.0, "metakd, shuffled": 0.001}
    gains = {arm: {"mean": mean, "half_width": 0.01} for arm, mean in means.items()}
    server = {
        "backend": "int8", "clients": 64, "ratio": 3.5, "lowest": 3.1, "highest": 3.9, "lost": 0,
        "spread_ratio": 1.5, "idle_p50_ms": 2.0, "half_rate": 100,
        "half_p50_ms": 3.0, "half_p99_ms": 6.5,
        "overload": {"sent": 100, "answered": 60, "refused": 40, "failed": 0, "unanswered": 1,
                     "surplus": 0},
    }  # fmt: skip
    paths = {"metakd": tmp_path / "metakd.json", "server": tmp_path / "server.json"}
    paths["metakd"].write_text(json.dumps({"gains": gains}), "utf-8")
    paths["server"].write_text(json.dumps(server), "utf-8")
    given = {name: str(path) for name, path in paths.items()}
    found = figures_of(bench_landing(replace(options, parts=("metakd,server",), **given)))
    verdicts = {key: each["reached"] for key, each in found.items() if each["part"] in given}
    assert verdicts == {
        "metakd_kd": True, "metakd_pooled": False,  # 0 is not above the control
        "server_ratio": True, "server_lost": False, "server_shed": True, "server_half": False,
    }  # fmt: skip
    assert found["metakd_kd"]["value"] == pytest.approx(2.5)
    swapped = bench_landing(replace(options, parts=("server",), server=given["metakd"]))
    assert "is not the report of easynlp bench serve" in swapped["skipped"]["server"]
    del server["spread_ratio"]
    paths["server"].write_text(json.dumps(server), "utf-8")
    earlier = bench_landing(replace(options, parts=("server",), server=given["server"]))
    assert "has no spread_ratio: run easynlp bench serve" in earlier["skipped"]["server"]
    code = main(["bench", "landing", "--parts", "metakd", "--metakd", given["metakd"],
                 "--output", str(tmp_path / "cli"), "--write", str(tmp_path / "page.md"),
                 "--json"])  # fmt: skip
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert figures_of(printed)["metakd_kd"]["reached"]
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page.count("| not run |") == len(FIGURES) - 2
    assert "easynlp bench landing --parts metakd" in page


def test_gain_and_verdicts():
    ours, theirs = np.array([1.0] * 30 + [0.0] * 10), np.array([1.0] * 20 + [0.0] * 20)
    found = gain(ours, theirs)
    assert found["points"] == 25
    assert 5 < found["low"] < 25 < found["high"] < 45
    assert judge("tiny_p99", float("nan")).reached is False
    assert judge("server_lost", 0).reached is True
