"""What BERT's tokenizer makes of characters and words: asked of the library once, and remembered.

There is no table of Unicode here: which characters separate words, which are tokens of their own
and what the pieces of a word are is what the library's own normalizer, pre-tokenizer and model
answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import PreTokenizedString
from tokenizers import Tokenizer as Backend

__all__ = ["CODE_POINTS", "SPACE", "STRETCH", "UNSEEN", "WORD", "Learned"]

SPACE, WORD, UNSEEN = 1 << 30, 1 + (1 << 30), 2 + (1 << 30)
"""What the table says of a character without an id: separates words, part of one, not asked.
Far above every id, so that a look-up by it fails."""
CODE_POINTS = 0x20000
"""Characters from here on (rare ideographs, tags, private use) count as parts of words, which is
always right and only slower."""
MOST_WORDS, LONGEST_WORD = 1 << 15, 48
"""Words remembered, and characters of the longest of them: some 10 MB."""
LONGEST_STRETCH = 16
"""Characters of the longest stretch of several words remembered."""
IDEOGRAPHS = range(0x4E00, 0xA000)
"""The block in which nearly all Chinese characters are, each a token of its own."""
COMMON = (
    *range(0x20, 0x7F),
    *range(0x2010, 0x2027),
    *range(0x3000, 0x3020),
    *range(0xFF00, 0xFF20),
)
"""Other characters that nearly every text has some of."""
STRETCH = re.compile(
    r"[\x00-\x200-9A-Za-z\x7f-\xb6\xb8-\u200f\u2028-\u202f\u205f-\u2bff\u3000\u3040-\u30fa"
    r"\u30fc-\u318f\u3200-\u33ff\ua000-\ud7ff\ue000-\uf8ff\ufe00-\ufe0f\ufe20-\ufe2f\ufe70-\ufeff"
    r"\uff0b\uff10-\uff19\uff1c-\uff1e\uff21-\uff3a\uff41-\uff5a\uff5c\uff5e\uff66-\uffff"
    r"\U0001f000-\U0001faff]+"
)
"""A stretch of characters most of which are parts of words or separate them: what lies between
two tokens of one character. Any others would do as well; these make few different stretches."""
ALNUM = "".join(chr(c) for c in range(128) if chr(c).isalnum())

Pieces = tuple[int, ...]
Spans = tuple[tuple[int, int], ...]


class Learned:
    """What is known of a tokenizer's characters and words.

    Threads may share it: what is remembered is the same whoever comes first.

    Attributes:
        table: For each code point an id, `SPACE`, `WORD` or `UNSEEN`; the last entry stands for
            all the others.
        identity: Each id at its own place; to look up by anything else is an IndexError.
        words: Words to ids.
        spans: Words to ids and offsets.
        stretches: Words and separators in a row to ids, as bytes of platform integers.

    Args:
        backend: A tokenizer with BERT's normalizer and pre-tokenizer and a WordPiece model.
    """

    def __init__(self, backend: Backend) -> None:
        self._normalizer = backend.normalizer
        self._lower = bool(backend.normalizer.lowercase)
        self._pre_tokenizer = backend.pre_tokenizer
        self._model = backend.model
        self.table = np.full(CODE_POINTS + 1, UNSEEN, np.intp)
        self.table[CODE_POINTS] = WORD
        self.identity = np.arange(backend.get_vocab_size(), dtype=np.int32)
        self.words: dict[str, Pieces] = {}
        self.spans: dict[str, tuple[Pieces, Spans]] = {}
        self.stretches: dict[str, bytes] = {}
        self.learn(COMMON)
        self._learn_ideographs(backend)

    def as_assumed(self) -> bool:
        """Return whether spaces and line ends separate words that ASCII letters and digits make."""
        codes = [*map(ord, f" \n{ALNUM}")]
        self.learn(codes)
        return [*self.table[codes]] == [SPACE] * 2 + [WORD] * len(ALNUM)

    def learn(self, codes: Sequence[int]) -> None:
        """Ask what characters are, and enter it into the table."""
        for code in codes:
            self.table[code] = self._kind(chr(code))

    def word(self, text: str) -> Pieces:
        """Return the ids of a stretch between separators."""
        words = self._words_of(text)
        found = tuple(token.id for word in words for token in self._model.tokenize(word))
        _remember(self.words, text, found)
        return found

    def word_spans(self, text: str) -> tuple[Pieces, Spans]:
        """Return the ids of a stretch between separators, and their offsets into it."""
        in_pieces = PreTokenizedString(text)
        in_pieces.normalize(self._normalizer.normalize)
        self._pre_tokenizer.pre_tokenize(in_pieces)
        in_pieces.tokenize(self._model.tokenize)
        encoding = in_pieces.to_encoding()
        found = tuple(encoding.ids), tuple(encoding.offsets)
        _remember(self.spans, text, found)
        return found

    def ids_of(self, stretch: str) -> bytes:
        """Return the ids of a stretch of words and separators, as `stretches` holds them."""
        words = stretch.split(" ")
        get = self.words.get
        pieces = (get(word) or self.word(word) for word in words if word)
        found = np.array([*chain.from_iterable(pieces)], np.intp).tobytes()
        if len(words) == 1 or len(stretch) <= LONGEST_STRETCH:
            _remember(self.stretches, stretch, found)
        return found

    def _learn_ideographs(self, backend: Backend) -> None:
        """Enter Chinese characters by the vocabulary, if a sample of them is as it says."""
        unknown = backend.token_to_id(self._model.unk_token)
        ids = [backend.token_to_id(chr(code)) for code in IDEOGRAPHS]
        found = [unknown if each is None else each for each in ids]
        sample = range(0, len(IDEOGRAPHS), 997)
        if all(self._kind(chr(IDEOGRAPHS[i])) == found[i] for i in sample):
            self.table[IDEOGRAPHS.start : IDEOGRAPHS.stop] = np.array(found, np.intp)

    def _kind(self, char: str) -> int:
        """Return SPACE, WORD, or the id of a character that is a token of its own.

        WORD is never wrong. Characters that canonical ordering may move, and those that fall
        apart into several, are left to it: what they become can depend on their neighbours.
        """
        if unicodedata.combining(char) or len(unicodedata.normalize("NFD", char)) > 1:
            return WORD
        pieces = self._words_of(f"a{char}a")
        if pieces == ["a", "a"]:
            return SPACE
        if len(pieces) == 3 and pieces[0] == pieces[2] == "a":
            tokens = self._model.tokenize(pieces[1])
            if len(tokens) == 1:
                return int(tokens[0].id)
        return WORD

    def _words_of(self, text: str) -> list[str]:
        if text.isascii() and text.isalnum():
            return [text.lower() if self._lower else text]
        normal: str = self._normalizer.normalize_str(text)
        return [word for word, _ in self._pre_tokenizer.pre_tokenize_str(normal)]


def _remember(memory: dict[str, Any], text: str, found: Any) -> None:
    if len(text) <= LONGEST_WORD:
        if len(memory) >= MOST_WORDS:
            memory.clear()
        memory[text] = found
