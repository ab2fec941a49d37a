"""Patterns: reading them, filling them, and cutting the text but never the pattern."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from easynlp.errors import ConfigError
from easynlp.fewshot.template import Template, TemplateEncoder, add_soft_tokens
from easynlp.fewshot.verbalizer import word_tokens
from easynlp.models.backbone import BUILT_IN
from easynlp.text.tokenizer import Tokenizer

PIECES = [
    "▁",
    "总体",
    "来说",
    "很",
    "很好",
    "好",
    "房间",
    "干净",
    "差",
    "。",
    "，",
    "早餐",
    "[",
    "]",
]


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return Tokenizer.load(BUILT_IN / "tiny-zh")


@pytest.fixture(scope="module")
def unigram() -> Tokenizer:
    """A SentencePiece-like tokenizer: words of any length, a space before every stretch."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scores = [(name, 0.0) for name in special] + [(p, -len(PIECES) + len(p)) for p in PIECES]
    backend = Backend(models.Unigram(scores, unk_id=3))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([*special, "<mask>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )  # fmt: skip
    return Tokenizer(backend)


def tokens(tokenizer, ids):
    return [tokenizer.backend.id_to_token(int(i)) for i in ids]


def fill(tokenizer, pattern, *, masks=1, max_length=64, **fields):
    template = Template.parse(pattern)
    tokenizer = add_soft_tokens(tokenizer, template.softs)
    row = TemplateEncoder(template, tokenizer, masks, max_length).encode_batch([fields])[0]
    return row, tokens(tokenizer, row.ids)


def test_both_notations_are_read():
    template = Template.parse("[PRO]*2{text}。总之很[MASK]，{{{text_b}}}[SEP]")
    kinds = [(part.kind, part.value) for part in template.parts]
    assert kinds == [
        ("soft", ""), ("soft", ""), ("field", "text"), ("literal", "。总之很"), ("mask", ""),
        ("literal", "，{"), ("field", "text_b"), ("literal", "}"), ("sep", ""),
    ]  # fmt: skip
    assert Template.parse(str(template)) == template
    assert str(Template.parse("sent1,用,label,概括,sent2,<pseudo>")) == (
        "{text}用[MASK]概括{text_b}[PRO]"
    )
    assert Template.parse("{text}, so [MASK][MASK]").masks == 2
    assert Template.parse("{text}<mask>*3").masks == 3


def test_a_pattern_may_be_in_a_file(tmp_path):
    path = tmp_path / "pattern.txt"
    path.write_text("{text}，很[MASK]\n", encoding="utf-8")
    assert str(Template.parse(f"@{path}")) == "{text}，很[MASK]"
    with pytest.raises(ConfigError, match="cannot read"):
        Template.parse("@nowhere.txt")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", 'needs a pattern, for example "{text}'),
        ("很[MASK]", "has no {text}; write it as"),
        ("{text_b}[MASK]", "has no {text}"),
        ("{text}", "has no [MASK]; write it as"),
        ("{txet}[MASK]", 'a field {txet}; there are {text} and {text_b}. Did you mean "text"?'),
        ("{text}[MASK]}", "a brace without its other half"),
        ("用,label,概括", "has no {text}"),
    ],
)
def test_wrong_patterns_say_what_to_type(pattern, message):
    with pytest.raises(ConfigError) as caught:
        Template.parse(pattern)
    assert message in str(caught.value)


def test_a_filled_pattern_has_the_special_tokens_at_its_ends(wordpiece):
    row, found = fill(wordpiece, "{text}。总之很[MASK]。", text="房间干净", masks=2)
    assert found == [
        "[CLS]", "房", "间", "干", "净", "。", "总", "之", "很", "[MASK]", "[MASK]", "。", "[SEP]"
    ]  # fmt: skip
    assert row.holes.tolist() == [9, 10]
    assert row.ids.dtype == np.int32
    assert not row.truncated


def test_sentencepiece_gets_no_space_after_a_mask(unigram):
    row, found = fill(unigram, "总体来说很<mask>。{text}", text="房间很好")
    assert found == ["<s>", "▁", "总体", "来说", "很", "<mask>", "。", "房间", "很好", "</s>"]
    assert row.holes.tolist() == [5]
    assert tokens(unigram, word_tokens("好", unigram)) == ["好"]
    assert tokens(unigram, word_tokens("很好", unigram)) == ["很好"]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
@pytest.mark.parametrize(
    "pattern", ["{text}总体来说很[MASK]。{text_b}", "很[MASK]。{text}，{text_b}"]
)
def test_truncation_cuts_the_longer_field_and_nothing_else(request, kind, pattern):
    tokenizer = request.getfixturevalue(kind)
    whole, _ = fill(tokenizer, pattern, text="", text_b="", masks=2)
    for long, short in ((40, 2), (2, 40), (40, 40), (3, 2)):
        texts = {"text": "房间" * long, "text_b": "早餐" * short}
        full, all_tokens = fill(tokenizer, pattern, masks=2, max_length=400, **texts)
        row, found = fill(tokenizer, pattern, masks=2, max_length=24, **texts)
        assert len(row.ids) == min(24, len(full.ids))
        assert row.truncated == (len(full.ids) > 24)
        assert len(row.holes) == 2
        assert {found[i] for i in row.holes} == {all_tokens[full.holes[0]]}
        rest = [t for t in found if t not in "房间早餐▁"]
        assert rest == [t for t in all_tokens if t not in "房间早餐▁"]
        sizes = [sum(t in each for t in found) for each in ("房间", "早餐")]
        if long == short and row.truncated:
            assert abs(sizes[0] - sizes[1]) <= 1
        elif row.truncated:
            room = 24 - len(whole.ids)
            full_sizes = [sum(t in each for t in all_tokens) for each in ("房间", "早餐")]
            assert min(sizes) == min(full_sizes)
            assert sum(sizes) in (room, room - 1, room + 1)


def test_masks_in_the_text_are_not_holes(wordpiece):
    row, found = fill(wordpiece, "{text}，很[MASK]", text="好[MASK]好[MASK]")
    assert found.count("[MASK]") == 3
    assert row.holes.tolist() == [found.index("很") + 1]
    long, found = fill(wordpiece, "{text}，很[MASK]", text="[MASK]好" * 40, max_length=16)
    assert len(long.ids) == 16
    assert long.holes.tolist() == [14]
    assert found[-3:] == ["很", "[MASK]", "[SEP]"]


def test_a_pattern_that_leaves_no_room_is_refused(wordpiece):
    with pytest.raises(ConfigError, match=r"alone takes 12 of 12 tokens .* --max-length"):
        fill(wordpiece, "总的来说这里真的很[MASK]{text}", text="好", max_length=12)


def test_soft_tokens_are_added_to_a_copy(wordpiece):
    before = wordpiece.fingerprint()
    _, found = fill(wordpiece, "[PRO][PRO]{text}<pseudo>[MASK]", text="好")
    assert found[1:3] == ["<pseudo-0>", "<pseudo-1>"]
    assert found[4:6] == ["<pseudo-2>", "[MASK]"]
    assert wordpiece.fingerprint() == before
    grown = add_soft_tokens(wordpiece, 3)
    assert grown.vocab_size == wordpiece.vocab_size + 3
    assert add_soft_tokens(grown, 2) is grown


def test_a_very_long_text_keeps_the_pattern(wordpiece):
    row, found = fill(wordpiece, "{text}。总之很[MASK]。", text="房间很干净，" * 20_000)
    assert len(row.ids) == 64
    assert row.truncated
    assert found[-7:] == ["。", "总", "之", "很", "[MASK]", "。", "[SEP]"]
