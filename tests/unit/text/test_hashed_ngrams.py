"""Ids by hashing: what they depend on, pairs, cutting, and a reference written plainly."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest

from easynlp.errors import ModelError
from easynlp.text.hashed_ngrams import HashedNgrams
from easynlp.text.tokenizer import Tokenizer

WORD = (1 << 64) - 1


def reference(text: str, buckets: int, orders: int, salt: int = 0) -> list[int]:
    """The ids of a text, one n-gram at a time in whole numbers."""
    text = " ".join(unicodedata.normalize("NFKC", text).lower().replace("\x03", " ").split())
    codes = [ord(c) + salt for c in f"\x03{text}\x03"]
    found = []
    for order in range(1, orders + 1):
        for start in range(len(codes) - order + 1):
            value = codes[start] * 0x9E3779B97F4A7C15 & WORD
            value ^= value >> 29
            for code in codes[start + 1 : start + order]:
                value = (value + code) * 0xC2B2AE3D27D4EB4F & WORD
                value ^= value >> 29
            found.append(value % buckets + 1)
    return found


def test_ids_are_those_of_a_plain_reference():
    rng = random.Random(0)
    alphabet = [*"房间很干净ABc１２ \t\n\u3000é😀", "e\u0301", "ﬁ", "\x03"]
    for _ in range(300):
        text = "".join(rng.choices(alphabet, k=rng.randrange(12)))
        buckets, orders = rng.choice([2, 97, 65_521, (1 << 31) - 1]), rng.randrange(1, 7)
        tokenizer = HashedNgrams(buckets, orders)
        found = tokenizer.encode(text, max_length=64)
        assert found.ids.tolist() == reference(text, buckets, orders)
        assert found.ids.dtype == np.int32
        assert not found.truncated
        assert not found.type_ids.any()


def test_a_second_text_has_other_ngrams():
    found = HashedNgrams().encode("好", "好", max_length=16)
    first, second = found.ids[found.type_ids == 0], found.ids[found.type_ids == 1]
    assert first.tolist() == reference("好", 65_521, 4)
    assert second.tolist() == reference("好", 65_521, 4, salt=1 << 40)
    assert not set(first) & set(second)


def test_buckets_are_used_evenly():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 5000)))
    counts = np.bincount(HashedNgrams(buckets=1009).encode(text, max_length=9000).ids)
    assert counts[0] == 0
    # As by chance: the variance of a Poisson count is its mean.
    assert counts[1:].var() / counts[1:].mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("texts", "max_length", "lengths"),
    [
        (("好" * 9, "坏" * 3), 10, (3, 3)),
        (("好" * 9, "坏" * 3), 12, (5, 3)),
        (("好" * 3, "坏" * 9), 12, (3, 5)),
        (("好" * 9, "坏" * 9), 11, (4, 3)),
        (("", "坏" * 9), 10, (0, 6)),
    ],
)
def test_the_longer_text_of_a_pair_is_cut_first(texts, max_length, lengths):
    tokenizer = HashedNgrams(orders=1)
    found = tokenizer.encode(*texts, max_length=max_length)
    assert found.truncated
    # One id a character and two for the ends.
    assert tuple(np.bincount(found.type_ids) - 2) == lengths


def test_long_texts_are_cut_and_empty_ones_are_not_nothing():
    tokenizer = HashedNgrams(orders=2)
    long = tokenizer.encode("好" * 100_000, max_length=10)
    assert long.truncated
    assert len(long.ids) == 10 + 9
    assert len(tokenizer.encode("", max_length=10).ids) == 3
    assert not tokenizer.encode("好" * 8, max_length=10).truncated
    assert tokenizer.encode("好" * 9, max_length=10).truncated


def test_saved_and_read_by_the_door_for_all(tmp_path):
    tokenizer = HashedNgrams(101, 3)
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert isinstance(again, HashedNgrams)
    assert again.fingerprint() == tokenizer.fingerprint() != HashedNgrams(103, 3).fingerprint()
    assert again.encode("很好", max_length=9).ids.tolist() == reference("很好", 101, 3)
    (tmp_path / "hashed_ngrams.json").write_text('{"format": 2}')
    with pytest.raises(ModelError, match="format is 2"):
        Tokenizer.load(tmp_path)


def test_what_needs_a_vocabulary_is_refused():
    with pytest.raises(ModelError, match="text_classify alone"):
        HashedNgrams().encode("好", max_length=9, offsets=True)
    with pytest.raises(ModelError, match="1 to 8"):
        HashedNgrams(orders=0)
