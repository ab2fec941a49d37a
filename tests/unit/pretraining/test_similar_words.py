"""Similar words from a corpus and an encoder, with no dictionary and no network."""

from __future__ import annotations

import numpy as np
import pytest

from easynlp.errors import DataError
from easynlp.pretraining.rows import CONTINUES
from easynlp.pretraining.similar_words import common_words, write_similar_words
from easynlp.tasks.language_modeling import token_words
from easynlp.text.similar_words import SimilarWords

TEXT = "我喜欢北京，我喜爱南京，他讨厌东京。"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_of_each_kind):
    return tokenizer_of_each_kind


def tokens_of(tokenizer, text: str) -> np.ndarray:
    """Return the tokens of a text with continuation bits."""
    item = tokenizer.encode(text, max_length=999, offsets=True)
    words = token_words(text, item.ids, item.offsets, np.array([]))[1:-1]
    ids = item.ids[1:-1].astype(np.uint32)
    ids[1:][words[1:] == words[:-1]] |= CONTINUES
    return ids


def test_words_are_counted_by_length_most_frequent_first(tokenizer) -> None:
    found = common_words(tokens_of(tokenizer, TEXT * 4 + "北京" + "上海" * 2), tokenizer, 100)
    assert found[0][0] == "我"
    expected = [{"我", "他"}, {"喜欢", "北京", "喜爱", "南京", "讨厌", "东京"}]  # 上海: too rare
    if tokenizer.begins_with_space:  # most of these words are pieces
        expected = [{"我", "他", "喜欢", "北京", "喜爱", "讨厌"}, {"南京", "东京"}]
        assert found[0][1] == "北京"
    else:
        assert found[1][0] == "北京"
    assert [set(words) for words in found[:2]] == expected
    assert sorted(map(len, found)) == [0, 0, *sorted(map(len, expected))]  # none is there twice
    assert common_words(tokens_of(tokenizer, TEXT * 4), tokenizer, 1)[0] == ["我"]


def test_a_word_at_the_beginning_of_a_text_is_the_word_it_is_inside(unigram) -> None:
    """There it has a space before it, in a token of its own (▁, 北京) or in the first (▁我)."""
    tokens = np.concatenate([tokens_of(unigram, text) for text in ("北京", "我", "大北京", "大我")])
    found = common_words(np.concatenate([tokens, tokens]), unigram, 100)
    assert found == [["北京", "大", "我"], [], [], []]
    table = SimilarWords({"北京": ["喜欢", "东京"], "我": ["他"], "good": ["ok"]}, unigram)
    rng = np.random.default_rng(0)
    for word, after_space, similar in (
        ("北京", False, ["喜欢"]), ("北京", True, ["▁", "喜欢"]), ("我", False, ["他"]),
    ):  # fmt: skip
        drawn = table(np.array(unigram.word_ids(word, after_space=after_space)), rng)
        assert [unigram.backend.id_to_token(int(i)) for i in drawn] == similar
    # Of one token with its space, but ▁他 are two.
    assert table(np.array(unigram.word_ids("我")), rng) is None


def test_the_table_is_written_once_and_read_for_masking(tokenizer, tmp_path) -> None:
    (tmp_path / "tokens.bin").write_bytes(tokens_of(tokenizer, TEXT * 4).tobytes())
    path = tmp_path / "similar.tsv"
    write_similar_words(tmp_path / "tokens.bin", tokenizer, path, neighbours=2)
    lines = dict(line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    assert all(word not in found.split(",") for word, found in lines.items())
    assert "南京" in lines["东京"].split(",")  # nearer than what one does there
    table = SimilarWords.read(path, tokenizer)
    ids = np.array(tokenizer.word_ids("东京", after_space=False))
    assert len(table(ids, np.random.default_rng(0))) == len(ids) == 2
    path.write_text("北京\t东京\n", encoding="utf-8")
    write_similar_words(tmp_path / "tokens.bin", tokenizer, path)
    assert path.read_text(encoding="utf-8") == "北京\t东京\n"
    (tmp_path / "few.bin").write_bytes(tokens_of(tokenizer, "我").tobytes())
    with pytest.raises(DataError, match="too few words"):
        write_similar_words(tmp_path / "few.bin", tokenizer, tmp_path / "none.tsv")
