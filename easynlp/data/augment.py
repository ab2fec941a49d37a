"""Changed copies of texts, for a teacher to label.

What a text means may change with it, so labels do not go with copies.

Operations of Wei and Zou 2019, "EDA" (arXiv 1901.11196): delete words, swap words, put similar
words in their place; and of Jiao et al. 2020 (TinyBERT, arXiv 1909.10351): let a masked language
model say what might stand there. Chinese is cut into words first; punctuation stays where it is.
Deviations from EDA: no random insertion (it adds a word that has nothing to do with its place), and
every copy is made by one operation, each as often as the others.

Each copy is a pure function of the seed, the text and the copy's number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from easynlp.errors import ConfigError
from easynlp.text.segment import word_lengths

__all__ = ["Fill", "Hole", "augment"]

Hole = tuple[int, int]
"""First character of a word, and the character after it."""
Fill = Callable[[Sequence[str], Sequence[Sequence[Hole]], Sequence[int]], list[str]]
"""``fill(texts, holes of each, seed of each) -> texts`` with other words in the holes."""
TURNS = 4
"""How often as many copies as are wanted are tried, since some come out like others."""
Operation = Callable[[list[str], list[int], np.random.Generator], list[str]]


def augment(
    texts: Sequence[str],
    copies: int,
    *,
    seed: int = 0,
    share: float = 0.15,
    similar: Mapping[str, Sequence[str]] | None = None,
    fill: Fill | None = None,
) -> list[list[str]]:
    """Return changed copies of each text, all different from it and from each other.

    Args:
        texts: What to change.
        copies: Most copies of each; short texts may have fewer that differ.
        seed: Same seed and text: same copies, whatever the other texts.
        share: Of the words that a copy changes, at least one.
        similar: Words to similar words; without it no copy is made so.
        fill: Says what might stand in a hole; without it no copy is made so.

    Raises:
        ConfigError: If `copies` or `share` is out of range.

    Example:
        >>> [len(found) for found in augment(["房间很干净，下次还来", "好"], 3)]
        [3, 0]
    """
    if copies < 0 or not 0 < share <= 1:
        raise ConfigError(f"{copies} copies, share {share:g}; valid: 0 or more, above 0 to 1")
    operations: dict[str, Operation] = {"delete": _deleter(share), "swap": _swapper(share)}
    if similar:
        operations["similar"] = _replacer(share, similar)
    names = [*operations, *(["fill"] if fill else [])]
    found: list[list[str]] = []
    asked: list[tuple[int, str, list[Hole], int]] = []
    for number, text in enumerate(texts):
        words = _words(text)
        free = [i for i, word in enumerate(words) if word.isalnum()]
        made: list[str] = []
        waiting = 0
        for copy in range(TURNS * copies if len(free) > 1 else 0):
            if len(made) + waiting == copies:
                break
            key = _seed(seed, text, copy)
            rng = np.random.default_rng(key)
            name = names[(copy + key) % len(names)]
            if name == "fill":
                asked.append((number, text, _holes(words, free, share, rng), key))
                waiting += 1
            else:
                changed = "".join(operations[name](list(words), free, rng))
                if changed.strip() and changed != text and changed not in made:
                    made.append(changed)
        found.append(made)
    if fill and asked:
        numbers, originals, holes, keys = zip(*asked, strict=True)
        for number, text in zip(numbers, fill(originals, holes, keys), strict=True):
            found[number].append(text)
    return [
        [each for each in dict.fromkeys(made) if each != text]
        for text, made in zip(texts, found, strict=True)
    ]


def _words(text: str) -> list[str]:
    words, at = [], 0
    for length in word_lengths(text):
        words.append(text[at : at + length])
        at += length
    return words


def _some(free: Sequence[int], share: float, rng: np.random.Generator) -> list[int]:
    """Draw the places to change."""
    count = max(1, round(share * len(free)))
    return sorted(int(i) for i in rng.choice(free, min(count, len(free)), replace=False))


def _deleter(share: float) -> Operation:
    def delete(words: list[str], free: list[int], rng: np.random.Generator) -> list[str]:
        gone = set(_some(free, min(share, (len(free) - 1) / len(free)), rng))
        return [word for i, word in enumerate(words) if i not in gone]

    return delete


def _swapper(share: float) -> Operation:
    def swap(words: list[str], free: list[int], rng: np.random.Generator) -> list[str]:
        for one in _some(free, share, rng):
            other = int(rng.choice([i for i in free if i != one]))
            words[one], words[other] = words[other], words[one]
        return words

    return swap


def _replacer(share: float, similar: Mapping[str, Sequence[str]]) -> Operation:
    def replace(words: list[str], free: list[int], rng: np.random.Generator) -> list[str]:
        known = [i for i in free if similar.get(words[i])]
        for i in _some(known, share, rng) if known else ():
            words[i] = str(rng.choice(list(similar[words[i]])))
        return words

    return replace


def _holes(
    words: Sequence[str], free: Sequence[int], share: float, rng: np.random.Generator
) -> list[Hole]:
    ends = np.cumsum([len(word) for word in words])
    return [
        (int(ends[i]) - len(words[i]), int(ends[i])) for i in _some(free, share, rng)
    ]  # fmt: skip


def _seed(seed: int, text: str, copy: int) -> int:
    said = f"{seed}|{copy}|{text}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=7).digest(), "little")
