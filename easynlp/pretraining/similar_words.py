"""Find similar words without a dictionary: the corpus' own words, by an encoder's vectors.

MacBERT took its similar words from a toolkit over word2vec vectors that must be downloaded. Here
the words are those of the tokenized corpus, an encoder that is at hand (the built-in one, or any)
reads each alone, and the nearest by cosine with as many tokens are its similar words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from easynlp.atomic import write_text
from easynlp.errors import DataError
from easynlp.pretraining.rows import CONTINUES
from easynlp.pretraining.teacher import Teacher
from easynlp.text.tokenizer import SPACE, Tokenizer

__all__ = ["FILE", "common_words", "nearest", "write_similar_words"]

FILE = "similar_words.tsv"
LONGEST = 4
"""Tokens of the longest word counted."""
LEAST = 3
"""Times a word must occur: the segmenter's slips are rare, and no word should become one."""
READ = 50_000_000
"""Tokens of the corpus that are counted, from its beginning."""


def write_similar_words(
    tokens: Path,
    tokenizer: Tokenizer,
    path: Path,
    *,
    model: str = "tiny-zh",
    size: int = 20_000,
    neighbours: int = 10,
    device: torch.device | None = None,
) -> None:
    """Write a table of similar words, ``word<TAB>similar,similar``; keep one that is there.

    Args:
        tokens: File of uint32 tokens with continuation bits, as `rows` and `segments` write.
        tokenizer: What the ids mean.
        path: Where to write.
        model: Any encoder; its tokenizer may differ.
        size: Most words, the most frequent.
        neighbours: Similar words of each.
        device: Where to compute.

    Raises:
        DataError: If the corpus has no two words of as many tokens.
        ModelError: If there is no such encoder.
    """
    if path.is_file():
        return
    by_length = common_words(np.memmap(tokens, np.uint32, "r")[:READ], tokenizer, size)
    teacher = Teacher(model, max_length=16, device=device)
    lines: list[str] = []
    for words in by_length:
        if len(words) < 2:
            continue
        vectors = teacher.vectors(words)
        vectors = vectors - vectors.mean(0)  # what all have in common says nothing
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        for word, found in zip(words, nearest(vectors, neighbours), strict=True):
            lines.append(f"{word}\t{','.join(words[i] for i in found)}\n")
    if not lines:
        raise DataError("the corpus has too few words to find similar ones")
    write_text(path, "".join(lines))


def common_words(tokens: np.ndarray, tokenizer: Tokenizer, size: int) -> list[list[str]]:
    """Return the most frequent words of one, two … tokens, most frequent first.

    Words with a character that is neither letter nor digit are left out (punctuation, special
    tokens), and words that occur fewer than three times.

    Args:
        tokens: Ids with continuation bits, shape (tokens,).
        tokenizer: What the ids mean.
        size: Most words of all lengths together.
    """
    ids = (tokens & ~CONTINUES).astype(np.uint64)
    starts = np.flatnonzero((tokens & CONTINUES) == 0)
    lengths = np.diff(np.append(starts, len(ids)))
    bits = max(1, int(tokenizer.vocab_size).bit_length())
    counted: Counter[str] = Counter()
    for length in range(1, min(LONGEST, 64 // bits) + 1):
        at = starts[lengths == length]
        if not len(at):
            continue
        keys = np.zeros(len(at), np.uint64)
        for offset in range(length):
            keys = (keys << np.uint64(bits)) | ids[at + offset]
        found, counts = np.unique(keys, return_counts=True)
        order = np.argsort(-counts, kind="stable")[: 2 * size]
        for key, count in zip(found[order].tolist(), counts[order].tolist(), strict=True):
            parts = [(key >> (bits * (length - 1 - i))) & ((1 << bits) - 1) for i in range(length)]
            names = [tokenizer.backend.id_to_token(part) or "" for part in parts]
            word = "".join(name.removeprefix("##").removeprefix(SPACE) for name in names)
            if word.isalnum():
                counted[word] += count  # with a space and without it are one word
    common = sorted(
        (word for word, count in counted.items() if count >= LEAST),
        key=lambda word: (-counted[word], word),
    )
    found_by_length: list[list[str]] = [[] for _ in range(LONGEST)]
    for word in common[:size]:
        pieces = len(tokenizer.word_ids(word, after_space=word.isascii()))
        if 1 <= pieces <= LONGEST:
            found_by_length[pieces - 1].append(word)
    return found_by_length


def nearest(vectors: np.ndarray, count: int, block: int = 1024) -> Sequence[np.ndarray]:
    """Return for each unit vector the indices of its nearest others, nearest first.

    Example:
        >>> nearest(np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]]), 1)[0].tolist()
        [2]
    """
    found: list[np.ndarray] = []
    count = min(count, len(vectors) - 1)
    for start in range(0, len(vectors), block):
        scores = vectors[start : start + block] @ vectors.T
        own = np.arange(len(scores))
        scores[own, own + start] = -np.inf
        top: np.ndarray = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
        found += list(np.take_along_axis(top, order, 1))
    return found
