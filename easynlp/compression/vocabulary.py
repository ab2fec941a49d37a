"""Which tokens a small model keeps: those its texts use, and common characters to fall back on.

More than half of a small model is its table of embeddings, and a task's texts use a fraction of
it. A token that goes is spelled by its characters; a character that goes is unknown. So besides
what the texts hold, the most common other characters stay: new texts hold some of them. How much
becomes unknown all the same is measured on texts that were not counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from easynlp.errors import ConfigError
from easynlp.pretraining.vocabulary_transfer import count_tokens, cut_vocabulary
from easynlp.tasks.base import Example
from easynlp.text.tokenizer import SPACE, Tokenizer

__all__ = ["Vocabulary", "choose_vocabulary", "common_characters", "texts_of", "unknown_rate"]

_USED = 1_000_000
"""What a use counts against a character kept for others: any use comes first."""


@dataclass(frozen=True)
class Vocabulary:
    """A cut vocabulary.

    Attributes:
        tokenizer: Knows the tokens that stay, and nothing else.
        kept: Their old ids, in the order of the new ones.
        used: How many of them the texts use.
    """

    tokenizer: Tokenizer
    kept: tuple[int, ...]
    used: int


def texts_of(examples: Iterable[Example]) -> Iterable[str]:
    """Yield the texts of examples: strings under ``text`` and ``text_b``."""
    for example in examples:
        for name, value in example.items():
            if name.startswith("text") and isinstance(value, str):
                yield value


def choose_vocabulary(
    tokenizer: Tokenizer, texts: Iterable[str], *, size: int = 0, fallback: int = 1000
) -> Vocabulary:
    """Return the vocabulary to keep for texts.

    Args:
        tokenizer: WordPiece or Unigram.
        texts: Training texts and unlabelled ones; not those the result is judged on.
        size: Most tokens to keep, used ones first; 0: as many as the rule gives.
        fallback: Characters to keep that the texts do not hold, the most common first.

    Raises:
        ConfigError: If its model is of another kind, or `size` leaves no room.
    """
    counts = count_tokens(texts, tokenizer)
    if not counts:
        raise ConfigError("--vocab: there is no text to count tokens in")
    weights = Counter({i: n * _USED for i, n in counts.items()})
    spare = [i for i in common_characters(tokenizer) if i not in counts][:fallback]
    for rank, i in enumerate(spare):
        weights[i] = len(spare) - rank
    made = cut_vocabulary(tokenizer, weights, size or tokenizer.vocab_size, option="--vocab-size")
    before = tokenizer.backend.get_vocab(with_added_tokens=True)
    kept = tuple(before[token] for token in made.tokens())
    return Vocabulary(made, kept, sum(i in counts for i in kept))


def common_characters(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of single characters, the most common first.

    A Unigram vocabulary says how common its tokens are. A WordPiece one does not: there the 3755
    characters of the first level of GB 2312 come first, which were chosen for being common, then
    those of its second level, then all others in the order of their ids.

    Example:
        >>> common_characters(tokenizer)[:3]                          # doctest: +SKIP
        [871, 534, 606]
    """
    model = json.loads(tokenizer.backend.to_str())["model"]
    single = [
        (i, name.removeprefix("##"))
        for i, name in enumerate(tokenizer.tokens())
        if len(name.removeprefix("##")) == 1 and name != SPACE
    ]
    if model["type"] == "Unigram":
        scores = {name: score for name, score in model["vocab"]}
        return [i for i, _ in sorted(single, key=lambda item: (-scores.get(item[1], 0.0), item[0]))]
    return [i for i, _ in sorted(single, key=lambda item: (_level(item[1]), item[0]))]


def _level(character: str) -> int:
    """Return 0 for a character of GB 2312's first level (or ASCII), 1 for the rest of it, else 2.

    Example:
        >>> _level("好"), _level("魑"), _level("㍿")
        (0, 1, 2)
    """
    try:
        code = character.encode("gb2312")
    except UnicodeEncodeError:
        return 2
    return 0 if len(code) == 1 or 0xB0 <= code[0] <= 0xD7 else 1


def unknown_rate(tokenizer: Tokenizer, texts: Sequence[str]) -> float:
    """Return the share of the characters of texts that the tokenizer does not know; 0 of no text.

    Characters and not tokens: Unigram makes one unknown token of a whole stretch.
    """
    if tokenizer.unk_id < 0:  # hashed n-grams know everything
        return 0.0
    unknown = total = 0
    for cut in tokenizer.pieces(texts):
        for i, (start, end) in zip(cut.ids, cut.offsets, strict=True):
            total += end - start
            unknown += (end - start) * (i == tokenizer.unk_id)
    return unknown / total if total else 0.0
