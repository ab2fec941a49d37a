"""Corpus to packed rows: nothing lost, nothing padded, masks anew each epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zstandard

from easynlp.errors import DataError
from easynlp.pretraining.corpus import Heldout, documents, find_files
from easynlp.pretraining.rows import CONTINUES, MaskedRows, pack
from easynlp.pretraining.vocabulary import save_vocabulary, train_vocabulary
from easynlp.tasks.language_modeling import Config, LanguageModeling, token_words
from easynlp.text.tokenizer import Tokenizer

DOCUMENTS = [
    ["今天天气很好，我们去北京大学读书。", "老师讲了深度学习。"],
    ["这家酒店的早餐真的很不错，房间也干净。"],
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    text = "\n\n".join("\n".join(document) for document in DOCUMENTS * 40)
    (folder / "one.txt").write_text(text, encoding="utf-8")
    (folder / "two.txt.zst").write_bytes(zstandard.compress(text.encode()))
    return folder


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [paragraph for document in documents(corpus / "one.txt") for paragraph in document]
    save_vocabulary(train_vocabulary(texts, 200, min_frequency=1), folder, max_length=64)
    return Tokenizer.load(folder)


def test_documents_are_paragraphs_between_blank_lines(corpus) -> None:
    for name in ("one.txt", "two.txt.zst"):
        assert list(documents(corpus / name)) == DOCUMENTS * 40


def test_files_can_be_excluded_by_name(corpus) -> None:
    assert [f.name for f in find_files([corpus], ["two"])] == ["one.txt"]
    with pytest.raises(DataError, match='Did you mean "two"'):
        find_files([corpus], ["tow"])
    with pytest.raises(DataError, match="no such file"):
        find_files([corpus / "three"])


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes("好\n".encode() * 70_000 + b"\xb0\xa1\n")
    with pytest.raises(DataError, match=r"bad\.txt:70001: not valid UTF-8: byte 0xb0"):
        list(documents(path))


def test_packing_keeps_every_token_and_fills_every_row(corpus, tokenizer, tmp_path) -> None:
    stats = pack(find_files([corpus]), tokenizer, tmp_path, row_length=32)
    rows = np.fromfile(tmp_path / "rows.bin", np.uint32).reshape(-1, 32)
    ids = rows & ~CONTINUES
    sep, cls = tokenizer.id_of("[SEP]"), tokenizer.id_of("[CLS]")
    assert (ids[:, 0] == cls).all()
    assert (ids[:, -1] == sep).all()
    expected: list[int] = []
    for document in DOCUMENTS * 80:
        for paragraph in document:
            expected += tokenizer.encode(paragraph, max_length=999).ids[1:-1].tolist()
        expected.append(sep)
    assert ids[:, 1:-1].reshape(-1).tolist() == expected[: rows.shape[0] * 30]
    assert stats.rows == len(rows) == len(expected) // 30
    assert stats.tokens == len(expected)
    assert stats.unknown == 0
    before = (tmp_path / "rows.bin").stat().st_mtime_ns
    assert pack(find_files([corpus]), tokenizer, tmp_path, row_length=32) == stats
    assert (tmp_path / "rows.bin").stat().st_mtime_ns == before  # kept, not made again
    assert pack(find_files([corpus], ["two"]), tokenizer, tmp_path, row_length=32) != stats


def test_masks_are_whole_words_anew_every_epoch_and_the_same_when_asked_again(
    corpus, tokenizer, tmp_path
) -> None:
    pack(find_files([corpus]), tokenizer, tmp_path, row_length=32)
    task = LanguageModeling(Config(max_length=32), tokenizer)
    rows = MaskedRows(tmp_path, task, row_length=32, max_positions=64, seed=3)
    first, second, again = rows.features(5, 0), rows.features(5, 1), rows.features(5, 0)
    assert not np.array_equal(first["positions"], second["positions"])
    assert all(np.array_equal(first[k], again[k]) for k in first)
    special = {tokenizer.id_of(t) for t in ("[CLS]", "[SEP]")}
    shifts = set()
    for index in range(len(rows.lengths)):
        features = rows.features(index, 0)
        raw = np.asarray(rows.data[index])
        continues = (raw & CONTINUES) != 0
        hidden = np.zeros(32, bool)
        hidden[features["positions"]] = True
        assert not special & set(features["target"].tolist())
        inside = np.flatnonzero(continues)
        assert (hidden[inside] == hidden[inside - 1]).all()  # a word is hidden whole
        shifts.add(features["shift"])
        assert 0 <= features["shift"] <= 32
    assert len(shifts) > 5
    assert 0 in shifts


def test_held_out_texts_are_found_and_left_out(corpus, tokenizer, tmp_path) -> None:
    heldout = Heldout(["这家酒店的早餐真的很不错"])
    assert heldout.shows("昨天：这家酒店的早餐，真的很不错！")
    assert not heldout.shows("这家酒店的晚餐真的很不错")
    long = "一二三四五六七八九十" * 4
    assert Heldout([long]).shows("前面" + long[3:35] + "后面")
    assert not Heldout([long]).shows("前面" + long[3:30] + "后面")
    stats = pack(find_files([corpus]), tokenizer, tmp_path, row_length=32, heldout=heldout)
    assert stats.refused == 80


def test_a_corpus_too_small_for_one_row_is_refused(tmp_path, tokenizer) -> None:
    (tmp_path / "tiny.txt").write_text("好\n", encoding="utf-8")
    with pytest.raises(DataError, match="not enough for one row"):
        pack([tmp_path / "tiny.txt"], tokenizer, tmp_path / "out", row_length=32)


def test_the_vocabulary_splits_chinese_into_characters(tokenizer) -> None:
    ids = tokenizer.encode("深度学习", max_length=16).ids
    assert [tokenizer.backend.id_to_token(int(i)) for i in ids[1:-1]] == ["深", "度", "学", "习"]


def test_pieces_over_a_word_s_end_join_words_in_rows_too(unigram, tmp_path) -> None:
    """As `token_words` says, text by text; and what is unknown is counted, whatever its name."""
    texts = ["a Good hotel", "房间真不干净，北京鑫", "不错的很好"]
    (tmp_path / "a.txt").write_text("\n".join(texts * 9), encoding="utf-8")
    stats = pack([tmp_path / "a.txt"], unigram, tmp_path / "rows", row_length=100)
    row = np.fromfile(tmp_path / "rows" / "rows.bin", np.uint32)[1:99]
    expected: list[int] = []
    for text in texts * 9:
        item = unigram.encode(text, max_length=64, offsets=True)
        ids, words = item.ids, token_words(text, item.ids, item.offsets, np.array([0, 2]))
        expected += [
            int(ids[i]) | (int(CONTINUES) if words[i] == words[i - 1] else 0)
            for i in range(1, len(ids) - 1)
        ]
    assert row.tolist() == expected[: len(row)]
    assert len(row) == 98
    assert stats.unknown == 9


@pytest.mark.parametrize("text", ["很[MASK]我", "很<mask>我"])
def test_a_text_s_own_holes_are_found_under_either_name(unigram, text) -> None:
    features = LanguageModeling(Config(max_length=32), unigram).encode({"text": text})
    names = [unigram.backend.id_to_token(int(i)) for i in features["input_ids"]]
    assert names == ["<s>", "▁", "很", "<mask>", "我", "</s>"]
    assert features["positions"].tolist() == [3]
    assert "target" not in features
