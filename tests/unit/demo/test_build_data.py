import json
from collections import Counter
from pathlib import Path

import pytest

import easynlp.demo
from easynlp.demo.build_data import Leaks, Review, apart, candidates, gram_overlap, normal, pairs

DATA = Path(easynlp.demo.__file__).with_name("data")
LONG = "酒店的位置非常方便，出门走五分钟就是地铁站，房间虽然小但是十分干净，下次还会再来住的。"


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_build_data_candidates_keep_whole_reviews_once():
    kept = candidates(
        {
            "pos": [LONG, LONG + " ", "1、" + LONG, "太短了", LONG[:-1] + "，"],
            "neg": [
                "隔音很差，半夜隔壁说话都听得清清楚楚，一夜没有睡好觉。",
                "电话010-88886666，" + LONG,
            ],
        }
    )
    assert [
        (r.text, r.label, r.lines) for r in sorted(kept, key=lambda r: r.lines, reverse=True)
    ] == [
        (LONG, "正面", (0, 1, 4)),
        ("隔音很差，半夜隔壁说话都听得清清楚楚，一夜没有睡好觉。", "负面", (0,)),
    ]


def test_build_data_drops_texts_of_both_labels():
    assert candidates({"pos": [LONG], "neg": [LONG.replace("，", ",")]}) == []


def test_build_data_apart_drops_near_duplicates_and_neighbours():
    other = "键盘手感很舒服，屏幕也没有坏点，就是风扇的声音稍微大了一点，总体来说还是满意的。"
    third = "故事平淡，翻译也很生硬，读了三十页就放下了，实在不明白为什么有那么多人推荐。"
    found = list(
        apart(
            [
                Review(LONG, "正面", (0,)),
                Review(LONG[:-6] + "不来了！", "正面", (50,)),
                Review(other, "正面", (3,)),
                Review(third, "负面", (3,)),
            ]
        )
    )
    assert [r.text for r in found] == [LONG, third]


@pytest.mark.parametrize(
    ("heldout", "leaks"),
    [
        (LONG, True),
        ("前面一段话。" + LONG[5:45] + "后面一段话", True),
        (LONG[3:20], True),  # a held-out text inside ours
        ("开头" + LONG.replace("，", ", ") + "结尾", True),
        (LONG[:9], False),
        ("酒店的位置非常方便，别的都不行，出门走五分钟才见到人。", False),
    ],
)
def test_build_data_leaks(heldout, leaks):
    judge = Leaks([LONG])
    judge.hold_against(heldout)
    assert bool(judge.found) is leaks


def test_build_data_leaks_sees_short_text_inside_heldout():
    judge = Leaks(["早餐很差劲，没有什么可吃的"])
    judge.hold_against("房间还行。早餐很差劲,没有什么可吃的!前台也慢。")
    assert judge.found


def test_pairs_have_one_length_and_both_labels():
    kinds = [("正面", 10), ("正面", 100), ("负面", 12), ("负面", 101), ("负面", 101), ("正面", 60)]
    made = [Review(chr(65 + i) * size, label, (i,)) for i, (label, size) in enumerate(kinds)]
    found = [(first.lines[0], second.lines[0]) for first, second in pairs(made)]
    assert sorted(found) == [(0, 2), (1, 3)]


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_the_length_of_a_demo_text_tells_nothing(name):
    lengths = [(len(row["text"]), row["label"] == "正面") for row in rows(name)]
    for cut in range(10, 200, 5):
        right = sum((length > cut) == positive for length, positive in lengths) / len(lengths)
        assert 0.45 < right < 0.55


def test_demo_data_is_balanced_and_disjoint():
    sets = {name: rows(name) for name in ("train", "dev", "test")}
    assert {name: len(found) for name, found in sets.items()} == {
        "train": 850, "dev": 250, "test": 500,
    }  # fmt: skip
    for found in sets.values():
        assert set(Counter(row["label"] for row in found).values()) == {len(found) // 2}
        assert all(set(row) == {"text", "label"} for row in found)
        assert all(10 <= len(row["text"]) <= 200 for row in found)
    texts = [normal(row["text"]) for found in sets.values() for row in found]
    assert len(set(texts)) == len(texts)
    windows = Counter(w for t in texts for w in {t[i : i + 30] for i in range(len(t) - 29)})
    assert max(windows.values()) == 1
    assert "MIT License" in (DATA / "LICENSE").read_text("utf-8")


def test_gram_overlap_is_symmetric():
    assert gram_overlap(LONG, LONG[:30]) == gram_overlap(LONG[:30], LONG) < 1
