"""Similar words from a corpus and an encoder, with no dictionary and no network."""

from __future__ import annotations

import numpy as np
import pytest

from easynlp.errors import DataError
from easynlp.models.backbone import Backbone
from easynlp.pretraining.rows import CONTINUES
from easynlp.pretraining.similar_words import common_words, write_similar_words
from easynlp.tasks.language_modeling import token_words
from easynlp.text.similar_words import SimilarWords

TEXT = "我喜欢北京，我喜爱南京，他讨厌东京。"


@pytest.fixture(scope="module")
def tokenizer():
    return Backbone.load("tiny-zh").tokenizer


def tokens_of(tokenizer, text: str) -> np.ndarray:
    """Return the tokens of a text with continuation bits."""
    item = tokenizer.encode(text, max_length=999, offsets=True)
    words = token_words(text, item.ids, item.offsets, np.array([]))[1:-1]
    ids = item.ids[1:-1].astype(np.uint32)
    ids[1:][words[1:] == words[:-1]] |= CONTINUES
    return ids


def test_words_are_counted_by_length_most_frequent_first(tokenizer) -> None:
    found = common_words(tokens_of(tokenizer, TEXT * 4 + "北京" + "上海" * 2), tokenizer, 100)
    assert found[0][:2] == ["我", "他"]
    assert found[1][0] == "北京"
    assert set(found[1]) == {"喜欢", "北京", "喜爱", "南京", "讨厌", "东京"}  # 上海: too rare
    assert common_words(tokens_of(tokenizer, TEXT * 4), tokenizer, 1)[0] == ["我"]


def test_the_table_is_written_once_and_read_for_masking(tokenizer, tmp_path) -> None:
    (tmp_path / "tokens.bin").write_bytes(tokens_of(tokenizer, TEXT * 4).tobytes())
    path = tmp_path / "similar.tsv"
    write_similar_words(tmp_path / "tokens.bin", tokenizer, path, neighbours=2)
    lines = dict(line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
    assert all(word not in found.split(",") for word, found in lines.items())
    assert {"南京", "东京"} == set(lines["北京"].split(","))  # nearer than what one does there
    table = SimilarWords.read(path, tokenizer)
    ids = tokenizer.encode("北京", max_length=9).ids[1:-1]
    assert len(table(ids, np.random.default_rng(0))) == len(ids)
    path.write_text("北京\t东京\n", encoding="utf-8")
    write_similar_words(tmp_path / "tokens.bin", tokenizer, path)
    assert path.read_text(encoding="utf-8") == "北京\t东京\n"
    (tmp_path / "few.bin").write_bytes(tokens_of(tokenizer, "我").tobytes())
    with pytest.raises(DataError, match="too few words"):
        write_similar_words(tmp_path / "few.bin", tokenizer, tmp_path / "none.tsv")
