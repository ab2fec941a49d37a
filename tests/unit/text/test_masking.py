"""Whole-word masking: rates, wholeness, randomness, and what must never be hidden."""

from __future__ import annotations

import numpy as np

from easynlp.text.masking import mask_words
from easynlp.text.segment import word_ids

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
