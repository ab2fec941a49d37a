"""Whether a fast tokenizer answers as the library does: on texts chosen to tell them apart.

`probes` are fixed; `fuzzed` texts are drawn from a seed, as many as wanted, for tests and for
``easynlp bench tokenize``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from easynlp.text.encoded import Encoded

__all__ = ["agrees", "differences", "fuzzed", "probes"]

Item = str | tuple[str, str]
ByLibrary = Callable[[Sequence[Item], int, bool], list[Encoded]]

UNCUT = 1 << 20
"""More tokens than any probe has."""

PROBES = (
    "", " ", "好", "今天天气很好，我们去公园玩！", "iPhone 12 很贵,￥5999.00元/台",
    "ＡＢＣ１２３\u3000全角", "don't stop", "UPPER lower MiXed", "naïve café Ångström İstanbul ﬁ",
    "e\u0301a\u0300 好\u0301x\u0301", "\u0301\u0301", "a\u200bb\u00adc\ufeffd",
    "\x00\x01tab\tnewline\r\nend", "ひらがな カタカナ ｶﾅ 漢字かな交じり", "한국어 텍스트",
    "Ελληνικός ΣΊΣΥΦΟΣ", "эхо ЁЖ", "العَرَبِيَّة", "हिन्दी", "ภาษาไทย",
    "😀👍🏽👩\u200d👧 ☺\ufe0f", "≠ \u212b \u2126 豈 更", "𠀀𪜀𫝀𫠠𬺰𰀀",
    "〇々〆「」『』【】《》——……", "$+<=>^`|~ #@&*()[]{}", "a" * 99, "b" * 100, "c" * 101, "é" * 100,
    "1234567890123456789", "x" * 20 + "好" + "y" * 20, "http://www.example.com/a?b=c&d=1#e",
    "\u3000\u00a0\u2003\u2028\u2029\u0085\x0b\x0c", "\ue000\U000e0001\ufffd\ufffe",
    "\u0f71\u0f72\u0f74 \u302e\u302f好\u302e\u0301", "\U0001d15e\U0001d165\U0001d16d",
    "가\u11a8각 각",
)  # fmt: skip
"""One text for every rule of BERT's tokenizer that is easily got wrong."""

BLOCKS = (
    (0x20, 0x7F), (0x20, 0x7F), (0x30, 0x3A), (0x61, 0x7B), (0x00, 0x20), (0x80, 0x250),
    (0x2B0, 0x370), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE00), (0xE00, 0x1100),
    (0x1100, 0x1200), (0x1E00, 0x2070), (0x2000, 0x2070), (0x20A0, 0x2C00), (0x2E80, 0x3040),
    (0x3000, 0x3040), (0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0x4E00, 0xA000),
    (0xA000, 0xAC00), (0xAC00, 0xD7B0), (0xD7B0, 0xD800), (0xE000, 0xE010), (0xF900, 0xFB00),
    (0xFB00, 0xFE00), (0xFE00, 0xFF00), (0xFF00, 0x10000), (0x10000, 0x11000), (0x11000, 0x12000),
    (0x1D100, 0x1D200), (0x1F000, 0x1FB00), (0x20000, 0x2FA20), (0x30000, 0x31350),
    (0x80, 0xD800), (0xE000, 0x30000), (0x10000, 0x110000),
)  # fmt: skip
"""Stretches of Unicode that fuzzed texts draw from, none with surrogates."""
MARKS = "\u0301\u0300\u0338\u0327\u0345\u302e\u302f\u0f71\u0f72\u0f39\u1dfa\u20e3\ufe0f\u200d\u200b"
"""Characters that change what stands before them, or vanish."""


class Encoder(Protocol):
    """What is checked: a `FastWordPiece`."""

    def encode(self, text: str, pair: str | None, max_length: int) -> Encoded | None:
        """Encode a text or a pair."""

    def encode_batch(
        self, texts: Sequence[Item], max_length: int, offsets: bool = False
    ) -> list[Encoded] | None:
        """Encode many."""


def probes(added: Sequence[str] = ()) -> list[Item]:
    """Return probe texts and pairs, among them some with the tokenizer's added tokens.

    Args:
        added: Contents of added tokens.
    """
    texts = list(PROBES)
    for name in added[:8]:
        texts += [name, f"好{name}x{name}{name} 好", f"{name[:-1]} {name.lower()} {name[1:]}"]
    joined = "".join(PROBES[:30])
    pairs: list[Item] = list(pairwise(PROBES))
    return [*texts, joined, *pairs[:12], (joined, PROBES[3]), (PROBES[3], joined)]


def agrees(fast: Encoder, by_library: ByLibrary, added: Sequence[str] = ()) -> bool:
    """Return whether both encode all probes alike: whole and truncated, with offsets and without.

    Args:
        fast: What is checked.
        by_library: Texts, `max_length` and whether to give offsets, to what is right.
        added: Contents of added tokens.
    """
    try:
        return not any(differences(fast, by_library, probes(added), (UNCUT, 16)))
    except Exception:  # the Rust library raises bare Exception, say for a vocabulary without [UNK]
        return False


def differences(
    fast: Encoder, by_library: ByLibrary, texts: Sequence[Item], lengths: Sequence[int]
) -> Iterator[str]:
    """Yield what is wrong with a fast tokenizer, one line for a text it has wrong.

    What it leaves to the library cannot be wrong.

    Args:
        fast: What is checked.
        by_library: What is right.
        texts: Texts and pairs.
        lengths: Values of `max_length`.
    """
    for length in lengths:
        expected = by_library(texts, length, True)
        whole = fast.encode_batch(texts, length, True)
        bare = fast.encode_batch(texts, length)
        if whole is None or bare is None:
            continue
        for text, right, spans, ids in zip(texts, expected, whole, bare, strict=True):
            first, second = (text, None) if isinstance(text, str) else text
            alone = fast.encode(first, second, length)
            same = _same(right, spans, offsets=True) and _same(right, ids)
            if not same or (alone is not None and not _same(right, alone)):
                yield f"max_length {length}: {text!a}"


def _same(right: Encoded, found: Encoded, *, offsets: bool = False) -> bool:
    return (
        np.array_equal(right.ids, found.ids)
        and np.array_equal(right.type_ids, found.type_ids)
        and right.truncated == found.truncated
        and (not offsets or np.array_equal(right.offsets, found.offsets))  # type: ignore[arg-type]
    )


def fuzzed(count: int, seed: int, added: Sequence[str] = ()) -> Iterator[str]:
    """Yield random texts: stretches of one block of Unicode or of several, marks, added tokens.

    Args:
        count: How many.
        seed: The same texts for the same seed.
        added: Contents of added tokens, which occur whole and cut off.

    Example:
        >>> list(fuzzed(2, 0)) == list(fuzzed(2, 0))
        True
    """
    draw = random.Random(seed)
    for _ in range(count):
        parts: list[str] = []
        for _ in range(draw.choice((1, 1, 2, 3, 5))):
            kind = draw.random()
            length = draw.choice((1, 1, 2, 3, 4, 8, 16))
            blocks = draw.choices(BLOCKS, k=1 if kind < 0.6 else length)
            chars = [chr(draw.randrange(*draw.choice(blocks))) for _ in range(length)]
            chars = ["\ufffd" if "\ud800" <= c < "\ue000" else c for c in chars]
            if kind > 0.8:
                chars = [c + draw.choice(MARKS) * draw.choice((0, 1, 1, 2)) for c in chars]
            if kind < 0.02:
                chars = chars[:1] * draw.choice((90, 99, 100, 101, 150))
            parts.append("".join(chars))
            if added and draw.random() < 0.1:
                content = draw.choice(added)
                parts.append(content[: draw.randint(1, len(content))] + draw.choice(("", content)))
        yield draw.choice(("", " ", "")).join(parts)
