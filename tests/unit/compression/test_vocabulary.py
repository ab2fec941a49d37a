"""Cut vocabularies: what is used stays, what is common is there to fall back on."""

from __future__ import annotations

import pytest

from easynlp.compression.vocabulary import (
    choose_vocabulary,
    common_characters,
    texts_of,
    unknown_rate,
)
from easynlp.errors import ConfigError

TEXTS = ["房间很干净", "早餐不错"]


def test_what_the_texts_use_stays_as_it_was_cut(tokenizer_of_each_kind):
    tokenizer = tokenizer_of_each_kind
    found = choose_vocabulary(tokenizer, TEXTS, fallback=0)
    assert found.tokenizer.vocab_size == len(found.kept) < tokenizer.vocab_size
    for text in TEXTS:
        old, new = (
            tokenizer.encode(text, max_length=32),
            found.tokenizer.encode(text, max_length=32),
        )
        assert [found.kept[i] for i in new.ids] == old.ids.tolist()
    assert unknown_rate(found.tokenizer, TEXTS) == 0


def test_texts_are_counted_whole_whatever_was_encoded_before(tokenizer_of_each_kind):
    """The library goes on truncating as it was told last."""
    tokenizer = tokenizer_of_each_kind
    plain = choose_vocabulary(tokenizer, TEXTS, fallback=0)
    for each in (tokenizer, plain.tokenizer):
        each.by_library(TEXTS, 4)
    assert choose_vocabulary(tokenizer, TEXTS, fallback=0).kept == plain.kept
    plain.tokenizer.by_library(TEXTS, 4)
    assert unknown_rate(plain.tokenizer, [f"{TEXTS[0]}老板热情"]) > 0.3


def test_rare_characters_are_known_by_fallback_alone(tokenizer_of_each_kind):
    other = ["老板热情"]  # none of its characters is in TEXTS
    without = choose_vocabulary(tokenizer_of_each_kind, TEXTS, fallback=0)
    with_some = choose_vocabulary(tokenizer_of_each_kind, TEXTS, fallback=10_000)
    assert unknown_rate(without.tokenizer, other) > 0.5
    assert unknown_rate(with_some.tokenizer, other) == 0
    assert with_some.used == without.used


def test_a_size_keeps_used_tokens_before_fallback(wordpiece):
    used = choose_vocabulary(wordpiece, TEXTS, fallback=0)
    found = choose_vocabulary(wordpiece, TEXTS, fallback=1000, size=len(used.kept))
    assert found.tokenizer.tokens() == used.tokenizer.tokens()
    with pytest.raises(ConfigError, match="no text"):
        choose_vocabulary(wordpiece, [])


def test_common_characters_come_first(wordpiece, unigram):
    order = [wordpiece.tokens()[i] for i in common_characters(wordpiece)]
    assert all(len(name.removeprefix("##")) == 1 for name in order)
    assert order.index("好") < len(order)
    scores = [unigram.tokens()[i] for i in common_characters(unigram)]
    assert "不错的" not in scores
    assert "[PAD]" not in order


def test_texts_of_examples_are_their_texts():
    rows = [{"text": "好", "text_b": "坏", "label": "x"}, {"text": "很"}]
    assert list(texts_of(rows)) == ["好", "坏", "很"]
