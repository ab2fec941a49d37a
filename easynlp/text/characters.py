"""Chinese characters, each a token of its own, whatever the pieces of a vocabulary.

A Unigram vocabulary has pieces such as 在北京: good for reading, but an entity that begins inside
one cannot be tagged, and a character inside one cannot be hidden. `Characters` cuts such pieces
into their characters, which the vocabularies of Chinese models hold as tokens too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from easynlp.text.tokenizer import Encoded, Tokenizer

__all__ = ["Characters", "is_han"]


def is_han(character: str) -> bool:
    """Return whether a character is one of the 20,992 common Chinese ones."""
    return "一" <= character <= "鿿"


class Characters:
    """Cuts the pieces of encoded texts that hold several characters, Chinese ones among them.

    Args:
        tokenizer: Whose tokens.

    Attributes:
        needed: Whether the vocabulary has such pieces at all; if not, `cut` changes nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.needed = any(
            len(token.removeprefix("##")) > 1 and any(map(is_han, token))
            for token in tokenizer.tokens()
        )

    def cut(self, text: str, item: Encoded, around: Sequence[int] | None = None) -> Encoded:
        """Return an encoded text with each such piece as the tokens of its characters.

        Args:
            text: What was encoded, uncut.
            item: With offsets.
            around: Cut only pieces with one of these characters; by default all.

        Example:
            >>> Characters(tokenizer).cut("在北京", item).offsets.tolist()  # doctest: +SKIP
            [[0, 0], [0, 1], [1, 2], [2, 3], [0, 0]]
        """
        assert item.offsets is not None
        first, end = item.offsets.T
        long = np.flatnonzero(end - first > 1) if self.needed else np.zeros(0, np.int64)
        long = np.array(
            [i for i in long.tolist() if any(map(is_han, text[first[i] : end[i]]))], int
        )
        if around is not None and len(long):
            wanted = np.array(around)
            inside = (first[long, None] <= wanted) & (wanted < end[long, None])
            long = long[inside.any(1)]
        if not len(long):
            return item
        repeats = np.ones(len(first), np.int64)
        repeats[long] = (end - first)[long]
        token = np.repeat(np.arange(len(first)), repeats)
        place = np.arange(len(token)) - (np.cumsum(repeats) - repeats)[token]
        several = repeats[token] > 1
        offsets = item.offsets[token]
        offsets[several, 0] += place[several].astype(np.int32)
        offsets[several, 1] = offsets[several, 0] + 1
        ids = item.ids[token]
        ids[several] = [self._id(text[start]) for start in offsets[several, 0].tolist()]
        return Encoded(ids, item.type_ids[token], item.truncated, offsets)

    def _id(self, character: str) -> int:
        for form in (character, unicodedata.normalize("NFKC", character), character.lower()):
            if (found := self._tokenizer.id_of(form)) is not None:
                return found
        return max(self._tokenizer.unk_id, 0)
