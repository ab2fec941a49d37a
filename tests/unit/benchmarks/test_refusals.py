"""What the harness refuses: every test plants what must be found."""

import gzip
import json
from dataclasses import replace

import pytest

from easynlp import run
from easynlp.benchmarks import harness, released
from easynlp.benchmarks.fewclue import Split, find_split, read_split_file
from easynlp.benchmarks.fewclue_page import fewclue_page
from easynlp.benchmarks.harness import bench_fewclue
from easynlp.benchmarks.pool import read_unlabelled
from easynlp.benchmarks.scores import per_split, summarize
from easynlp.config import TrainConfig
from easynlp.errors import ConfigError, DataError, ModelError
from tests.unit.benchmarks.release import (
    BAD,
    GOOD,
    TEST,
    Spy,
    labelled,
    options,
    release,
    run_with,
    write,
)  # fmt: skip


def test_changed_data_is_refused(root):
    path = root / "fewclue_eprstmt" / "dev_3.jsonl"
    write(path, labelled([(GOOD[0], "Negative"), (BAD[0], "Positive")]))
    with pytest.raises(DataError, match=r"dev_3\.jsonl: the file is not as released"):
        bench_fewclue(options(root))


def test_packing_a_file_does_not_change_it(root):
    path = root / "fewclue_eprstmt" / "dev_3.jsonl"
    with gzip.open(path.with_suffix(".jsonl.gz"), "wb") as file:
        file.write(path.read_bytes())
    path.unlink()
    assert bench_fewclue(options(root))["skipped"] == {}


def test_dev_of_another_split_is_refused(root):
    folder = root / "fewclue_eprstmt"
    with pytest.raises(DataError, match="may use dev_0 only"):
        Split("eprstmt", "0", folder / "train_0.jsonl", folder / "dev_1.jsonl", None)
    (folder / "dev_0.jsonl").write_bytes((folder / "dev_1.jsonl").read_bytes())
    with pytest.raises(DataError, match=r"dev_0\.jsonl: the file holds the rows of dev_1"):
        bench_fewclue(options(root))


@pytest.mark.parametrize("planted", [TEST[0][0], TEST[0][0] + "！！", "亲，" + TEST[4][0]])
def test_test_rows_in_training_are_refused(root, monkeypatch, planted):
    path = root / "fewclue_eprstmt" / "train_2.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write(path, [*rows, {"text": planted, "label": "Positive"}])
    release(root, monkeypatch, train_2=0)
    with pytest.raises(DataError, match="1 test rows are in the training data"):
        bench_fewclue(options(root))


def test_overlaps_of_the_release_are_counted_and_scored_without(root, monkeypatch):
    path = root / "fewclue_eprstmt" / "train_2.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write(path, [*rows, {"text": TEST[0][0], "label": "Positive"}])
    release(root, monkeypatch)
    report = bench_fewclue(options(root, contenders=("majority",), splits=("0-2",)))
    (row,) = report["scores"]
    assert row["near_train"] == 1
    # Split 2 has one more positive row: it answers them all, 3 of 6, and 2 of the 5 others.
    assert row["mean_without_near"] == pytest.approx((0.5 + 0.5 + 2 / 5) / 3)


@pytest.mark.parametrize("planted", [TEST[1][0], TEST[1][0] + "哦"])
def test_test_rows_in_unlabelled_text_are_refused_or_dropped_on_request(root, monkeypatch, planted):
    pytest.importorskip("sklearn")
    path = root / "fewclue_eprstmt" / "unlabeled.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write(path, [*rows, {"text": planted}, rows[0]])
    release(root, monkeypatch)
    lsa = options(root, contenders=("lsa",), splits=("0",))
    with pytest.raises(DataError, match=r"1 of 10 unlabelled texts [\s\S]*--drop-near"):
        bench_fewclue(lsa)
    report = bench_fewclue(options(root, contenders=("lsa",), splits=("0",), drop_near_test=True))
    cell = report["cells"][0]
    left_out = {name: cell[f"unlabelled_{name}_dropped"]
                for name in ("repeated", "near_test", "near_dev")}  # fmt: skip
    # Two of the eight texts are rows of dev_0 but for their last character.
    assert (cell["unlabelled"], left_out) == (6, {"repeated": 1, "near_test": 1, "near_dev": 2})


def test_a_file_of_ones_own_is_no_way_around(root, tmp_path):
    write(tmp_path / "mine.jsonl", [{"text": TEST[2][0]}])
    with pytest.raises(DataError, match="unlabelled texts are test rows"):
        read_unlabelled(root, "eprstmt", path=tmp_path / "mine.jsonl")


def test_classes_taken_out_are_refused(root, monkeypatch):
    path = root / "fewclue_eprstmt" / "train_1.jsonl"
    write(path, labelled((text, "Positive") for text in GOOD))
    release(root, monkeypatch)
    with pytest.raises(DataError, match="1 classes, but eprstmt has 2"):
        bench_fewclue(options(root))


def test_classes_taken_out_of_the_test_are_refused(root, monkeypatch):
    write(
        root / "fewclue_eprstmt" / "test_public.jsonl", labelled([(t, "Positive") for t, _ in TEST])
    )
    release(root, monkeypatch)
    with pytest.raises(DataError, match="1 classes, but the released test has 2"):
        bench_fewclue(options(root))


def test_rows_taken_out_of_the_test_are_refused(root, monkeypatch):
    write(root / "fewclue_eprstmt" / "test_public.jsonl", labelled(TEST[1:]))
    with pytest.raises(DataError, match="5 rows, but the released test has 6"):
        release(root, monkeypatch)


def test_a_contender_that_leaves_out_rows_is_refused(root, monkeypatch):
    spy = Spy(predict=lambda examples: [{"label": "Positive"} for _ in examples[1:]])
    with pytest.raises(DataError, match="5 predictions for 6 rows"):
        run_with(spy, root, monkeypatch)


def test_a_contender_that_leaves_out_classes_is_refused(root, monkeypatch):
    scores = {"Positive": 0.5, "Neutral": 0.2, "Other": 0.3}
    spy = Spy(predict=lambda examples: [{"label": "Positive", "scores": scores} for _ in examples])
    with pytest.raises(DataError, match="among 3 labels, but eprstmt has 2"):
        run_with(spy, root, monkeypatch)
    spy = Spy(predict=lambda examples: [{"label": "Good"} for _ in examples])
    with pytest.raises(DataError, match='"Good" is no label of eprstmt'):
        run_with(spy, root, monkeypatch)


def test_choosing_on_test_is_refused(root, monkeypatch):
    folder = root / "fewclue_eprstmt"
    ways = [
        lambda split: read_split_file(split.test, split.task),
        lambda split: read_split_file(find_split(root, "eprstmt", "0").test, "eprstmt"),
        lambda split: (folder / "test_public.jsonl").read_text(),
        lambda split: open(folder / "test_public.jsonl", "rb").close(),
    ]
    for way in ways:
        with pytest.raises(DataError, match="the test file is closed while a contender learns"):
            run_with(Spy(way), root, monkeypatch)
    assert (folder / "test_public.jsonl").read_text()  # and open again afterwards


def test_few_all_is_no_sixth_split(root):
    with pytest.raises(ConfigError, match="few_all is no sixth split"):
        options(root, splits=("0-4", "few_all")).numbers()
    cells = [{"contender": "a", "task": "t", "split": s, "seed": 1, "accuracy": v}
             for s, v in (("0", 0.2), ("1", 0.4), ("few_all", 0.9))]  # fmt: skip
    (row,) = summarize(cells)
    assert (row["mean"], row["runs"], row["few_all"]) == (0.3, 2, 0.9)
    report = bench_fewclue(options(root, contenders=("majority",), few_all=True))
    assert (report["scores"][0]["runs"], report["scores"][0]["few_all"]) == (5, 0.5)


@pytest.mark.parametrize(
    ("what", "fewer"),
    [
        ("seeds", {"seeds": (13,)}),
        ("splits", {"splits": ("0-3",)}),
        ("tasks", {"tasks": ("chid",)}),
    ],
)
def test_dropping_what_a_folder_was_begun_with_is_refused(root, what, fewer):
    bench_fewclue(options(root, contenders=("chance",)))
    with pytest.raises(DataError, match=f"begun with the {what} .* cannot be dropped"):
        bench_fewclue(options(root, contenders=("chance",), **fewer))
    more = options(root, contenders=("chance",), seeds=(13, 42, 87), tasks=("eprstmt", "chid"))
    assert len(bench_fewclue(more)["cells"]) == 30


def test_neither_without_the_plan_nor_without_the_data_can_results_be_dropped(root):
    bench_fewclue(options(root, contenders=("chance",), tasks=("eprstmt", "chid")))
    (root / "fewclue_chid").rename(root / "away")
    with pytest.raises(DataError, match="begun with the tasks eprstmt, chid; chid cannot be"):
        bench_fewclue(options(root, contenders=("chance",), tasks=("eprstmt", "chid")))
    (root / "away").rename(root / "fewclue_chid")
    (root.parent / "out" / "plan.json").unlink()
    with pytest.raises(DataError, match="begun with the seeds 13, 42; 42 cannot be dropped"):
        bench_fewclue(options(root, contenders=("chance",), tasks=("eprstmt", "chid"), seeds=(13,)))


def test_where_no_result_was_seen_a_plan_may_change(root):
    with pytest.raises(ModelError):
        bench_fewclue(options(root, contenders=("nowhere",)))
    assert bench_fewclue(options(root, contenders=("chance",), seeds=(13,)))["cells"]


def test_a_mean_over_what_seeds_are_left_is_refused():
    cells = [{"contender": "a", "task": "t", "split": s, "seed": n, "accuracy": 0.5}
             for s, n in (("0", 13), ("0", 42), ("1", 13))]  # fmt: skip
    with pytest.raises(DataError, match="different seeds on different splits"):
        per_split(cells, lambda cell: cell["accuracy"])


def test_contenders_that_are_not_shown_any_more_are_named(root):
    bench_fewclue(options(root, contenders=("majority", "floor")))
    report = bench_fewclue(options(root, contenders=("majority",)))
    assert report["not_shown"] == ["floor"]
    assert "Also run in this folder, not shown: floor" in fewclue_page(report, "x")


def test_cells_of_an_earlier_budget_are_told(tmp_path):
    named = {"a": "finetune", "b": "finetune", "c": "finetune", "d": "chance"}
    lines = [{"key": key, "contender": name} for key, name in named.items()]
    (tmp_path / "cells.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert harness._not_shown(tmp_path, ["finetune", "chance"], {"c", "d"}) == [
        "finetune with other settings (2 cells)"
    ]


def test_labels_in_the_text_are_refused(root, monkeypatch):
    path = root / "fewclue_eprstmt" / "train_0.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    write(path, [{**row, "text": f"{row['text']} {row['label']}"} for row in rows])
    release(root, monkeypatch)
    with pytest.raises(DataError, match="the label stands in 100% of the texts"):
        bench_fewclue(options(root))


def test_descriptions_of_labels_in_the_text_are_refused(tmp_path):
    rows = [{"text": f"{name}应用{i}", "label": str(n), "label_desc": name}
            for n, name in enumerate(("社区", "打车", "美颜")) for i in range(3)]  # fmt: skip
    with pytest.raises(DataError, match="gives the answer away"):
        released.check_labels(rows, tmp_path)


@pytest.mark.parametrize("learned", ["test_public", "train_1", "copy"])
def test_a_run_that_has_seen_the_tasks_labels_is_no_start_for_it(root, tiny_folder, learned):
    folder, start = root / "fewclue_eprstmt", root / "start"
    path = folder / f"{learned}.jsonl"
    if learned == "copy":  # under another name, in another order, with another sign behind
        write(path, labelled((text + "。", label) for text, label in TEST[::-1]))
    train = TrainConfig(
        task="text_classify", train=str(path), output=str(start), model=str(tiny_folder), steps=1
    )
    run.train(train)
    later = replace(
        train, train=str(root / "other.jsonl"), model=str(start), output=str(root / "2")
    )
    write(root / "other.jsonl", labelled([("天气", "Positive"), ("下雨", "Negative")]))
    run.train(later)
    for name in (
        f"finetune@{start}",
        f"finetune@{root / '2'}",
        f"vote:members=probe@{start}+lp-ft",
    ):
        with pytest.raises(DataError, match="the run was trained on"):
            bench_fewclue(options(root, contenders=(name,), splits=("0",), model=str(tiny_folder)))
    fine = (f"probe:{root / '2'}",)
    (root / "2" / "easynlp.json").unlink()  # a checkpoint without a record is believed
    assert bench_fewclue(options(root, contenders=fine, splits=("0",)))["cells"]
