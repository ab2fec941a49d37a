"""What the filters of a corpus take out and leave in, each beside a plain second reading."""

from __future__ import annotations

import json
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easynlp.errors import ConfigError
from easynlp.pretraining.corpora.cleaning import clean_paragraphs
from easynlp.pretraining.corpora.duplicates import Marks, mark_near, mark_repeated
from easynlp.pretraining.corpora.hashing import LINE, Ladder, codes, plain
from easynlp.pretraining.corpora.minhash import similarities, sketches
from easynlp.pretraining.corpora.quality import (
    PARAGRAPH_REASONS,
    judge_paragraphs,
    repeated_lines,
)
from easynlp.pretraining.corpora.settings import CorpusConfig
from easynlp.pretraining.corpus import Heldout

CONFIG = CorpusConfig(sources=("x",), output="y")
HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))


def plainly(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", text).lower() if c.isalnum())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=12), max_size=6))
def test_plain_text_by_table_is_plain_text_by_the_book(texts) -> None:
    shown = "".join(map(chr, plain(texts)))
    assert shown == "\n".join(plainly(text) for text in texts)


@pytest.mark.parametrize("text", ["ÅΣΑΣ ﬁ…½", "か゛ｶﾞ각", "İ̇㎡①Ⅷ", "e\u0301\u0323e", "😀a_b"])
def test_plain_text_of_characters_that_join_or_part(text) -> None:
    assert "".join(map(chr, plain([text, "", text]))) == "\n".join(
        [plainly(text), "", plainly(text)]
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 16, 29, 30])
def test_windows_hash_alike_exactly_where_they_read_alike(size) -> None:
    rng = random.Random(size)
    text = "".join(rng.choice("甲乙") for _ in range(400))
    found = Ladder(codes(text)).windows(size)
    windows = [text[i : i + size] for i in range(len(text) - size + 1)]
    assert len(found) == len(windows)
    assert len(set(found.tolist())) == len(set(windows))
    assert len(set(zip(found.tolist(), windows, strict=True))) == len(set(windows))
    assert len(Ladder(codes(text[: size - 1])).windows(size)) == 0


class SlowHeldout:
    """The definition, word for word: all windows as strings."""

    def __init__(self, texts) -> None:
        self.windows: dict[int, set[str]] = {}
        for text in map(plainly, texts):
            size = min(30, len(text))
            if size >= 8:
                kept = self.windows.setdefault(size, set())
                kept.update(text[i : i + size] for i in range(len(text) - size + 1))

    def shows(self, paragraph: str) -> bool:
        text = plainly(paragraph)
        return any(
            text[i : i + size] in windows
            for size, windows in self.windows.items()
            for i in range(len(text) - size + 1)
        )


def test_held_out_text_is_found_where_the_definition_finds_it() -> None:
    rng = random.Random(5)

    def text(low: int, high: int) -> str:
        return "".join(rng.choice(HAN) for _ in range(rng.randint(low, high)))

    heldout = [text(1, 120) for _ in range(300)] + ["", "。"]
    paragraphs = []
    for _ in range(1500):
        source = rng.choice(heldout)
        start = rng.randrange(len(source) + 1)
        piece = source[start : start + rng.choice([7, 8, 12, 28, 29, 30, 31, 60])]
        paragraphs.append(text(0, 20) + rng.choice(["", "，"]).join(piece) + text(0, 20))
    slow, fast = SlowHeldout(heldout), Heldout(heldout)
    expected = [slow.shows(paragraph) for paragraph in paragraphs]
    assert 200 < sum(expected) < 1300
    assert (fast.shown(paragraphs) >= 0).tolist() == expected
    assert [fast.shows(p) for p in paragraphs[:50]] == expected[:50]


def test_a_planted_leak_is_found_wherever_it_stands_and_laid_to_its_file(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("\n".join([HAN[:100], HAN[100:112]]), encoding="utf-8")
    row = {"s1": HAN[200:260], "choices": [HAN[300:345]], "label": 1}
    (tmp_path / "b.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "c.csv").write_text(f"label,review\n1,{HAN[400:450]}\n", encoding="utf-8")
    heldout = Heldout.read([tmp_path / name for name in ("a.txt", "b.jsonl", "c.csv")])
    leaks = [(HAN[20:50], 0), (HAN[100:112], 0), (HAN[230:260], 1), (HAN[315:345], 1),
             (HAN[401:431], 2), (HAN[20:49], -1), (HAN[100:111], -1)]  # fmt: skip
    for before in (0, 1, 14, 15, 29, 30, 500):
        found = heldout.shown([HAN[2000 : 2000 + before] + leak + HAN[2900:] for leak, _ in leaks])
        assert found.tolist() == [owner for _, owner in leaks]
    assert heldout.fingerprint() != Heldout.read([tmp_path / "a.txt"]).fingerprint()


def test_cleaning() -> None:
    cases = {
        '<div class="a">早餐<br/>很好<!-- 注 --></div>': "早餐 很好",
        "<script>var a=1;</script>正文<b>粗</b>体": "正文粗体",
        "用 vector<int> 和 <stdio.h>，若 a<b": "用 vector<int> 和 <stdio.h>，若 a<b",
        "A&amp;B&nbsp;&#20320;&unknown;": "A&B 你&unknown;",
        "换\u200b行\x07\ufeff符\u3000\t 全": "换行符 全",
        "今 天 天 气 好，去 公园 玩": "今天天气好，去 公园 玩",
        "换&#10;行": "换 行",
        "\x00": "",
    }
    assert clean_paragraphs(list(cases)) == list(cases.values())
    assert clean_paragraphs(["ＡＢ㎡"], nfkc=True) == ["ABm2"]
    assert clean_paragraphs(["\ud83d半"]) == ["半"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(blacklist_characters="\n"), max_size=20), min_size=1))
def test_cleaning_keeps_paragraphs_in_place_and_does_not_depend_on_neighbours(texts) -> None:
    assert clean_paragraphs(texts) == [clean_paragraphs([text])[0] for text in texts]
    assert all("\n" not in text and text == text.strip() for text in clean_paragraphs(texts))


def test_each_filter_has_its_reason_and_its_threshold() -> None:
    good = "今天天气很好，我们去公园散步，孩子们在草地上放风筝。"
    cases = {
        "short": ("好", {"min_paragraph": 1}),
        "long": (HAN[:2500], {"max_paragraph": 2500}),
        "boilerplate": ("版权所有，未经授权禁止转载", {"boilerplate": 0}),
        "symbols": ("★★★★★★★★★好！！！", {"max_symbols": 0.95}),
        "repeats": ("加油加油" * 20, {"max_repeats": 1.0}),
        "language": ("This paragraph is not Chinese at all", {"language": "any"}),
    }
    config = CorpusConfig(sources=("x",), output="y", max_paragraph=2000)
    found = judge_paragraphs([good, *(text for text, _ in cases.values())], config)
    assert found[0] == 0
    assert [PARAGRAPH_REASONS[i - 1] for i in found[1:]] == list(cases)
    for text, option in cases.values():
        assert judge_paragraphs([text], CorpusConfig(sources=("x",), output="y", **option)) == [0]
    assert (
        PARAGRAPH_REASONS[judge_paragraphs(["これは日本語の文章ですね漢字"], CONFIG)[0] - 1]
        == "language"
    )
    with pytest.raises(ConfigError, match="--min-paragraph 9 is more than --max-paragraph 5"):
        CorpusConfig(sources=("x",), output="y", min_paragraph=9, max_paragraph=5)


def test_what_a_paragraph_is_judged_does_not_depend_on_its_neighbours() -> None:
    rng = random.Random(0)
    texts = [
        "".join(rng.choice("甲乙丙丁 ,，aあ!") for _ in range(rng.randint(0, 60)))
        for _ in range(300)
    ]
    alone = [int(judge_paragraphs([text], CONFIG)[0]) for text in texts]
    assert judge_paragraphs(texts, CONFIG).tolist() == alone
    assert len(set(alone)) >= 4


def test_share_of_repeated_lines() -> None:
    hashes = np.array([1, 1, 2, 1, 1, 2, 3, 5, 5, 5], np.uint64)
    document = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    assert repeated_lines(hashes, document, 4).tolist() == [0.5, 0.0, 0.0, 0.0]


def mark(documents, tmp_path, similarity=0.8) -> np.ndarray:
    marks = Marks(tmp_path / "marks", len(documents))
    mark_near([sketches(documents)], marks, 1, similarity, tmp_path / "work")
    assert not (tmp_path / "work").exists()
    return marks.slice(0, len(documents)) > 0


def jaccard(one: str, other: str) -> float:
    a, b = ({t[i : i + 5] for i in range(len(t) - 4)} for t in map(plainly, (one, other)))
    return len(a & b) / len(a | b)


def edited(text: str, share: float, rng: random.Random) -> str:
    return "".join(rng.choice(HAN) if rng.random() < share else c for c in text)


@pytest.mark.parametrize("length", [40, 400, 4000])
def test_recall_and_precision_on_planted_near_duplicates(length, tmp_path) -> None:
    rng = random.Random(length)
    originals = ["".join(rng.choice(HAN) for _ in range(length)) for _ in range(300)]
    # About 5 edits of 100 characters leave 0.6 of the stretches of 5 in common, 1 leaves 0.9.
    copies = [edited(text, rng.choice([0.005, 0.01, 0.04, 0.08]), rng) for text in originals]
    true = np.array([jaccard(a, b) for a, b in zip(originals, copies, strict=True)])
    found = mark(originals + copies, tmp_path)
    assert not found[:300].any()  # the first stays, and strangers are not taken for copies
    found = found[300:]
    clear = true >= 0.85
    assert clear.sum() > 60
    assert (true < 0.75).sum() > 60
    assert found[clear].mean() >= 0.95  # recall
    assert (true[found] >= 0.75).mean() >= 0.95  # precision
    assert found[true < 0.65].mean() <= 0.01


@pytest.mark.parametrize("length", [30, 300, 3000])
def test_similarity_is_estimated_without_bias(length) -> None:
    rng = random.Random(length)
    pairs = []
    for _ in range(200):
        text = "".join(rng.choice(HAN) for _ in range(length))
        pairs.append((text, edited(text, rng.choice([0, 0.02, 0.05]), rng)))
    true = np.array([jaccard(*pair) for pair in pairs])
    one, other = (sketches(list(side)) for side in zip(*pairs, strict=True))
    error = similarities(one, other) - true
    assert abs(error.mean()) < 0.01
    assert error.std() < 0.05


def test_texts_too_short_to_compare_are_near_nothing(tmp_path) -> None:
    assert not mark(["甲乙丙", "甲乙丙", "", "……"], tmp_path).any()


def test_equal_hashes_are_found_through_buckets_on_disk_as_in_memory(tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 700, np.uint64)[rng.integers(0, 700, 3000)]
    seen: set[int] = set()
    expected = [key in seen or seen.add(key) is not None for key in keys.tolist()]
    for bucket in (10_000, 100):
        monkeypatch.setattr("easynlp.pretraining.corpora.duplicates.BUCKET", bucket)
        marks = Marks(tmp_path / "marks", len(keys))
        parts = ((keys[i : i + 70], np.arange(len(keys))[i : i + 70]) for i in range(0, 3000, 70))
        mark_repeated(parts, marks, 1, tmp_path / "buckets")
        assert (marks.slice(0, len(keys)) > 0).tolist() == expected
    documents = ["".join(rng.choice(list(HAN), 60)) for _ in range(200)]
    monkeypatch.setattr("easynlp.pretraining.corpora.duplicates.BUCKET", 64)
    assert mark(documents + documents, tmp_path).tolist() == [False] * 200 + [True] * 200


def test_line_feeds_part_texts() -> None:
    assert (plain(["一\n二", "三"]) == LINE).sum() == 1
