"""Texts cut from documents: nothing lost, nothing too long, same every time, masks anew."""

from __future__ import annotations

import numpy as np
import pytest

from easynlp.errors import DataError
from easynlp.pretraining.segments import (
    SegmentRows,
    cut,
    encode_segments,
    write_segments,
)  # fmt: skip
from easynlp.tasks.language_modeling import Config, LanguageModeling
from tests.conftest import REVIEWS

DOCUMENT = ["今天天气真好。我在北京大学读书！张三呢？", "服务热情；早餐丰富…" * 5, "房" * 70]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "a.txt"
    texts = "\n\n".join(f"{text}。\n{other}！" for text, _ in REVIEWS for other, _ in REVIEWS)
    path.write_text(texts, encoding="utf-8")
    return path


def test_cutting_loses_no_character_and_keeps_the_limit():
    for seed in range(20):
        pieces = list(cut(DOCUMENT, 30, np.random.default_rng(seed)))
        assert "".join(pieces) == "".join(DOCUMENT)
        assert max(map(len, pieces)) <= 30


def test_lengths_are_many():
    pieces = [p for s in range(50) for p in cut(["好的。" * 60], 60, np.random.default_rng(s))]
    sizes = {len(piece) for piece in pieces}
    assert min(sizes) <= 12
    assert max(sizes) >= 54
    assert len(sizes) >= 10


def test_written_texts_are_read_back_and_kept(corpus, tmp_path):
    made = write_segments([corpus], tmp_path / "t", longest=40)
    texts = list(made)
    assert "".join(texts) == corpus.read_text("utf-8").replace("\n", "")
    assert made[0:2] == texts[:2]
    with pytest.raises(IndexError):
        made[len(made)]
    before = (tmp_path / "t" / "texts.bin").stat().st_mtime_ns
    assert list(write_segments([corpus], tmp_path / "t", longest=40)) == texts
    assert (tmp_path / "t" / "texts.bin").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="another corpus"):
        write_segments([corpus], tmp_path / "t", longest=41)


def test_per_file_takes_a_share(corpus, tmp_path):
    whole = write_segments([corpus], tmp_path / "t", longest=40)
    part = write_segments([corpus], tmp_path / "p", longest=40, per_file=500)
    assert 250 < sum(map(len, part)) < 800 < sum(map(len, whole))


def test_rows_hold_the_texts_and_hide_whole_words_anew(corpus, tmp_path, tiny_backbone):
    tokenizer = tiny_backbone.tokenizer
    made = write_segments([corpus], tmp_path / "t", longest=30)
    encode_segments(made, tokenizer, tmp_path / "k", 32)
    task = LanguageModeling(Config(max_length=32, mask_rate=0.3), tokenizer)
    vectors = np.arange(len(made) * 4, dtype=np.float16).reshape(len(made), 4)
    source = SegmentRows(tmp_path / "k", task, seed=1, vectors=vectors, rows=np.array([5, 2]))
    for index, number in enumerate((5, 2)):
        wanted = tokenizer.encode(made[number], max_length=32).ids
        one, same = (source.features(index, 0) for _ in range(2))
        restored = one["input_ids"].copy()
        restored[one["positions"]] = one["target"]
        np.testing.assert_array_equal(restored, wanted)
        np.testing.assert_array_equal(one["input_ids"], same["input_ids"])
        assert source.lengths[index] == len(wanted)
        assert (one["vector"] == vectors[number]).all()
        assert not np.isin(np.array([0, len(wanted) - 1]), one["positions"]).any()
        assert any(
            not np.array_equal(one["positions"], source.features(index, e)["positions"])
            for e in range(1, 6)
        )
