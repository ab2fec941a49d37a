"""Which paragraphs and documents are worth training on, and the reason where one is not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

import numpy as np

from easynlp.pretraining.corpora.hashing import LINE, Ladder, codes
from easynlp.pretraining.corpora.settings import CorpusConfig

__all__ = ["PARAGRAPH_REASONS", "judge_paragraphs", "repeated_lines"]

PARAGRAPH_REASONS = ("short", "long", "boilerplate", "symbols", "repeats", "language")
"""Why a paragraph is left out, in the order they are asked; the first that holds is counted."""

_BOILERPLATE = re.compile(
    "版权所有|转载请注明|未经(?:授权|许可|允许)|免责声明|侵权必究|保留所有权利|点击(?:查看|进入|下载|关注|这里)"
    "|上一篇|下一篇|返回(?:首页|顶部|列表)|阅读(?:原文|全文|更多)|查看(?:更多|全文)|展开全文|加载更多"
    "|扫(?:码|一扫)|关注(?:我们|公众号)|微信公众号|责任编辑|责编[:：]|编辑[:：]|来源[:：]|登录后|注册(?:账号|登录)|忘记密码"
    "|ICP[备证]|公网安备|[Cc]opyright|©|[Aa]ll [Rr]ights [Rr]eserved|[Cc]lick here"
    "|分享(?:到|至)(?:微信|微博|朋友圈)|广告合作|友情链接|网站地图|联系我们|暂无评论|发表评论|我要评论"
)
_ALNUM, _HAN, _KANA, _SPACE = 1, 2, 4, 8
_RANGES = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x323B0))
_STRETCH = 8
_FEW = 16
"""Stretches below which a paragraph is too short to be called repetitive."""


@cache
def _classes() -> np.ndarray:
    """Return what each code point is, bits in uint8."""
    table = np.zeros(0x110000, np.uint8)
    for point in range(0x20000):
        character = chr(point)
        table[point] = _ALNUM * character.isalnum() | _SPACE * character.isspace()
    for low, high in _RANGES:
        table[low:high] = _ALNUM | _HAN
    table[0x3007] = _ALNUM | _HAN  # 〇
    for low, high in ((0x3041, 0x30FB), (0x30FC, 0x3100), (0xFF66, 0xFFA0)):
        table[low:high] |= _KANA
    return table


def judge_paragraphs(paragraphs: Sequence[str], config: CorpusConfig) -> np.ndarray:
    """Return why each paragraph is left out: 1 + its place in `PARAGRAPH_REASONS`, 0 to keep it.

    Args:
        paragraphs: Cleaned paragraphs, at least one; none holds a line feed.
        config: The thresholds.

    Example:
        >>> config = CorpusConfig(sources=("x",), output="y")
        >>> texts = ["今天天气很好。", "版权所有 翻印必究", "!!??##", "All in English here", "好"]
        >>> judge_paragraphs(texts, config).tolist()
        [0, 3, 4, 6, 1]
    """
    points = codes("\n".join(paragraphs) + "\n")
    ends = np.flatnonzero(points == LINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    kinds = np.take(_classes(), points)

    def count(bit: int) -> np.ndarray:
        total = np.concatenate([[0], np.cumsum((kinds & bit) != 0)])
        found: np.ndarray = total[ends] - total[starts]
        return found

    alnum = count(_ALNUM)
    letters = np.maximum(1, alnum)
    symbols = lengths - alnum - count(_SPACE)
    tests = {
        "short": lengths < max(1, config.min_paragraph),
        "long": lengths > config.max_paragraph,
        "boilerplate": _is_boilerplate(paragraphs, config.boilerplate),
        "symbols": symbols > config.max_symbols * lengths,
        "repeats": _repeats(points, ends, starts) > config.max_repeats,
        "language": (count(_HAN) < config.min_chinese * alnum) | (count(_KANA) > 0.1 * letters)
        if config.language == "zh"
        else np.zeros(len(lengths), bool),
    }
    reasons = np.zeros(len(lengths), np.uint8)
    for number, name in reversed(list(enumerate(PARAGRAPH_REASONS, 1))):
        reasons[tests[name]] = number
    return reasons


def repeated_lines(hashes: np.ndarray, document: np.ndarray, documents: int) -> np.ndarray:
    """Return the share of each document's paragraphs that stood in it before, shape (documents,).

    Args:
        hashes: Hash of each paragraph, shape (paragraphs,) uint64.
        document: Number of the document each is of.
        documents: How many there are; those of fewer than 4 paragraphs have the share 0.
    """
    order = np.lexsort((hashes, document))
    hashed, of = hashes[order], document[order]
    again = (hashed[1:] == hashed[:-1]) & (of[1:] == of[:-1])
    counts = np.bincount(document, minlength=documents)
    share: np.ndarray = np.bincount(of[1:][again], minlength=documents) / np.maximum(1, counts)
    share[counts < 4] = 0
    return share


def _is_boilerplate(paragraphs: Sequence[str], longest: int) -> np.ndarray:
    return np.array(
        [len(p) <= longest and _BOILERPLATE.search(p) is not None for p in paragraphs], bool
    )


def _repeats(points: np.ndarray, ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the share of stretches of 8 characters in each paragraph that are not its first."""
    count = np.maximum(0, ends - starts - _STRETCH + 1)
    line = np.cumsum(points == LINE) - (points == LINE)
    hashes = Ladder(points).windows(_STRETCH)
    owner = line[: len(hashes)]
    inside = np.arange(len(hashes)) + _STRETCH <= ends[owner]
    owner, hashes = owner[inside], hashes[inside]
    keys = np.sort((owner.astype(np.uint64) << np.uint64(40)) | (hashes >> np.uint64(24)))
    again = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(40)
    found = np.bincount(again.astype(np.int64), minlength=len(ends))
    share: np.ndarray = found / np.maximum(1, count)
    share[count < _FEW] = 0
    return share
