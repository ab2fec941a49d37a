"""The fast tokenizer answers as the library does, and steps aside where it could not."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from easynlp.errors import ModelError
from easynlp.text import fast_check, fast_wordpiece, learned_words
from easynlp.text import tokenizer as tokenizer_module
from easynlp.text.fast_check import UNCUT, differences, fuzzed, probes
from easynlp.text.fast_wordpiece import FastWordPiece
from easynlp.text.learned_words import SPACE, WORD, Learned
from easynlp.text.special_layout import longest_first, read_layouts
from easynlp.text.tokenizer import Tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LATIN = "abcdefghijklmnopqrstuvwxyz0123456789"
PIECES = ["the", "ing", "hotel", "wi", "##fi", "##ing", "##00", "20", "no", "##tel", "é", "##é"]
CHARS = "今天气很好房间干净早餐不差。，！？《》「」·—…〇々!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
MORE = "ひらがなカタ한국어각ᄀ각ΣσςёйعربΑ①Ⅱ～｜ＡＢａｂ１２😀👍ßøæœıǆﬁ\u0301\u0300\u093f\u302e"
DATA = Path(__file__).resolve().parents[5] / "shared/data/bench"


def backend(
    *, template: bool = True, unk: str = "[UNK]", prefix: str = "##", longest: int = 100, **settings
) -> Backend:
    """BERT's tokenizer over a vocabulary with traces of many scripts."""
    words = [*SPECIAL, *LATIN, *CHARS, *MORE, *LATIN.upper(), *PIECES]
    words += [f"##{c}" for c in LATIN + MORE]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys(words))}
    found = Backend(
        models.WordPiece(
            vocabulary, unk_token=unk, continuing_subword_prefix=prefix,
            max_input_chars_per_word=longest,
        )
    )  # fmt: skip
    found.normalizer = normalizers.BertNormalizer(**settings)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.add_special_tokens(SPECIAL)
    if template:
        found.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )  # fmt: skip
    else:
        found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


def both(found: Backend) -> tuple[FastWordPiece, Tokenizer]:
    """A backend's fast path, and the library's tokenizer."""
    fast = FastWordPiece.of(found)
    assert fast is not None
    return fast, Tokenizer(found, fast=False)


def wrong(found: Backend, texts: list, lengths: tuple[int, ...]) -> list[str]:
    fast, library = both(found)
    return list(differences(fast, library.by_library, texts, lengths))


def in_pairs(texts: list[str]) -> list:
    return [*texts, *zip(texts[::2], texts[1::2], strict=False)]


def test_probes_and_fuzzed_texts_are_encoded_as_by_the_library() -> None:
    texts = in_pairs(list(fuzzed(3000, 0, SPECIAL)))
    assert wrong(backend(), [*probes(SPECIAL), *texts], (UNCUT, 12)) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"lowercase": low, "strip_accents": strip, "clean_text": clean, "handle_chinese_chars": zh}
        for low, strip, clean, zh in itertools.product(
            (True, False), (None, True, False), (True, False), (True, False)
        )
    ],
    ids=str,
)
def test_every_setting_of_the_normalizer(settings: dict) -> None:
    texts = in_pairs(list(fuzzed(300, 1, SPECIAL)))
    assert wrong(backend(**settings), [*probes(SPECIAL), *texts], (UNCUT, 9)) == []


@pytest.mark.parametrize(
    "settings", [{"template": False}, {"longest": 5}, {"prefix": "~"}], ids=str
)
def test_settings_of_the_model_and_of_the_post_processor(settings: dict) -> None:
    assert wrong(backend(**settings), probes(SPECIAL), (UNCUT, 9)) == []


@pytest.mark.parametrize("max_length", range(1, 12))
def test_the_shortest_lengths(max_length: int) -> None:
    texts = ["", "好", "今天气很好", "the hotel", "iphone 20", "今" * 30]
    texts += itertools.product(texts, texts)
    found, library = Tokenizer(backend()), Tokenizer(backend(), fast=False)
    assert found.fast is not None

    def call(tokenizer: Tokenizer, one: bool) -> list | str:
        try:
            if not one:
                return [_plain(row) for row in tokenizer.encode_batch(texts, max_length)]
            rows = [text if isinstance(text, tuple) else (text, None) for text in texts]
            return [_plain(tokenizer.encode(*row, max_length=max_length)) for row in rows]
        except BaseException as error:  # the library may panic for lengths without room
            return type(error).__name__

    for one in (True, False):
        assert call(found, one) == call(library, one)


def _plain(row) -> tuple:
    assert row.ids.dtype == row.type_ids.dtype == np.int32
    assert row.ids.flags.writeable
    spans = None if row.offsets is None else row.offsets.tolist()
    return row.ids.tolist(), row.type_ids.tolist(), row.truncated, spans


def test_longest_first_is_the_librarys_rule() -> None:
    found = backend()
    for room in range(1, 12):
        found.enable_truncation(room + 3, strategy="longest_first")
        for a, b in itertools.product(range(14), range(14)):
            kinds = found.encode("好" * a, "好" * b)
            second = sum(kinds.type_ids) - 1
            assert longest_first(a, b, room) == (len(kinds.ids) - 3 - second, second)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_of_two_long_members_the_longer_gets_the_odd_token(kind: str, request) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    raw = Backend.from_str(tokenizer.backend.to_str())
    raw.enable_truncation(24, strategy="longest_first")
    texts = ["好 " * 80, "good 好" * 30, "早餐" * 31 + "good " * 9, "棒good" * 35, "好" * 140]
    texts += ["", "好", "good 好" * 12 + "g" * 150, "好 " * 40 + "q" * 99]
    for pair in itertools.product(texts, texts):
        right = raw.encode(*pair)
        for row in (tokenizer.encode(*pair, max_length=24), *tokenizer.by_library([pair], 24)):
            assert row.ids.tolist() == right.ids
            assert row.type_ids.tolist() == right.type_ids
            assert row.truncated == bool(right.overflowing)
            spans = tokenizer.by_library([pair], 24, True)[0].offsets
            assert list(map(tuple, spans.tolist())) == right.offsets


def test_a_batch_keeps_its_order_and_its_portions_are_seamless(monkeypatch) -> None:
    texts = [*fuzzed(150, 3, SPECIAL), "", ""]
    mixed = [t if i % 3 else (t, texts[i - 1]) for i, t in enumerate(texts)]
    found, library = Tokenizer(backend()), Tokenizer(backend(), fast=False)
    monkeypatch.setattr(fast_wordpiece, "CHUNK", 50)
    for offsets in (False, True):
        rows = [found.encode_batch(mixed, 32, offsets), library.encode_batch(mixed, 32, offsets)]
        assert list(map(_plain, rows[0])) == list(map(_plain, rows[1]))
    assert found.encode_batch([], 32) == []
    assert _plain(found.encode_batch([""], 32, True)[0]) == ([2, 3], [0, 0], False, [[0, 0]] * 2)


def test_words_are_read_alike_without_special_tokens() -> None:
    found, library = Tokenizer(backend()), Tokenizer(backend(), fast=False)
    for word in ("好", "hotel", "wifi", "é", "ﬁ", ""):
        assert found.word_ids(word) == library.word_ids(word)


def test_a_long_text_is_cut_and_said_to_be(monkeypatch) -> None:
    monkeypatch.setattr(fast_wordpiece, "FEW", 1)
    monkeypatch.setattr(tokenizer_module, "MAX_CHARS", 2_000)
    found, library = Tokenizer(backend()), Tokenizer(backend(), fast=False)
    for text in ("好" * 2_001, "好 " * 1_500, " " * 3_000, ("好" * 2_001, "hotel " * 900)):
        rows = [t.encode_batch([text] * n, 64) for t in (found, library) for n in (1, 3)]
        plain = [_plain(row[-1]) for row in rows]
        assert plain[0] == plain[1] == plain[2] == plain[3]
        assert plain[0][2]


def test_words_are_forgotten_when_there_are_too_many(monkeypatch) -> None:
    monkeypatch.setattr(learned_words, "MOST_WORDS", 7)
    found, library = both(backend())
    learned = found._learned
    texts = [f"好{t}x{t} {t}y" for t in fuzzed(200, 4)]
    for _ in range(2):
        assert not list(differences(found, library.by_library, texts, (UNCUT,)))
    assert max(map(len, (learned.words, learned.spans, learned.stretches))) <= 7


def test_chinese_characters_are_entered_at_once_if_they_are_tokens() -> None:
    found, _ = both(backend())
    table = found._learned.table[0x4E00:0xA000]
    assert set(table.tolist()) == {backend().token_to_id(c) for c in CHARS if "一" < c < "龥"} | {1}
    assert not (
        both(backend(handle_chinese_chars=False))[0]._learned.table[0x4E00:0xA000] < 99
    ).any()


def test_stretches_hold_what_is_no_token_of_its_own() -> None:
    found = Learned(backend())
    found.learn(range(0xD800))
    table = found.table[:0xD800]
    inside = np.array([bool(learned_words.STRETCH.match(chr(code))) for code in range(0xD800)])
    assert inside[(table == SPACE)].all()
    assert inside[(table == WORD)].mean() > 0.95
    assert inside[0x4E00:0xA000].sum() == 0


def test_threads_share_one() -> None:
    texts = list(fuzzed(1500, 5, SPECIAL))
    found, library = Tokenizer(backend()), Tokenizer(backend(), fast=False)
    right = list(map(_plain, library.encode_batch(texts, 24)))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda t: _plain(found.encode(t, max_length=24)), texts))
        again = [pool.submit(found.encode_batch, texts, 24) for _ in range(4)]
        assert rows == right
        assert all(list(map(_plain, each.result())) == right for each in again)


@pytest.mark.parametrize("text", ["\ud800", "好\udfff", None, 3])
def test_what_is_no_text_is_the_librarys_to_refuse(text) -> None:
    for tokenizer in (Tokenizer(backend()), Tokenizer(backend(), fast=False)):
        with pytest.raises(TypeError):
            tokenizer.encode(text, max_length=8)
        with pytest.raises(TypeError):
            tokenizer.encode_batch([text] * 70, 8)


def _other() -> Iterator[tuple[str, Backend]]:
    for name, part in {
        "normalizer": normalizers.Lowercase(),
        "pre_tokenizer": pre_tokenizers.Whitespace(),
        "post_processor": processors.ByteLevel(),
    }.items():
        found = backend()
        setattr(found, name, part)
        yield name, found
    found = backend()
    found.normalizer = normalizers.Sequence([normalizers.BertNormalizer(), normalizers.NFKC()])
    yield "sequence", found
    found = backend()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $B $A", special_tokens=[("[CLS]", 2)]
    )
    yield "template", found
    for flag in ("lstrip", "rstrip", "single_word", "normalized"):
        found = backend()
        found.add_tokens([AddedToken("酒店", **({"normalized": False} | {flag: True}))])
        yield flag, found
    found = backend()
    found.encode_special_tokens = True
    yield "encode_special_tokens", found
    yield "no [UNK]", backend(unk="<none>")


@pytest.mark.parametrize(("name", "found"), _other(), ids=[name for name, _ in _other()])
def test_other_settings_are_left_to_the_library(name: str, found: Backend) -> None:
    tokenizer = Tokenizer(found)
    assert tokenizer.fast is None
    if name != "no [UNK]":
        row = tokenizer.encode("今天好 hotel酒店", max_length=16)
        found.enable_truncation(16)
        assert row.ids.tolist() == found.encode("今天好 hotel酒店").ids


def test_other_models_are_left_to_the_library(unigram: Tokenizer, wordpiece: Tokenizer) -> None:
    assert unigram.fast is None
    assert wordpiece.fast is not None
    assert Tokenizer(backend()).backend.truncation is None


def test_soft_tokens_are_added_tokens_too(wordpiece: Tokenizer) -> None:
    from easynlp.fewshot.template import add_soft_tokens

    found = add_soft_tokens(wordpiece, 3)
    assert found.fast is not None
    assert found.fast._hint == ""
    texts = list(fuzzed(500, 6, ["<pseudo-1>", "<pseudo-2>", "[MASK]"]))
    assert any("<pseudo-1>" in text for text in texts)
    library = Tokenizer(found.backend, fast=False)
    assert not list(differences(found.fast, library.by_library, texts, (UNCUT, 9)))


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("_kind", lambda self, char: 7),
        ("word", lambda self, text: (7,)),
        ("word_spans", lambda self, text: ((7,), ((0, 1),))),
    ],
)
def test_one_that_answers_differently_is_not_used(monkeypatch, name, lie) -> None:
    kind = Learned._kind
    if name == "_kind":  # wrong about a single punctuation mark only
        lie = lambda self, char: 7 if char == "…" else kind(self, char)  # noqa: E731
    monkeypatch.setattr(Learned, name, lie)
    tokenizer = Tokenizer(backend())
    assert tokenizer.fast is None
    assert tokenizer.encode("好…", max_length=9).ids.tolist()[0] == 2


def test_differences_names_the_text_and_the_length(monkeypatch) -> None:
    fast, library = both(backend())
    keep = fast_wordpiece._keep
    monkeypatch.setattr(
        fast_wordpiece, "_keep", lambda counts, room: keep(counts, room) - (room == 7)
    )
    lines = list(differences(fast, library.by_library, ["今天气很好房间干净"] * 2, (12, 9)))
    assert len(lines) == 2
    assert all(line.startswith("max_length 9: '\\u4eca") for line in lines)


def test_fuzzed_texts_reach_every_block_and_break_tokens() -> None:
    texts = list(fuzzed(6_000, 0, SPECIAL))
    assert texts[:50] == list(fuzzed(50, 0, SPECIAL))
    joined = "".join(texts)
    for start, stop in fast_check.BLOCKS:
        assert any(start <= code < stop for code in map(ord, set(joined)))
    assert "[MASK]" in joined
    assert "[MAS" in joined.replace("[MASK]", "")
    assert not any("\ud800" <= char < "\ue000" for char in joined)


def test_layouts_of_an_unknown_post_processor() -> None:
    assert read_layouts(None) is None
    assert read_layouts(processors.RobertaProcessing(("</s>", 3), ("<s>", 2))) is None


def test_a_tokenizer_without_padding_token_is_refused_as_ever() -> None:
    with pytest.raises(ModelError, match=r"\[PAD\]"):
        Tokenizer(Backend(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))


@pytest.mark.slow
def test_a_million_fuzzed_texts() -> None:
    found = backend()
    for seed in range(100):
        texts = in_pairs(list(fuzzed(10_000, 1000 + seed, SPECIAL)))
        assert wrong(found, texts, (UNCUT, 12)) == []


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmark data sets are not here")
def test_all_texts_of_fewclue() -> None:
    fast, library = both(backend())
    for path in sorted(DATA.glob("fewclue_*/*.jsonl*")):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as rows:
            found = [value for row in rows for value in json.loads(row).values()]
        texts = list(dict.fromkeys(text for text in found if isinstance(text, str)))
        for start in range(0, len(texts), 5000):
            part = texts[start : start + 5000]
            assert not list(differences(fast, library.by_library, part, (UNCUT, 64)))
