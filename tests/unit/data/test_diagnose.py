import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from easynlp.data.columns import read_examples
from easynlp.data.diagnose import fingerprint, inspect_data, overlap
from easynlp.data.readers import Row
from easynlp.errors import DataError
from easynlp.tasks.base import Field

FIELDS = (Field("text", ("text",)), Field("label", ("label",), target=True))


@pytest.fixture
def put(tmp_path):
    def write(name, rows):
        file = tmp_path / name
        file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
        return str(file)

    return write


def test_diagnose_counts_everything_once(put):
    path = put("a.jsonl", [
        {"id": 1, "text": "房间干净", "label": "正面"},
        {"id": 2, "text": "房间干净", "label": "正面"},
        {"id": 3, "text": "房间　干净", "label": "负面"},
        {"id": 4, "text": "ＡＢＣ", "label": "正面"},
        {"id": 5, "text": " abc", "label": 1.0},
        {"id": 6, "text": "ABC ", "label": "正面"},
        {"id": 7, "text": " ", "label": "正面"},
        {"id": 8, "text": "差", "label": None},
        {"id": 9, "text": 5, "label": "正面"},
        {"id": 10, "text": "房间干净", "label": "其他"},
        {"id": 11, "text": "房间 干净", "label": "其他"},
    ])  # fmt: skip
    found = inspect_data(path, fields=FIELDS)
    assert found.rows == 11
    assert found.columns == ("id", "text", "label")
    assert found.roles == {"text": "text", "label": "label"}
    assert found.labels == {"正面": 5, "其他": 2, "负面": 1, "1": 1}
    assert found.majority == pytest.approx(5 / 9)
    assert found.duplicates == 2
    assert found.duplicate_places == [f"{path}:2", f"{path}:6"]
    assert found.conflicts == 2
    assert (found.empty, found.empty_places) == (1, [f"{path}:7"])
    assert found.unusable == 2
    assert found.unusable_places == [
        f"{path}:8: label is null; every row needs one to train or evaluate",
        f"{path}:9: text is int, not a string",
    ]
    assert json.loads(json.dumps(found.as_dict()))["columns"] == ["id", "text", "label"]


def test_diagnose_a_space_is_not_nothing(put):
    path = put("a.jsonl", [{"text": "ab c", "label": "1"}, {"text": "a bc", "label": "1"}])
    assert inspect_data(path).duplicates == 0


def test_diagnose_lengths(put):
    rows = [{"text": "长" * n} for n in [*range(1, 101), 98_765]]
    found = inspect_data(put("a.jsonl", rows))
    assert found.lengths == {"min": 1, "p50": 51, "p90": 91, "p95": 96, "p99": 100, "max": 98765}
    assert found.labels == {}
    assert found.majority == 0.0


def test_diagnose_entities_pairs_and_several_labels(put):
    entities = [{"start": 0, "end": 1, "type": t} for t in ("LOC", "LOC", "PER")]
    ner = inspect_data(put("a.jsonl", [{"text": "京沪张", "entities": entities},
                                       {"text": "好", "entities": []}]))  # fmt: skip
    assert ner.labels == {"LOC": 2, "PER": 1}
    multi = inspect_data(put("b.jsonl", [{"text": "好", "labels": ["体育", "财经"]}]))
    assert multi.labels == {"体育": 1, "财经": 1}
    pairs = [
        {"text_a": "甲", "text_b": "乙", "label": 1},
        {"text_a": "甲", "text_b": "丙", "label": 0},
    ]
    pair = inspect_data(put("c.jsonl", pairs))
    assert pair.roles == {"text": "text_a", "text_b": "text_b", "label": "label"}
    assert pair.conflicts == 0


def test_diagnose_needs_a_text_and_a_sound_file(put):
    with pytest.raises(DataError, match=r"no column for `text`"):
        inspect_data(put("a.jsonl", [{"x": 1, "label": 2}]))
    with pytest.raises(DataError, match=r"no such file"):
        inspect_data("没有.jsonl")


def test_diagnose_needs_little_memory(put):
    path = put("a.jsonl", ({"text": f"第{i}条" * 20, "label": str(i)} for i in range(20_000)))
    tracemalloc.start()
    found = inspect_data(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.rows == 20_000
    assert found.label_overflow
    assert len(found.labels) == 10_000
    assert peak < 6e6


def test_diagnose_overlap_of_files(put):
    train = put("train.jsonl", [{"text": "很好", "label": 1}, {"text": "Ａ Ｂ", "label": 0},
                                {"text": "很好", "label": 1}])  # fmt: skip
    texts = ["新的", " A  B", "很好", "很好\n"]
    dev = put("dev.jsonl", [{"text": text, "label": 0} for text in texts])
    found = overlap(read_examples(train, FIELDS), read_examples(dev, FIELDS))
    assert found.count == 3
    assert found.places == [
        f"{dev}:3 = {train}:1", f"{dev}:4 = {train}:1", f"{dev}:2 = {train}:2",
    ]  # fmt: skip


def test_diagnose_overlap_of_pairs_looks_at_both_texts():
    one = [(Row({}, "t", 1), {"text": "甲", "text_b": "乙"})]
    assert overlap(one, [(Row({}, "d", 1), {"text": "甲", "text_b": "丙"})]).count == 0
    assert overlap(one, [(Row({}, "d", 1), {"text": "甲乙"})]).count == 0
    assert overlap(one, one).count == 1


def test_diagnose_fingerprint(put):
    path = put("a.jsonl", [{"text": "好"}])
    data = Path(path).read_bytes()
    assert vars(fingerprint(path, rows=1)) == {
        "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "rows": 1,
    }  # fmt: skip
    with pytest.raises(DataError, match="cannot read the file"):
        fingerprint(path + "x")
