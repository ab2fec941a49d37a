"""Label words: reading, refusing what cannot work, and from words to labels."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from easynlp.errors import ConfigError
from easynlp.fewshot.verbalizer import Reader, label_log_probs, logsumexp
from easynlp.text.label_words import Verbalizer
from easynlp.text.tokenizer import Tokenizer

LABELS = ["好评", "差评"]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_of_each_kind) -> Tokenizer:
    return tokenizer_of_each_kind


def reader(words, tokenizer, labels=LABELS):
    return Reader.of(Verbalizer.parse(words, labels), tokenizer)


@pytest.mark.parametrize(
    "text",
    ["好评=好,不错;差评=差,糟", "好评：好，不错；差评：差、糟", "差评\t差,糟\n好评\t好,不错\n",
     '{"好评": ["好", "不错"], "差评": ["差", "糟"]}'],
)  # fmt: skip
def test_ways_to_write_words(text, tmp_path):
    path = tmp_path / "words"
    path.write_text(text, encoding="utf-8")
    for written in (text, f"@{path}"):
        found = Verbalizer.parse(written, LABELS)
        assert found.words == (("好", "不错"), ("差", "糟"))
        assert found.sets == 2
        assert Verbalizer.parse(str(found), LABELS) == found


def test_labels_with_odd_names_are_written_so_that_they_can_be_read_again():
    labels = ["a=b;c", "x,y"]
    found = Verbalizer.parse('{"a=b;c": "好", "x,y": ["差", "糟"]}', labels)
    assert found.sets == 0
    assert json.loads(str(found))["x,y"] == ["差", "糟"]
    assert Verbalizer.parse(str(found), labels) == found


def test_labels_are_their_own_words_unless_they_are_numbers():
    assert Verbalizer.parse("", ["财经", "体育"]).words == (("财经",), ("体育",))
    with pytest.raises(ConfigError, match=r'labels are no words.*--words "100=WORD;101=WORD"'):
        Verbalizer.parse("", ["100", "101"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("好评=好", 'no word for 差评: give each label one, --words "好评=WORD;差评=WORD"'),
        ("好评=好;差评=", "no word for 差评"),
        ("好评=好;坏评=差", 'there is no label "坏评".'),
        ("好;差", '"好" is not label=word'),
        ("好评=好;好评=差", 'the label "好评" is there twice'),
        ('{"好评": "好"', "not valid JSON"),
        ('{"好评": [1]}', 'the words of "好评" are to be texts'),
    ],
)
def test_wrong_words_say_what_to_type(words, message):
    with pytest.raises(ConfigError) as caught:
        Verbalizer.parse(words, LABELS)
    assert message in str(caught.value)


def test_labels_that_share_a_word_are_an_error_that_names_both(tokenizer):
    with pytest.raises(ConfigError, match='labels "好评" and "差评" share the word "好"'):
        reader("好评=不错,好;差评=好", tokenizer)
    with pytest.raises(ConfigError, match='"好评" has the word "好" twice'):
        reader("好评=好,好;差评=差", tokenizer)


@pytest.mark.parametrize(
    ("kind", "words"), [("wordpiece", ("ok", "OK")), ("unigram", ("好！", "好!"))]
)
def test_words_that_differ_only_in_writing_are_the_same_tokens(request, kind, words):
    one, other = words
    with pytest.raises(ConfigError, match=f'"{one}" and "{other}" are the same tokens'):
        reader(f"好评={one};差评={other}", request.getfixturevalue(kind))


def test_labels_whose_names_begin_alike_do_not_collide(tokenizer):
    """EasyNLP took a label's first character for its word, so 100 and 101 became one class."""
    found = reader("", tokenizer, ["财经新闻", "财政新闻"])
    assert len({tuple(row) for row in found.token.tolist()}) == 2


def test_a_word_the_model_does_not_know_is_an_error(tokenizer):
    with pytest.raises(ConfigError, match=r'does not know the label word "好𪚥" \(unknown: 𪚥\)'):
        reader("好评=好𪚥;差评=差", tokenizer)
    for word in ("[MASK]", "<mask>", "好<mask>", "很[SEP]"):
        with pytest.raises(ConfigError, match=r"does not know the label word .* not a word"):
            reader(f"好评={word};差评=差", tokenizer)


@pytest.mark.parametrize("words", ["好评=好;差评=差", "好评=好,很不错;差评=差,糟糕,不太行"])
def test_word_scores_are_what_each_word_alone_would_get(tokenizer, words):
    """Against a plain computation, word by word, each with as many masks as it has tokens."""
    found = reader(words, tokenizer)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, found.masks, tokenizer.vocab_size)) * 3
    scores = found.word_scores(logits.reshape(-1, tokenizer.vocab_size), logsumexp)
    flat = [word for words in Verbalizer.parse(words, LABELS).words for word in words]
    starts = dict(zip(found.lengths, np.cumsum([0, *found.lengths]), strict=False))
    for row, (number, word) in itertools.product(range(3), enumerate(flat)):
        # A text of which the word is the end: its last tokens are the word's.
        ids = tokenizer.encode(f"贵{word}", max_length=9).ids[:-1]
        ids = ids[[tokenizer.backend.id_to_token(int(i)) for i in ids].index("贵") + 1 :]
        own = logits[row, starts[len(ids)] : starts[len(ids)] + len(ids)]
        probs = np.exp(own) / np.exp(own).sum(-1, keepdims=True)
        expected = sum(math.log(probs[i, token]) for i, token in enumerate(ids))
        assert scores[row, number] == pytest.approx(expected)


def scored(tokenizer, words, scores, scoring):
    return np.exp(label_log_probs(np.log(scores), reader(words, tokenizer), scoring, logsumexp))


def test_one_word_a_label_is_the_restricted_softmax_whatever_the_scoring(tokenizer):
    scores = np.array([[0.3, 0.1], [0.001, 0.003]])
    for scoring in ("candidates", "sum", "sets"):
        found = scored(tokenizer, "好评=好;差评=差", scores, scoring)
        np.testing.assert_allclose(found, [[0.75, 0.25], [0.25, 0.75]])


def test_summing_and_voting_over_sets_differ(tokenizer):
    words = "好评=好,不错;差评=差,糟"
    # The first set's words are frequent and say no; the second's are rare and say yes, louder.
    scores = np.array([[0.2, 0.009, 0.3, 0.001]])  # 好, 不错, 差, 糟
    total = scored(tokenizer, words, scores, "sum")
    np.testing.assert_allclose(total, [[0.209 / 0.51, 0.301 / 0.51]])
    np.testing.assert_allclose(scored(tokenizer, words, scores, "candidates"), total)
    votes = scored(tokenizer, words, scores, "sets")
    np.testing.assert_allclose(votes, [[(0.4 + 0.9) / 2, (0.6 + 0.1) / 2]])


def test_sum_and_candidates_are_the_same_and_sets_often_differ(tokenizer):
    rng = np.random.default_rng(0)
    scores = np.exp(rng.normal(size=(2000, 6)) * 2)
    words = "好评=好,不错,棒;差评=差,糟,坏"
    total, same, votes = (
        scored(tokenizer, words, scores, each) for each in ("sum", "candidates", "sets")
    )
    np.testing.assert_allclose(total, same)
    assert 0.05 < np.mean(total.argmax(1) != votes.argmax(1)) < 0.5


def test_a_label_with_more_words_does_not_win_by_number(tokenizer):
    scores = np.full((1, 3), 0.1)
    found = scored(tokenizer, "好评=好,不错;差评=差", scores, "candidates")
    np.testing.assert_allclose(found, [[0.5, 0.5]])
