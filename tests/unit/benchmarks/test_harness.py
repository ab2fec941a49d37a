"""What the harness computes and writes."""

import json

import numpy as np
import pytest

from easynlp.benchmarks import fewclue, harness
from easynlp.benchmarks.cells import FORMAT
from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.fewclue_page import KEPT, fewclue_page, fewclue_table, write_page
from easynlp.benchmarks.harness import bench_fewclue
from easynlp.benchmarks.settings import FewclueOptions
from easynlp.errors import ConfigError, DataError, ModelError
from tests.unit.benchmarks.release import (
    TEST,
    Spy,
    options,
    run_with,
)  # fmt: skip


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


def test_a_model_that_cannot_be_had_is_told_before_the_first_cell(root):
    with pytest.raises(ModelError, match='contender "nowhere": no model "nowhere"'):
        bench_fewclue(options(root, contenders=("chance", "nowhere")))
    assert not (root.parent / "out" / "cells.jsonl").exists()


def test_a_name_that_is_no_contender_says_so():
    with pytest.raises(ConfigError, match="is no contender"):
        find("unittest.case:FunctionTestCase", Budget())


def test_a_contender_of_ones_own_needs_all_parts(root):
    with pytest.raises(ConfigError, match="it has no seeded, unlabelled"):
        find("tests.unit.benchmarks.test_harness:Half", Budget())


class Half:
    """A contender that does not say whether seeds make a difference."""

    def __init__(self, name, budget):
        self.name = name

    def takes(self, task):
        return True

    def identity(self):
        return ""

    def learn(self, split, seed, say):
        raise AssertionError


def test_nobody_is_told(root):
    with pytest.raises(ConfigError, match="name contenders"):
        bench_fewclue(options(root, contenders=("",)))
