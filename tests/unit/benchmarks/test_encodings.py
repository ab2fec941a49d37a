import pytest

from easynlp.benchmarks.encodings import (
    answers_of,
    gold_of,
    grade,
    groups_of,
    hide,
    idiom,
    keywords,
    pair,
    plain_texts,
    premise_pair,
    pronoun,
    rows_of,
    text,
)
from easynlp.benchmarks.fewclue import FEWCLUE, OFFICIAL, find_split, read_split_file
from easynlp.data.readers import Row
from easynlp.errors import DataError

QUESTION = {
    "text": "他#idiom#地笑。",
    "candidates": ["甲甲甲甲", "乙乙乙乙", "丙丙丙丙"],
    "answer": 1,
}
WSC = {"text": "它饿了，小猫叫，它走了。", "span1_text": "小猫", "span1_index": 4,
       "span2_text": "它", "span2_index": 8, "label": "true"}  # fmt: skip


def row(values, line=1):
    return Row(values, "a.jsonl", line)


def test_pronoun_marks_noun_and_pronoun_where_they_stand():
    (example,) = pronoun(row(WSC))
    assert example["text"] == "它饿了，[小猫]叫，_它_走了。"
    assert example["pronoun_marked"] == "它饿了，小猫叫，_它_走了。"
    assert example["text"].translate(str.maketrans("", "", "[]_")) == WSC["text"]
    assert plain_texts([example]) == [WSC["text"]]


def test_pronoun_refuses_an_index_that_is_off():
    with pytest.raises(DataError, match=r"a\.jsonl:7: `span2_index` is 9"):
        pronoun(row({**WSC, "span2_index": 9}, 7))


def test_an_idiom_question_is_an_example_for_each_candidate():
    examples = idiom(row(QUESTION))
    assert [e["label"] for e in examples] == ["0", "1", "0"]
    assert [e["text_b"] for e in examples][1] == "他乙乙乙乙地笑。"
    assert len(rows_of(examples)) == 1
    assert gold_of(examples) == ["1"]


def test_a_long_passage_is_cut_around_its_blank():
    (example, *_) = idiom(row({**QUESTION, "text": "前" * 300 + "#idiom#" + "后" * 300}))
    assert example["text_b"] == "前" * 50 + "甲甲甲甲" + "后" * 50


def test_the_best_candidate_is_the_answer_and_accuracy_is_of_questions():
    examples = [*idiom(row(QUESTION, 1)), *idiom(row({**QUESTION, "answer": 0}, 2))]
    scores = [0.1, 0.4, 0.3, 0.2, 0.2, 0.9]
    predictions = [{"label": "0", "scores": {"0": 1 - s, "1": s}} for s in scores]
    assert answers_of(examples, predictions) == ["1", "2"]
    assert grade(examples, predictions) == 0.5


def test_every_row_needs_an_answer():
    examples = [*text(row({"text": "好", "label": "1"})), *text(row({"text": "差", "label": "0"}))]
    with pytest.raises(DataError, match="1 predictions for 2 rows"):
        answers_of(examples, [{"label": "1"}])


def test_rows_to_answer_have_no_label():
    rows = [
        text(row({"text": "好", "label": "1", "label_desc": "社区"}))[0],
        idiom(row(QUESTION))[1],
    ]
    assert all(not {"label", "label_desc"} & set(each) for each in hide(rows))


def test_rows_of_a_premise_are_one_group():
    rows = [premise_pair(row({"text_a": a, "text_b": b, "label": "1"}))[0]
            for a, b in (("甲", "乙"), ("丙", "丁"), ("甲", "戊"))]  # fmt: skip
    assert groups_of(rows) == [0, 1, 0]
    alone = [pair(row({"text_a": "甲", "text_b": "乙", "label": "1"}))[0]] * 2
    assert groups_of(alone) == [0, 1]


def test_keywords_stand_first_so_that_none_is_cut():
    (example,) = keywords(row({"text": "摘要", "keywords": ["甲", "乙"], "label": "0"}))
    assert (example["text"], example["text_b"], example["group"]) == ("甲、乙", "摘要", "摘要")


def test_a_row_without_label_is_refused_with_its_place():
    with pytest.raises(DataError, match=r"a\.jsonl:3: `label` must be a text, not None"):
        text(row({"text": "好"}, 3))


@pytest.mark.parametrize("task", FEWCLUE)
def test_all_nine_tasks_are_read_whole(shared, task):
    root, suite = shared / "data" / "bench", FEWCLUE[task]
    for number in OFFICIAL:
        split = find_split(root, task, number)
        train = read_split_file(split.train, task)
        assert len({each["label"] for each in train}) == (2 if suite.is_choice else suite.classes)
    test = read_split_file(split.test, task)
    assert len(rows_of(test)) == len(gold_of(test)) == suite.test_rows
    assert len(set(gold_of(test))) == suite.tested_classes
    groups = {"csl": 592, "ocnli": 1959, "cluewsc": 456}
    assert len(set(groups_of(test))) == groups.get(task, suite.test_rows)
    assert all(("text_b" in each) == suite.paired for each in test)
