import numpy as np
import pytest

from easynlp.benchmarks.contenders import FLOOR_OF, FLOORS, ONLY
from easynlp.benchmarks.encodings import grade
from easynlp.benchmarks.fewclue import FEWCLUE
from easynlp.benchmarks.task_floors import (
    chance,
    hypothesis_only,
    keyword_features,
    keyword_rule,
    overlap,
    overlap_regression,
    position_features,
)

PAIRS = [{"text": a, "text_b": b, "label": label} for a, b, label in (
    ("今天天气好", "今天天气好吗", "1"), ("我要退货", "我要退货了", "1"),
    ("你叫什么", "你叫什么名字", "1"), ("今天天气好", "我要退货", "0"), 
    ("我要退货", "你叫什么", "0"), ("你叫什么", "猫在哪里", "0"),
)]  # fmt: skip


def test_overlap_of_equal_texts_is_one_and_of_strangers_zero():
    assert overlap({"text": "甲乙丙丁", "text_b": "甲乙丙丁"}) == [1.0] * 9
    assert overlap({"text": "甲乙丙丁", "text_b": "戊己"}) == [0.0] * 9
    assert overlap({"text": "甲", "text_b": "甲乙"})[:3] == [0.5, 1.0, 0.5]


def test_overlap_regression_learns_that_like_texts_match():
    pytest.importorskip("sklearn")
    floor = overlap_regression()
    floor.fit(PAIRS, (), 0)
    assert grade(PAIRS, floor.predict(PAIRS)) == 1.0
    assert floor.parameters == 10


def test_the_hypothesis_floor_does_not_see_the_first_text():
    pytest.importorskip("sklearn")
    floor = hypothesis_only()
    floor.fit(PAIRS, (), 0)
    blind = [{**each, "text": "别的"} for each in PAIRS]
    assert floor.predict(blind) == floor.predict(PAIRS)


def test_the_keyword_rule_needs_one_absent_keyword():
    rule = keyword_rule()
    rows = [{"keywords": ("甲", "乙"), "text_b": text} for text in ("甲和乙", "甲", "丙")]
    assert [each["label"] for each in rule.predict(rows)] == ["0", "1", "1"]
    assert keyword_features(rows[1]) == [0.5, 0.0, 2, 1, 0.5, 0.0]


def test_position_features_do_not_depend_on_what_is_outside():
    example = {"passage": "小猫饿了，它叫。", "span": "小猫", "span_at": 0, "pronoun_at": 5}
    assert position_features(example) == [np.log1p(5), 1.0, 1, 0, 1, 2]


def test_chance_is_drawn_anew_by_seed_and_is_fair():
    rows = [{"label": str(i % 4)} for i in range(4000)]
    floor = chance()
    floor.fit(rows, (), 13)
    first = floor.predict(rows)
    assert 0.22 < grade(rows, first) < 0.28
    floor.fit(rows, (), 13)
    assert floor.predict(rows) == first
    floor.fit(rows, (), 42)
    assert floor.predict(rows) != first
    floor.fit([{**each, "text": "x"} for each in rows], (), 13)
    assert floor.predict(rows) != first


def test_every_task_has_a_floor_that_is_made_for_it():
    assert set(FLOOR_OF) == set(FEWCLUE)
    for task, name in FLOOR_OF.items():
        assert name in FLOORS
        assert task in ONLY.get(name, FEWCLUE)
