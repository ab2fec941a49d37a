"""Whole-word masking: rates, wholeness, randomness, and what must never be hidden."""

from __future__ import annotations

import numpy as np
import pytest

from easynlp.errors import ConfigError, DataError
from easynlp.tasks.language_modeling import Config, LanguageModeling, special_ids, token_words
from easynlp.text.masking import MASKINGS, mask_words, units
from easynlp.text.segment import continues, word_ids, word_lengths
from easynlp.text.similar_words import SimilarWords

MASK, LOW, HIGH = 4, 5, 900


def draw(words: np.ndarray, seed: int, rate: float = 0.15):
    ids = np.arange(100, 100 + len(words))
    row = mask_words(
        ids, words, rate=rate, mask_id=MASK, random_ids=(LOW, HIGH),
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return ids, row


def row_of_words(seed: int, length: int = 126) -> np.ndarray:
    sizes = np.random.default_rng(seed).integers(1, 5, length)
    words = np.repeat(np.arange(length), sizes)[:length]
    return np.concatenate([[-1], words, [-1]])


def test_whole_words_are_hidden_together_and_special_tokens_never() -> None:
    for seed in range(200):
        words = row_of_words(seed)
        ids, row = draw(words, seed)
        hidden = np.zeros(len(ids), bool)
        hidden[row.positions] = True
        assert not hidden[words == -1].any()
        for word in np.unique(words[words >= 0]):
            tokens = hidden[words == word]
            assert tokens.all() or not tokens.any()
            changed = row.ids[words == word]
            if tokens.all() and (changed == MASK).any():
                assert (changed == MASK).all()  # 80/10/10 is drawn once a word
        assert (row.targets == ids[row.positions]).all()
        assert (row.ids[~hidden] == ids[~hidden]).all()


def test_rates_are_met_within_half_a_percent() -> None:
    hidden = masked = kept = total = 0
    for seed in range(3000):
        words = row_of_words(seed)
        ids, row = draw(words, seed)
        total += int((words >= 0).sum())
        hidden += len(row.positions)
        masked += int((row.ids[row.positions] == MASK).sum())
        kept += int((row.ids[row.positions] == ids[row.positions]).sum())
    assert abs(hidden / total - 0.15) < 0.005
    assert abs(masked / hidden - 0.80) < 0.01
    assert abs(kept / hidden - 0.10) < 0.01


def test_a_word_longer_than_the_budget_is_still_sometimes_hidden() -> None:
    words = np.concatenate([[-1], np.zeros(20, int), [-1]])
    share = np.mean([len(draw(words, seed)[1].positions) for seed in range(2000)]) / 20
    assert abs(share - 0.15) < 0.03


def test_draws_differ_and_repeat_with_their_seed() -> None:
    words = row_of_words(1)
    one, again, other = (draw(words, seed)[1] for seed in (1, 1, 2))
    assert (one.ids == again.ids).all()
    assert not np.array_equal(one.positions, other.positions)


def test_nothing_to_hide() -> None:
    _, row = draw(np.array([-1, -1]), 0)
    assert len(row.positions) == len(row.targets) == 0


def test_words_are_chinese_words() -> None:
    assert word_ids("我喜欢北京").tolist() == [0, 1, 1, 2, 2]
    text = "用BERT做𠮷野家的分类😀，ＯＫ？"
    assert len(word_ids(text)) == len(text)


TEXTS = ["房间不错的，很好吃", "房间真不干净", "a Good hotel，Go东京", "我喜欢 北京。总之不错的"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("masking", ["word", "ngram"])
def test_a_word_is_never_hidden_by_half_whatever_the_pieces(
    tokenizer_of_each_kind, text, masking
) -> None:
    """By characters: if one of a word's is behind a hole or changed, so are all of them."""
    tokenizer = tokenizer_of_each_kind
    task = LanguageModeling(Config(mask_rate=0.4, masking=masking), tokenizer)
    item = tokenizer.encode(text, max_length=64, offsets=True)
    words = token_words(text, item.ids, item.offsets, task.special)
    seen = set()
    for seed in range(60):
        row = task.draw(item.ids, words, np.random.default_rng(seed))
        hidden = np.zeros(len(text), bool)
        for first, end in item.offsets[row.positions]:
            hidden[first:end] = True
        seen.add(tuple(hidden))
        spaces = np.array([c == " " for c in text])  # a part of the piece after it, or alone
        for word in np.unique(word_ids(text)[~spaces]):
            of_word = hidden[word_ids(text) == word]
            assert of_word.all() or not of_word.any()
    assert len(seen) >= 3  # and not all at once


def test_words_are_joined_where_a_piece_is_of_both(unigram) -> None:
    def groups(text: str) -> list[str]:
        item = unigram.encode(text, max_length=64, offsets=True)
        words = token_words(text, item.ids, item.offsets, special_ids(unigram))
        names = [unigram.backend.id_to_token(int(i)) for i in item.ids]
        return ["|".join(n for n, w in zip(names, words, strict=True) if w == each)
                for each in np.unique(words[words >= 0])]  # fmt: skip

    assert word_lengths("不错的很好") == [2, 1, 1, 1]
    assert groups("不错的很好") == ["▁|不错的", "很好"]  # each ends where a word ends
    assert word_lengths("真不干净") == [1, 1, 2]
    assert groups("真不干净") == ["▁|真不干|净"]  # else 干净 could be parted
    assert word_lengths("a Good") == [1, 1, 4]
    assert groups("a Good") == ["▁|a", "▁Go|o|d"]  # the space is a word to the segmenter


def shift(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Pretend that the word of ids x, y … is similar to that of x + 300, y + 300 …"""
    return None if ids[0] % 7 == 0 else ids + 300


def draw_as(masking: str, seed: int, epoch: int = 0, row: int = 0):
    words = row_of_words(row)
    ids = np.arange(100, 100 + len(words))
    masked = mask_words(
        ids, words, rate=0.15, mask_id=MASK, random_ids=(1000, 2000), masking=masking,
        similar=shift, rng=np.random.default_rng((seed, epoch, row)),
    )  # fmt: skip
    return words, ids, masked


@pytest.mark.parametrize("masking", MASKINGS)
def test_every_masking_meets_its_rate_and_hides_no_special_token_and_no_half_word(masking) -> None:
    hidden = total = as_masked = kept = 0
    for row in range(2000):
        words, ids, masked = draw_as(masking, 3, row=row)
        chosen = np.zeros(len(ids), bool)
        chosen[masked.positions] = True
        assert not chosen[words == -1].any()
        assert (masked.targets == ids[chosen]).all()
        assert (masked.ids[~chosen] == ids[~chosen]).all()
        if masking != "char" and row < 300:
            inside = np.flatnonzero((words[1:] == words[:-1]) & (words[1:] >= 0)) + 1
            assert (chosen[inside] == chosen[inside - 1]).all()
        new, old = masked.ids[chosen], ids[chosen]
        total += int((words >= 0).sum())
        hidden += int(chosen.sum())
        as_masked += int(((new == MASK) | (new == old + 300)).sum())
        kept += int((new == old).sum())
    assert abs(hidden / total - 0.15) < 0.005
    assert abs(kept / hidden - 0.10) < 0.01
    lacking = 1 / 7 if masking == "similar" else 0.0
    assert abs(as_masked / hidden - 0.80 * (1 - lacking)) < 0.03
    if masking == "similar":
        assert not (masked.ids == MASK).any()


@pytest.mark.parametrize("masking", MASKINGS)
def test_masks_are_a_function_of_seed_epoch_and_row(masking) -> None:
    first = draw_as(masking, 1, epoch=0)[2]
    again = draw_as(masking, 1, epoch=0)[2]
    assert (first.ids == again.ids).all()
    assert (first.positions == again.positions).all()
    seen = {tuple(draw_as(masking, 1, epoch=epoch)[2].positions) for epoch in range(20)}
    assert len(seen) == 20
    assert tuple(draw_as(masking, 2)[2].positions) != tuple(first.positions)


def test_char_masking_may_part_a_word() -> None:
    parted = 0
    for row in range(50):
        words, ids, masked = draw_as("char", 1, row=row)
        chosen = np.zeros(len(ids), bool)
        chosen[masked.positions] = True
        inside = np.flatnonzero((words[1:] == words[:-1]) & (words[1:] >= 0)) + 1
        parted += int((chosen[inside] != chosen[inside - 1]).any())
    assert parted > 25


def test_spans_are_of_one_to_four_words_in_macbert_shares_and_end_at_special_tokens() -> None:
    words = np.concatenate([[-1], np.arange(10), [-1], np.arange(10, 20), [-1]])
    sizes: list[int] = []
    for seed in range(3000):
        spans = units(words, "ngram", np.random.default_rng(seed))
        assert (spans[words < 0] == -1).all()
        assert spans[10] != spans[12]  # a special token is between them
        _, counts = np.unique(spans[1:7], return_counts=True)
        sizes.append(int(counts[0]))  # the first span cannot be cut short
    shares = np.bincount(sizes, minlength=5)[1:5] / len(sizes)
    assert np.abs(shares - [0.4, 0.3, 0.2, 0.1]).max() < 0.03


def test_similar_words_are_whole_words_of_as_many_tokens() -> None:
    for row in range(200):
        words, ids, masked = draw_as("similar", 5, row=row)
        for word in np.unique(words[masked.positions]):
            new, old = masked.ids[words == word], ids[words == word]
            if (new == old + 300).any():
                assert (new == old + 300).all()


def test_unknown_maskings_and_missing_tables_are_told() -> None:
    words = row_of_words(0)
    given = {"rate": 0.15, "mask_id": MASK, "random_ids": (LOW, HIGH)}
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="none of char, word, ngram, similar"):
        mask_words(words, words, rng=rng, masking="letters", **given)
    with pytest.raises(ConfigError, match="--similar-words"):
        mask_words(words, words, rng=rng, masking="similar", **given)


def test_similar_words_come_from_a_file(tmp_path, tiny_backbone) -> None:
    path = tmp_path / "similar.tsv"
    path.write_text("干净\t丰富,很\n很\t好,龘\n房间\t早餐\n", encoding="utf-8")
    table = SimilarWords.read(path, tiny_backbone.tokenizer)
    rng = np.random.default_rng(0)

    def ids(text: str) -> np.ndarray:
        return tiny_backbone.tokenizer.encode(text, max_length=9).ids[1:-1]

    assert len(table) == 3
    assert all((table(ids("干净"), rng) == ids("丰富")).all() for _ in range(9))
    assert all((table(ids("很"), rng) == ids("好")).all() for _ in range(9))  # 龘 is unknown
    assert table(ids("空调"), rng) is None
    path.write_text("干净\t丰富\n房间 早餐\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"similar\.tsv:2: .*\n.*word<TAB>similar"):
        SimilarWords.read(path, tiny_backbone.tokenizer)
    path.write_text("干净\t很\n", encoding="utf-8")
    with pytest.raises(DataError, match="no word has a similar one"):
        SimilarWords.read(path, tiny_backbone.tokenizer)


def test_no_token_continues_nothing() -> None:
    assert continues(np.zeros(0, int), np.zeros(0, int)).shape == (0,)
    assert continues(np.array([4]), np.array([4])).tolist() == [False]
