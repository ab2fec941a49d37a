import json
import random

import pytest

from easynlp.errors import DataError
from easynlp.landing.diagnosis import diagnose
from easynlp.landing.parts import odd_kinds
from easynlp.landing.settings import LandOptions

pytest.importorskip("sklearn")

GOOD = [
    f"第{n}家酒店的房间非常干净，前台热情，早餐丰富，下次一定还来" for n in "一二三四五六七八九十"
]
BAD = [
    f"第{n}家饭馆等了很久才上菜，味道一般，服务员态度冷淡，不会再去" for n in "一二三四五六七八九十"
]
FAR = [
    "今天天气晴朗适合出门散步",
    "这本小说情节曲折引人入胜",
    "电池只能用两个小时就没电",
    "屏幕有坏点客服也不理人",
]


def write(folder, name, rows):
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


def labelled(texts, label):
    return [{"text": text, "label": label} for text in texts]


@pytest.fixture
def files(tmp_path):
    train = labelled(["很喜欢这里", "非常满意的一次", "推荐给朋友了"], "好")
    train += labelled(["太差劲了吧", "再也不会来了", "浪费时间和钱"], "差")
    dev = labelled(FAR[:1], "好") + labelled(FAR[2:3], "差")
    test = labelled(FAR[1:2], "好") + labelled(FAR[3:], "差")
    pool = [{"text": "路边的花都开了真好看"}, {"text": "  "}]
    return tmp_path, {"train": train, "dev": dev, "test": test, "unlabeled": pool}


def options(files, **more):
    folder, rows = files
    return LandOptions(
        output=str(folder / "out"), **{name: write(folder, name, r) for name, r in rows.items()},
        **more,
    )  # fmt: skip


def texts(part):
    return [each["text"] for each in part.examples]


def test_clean_files_pass_as_they_are(files):
    found = diagnose(options(files))
    assert {name: len(part.examples) for name, part in found.parts.items()} == {
        "train": 6, "dev": 2, "test": 2, "pool": 1,
    }  # fmt: skip
    assert found.facts["warnings"] == []
    assert found.facts["leaks"] == []
    assert "why_not" in found.facts["noise"]


def test_leaks_leave_the_lower_split(files):
    folder, rows = files
    rows["unlabeled"] += [
        {"text": FAR[1]}, {"text": f"{FAR[3]}了"}, {"text": FAR[0]}, {"text": "很喜欢这里"},
        {"text": "路边的花都开了真好看"},
    ]  # fmt: skip
    rows["train"] += labelled([FAR[3]], "差") + labelled([f"{FAR[0]}！"], "好")
    found = diagnose(options(files))
    assert texts(found.parts["pool"]) == ["路边的花都开了真好看"]
    assert len(found.parts["train"].examples) == 6
    assert len(found.parts["test"].examples) == 2
    assert found.facts["dropped"]["train"] == {"also in test": 1, "also in dev": 1}
    assert found.facts["dropped"]["pool"] == {
        "repeated": 1, "also in test": 2, "also in dev": 1, "also in train": 1,
    }  # fmt: skip
    leak = next(
        each for each in found.facts["leaks"] if (each["of"], each["in"]) == ("test", "train")
    )
    assert (leak["exact"], leak["near"]) == (1, 0)
    assert leak["places"] == [f"{folder}/train.jsonl:7 = {folder}/test.jsonl:2"]
    assert len(found.facts["warnings"]) == 2
    kept = diagnose(options(files, leaks="warn"))
    assert len(kept.parts["train"].examples) == 8
    assert "so figures flatter" in kept.facts["warnings"][0]
    assert texts(kept.parts["pool"]) == ["路边的花都开了真好看"]
    with pytest.raises(DataError, match="train rows stand in test"):
        diagnose(options(files, leaks="error"))


def test_repeats_and_contradictions_in_train(files):
    _, rows = files
    rows["train"] += labelled(["很喜欢这里", "说不清楚好坏"], "好") + labelled(
        ["说不清楚好坏"], "差"
    )
    found = diagnose(options(files))
    assert found.facts["dropped"]["train"] == {"repeated": 1, "text with several labels": 2}
    described = found.facts["splits"]["train"]
    assert described["duplicates"]["count"] == described["conflicts"]["count"] == 1
    assert (described["rows"], described["kept"]) == (9, 6)
    assert len(found.parts["train"].examples) == 6


def test_without_dev_part_of_train_is_split_off(files):
    _, rows = files
    del rows["dev"]
    found = diagnose(options(files))
    train, dev = texts(found.parts["train"]), texts(found.parts["dev"])
    assert len(dev) == 2
    assert {each["label"] for each in found.parts["dev"].examples} == {"好", "差"}
    assert sorted(train + dev) == sorted(each["text"] for each in rows["train"])
    assert "no dev file" in found.facts["split_off"]
    assert diagnose(options(files)).parts == found.parts
    rows["train"] = rows["train"][:4]
    with pytest.raises(DataError, match='"差" has one training row'):
        diagnose(options(files))


def test_labels_outside_train_and_vanished_ones(files):
    _, rows = files
    rows["dev"][0]["label"] = "很好"
    with pytest.raises(DataError, match=r'dev.jsonl:1: the label "很好" of this dev row'):
        diagnose(options(files))
    rows["dev"][0]["label"] = "好"
    rows["train"] = labelled(["很喜欢这里"], "好") + labelled([FAR[3]], "差")
    with pytest.raises(DataError, match="one label only"):
        diagnose(options(files))


def test_near_repeats_within_a_file_are_told_not_dropped(files):
    _, rows = files
    rows["train"] += labelled(GOOD, "好") + labelled(BAD, "差")
    found = diagnose(options(files))
    assert found.facts["splits"]["train"]["near"]["count"] == 90
    assert len(found.parts["train"].examples) == 26
    assert found.facts["noise"]["rate"] == pytest.approx(0, abs=0.2)


def test_lengths_that_give_the_label_away_are_told(files):
    _, rows = files
    draw = random.Random(1)

    def some(length):
        return "".join(chr(0x4E00 + draw.randrange(3000)) for _ in range(length))

    short, long = [some(n) for n in range(6, 36)], [some(n) for n in range(60, 90)]
    rows["train"] += labelled(short[::2], "好") + labelled(long[::2], "差")
    rows["dev"] = labelled(short[1::2], "好") + labelled(long[1::2], "差")
    found = diagnose(options(files))
    assert found.facts["length_alone"]["accuracy"] == 1.0
    assert any("length of a text alone" in each for each in found.facts["warnings"])


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("房间很干净", []), ("123 456!!", ["no letters"]), ("a<br/>b", ["markup"]),
        ("坏\ufffd字", ["damaged characters"]), ("看 http://x.cn", ["address or contact"]),
        ("哈哈哈哈哈哈哈哈哈哈哈", ["one character repeated"]),
    ],
)  # fmt: skip
def test_odd_texts(text, kinds):
    assert odd_kinds(text) == kinds
