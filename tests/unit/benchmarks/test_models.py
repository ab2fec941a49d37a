import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from easynlp.benchmarks import contenders, encodings, fewclue, released, settings
from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.contenders import FLOORS, FloorContender
from easynlp.benchmarks.fewclue import FEWCLUE, Suite, find_split, read_split_file
from easynlp.benchmarks.finetuned import Best, FineTuned
from easynlp.benchmarks.models import bench_models, models_table, probe_table
from easynlp.benchmarks.scores import FOUR, differences, summarize
from easynlp.benchmarks.settings import ModelsOptions
from easynlp.errors import ConfigError, DataError
from easynlp.training.head import Probe

GOOD = ["房间很干净，下次还来", "早餐丰富，位置方便", "老板热情，性价比高", "景色优美，孩子很喜欢"]
BAD = ["服务态度太差了，再也不来", "隔音不好，一夜没睡", "空调坏了也没人管", "又贵又脏，不推荐"]


def write(path: Path, texts: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": i, "text": text, "label": label} for i, (text, label) in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_pairs(path: Path, pairs: list[tuple[str, str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text_a": a, "text_b": b, "label": label} for a, b, label in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A benchmark of one task with two splits, eight training, four dev and six test rows."""
    rows = [(text, "Positive") for text in GOOD] + [(text, "Negative") for text in BAD]
    folder = tmp_path / "bench" / "fewclue_eprstmt"
    for number in "01":
        write(folder / f"train_{number}.jsonl", [(text + number, label) for text, label in rows])
        write(folder / f"dev_{number}.jsonl", [(text + "啊", label) for text, label in rows[2:6]])
    write(folder / "test_public.jsonl", [(text + "呢", label) for text, label in rows[1:7]])
    monkeypatch.setitem(fewclue.FEWCLUE, "eprstmt", Suite("fewclue_eprstmt", 6, 2))
    release(tmp_path / "bench", monkeypatch)
    return tmp_path / "bench"


def release(root, monkeypatch):
    """Take the files as they are for the released ones."""
    known = released.describe(root)
    monkeypatch.setattr(released, "released", lambda: known)


@pytest.fixture
def pairs(root, monkeypatch):
    """The same with a second task, of pairs: is the second text like the first?"""
    rows = [(text, text, "1") for text in GOOD] + [(text, BAD[0], "0") for text in GOOD]
    folder = root / "fewclue_bustm"
    for number in "01":
        write_pairs(folder / f"train_{number}.jsonl", [(a + number, b, c) for a, b, c in rows])
        write_pairs(folder / f"dev_{number}.jsonl", rows[2:6])
    write_pairs(folder / "test_public.jsonl", rows[1:7])
    monkeypatch.setitem(fewclue.FEWCLUE, "bustm", Suite("fewclue_bustm", 6, 2, encodings.pair))
    release(root, monkeypatch)
    return root


def options(root, **more):
    given = {
        "models": ("majority", "tfidf-svm"), "tasks": ("eprstmt",), "splits": ("0-1",),
        "data_root": str(root), "output": str(root.parent / "out"),
    }  # fmt: skip
    return ModelsOptions(**{**given, **more})


def test_bench_models_scores_floors(root):
    pytest.importorskip("sklearn")
    report = bench_models(options(root))
    scores = {row["contender"]: row for row in report["scores"]}
    assert scores["majority"]["mean"] == 0.5
    assert scores["tfidf-svm"]["mean"] == 1.0
    assert scores["tfidf-svm"]["runs"] == 2
    (gain,) = report["differences"]
    assert (gain["contender"], gain["minus"], gain["mean"]) == ("tfidf-svm", "majority", 0.5)
    assert json.loads((root.parent / "out" / "report.json").read_text("utf-8")) == json.loads(
        json.dumps(report)
    )
    assert models_table(report).row_count == 2
    assert probe_table(report) is None


def test_bench_models_goes_on_where_it_was(root, monkeypatch):
    first = bench_models(options(root, models=("majority",)))
    lines = root.parent / "out" / "cells.jsonl"
    with lines.open("a", encoding="utf-8") as file:
        file.write('{"key": "cut sho')
    learned = []
    original = FloorContender.learn

    def spy(self, split, seed, say):
        learned.append((self.name, split.number))
        return original(self, split, seed, say)

    monkeypatch.setattr(FloorContender, "learn", spy)
    again = bench_models(options(root, models=("majority",)))
    assert learned == []
    assert again["cells"] == first["cells"]
    write(root / "fewclue_eprstmt" / "dev_1.jsonl", [(GOOD[0], "Positive"), (BAD[0], "Negative")])
    release(root, monkeypatch)
    bench_models(options(root, models=("majority",)))
    assert learned == [("majority", "1")]
    assert len(lines.read_text("utf-8").splitlines()) == 3


def test_bench_models_fine_tunes_on_a_budget(root, tiny_folder):
    name = f"random:{tiny_folder}"
    budget = {"lrs": (1e-3, 3e-3), "min_steps": 6, "max_steps": 6, "evaluations": 3}
    report = bench_models(
        options(root, models=("majority", name), splits=("0",), seeds=(1, 2), **budget)
    )
    cells = [cell for cell in report["cells"] if cell["contender"] == name]
    assert [cell["seed"] for cell in cells] == [1, 2]
    for cell in cells:
        assert cell["chosen"]["lr"] in (1e-3, 3e-3)
        assert cell["chosen"]["step"] in (2, 4, 6)
        assert cell["rows"] == 6
        answers = json.loads((root.parent / "out" / "answers" / f"{cell['key']}.json").read_text())
        assert len(answers) == 6
    assert [cell["seed"] for cell in report["cells"] if cell["contender"] == "majority"] == [1]


def test_bench_models_probes_beside_fine_tuning(pairs, tiny_folder):
    pytest.importorskip("sklearn")
    names = (f"random:{tiny_folder}", str(tiny_folder))
    budget = {"lrs": (1e-3,), "min_steps": 2, "max_steps": 2, "evaluations": 1}
    report = bench_models(
        options(
            pairs, models=("majority", *names), tasks=("eprstmt", "bustm"), probe=True,
            seeds=(1, 2), **budget,
        )
    )  # fmt: skip
    order = ["majority", *names, *(f"probe:{name}" for name in names)]
    assert list(dict.fromkeys(row["contender"] for row in report["scores"])) == order
    probes = [cell for cell in report["cells"] if cell["contender"] == order[-1]]
    # Weights that are given make a probe the same whatever the seed; random ones do not.
    assert [(c["task"], c["split"], c["seed"]) for c in probes] == [
        ("eprstmt", "0", 1), ("eprstmt", "1", 1), ("bustm", "0", 1), ("bustm", "1", 1),
    ]  # fmt: skip
    assert {c["seed"] for c in report["cells"] if c["contender"] == order[-2]} == {1, 2}
    for cell in probes:
        assert set(cell["variants"]) == set(cell["chosen"]["dev"]) == {"mean", "cls"}
        dev = cell["chosen"]["dev"]
        assert cell["chosen"]["vector"] == ("mean" if dev["mean"] >= dev["cls"] else "cls")
        assert cell["accuracy"] == cell["variants"][cell["chosen"]["vector"]]
    assert {(row["contender"], row["minus"]) for row in report["differences"]} == {
        (names[1], "majority"), (names[1], names[0]),
        (order[-1], "majority"), (order[-1], order[-2]),
    }  # fmt: skip
    means = {r["contender"]: r for r in report["scores"] if r["task"] == "mean of all"}
    assert list(means) == order
    assert means["majority"]["mean"] == 0.5
    alone = differences(report["cells"], ["majority", order[-2], order[-1]])
    assert {row["contender"] for row in alone} == {order[-1]}
    assert probe_table(report).row_count == 6
    assert models_table(report).row_count == 15


def test_tasks_without_data_are_left_out_with_a_notice(root, caplog):
    report = bench_models(options(root, models=("majority",), tasks=("eprstmt", "iflytek")))
    assert list(report["skipped"]) == ["iflytek"]
    assert "iflytek is left out" in caplog.text
    assert "train_0.jsonl(.gz) is not there" in caplog.text
    assert "iflytek left out" in str(models_table(report).title)
    with pytest.raises(DataError, match="--data-root"):
        bench_models(options(root, models=("majority",), tasks=("iflytek",)))


def test_the_headline_mean_is_of_four_tasks():
    cells = [
        {"contender": "a", "task": task, "split": split, "accuracy": value}
        for split, base in (("0", 0.1), ("1", 0.3))
        for task, value in [*((t, base + i / 10) for i, t in enumerate(FOUR)), ("bustm", 0.9)]
    ]
    (row,) = [row for row in summarize(cells) if "mean" in row["task"]]
    assert row["task"] == "four-task mean"
    assert row["splits"] == pytest.approx({"0": 0.25, "1": 0.45})
    assert row["runs"] == 2
    # A split that one task lacks cannot be averaged over tasks.
    (row,) = [row for row in summarize(cells[:-3]) if "mean" in row["task"]]
    assert list(row["splits"]) == ["0"]


@pytest.mark.parametrize("name", ["majority", "tiny", "probe:"])
def test_contenders_never_open_the_test_file(root, tiny_folder, name):
    split = find_split(root, "eprstmt", "0")
    budget = Budget(lrs=(1e-3,), min_steps=1, max_steps=1)
    given = {"majority": "majority", "tiny": str(tiny_folder), "probe:": f"probe:{tiny_folder}"}
    contender = contenders.find(given[name], budget)
    learned = contender.learn(split.closed(), 42, lambda text: None)
    assert len(learned.predict([{"text": "很好"}])) == 1


def test_fine_tuned_identity_changes_with_weights_and_budget(tiny_folder):
    plain = FineTuned(str(tiny_folder), Budget()).identity()
    assert plain == FineTuned(str(tiny_folder), Budget()).identity()
    assert plain != FineTuned(f"random:{tiny_folder}", Budget()).identity()
    assert plain != FineTuned(str(tiny_folder), Budget(lrs=(1e-4,))).identity()
    assert plain != FineTuned(f"{tiny_folder}+r_drop", Budget()).identity()


def test_best_prefers_accuracy_then_loss():
    class Model:
        def __init__(self):
            self.value = 0

        def state_dict(self):
            return {}

    class FakePlan:
        model = Model()

    best = Best()
    for step, (accuracy, loss) in enumerate([(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.7, 0.85)]):
        best.consider(FakePlan(), {"accuracy": accuracy, "loss": loss}, {"step": step})
    assert best.chosen == {"step": 2}


def test_what_is_reported_as_chosen_is_what_answers():
    model = torch.nn.Linear(1, 1)
    task = SimpleNamespace(metric="accuracy")
    plan = SimpleNamespace(model=model, task=task, vectors_only=False, answers=None)
    probe = Probe("first", 0.01, plan, None, lambda: {"accuracy": 0.8})
    best = Best()
    for step, loss in ((0, 0.9), (5, 0.1)):  # as right on dev and surer: the probe stays
        torch.nn.init.constant_(model.weight, step)
        if not step:
            probe._first = 0.8, {k: v.clone() for k, v in model.state_dict().items()}
        best.consider(plan, {"accuracy": 0.8, "loss": loss}, {"lr": 1e-3, "step": step}, probe)
    assert best.restore().model.weight.item() == 0
    assert best.chosen == {"lr": 1e-3, "step": 0}


def test_find_split_says_what_is_missing(root):
    with pytest.raises(DataError, match="--data-root"):
        find_split(root / "elsewhere", "eprstmt", "0")
    with pytest.raises(ConfigError, match='Did you mean "tnews"'):
        find_split(root, "tnew", "0")
    with pytest.raises(ConfigError, match="split"):
        find_split(root, "eprstmt", "7")


def test_read_split_file_refuses_a_test_file_with_rows_taken_out(root):
    path = root / "fewclue_eprstmt" / "test_public.jsonl"
    path.write_text("".join(path.open(encoding="utf-8").readlines()[:-1]), encoding="utf-8")
    with pytest.raises(DataError, match="5 rows, but the released test has 6"):
        read_split_file(path, "eprstmt")


def test_classes_taken_out_are_refused(root, monkeypatch):
    path = root / "fewclue_eprstmt" / "train_0.jsonl"
    write(path, [(text, "Positive") for text in GOOD])
    release(root, monkeypatch)
    with pytest.raises(DataError, match="1 classes"):
        bench_models(options(root, models=("majority",)))


def test_options_numbers_reads_ranges():
    assert ModelsOptions(splits=("0-2,4",)).numbers() == ["0", "1", "2", "4"]
    with pytest.raises(ConfigError, match="no range"):
        ModelsOptions(splits=("4-0",)).numbers()


def test_options_take_commas():
    options = ModelsOptions(models=("majority,tiny-zh", "a+m:x=1,y=2"), tasks=("tnews,eprstmt",))
    assert options.contenders() == ["majority", "tiny-zh", "a+m:x=1,y=2"]
    assert options.task_names() == ["tnews", "eprstmt"]


def test_summarize_averages_seeds_before_splits():
    cells = [
        {"contender": "a", "task": "t", "split": split, "accuracy": value}
        for split, value in [("0", 0.4), ("0", 0.6), ("1", 0.7), ("1", 0.7)]
    ]
    (row,) = summarize(cells)
    assert (row["mean"], row["runs"]) == (0.6, 2)
    assert differences(cells, ("a",)) == []


def test_options_and_contenders_know_the_same_floors():
    assert set(settings.FLOORS) == {*FLOORS, settings.FLOOR}


def test_budget_gives_few_rows_many_passes():
    budget = Budget(epochs=10, min_steps=100, max_steps=500, batch_size=16)
    assert [budget.steps(rows) for rows in (32, 240, 5000)] == [100, 150, 500]


@pytest.mark.parametrize(("task", "floor"), [("eprstmt", 66.5), ("tnews", 31.2)])
def test_floors_match_the_published_figures(shared, tmp_path, task, floor):
    pytest.importorskip("sklearn")
    report = bench_models(
        ModelsOptions(
            models=("tfidf-svm",),
            tasks=(task,),
            data_root=str(shared / "data" / "bench"),
            output=str(tmp_path / "out"),
        )
    )
    assert 100 * report["scores"][0]["mean"] == pytest.approx(floor, abs=0.5)
    assert report["cells"][0]["rows"] == FEWCLUE[task].test_rows
    assert models_table(report).row_count == 1


def test_lp_ft_keeps_the_probe_where_training_is_no_better(root, tiny_folder):
    split = find_split(root, "eprstmt", "0")
    ruin = Budget(lrs=(5.0,), min_steps=4, max_steps=4, evaluations=1, epochs=1)
    plain, probed = (
        contenders.find(f"{kind}@{tiny_folder}", ruin).learn(split, 1, lambda line: None)
        for kind in ("finetune", "lp-ft")
    )
    assert probed.chosen == {"lr": 5.0, "step": 0, "of": 4}
    assert plain.chosen["step"] == 4
    rows = [{"text": text + "0"} for text in (*GOOD, *BAD)]  # as in training
    wanted = ["Positive"] * 4 + ["Negative"] * 4
    assert [each["label"] for each in probed.predict(rows)] == wanted
    assert [each["label"] for each in plain.predict(rows)] != wanted
    names = [contenders.find(f"{kind}@{tiny_folder}", ruin) for kind in ("finetune", "lp-ft")]
    assert names[0].identity() != names[1].identity()
