"""Patterns: reading them, filling them, and cutting the text but never the pattern."""

from __future__ import annotations

import numpy as np
import pytest

from easynlp.errors import ConfigError
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.fewshot.template import Template, TemplateEncoder, add_soft_tokens
from easynlp.fewshot.verbalizer import word_tokens


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
        ("{text}[PRO]*0[MASK]", "the pattern has [PRO]*0: valid are 1 to 100"),
        ("{text}[MASK]*999", "the pattern has [MASK]*999: valid are 1 to 100"),
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


def test_the_same_pattern_filled_for_pieces_of_several_characters(unigram):
    row, found = fill(unigram, "{text}。总之很[MASK]。", text="房间干净", masks=2)
    assert found == [
        "<s>", "▁", "房间", "干净", "。总", "之", "很", "<mask>", "<mask>", "。", "</s>"
    ]  # fmt: skip
    assert row.holes.tolist() == [7, 8]


@pytest.mark.parametrize("mask", ["<mask>", "[MASK]"])
def test_sentencepiece_gets_no_space_after_a_mask(unigram, mask):
    row, found = fill(unigram, f"总体来说很{mask}。{{text}}", text="房间很好")
    assert found == ["<s>", "▁", "总体", "来说", "很", "<mask>", "。", "房间", "很好", "</s>"]
    assert row.holes.tolist() == [5]
    # Nor inside a piece; in front of a Latin word, and before the first, it stays.
    for pattern, behind in (("很[MASK]{text}", "<mask>"), ("很[PRO]{text}[MASK]", "<pseudo-0>")):
        found = fill(unigram, pattern, text="我在")[1]
        assert found[found.index(behind) + 1] == "我"
    assert fill(unigram, "{text}[MASK]", text="我在")[1][1] == "▁我"
    assert fill(unigram, "[MASK]{text}", text="good")[1][2] == "▁good"


@pytest.mark.parametrize("word", ["好", "很好", "不错", "差", "我", "不错 的"])
def test_a_label_word_has_the_tokens_it_would_have_in_the_hole(tokenizer_of_each_kind, word):
    """By filling the hole with the word itself; what is around it joins with no character."""
    tokenizer = tokenizer_of_each_kind
    found = tokens(tokenizer, word_tokens(word, tokenizer))
    filled = tokenizer.encode(f"贵{word}贵", max_length=32).ids
    names = tokens(tokenizer, filled)
    first = names.index("贵")
    assert found == names[first + 1 : names.index("贵", first + 1)]
    assert not found[0].startswith("▁")


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


@pytest.mark.parametrize(
    ("pattern", "word", "expected"),
    [
        ("{text}很[MASK]", "good", ["g", "o", "o", "d"]),
        ("{text} is [MASK]", "good", ["▁good"]),
        ("[MASK]，{text}", "good", ["▁good"]),
        ("{text}[MASK]", "good", ["▁good"]),
        ("{text} is [MASK]", "不错", ["不错"]),
    ],
)
def test_a_latin_label_word_has_a_space_if_the_pattern_has(unigram, pattern, word, expected):
    config = PromptConfig(pattern=pattern, words=f"是={word};否=差", labels=("是", "否"))
    reader = PromptClassify(config, unigram).reader
    assert tokens(unigram, reader.token[0][: int(reader.size[0])]) == expected


def test_masks_in_the_text_are_not_holes(tokenizer_of_each_kind):
    tokenizer = tokenizer_of_each_kind
    mask, end = tokens(tokenizer, [tokenizer.mask_id])[0], tokenizer.encode("", max_length=4).ids[1]
    row, found = fill(tokenizer, "{text}，很[MASK]", text=f"好{mask}好{mask}")
    assert found.count(mask) == 3
    assert row.holes.tolist() == [found.index("很") + 1]
    long, found = fill(tokenizer, "{text}，很[MASK]", text=f"{mask}好" * 40, max_length=16)
    assert len(long.ids) == 16
    assert long.holes.tolist() == [14]
    assert found[-3:-1] == ["很", mask]
    assert long.ids[-1] == end
    # The other kind's mask is but characters.
    other = {"[MASK]": "<mask>", "<mask>": "[MASK]"}[mask]
    assert fill(tokenizer, "{text}，很[MASK]", text=other)[1].count(mask) == 1


def test_a_pattern_that_leaves_no_room_is_refused(tokenizer_of_each_kind):
    """Of the one 10 characters, of the other a space and 9 pieces."""
    with pytest.raises(ConfigError, match=r"alone takes 12 of 12 tokens .* --max-length"):
        fill(tokenizer_of_each_kind, "总的来说这里真的很[MASK]{text}", text="好", max_length=12)


def test_soft_tokens_are_added_to_a_copy(tokenizer_of_each_kind):
    tokenizer = tokenizer_of_each_kind
    mask = tokens(tokenizer, [tokenizer.mask_id])[0]
    before = tokenizer.fingerprint()
    _, found = fill(tokenizer, "[PRO][PRO]{text}<pseudo>[MASK]", text="好")
    assert found[1:-1] == ["<pseudo-0>", "<pseudo-1>", "好", "<pseudo-2>", mask]
    assert tokenizer.fingerprint() == before
    grown = add_soft_tokens(tokenizer, 3)
    assert grown.vocab_size == tokenizer.vocab_size + 3
    assert [grown.id_of(f"<pseudo-{i}>") for i in range(3)] == [
        tokenizer.vocab_size + i for i in range(3)
    ]
    assert add_soft_tokens(grown, 2) is grown


def test_a_very_long_text_keeps_the_pattern(tokenizer_of_each_kind):
    tokenizer = tokenizer_of_each_kind
    row, found = fill(tokenizer, "{text}的总之很[MASK]。", text="房间很干净，" * 20_000)
    assert len(row.ids) == 64
    assert row.truncated
    mask = tokens(tokenizer, [tokenizer.mask_id])[0]
    assert found[-7:-1] == ["的", "总", "之", "很", mask, "。"]
    assert row.holes.tolist() == [61]


@pytest.mark.parametrize("max_length", range(10, 24))
def test_a_piece_of_text_and_pattern_does_not_keep_the_end_of_a_text_that_is_cut(
    unigram, max_length
):
    """不错的 is one piece, of the text's 不错 and the pattern's 的; 房间 is where it is cut."""
    texts = {"text": "早餐" + "房间" * 9 + "不错", "text_b": "北京" * 2 + "不错"}
    pattern = "{text}的很[MASK]，{text_b}的"
    row, found = fill(unigram, pattern, max_length=max_length, **texts)
    assert len(row.ids) <= max_length
    whole = "".join(found[1:-1]).lstrip("▁")
    first, _, second = whole.partition("的很<mask>,")
    assert found[row.holes[0]] == "<mask>"
    assert texts["text"].startswith(first)
    assert second.endswith("的")
    assert texts["text_b"].startswith(second[:-1])
    assert row.truncated == ((first, second[:-1]) != (texts["text"], texts["text_b"]))
    if max_length > 10:
        assert len(row.ids) >= min(max_length - 1, 20)  # no more is cut than must be
