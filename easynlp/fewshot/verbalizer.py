"""Label words: what stands in the hole if a text has a label.

How words are written: `easynlp.text.label_words`.

A word's score is the sum (EasyNLP's) or the mean of the full-vocabulary log-probabilities of its
tokens, each at its own mask, all masks read in parallel. With several words a label
(Fuzzy-PET), the i-th words of all labels are a *set*, and there are three ways from words to
labels, all divided by the number of words where labels have different numbers of them:

- ``sum``: add the probabilities over the full vocabulary (the article's wording);
- ``candidates``: softmax over all words, then add. Always the same answer as ``sum``, and the
  same probabilities once those are normalised over the labels, as predictions are;
- ``sets``: softmax inside each set, then the mean over sets. A vote: one frequent word cannot
  outweigh the rest.

With one word a label all three are the restricted softmax of Schick & Schütze 2021 (PET, arXiv
2001.07676).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from easynlp.errors import ConfigError
from easynlp.text.label_words import Verbalizer
from easynlp.text.tokenizer import Tokenizer

__all__ = ["Reader", "Scoring", "WordScore", "label_log_probs", "logsumexp"]

Scoring = Literal["candidates", "sum", "sets"]
WordScore = Literal["sum", "mean"]
_SLOTS = re.compile(r"\[(MASK|PRO|SEP|CLS|PAD|UNK)\]|<(mask|s|/s|pad|unk|pseudo[-0-9]*)>")


@dataclass(frozen=True)
class Reader:
    """A verbalizer's words as tokens: which logits to read, arrays of numpy or of torch.

    Words are numbered over all labels. For one example there is a row of masks for each distinct
    length of a word, ``lengths`` says of how many; ``place[w, j]`` is the mask of token j of word
    w among all of them.

    Attributes:
        lengths: Distinct lengths of words, in tokens, rising.
        place: (words, longest) number of the mask.
        token: (words, longest) id; 0 behind a word's end.
        real: (words, longest) 1.0 at tokens, 0.0 behind the end.
        size: (words,) tokens of a word.
        word: (labels, most words) number of a word; 0 where a label has fewer.
        penalty: (labels, most words) 0, or minus infinity where a label has fewer.
        log_count: (labels,) logarithm of the number of words.
    """

    lengths: tuple[int, ...]
    place: Any
    token: Any
    real: Any
    size: Any
    word: Any
    penalty: Any
    log_count: Any

    @classmethod
    def of(cls, verbalizer: Verbalizer, tokenizer: Tokenizer, *, tight: bool = False) -> Reader:
        """Tokenize the words; `tight` as `word_tokens` has it.

        Raises:
            ConfigError: If a word has an unknown token, or two labels share a word.
        """
        tokens = [
            word_tokens(word, tokenizer, tight=tight)
            for words in verbalizer.words
            for word in words
        ]
        names = [
            (label, word)
            for label, words in zip(verbalizer.labels, verbalizer.words, strict=True)
            for word in words
        ]
        _check_distinct(names, tokens)
        lengths = tuple(sorted({len(each) for each in tokens}))
        first = dict(zip(lengths, np.cumsum([0, *lengths]).tolist(), strict=False))
        shape = (len(tokens), lengths[-1])
        place, token, real = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape)
        for number, each in enumerate(tokens):
            token[number, : len(each)] = each
            place[number, : len(each)] = first[len(each)] + np.arange(len(each))
            real[number, : len(each)] = 1.0
        counts = np.array([len(words) for words in verbalizer.words])
        before = np.cumsum([0, *counts[:-1]])
        there = np.arange(counts.max()) < counts[:, None]
        word = np.where(there, before[:, None] + np.arange(counts.max()), 0)
        return cls(
            lengths, place, token, real, real.sum(1), word,
            np.where(there, 0.0, -np.inf), np.log(counts),
        )  # fmt: skip

    def map(self, function: Callable[[np.ndarray], Any]) -> Reader:
        """Return the same with every array passed through a function."""
        return Reader(
            self.lengths,
            *(function(getattr(self, name)) for name in self.__dataclass_fields__
              if name != "lengths"),
        )  # fmt: skip

    @cached_property
    def masks(self) -> int:
        """Masks of one example, over all its rows."""
        return sum(self.lengths)

    def word_scores(self, logits: Any, logsumexp: Callable[[Any, int], Any]) -> Any:
        """Return each word's log-probability over the full vocabulary, (examples, words).

        Args:
            logits: Shape (examples x masks, vocabulary).
            logsumexp: ``(array, axis) -> array`` of the array's library.
        """
        by_mask = logits.reshape(-1, self.masks, logits.shape[-1])
        total = logsumexp(by_mask, -1)
        found = by_mask[:, self.place, self.token] - total[:, self.place]
        return (found * self.real).sum(-1)


def label_log_probs(
    scores: Any, reader: Reader, scoring: Scoring, logsumexp: Callable[[Any, int], Any]
) -> Any:
    """Return log-probabilities of the labels, (examples, labels), from scores of the words.

    Args:
        scores: Shape (examples, words).
        reader: Says which words are whose; its arrays of the scores' library.
        scoring: See the module's docstring.
        logsumexp: ``(array, axis) -> array`` of the scores' library.
    """
    of_label = scores[:, reader.word] + reader.penalty
    if scoring == "sets":
        of_label = of_label - logsumexp(of_label, 1)[:, None]
    found = logsumexp(of_label, -1) - reader.log_count
    return found - logsumexp(found, -1)[:, None]


def logsumexp(array: np.ndarray, axis: int) -> np.ndarray:
    """Return the logarithm of the sum of exponentials along an axis of a numpy array."""
    top = array.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.log(np.exp(array - top).sum(axis=axis))
    result: np.ndarray = total + np.squeeze(top, axis)
    return result


def word_tokens(word: str, tokenizer: Tokenizer, *, tight: bool = False) -> list[int]:
    """Return the tokens of a word as it stands inside a sentence.

    Args:
        word: Chinese words follow what is before them directly.
        tokenizer: Only one that puts spaces into its tokens makes a difference there.
        tight: Whether a word that begins with a Latin letter or a digit does so as well, as in
            ``很[MASK]``; else it follows a space.

    Raises:
        ConfigError: If one of them is unknown to the tokenizer, or special.
    """
    slot = _SLOTS.search(word)
    if slot or tokenizer.mask_id in tokenizer.word_ids(word):
        raise ConfigError(
            f'the model does not know the label word "{word}": it is a hole or another special '
            "token, not a word. Choose another with --words"
        )
    # Alone it would begin with a space, which Chinese inside a sentence does not have.
    ids = tokenizer.word_ids(word, after_space=word[:1].isascii() and not tight)
    if not ids or tokenizer.unk_id in ids:
        unknown = [
            f"unknown: {character}"
            for character in dict.fromkeys(word)
            if tokenizer.unk_id in tokenizer.word_ids(character)
        ]
        lacking = f" ({', '.join(unknown)})" if unknown else ""
        raise ConfigError(
            f'the model does not know the label word "{word}"{lacking}: choose another with --words'
        )
    return ids


def _check_distinct(names: Sequence[tuple[str, str]], tokens: Sequence[Sequence[int]]) -> None:
    """Refuse a word that two labels share, or that one has twice."""
    seen: dict[tuple[int, ...], tuple[str, str]] = {}
    for (label, word), ids in zip(names, tokens, strict=True):
        key = tuple(ids)
        if key not in seen:
            seen[key] = label, word
            continue
        other = seen[key]
        if other[0] == label:
            raise ConfigError(f'the label "{label}" has the word "{word}" twice')
        same = "" if other[1] == word else f' ("{other[1]}" and "{word}" are the same tokens)'
        raise ConfigError(
            f'the labels "{other[0]}" and "{label}" share the word "{word}"{same}, so the model '
            "cannot tell them apart: give one of them another word with --words"
        )
