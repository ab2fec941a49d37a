"""The harness and each of its refusals: every test plants what must be found."""

import gzip
import json

import numpy as np
import pytest

from easynlp.benchmarks import encodings, fewclue, harness, released
from easynlp.benchmarks.cells import FORMAT
from easynlp.benchmarks.contenders import Budget, Learned, find
from easynlp.benchmarks.fewclue import OFFICIAL, Split, Suite, find_split, read_split_file
from easynlp.benchmarks.fewclue_page import KEPT, fewclue_page, fewclue_table, write_page
from easynlp.benchmarks.harness import bench_fewclue
from easynlp.benchmarks.pool import read_unlabelled
from easynlp.benchmarks.prompts import prompt_of, prompts, read_prompts
from easynlp.benchmarks.scores import per_split, summarize
from easynlp.benchmarks.settings import FewclueOptions
from easynlp.errors import ConfigError, DataError

GOOD = ["房间很干净，下次还来", "早餐丰富，位置方便", "老板热情，性价比高", "景色优美，孩子很喜欢"]
BAD = ["服务态度太差了，再也不来", "隔音不好，一夜没睡", "空调坏了也没人管", "又贵又脏，不推荐"]
TEST = [
    ("包装精美物流迅速值得购买", "Positive"), ("屏幕清晰手感舒服非常满意", "Positive"),
    ("味道鲜美分量十足还会回购", "Positive"), ("电池鼓包客服不理再不光顾", "Negative"),
    ("褪色严重线头很多后悔下单", "Negative"), ("假货一件申请退款没有下文", "Negative"),
]  # fmt: skip
BUDGET = {"lrs": (1e-3,), "min_steps": 2, "max_steps": 2, "evaluations": 1}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def labelled(pairs):
    return [{"text": text, "label": label} for text, label in pairs]


def release(root, monkeypatch, **near):
    """Take the files as they are for the released ones, but for the overlaps given."""
    known = released.describe(root)
    for name, count in near.items():
        known[f"fewclue_eprstmt/{name}"]["near_test"] = count
    monkeypatch.setattr(released, "released", lambda: known)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two tasks with five splits: one of texts with unlabelled ones, one of idiom questions."""
    rows = [(text, "Positive") for text in GOOD] + [(text, "Negative") for text in BAD]
    folder = tmp_path / "bench" / "fewclue_eprstmt"
    for number in (*OFFICIAL, "few_all"):
        write(folder / f"train_{number}.jsonl", labelled((t + number, y) for t, y in rows))
        write(
            folder / f"dev_{number}.jsonl", labelled((t + "啊" + number, y) for t, y in rows[2:6])
        )
    write(folder / "test_public.jsonl", labelled(TEST))
    write(folder / "unlabeled.jsonl", [{"text": text + "。"} for text in GOOD + BAD])
    chid = tmp_path / "bench" / "fewclue_chid"
    for name in (*(f"{part}_{n}" for part in ("train", "dev") for n in OFFICIAL), "test_public"):
        write(chid / f"{name}.jsonl", [
            {"text": f"{name}第{i}天他#idiom#地走了{'很远' * i}", "answer": i % 3,
             "candidates": ["高高兴兴", "匆匆忙忙", "慢慢吞吞"]} for i in range(6)
        ])  # fmt: skip
    monkeypatch.setitem(fewclue.FEWCLUE, "eprstmt", Suite("fewclue_eprstmt", 6, 2))
    monkeypatch.setitem(
        fewclue.FEWCLUE, "chid", Suite("fewclue_chid", 6, 3, encodings.idiom, paired=True)
    )
    release(tmp_path / "bench", monkeypatch)
    return tmp_path / "bench"


def options(root, **more):
    given = {
        "contenders": ("majority", "floor"), "tasks": ("eprstmt",), "draws": 200,
        "data_root": str(root), "output": str(root.parent / "out"), "seeds": (13, 42), **BUDGET,
    }  # fmt: skip
    return FewclueOptions(**{**given, **more})


class Spy:
    """A contender whose bad manners are given as a function of the split."""

    seeded = unlabelled = False
    name = "spy"

    def __init__(self, manners=None, predict=None):
        self.manners, self.predict, self.seen = manners, predict, []

    def takes(self, task):
        return True

    def identity(self):
        return "spy"

    def learn(self, split, seed, say):
        if self.manners:
            self.manners(split)

        def predict(examples):
            self.seen.append(examples)
            return [{"label": "Positive"} for _ in examples]

        return Learned(self.predict or predict, 0.5)


def run_with(spy, root, monkeypatch, **more):
    monkeypatch.setattr(harness, "find", lambda name, budget, model: spy)
    return bench_fewclue(options(root, contenders=("spy",), **more))


# -- What it does ---------------------------------------------------------------------------------


def test_one_report_holds_scores_answers_and_their_hash(root):
    report = bench_fewclue(options(root, contenders=("chance", "majority", "floor")))
    scores = {row["contender"]: row for row in report["scores"]}
    assert scores["majority"]["mean"] == 0.5
    assert (scores["floor"]["runs"], scores["floor"]["rows"], scores["floor"]["classes"]) == (
        5,
        6,
        2,
    )
    assert scores["floor"]["parameters"] > 0
    assert len([c for c in report["cells"] if c["contender"] == "chance"]) == 10
    saved = json.loads((root.parent / "out" / "fewclue.json").read_text("utf-8"))
    assert saved == json.loads(json.dumps(report))
    for cell in saved["cells"]:
        assert len(cell["answers"]) == 6
        assert len(cell["answers_sha256"]) == 64
    assert {row["minus"] for row in report["differences"]} == {"chance", "majority"}
    assert fewclue_table(report).row_count == 3


def test_a_second_run_computes_nothing(root, monkeypatch):
    first = bench_fewclue(options(root))
    monkeypatch.setattr("easynlp.benchmarks.cells._run", None)
    assert bench_fewclue(options(root))["cells"] == first["cells"]


def test_answers_that_were_changed_afterwards_are_refused(root):
    report = bench_fewclue(options(root))
    key = report["cells"][0]["key"]
    path = root.parent / "out" / "answers" / f"{key}.json"
    path.write_text(path.read_text("utf-8").replace("Negative", "Positive"), encoding="utf-8")
    with pytest.raises(DataError, match="not those that were scored"):
        bench_fewclue(options(root))


def test_questions_with_candidates_are_scored_as_questions(root, tiny_folder):
    names = ("chance", f"finetune@random:{tiny_folder}", f"finetune-published@{tiny_folder}")
    report = bench_fewclue(
        options(root, contenders=names, tasks=("chid",), splits=("0",), seeds=(13,))
    )
    for row in report["scores"]:
        assert (row["rows"], row["classes"], row["runs"]) == (6, 3, 1)
    assert {answer for cell in report["cells"] for answer in cell["answers"]} <= {"0", "1", "2"}
    chosen = {cell["contender"]: cell["chosen"] for cell in report["cells"]}
    assert chosen[names[1]]["of"] == 2
    # 18 rows in batches of 32: one step an epoch, three epochs, nothing chosen.
    assert chosen[names[2]] == {"lr": 2e-5, "step": 3, "of": 3}
    assert "fewer than the five splits" in str(fewclue_table(report).title)


def test_rows_are_answered_without_labels_in_an_order_that_tells_nothing(root, monkeypatch):
    spy = Spy()
    report = run_with(spy, root, monkeypatch, splits=("0",))
    (seen,) = spy.seen
    assert all(set(each) == {"text"} for each in seen)
    assert [each["text"] for each in seen] != [text for text, _ in TEST]
    assert sorted(each["text"] for each in seen) == sorted(text for text, _ in TEST)
    assert report["scores"][0]["mean"] == 0.5

    def right(examples):
        known = dict(TEST)
        return [{"label": known[each["text"]]} for each in examples]

    best = run_with(Spy(predict=right), root, monkeypatch, splits=("0",), output=str(root / "2"))
    assert best["scores"][0]["mean"] == 1.0


def test_differences_are_paired(root):
    report = bench_fewclue(options(root, contenders=("majority", "tfidf-svm", "floor")))
    by = {row["minus"]: row for row in report["differences"]}
    same = by["tfidf-svm"]  # the floor of this task, under its other name
    assert (same["mean"], same["low"], same["high"]) == (0, 0, 0)


def test_the_page_keeps_what_was_written_below_its_mark(root, tmp_path):
    report = bench_fewclue(options(root, few_all=True))
    page = tmp_path / "docs" / "fewclue.md"
    write_page(report, page, "easynlp bench fewclue")
    text = page.read_text("utf-8")
    assert "| majority | 50.0 ± 0.0 |" in text
    assert "### few_all" in text
    page.write_text(text.replace(KEPT, KEPT + "\n\nA remark.\n").replace("50.0", "99.9"), "utf-8")
    write_page(report, page, "easynlp bench fewclue")
    again = page.read_text("utf-8")
    assert again.endswith(KEPT + "\n\nA remark.\n\n")
    assert "99.9" not in again


def test_the_page_says_what_is_below_the_floor(root, tiny_folder):
    report = bench_fewclue(options(root, contenders=("floor", "majority"), splits=("0",)))
    scores = [dict(row) for row in report["scores"]]
    scores[0]["mean"], scores[1] = 0.9, {**scores[1], "contender": "tiny", "mean": 0.6}
    page = fewclue_page({**report, "scores": scores}, "x")
    assert "- tiny is below the floor on eprstmt: 60.0 against 90.0." in page


# -- What it refuses ------------------------------------------------------------------------------


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


COLLIDING = """
t:
  - name: x
    pattern: "{text}[MASK]"
    words: {经营养成: 经营, 经营: 经营}
"""


DISTINCT = COLLIDING.replace("经营养成: 经营", "a: b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (COLLIDING, 'the labels "经营养成" and "经营" share the word "经营"'),
        (COLLIDING.replace("经营, ", "[养成, 经营], "), "share the word"),
        (COLLIDING.replace("经营养成: 经营", "a: b").replace("{text}", "{label}"), "names {label}"),
        (COLLIDING.replace("经营养成: 经营", "a: b").replace("[MASK]", ""), "no \\[MASK\\]"),
        (
            COLLIDING.replace("经营养成: 经营", "a: b") + "    view: {text: label_desc}\n",
            "answer away",
        ),
    ],
)
def test_prompts_that_collide_or_tell_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        read_prompts(text)


def test_the_prompts_of_all_tasks_cover_all_labels(shared):
    for task, suite in fewclue.FEWCLUE.items():
        path = find_split(shared / "data" / "bench", task, "0").train
        rows = read_split_file(path, task)
        labels = {each["label"] for each in rows}
        for prompt in prompts()[task].values():
            assert set(prompt.words) == labels
            assert "text" in prompt.show(rows[0])
        assert prompt_of(task).name == next(iter(prompts()[task]))
        assert suite.classes >= 2


# -- The floors, measured -------------------------------------------------------------------------

SAME = {
    "eprstmt": "tfidf-svm", "csldcp": "tfidf-svm", "tnews": "tfidf-svm", "iflytek": "tfidf-svm",
    "ocnli": "hypothesis-svm", "csl": "keyword-rule", "cluewsc": "positions",
}  # fmt: skip
"""Floors whose reference says what they are. Those of a reference that leaves the features open
(overlap, keywords, lsa, tfidf-cnb) are measured, and their distance is printed."""


@pytest.mark.slow
@pytest.mark.parametrize("task", SAME)
def test_floors_reproduce_their_reference(shared, tmp_path, task):
    pytest.importorskip("sklearn")
    names = (SAME[task],)
    report = bench_fewclue(
        FewclueOptions(
            contenders=names, tasks=(task,), data_root=str(shared / "data" / "bench"),
            output=str(tmp_path), draws=100,
        )
    )  # fmt: skip
    for row in report["scores"]:
        assert 100 * row["mean"] == pytest.approx(row["reference"], abs=harness.WITHIN)
        assert row["rows"] == fewclue.FEWCLUE[task].test_rows
    assert len(report["scores"]) == len(names)


def test_chance_and_a_constant_answer_differ_as_they_should(root):
    names = ("chance", "tfidf-svm", "floor")
    report = bench_fewclue(options(root, contenders=names))
    answers = {}
    for cell in report["cells"]:
        answers.setdefault(cell["contender"], []).append(cell["answers"])
    assert len(set(map(tuple, answers["chance"]))) > 5  # by split as well as by seed
    assert answers["tfidf-svm"] == answers["floor"]


def test_the_format_of_cells_is_part_of_their_key(root, monkeypatch):
    before = bench_fewclue(options(root, splits=("0",)))["cells"]
    monkeypatch.setattr("easynlp.benchmarks.cells.FORMAT", FORMAT + 1)
    after = bench_fewclue(options(root, splits=("0",)))["cells"]
    assert {c["key"] for c in before}.isdisjoint(c["key"] for c in after)
    assert np.array_equal([c["right"] for c in before], [c["right"] for c in after])


def test_a_name_that_is_no_contender_says_so():
    with pytest.raises(ConfigError, match="is no contender"):
        find("unittest.case:FunctionTestCase", Budget())
