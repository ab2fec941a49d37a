"""Label words: what stands in the hole if a text has a label.

Written ``好评=好,不错;差评=差,糟``: for each label any number of words, of any length. The same may
be in a file (``@words.txt``, a line ``好评=好,不错`` each, or a JSON mapping). Without words the
labels' names are their words.

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

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from easynlp.errors import ConfigError, did_you_mean
from easynlp.fewshot.template import read_option
from easynlp.text.tokenizer import Tokenizer

__all__ = ["Reader", "Scoring", "Verbalizer", "WordScore", "label_log_probs", "logsumexp"]

Scoring = Literal["candidates", "sum", "sets"]
WordScore = Literal["sum", "mean"]
_NAMES_A_WORD = re.compile(r"[^\W\d_]")
_PLAIN = re.compile(r"[^=;；,，、\n{]+")
_SLOTS = re.compile(r"\[(MASK|PRO|SEP|CLS|PAD|UNK)\]|<(mask|s|/s|pad|unk|pseudo[-0-9]*)>")


@dataclass(frozen=True)
class Verbalizer:
    """The words of each label, in the order of the labels.

    Attributes:
        labels: The labels.
        words: As many tuples of one or more words.

    Example:
        >>> found = Verbalizer.parse("好评=好,不错;差评=差,糟", ["差评", "好评"])
        >>> found.words
        (('差', '糟'), ('好', '不错'))
        >>> str(found)
        '差评=差,糟;好评=好,不错'
    """

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str, labels: Sequence[str]) -> Verbalizer:
        """Read the words of all labels; without text the labels' names are their words.

        Raises:
            ConfigError: If a label has no word, or words are given for an unknown one; says what
                to type.
        """
        written = read_option(text, "words").strip()
        if not written:
            if not all(_NAMES_A_WORD.search(label) for label in labels):
                raise ConfigError(f"the labels are no words, so give some: {_suggest(labels)}")
            return cls(tuple(labels), tuple((label,) for label in labels))
        given = _read_json(written) if written.startswith("{") else _read_lines(written, labels)
        for label in given:
            if label not in labels:
                raise ConfigError(
                    f'words: there is no label "{label}".{did_you_mean(label, labels)} '
                    f"Labels: {', '.join(labels)}"
                )
        missing = [label for label in labels if not given.get(label)]
        if missing:
            raise ConfigError(
                f"no word for {', '.join(missing)}: give each label one, {_suggest(labels)}"
            )
        return cls(tuple(labels), tuple(tuple(given[label]) for label in labels))

    @property
    def sets(self) -> int:
        """The number of word sets; 0 if the labels have different numbers of words."""
        sizes = {len(words) for words in self.words}
        return sizes.pop() if len(sizes) == 1 else 0

    def __str__(self) -> str:
        pairs = list(zip(self.labels, self.words, strict=True))
        if all(_PLAIN.fullmatch(each) for label, words in pairs for each in (label, *words)):
            return ";".join(f"{label}={','.join(words)}" for label, words in pairs)
        return json.dumps({label: list(words) for label, words in pairs}, ensure_ascii=False)


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


def _read_json(text: str) -> Mapping[str, list[str]]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"words: not valid JSON: {error}") from error
    found: dict[str, list[str]] = {}
    for label, words in given.items():
        found[str(label)] = [words] if isinstance(words, str) else list(words)
        if not all(isinstance(word, str) and word for word in found[str(label)]):
            raise ConfigError(f'words: the words of "{label}" are to be texts, not {words}')
    return found


def _read_lines(text: str, labels: Sequence[str]) -> Mapping[str, list[str]]:
    """Read ``label=word,word`` of every line or between semicolons; tab and colon do as well."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"[;；\n]", text):
        if not part.strip():
            continue
        label, sign, words = (piece.strip() for piece in _at_sign(part))
        if not sign:
            raise ConfigError(f'words: "{part.strip()}" is not label=word: {_suggest(labels)}')
        if label in found:
            raise ConfigError(f'words: the label "{label}" is there twice')
        found[label] = [word.strip() for word in re.split(r"[,，、]", words) if word.strip()]
    return found


def _at_sign(part: str) -> tuple[str, str, str]:
    for sign in ("=", "\t", ":", "："):
        if sign in part:
            label, _, words = part.partition(sign)
            return label, "=", words
    return part, "", ""


def _suggest(labels: Sequence[str]) -> str:
    shown = ";".join(f"{label}=WORD" for label in list(labels)[:3])
    return f'--words "{shown}{";..." if len(labels) > 3 else ""}"'
