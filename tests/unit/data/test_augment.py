"""Changed copies of texts."""

import pytest

from easynlp.data.augment import augment
from easynlp.errors import ConfigError, DataError
from easynlp.text.similar_words import read_similar

TEXTS = ["房间很干净，下次还来", "服务态度太差了，再也不来", "早餐丰富，位置方便，老板热情"]


def test_copies_are_a_function_of_seed_and_text_alone():
    first = augment(TEXTS, 4, seed=3)
    assert augment(TEXTS, 4, seed=3) == first
    assert augment(TEXTS[::-1], 4, seed=3) == first[::-1]
    assert augment(TEXTS[:1], 4, seed=3) == first[:1]
    assert augment(TEXTS, 4, seed=4) != first
    assert [made[:2] for made in augment(TEXTS, 2, seed=3)] != [[]] * 3


def test_copies_differ_from_the_text_and_from_each_other():
    for text, made in zip(TEXTS, augment(TEXTS, 8), strict=True):
        assert len(made) >= 4
        assert text not in made
        assert len(set(made)) == len(made)


def test_deletion_and_swapping_make_nothing_up_and_leave_punctuation():
    for text, made in zip(TEXTS, augment(TEXTS, 8), strict=True):
        for copy in made:
            assert set(copy) <= set(text)
            assert copy.count("，") == text.count("，")
            assert 0 < len(copy) <= len(text)


def test_similar_words_stand_in_for_known_ones():
    made = augment(["房间很干净"] * 3, 40, similar={"干净": ["整洁", "清爽"]})
    assert {"房间很整洁", "房间很清爽"} <= set(made[0])
    assert made[0] == made[1]


def test_a_filler_is_asked_for_whole_words_once_for_all():
    calls = []

    def fill(texts, holes, seeds):
        calls.append(list(zip(texts, holes, seeds, strict=True)))
        return [
            text[: cuts[0][0]] + "○" * (cuts[0][1] - cuts[0][0]) + text[cuts[0][1] :]
            for text, cuts in zip(texts, holes, strict=True)
        ]

    made = augment(TEXTS, 6, fill=fill)
    assert len(calls) == 1
    assert all(text[start:end].isalnum() for text, cuts, _ in calls[0] for start, end in cuts)
    assert any("○" in copy for copies in made for copy in copies)
    assert len({seed for _, _, seed in calls[0]}) == len(calls[0])


def test_what_cannot_be_changed_is_left_alone():
    assert augment(["好", "", "，。！", "   "], 5) == [[], [], [], []]
    assert augment(TEXTS, 0) == [[], [], []]
    for options in ({"copies": -1}, {"copies": 1, "share": 0.0}, {"copies": 1, "share": 1.5}):
        with pytest.raises(ConfigError, match="valid: 0 or more, above 0 to 1"):
            augment(TEXTS, **options)


def test_similar_words_are_read_with_the_line_of_what_is_wrong(tmp_path):
    path = tmp_path / "similar.txt"
    path.write_text("干净\t整洁,清爽\n\n差\t烂\n", encoding="utf-8")
    assert read_similar(path) == {"干净": ["整洁", "清爽"], "差": ["烂"]}
    path.write_text("干净\t整洁\n干净 整洁\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"similar.txt:2: .*no line of similar words"):
        read_similar(path)
