"""BERT's WordPiece at many times the library's speed: the same ids and offsets, or not at all.

Of the steps of BERT's tokenizer (clean, put spaces around Chinese characters, strip accents,
lower the case, split at spaces and punctuation, cut words into pieces) none looks further than
a word. So every character is one of three: it *separates* words and leaves nothing, it *is a
token* of its own (Chinese characters, punctuation), or it is *part of a word*. The library itself
is asked which, once for each character that occurs, and what the pieces of a word are, once for
each word: no table of Unicode here that could differ from the library's. The rest is look-ups: a
dictionary for a short text, arrays for long ones and for batches.

Whatever the settings of a tokenizer say that this does not hold for, `FastWordPiece.of` returns
None, and its user goes on with the library.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import PreTokenizedString
from tokenizers import Tokenizer as Backend

from easynlp.text.encoded import Encoded
from easynlp.text.special_layout import Layout, longest_first, read_layouts

__all__ = ["FastWordPiece"]

SPACE, WORD, UNSEEN = 1 << 30, 1 + (1 << 30), 2 + (1 << 30)
"""What the table says of a character without an id: separates words, part of one, not asked.
Far above every id, so that a look-up by it fails."""
CODE_POINTS = 0x20000
"""Characters from here on (rare ideographs, tags, private use) count as parts of words, which is
always right and only slower."""
HALVES = 0xD800
"""The first of 2,048 code points that are no characters."""
CHUNK = 1 << 18
"""Characters of a batch that are worked on at a time."""
FEW = 16
"""Texts up to which one after the other is faster than all at once."""
MOST_WORDS, LONGEST_WORD = 1 << 15, 48
"""Words remembered, and characters of the longest of them: some 10 MB."""
LONGEST_STRETCH = 16
"""Characters of the longest stretch of several words remembered."""
FIRST_REBUILD = 8
"""Texts with characters that the pattern of stretches lacks, before it is made anew; then twice as
many each time."""
MOST_IN_PATTERN = 4096
"""Characters that the pattern of stretches knows at most."""

_join, _from, _encode = np.concatenate, np.frombuffer, codecs.utf_32_le_encode
_CODE, _INDEX = np.dtype("<u4"), np.dtype(np.intp)
_WIDTH = _INDEX.itemsize

Text = str | tuple[str, str]
Pieces = tuple[int, ...]
Spans = tuple[tuple[int, int], ...]


class FastWordPiece:
    """Ids and offsets of a BERT tokenizer; see the module.

    Safe to use from several threads: what they remember is the same whoever comes first.

    Args:
        backend: A tokenizer that `of` accepts. It is read, never changed.
        layouts: Special tokens of texts and of pairs.
        added: Contents of its added tokens, and their ids.
    """

    def __init__(
        self, backend: Backend, layouts: tuple[Layout, Layout], added: dict[str, int]
    ) -> None:
        self._normalizer = backend.normalizer
        self._lower = bool(backend.normalizer.lowercase)
        self._pre_tokenizer = backend.pre_tokenizer
        self._model = backend.model
        self._text, self._pair = layouts
        self.added = added
        longest = sorted(map(re.escape, added), key=len, reverse=True)
        self._find_added = re.compile("|".join(longest) or "(?!)")
        starts = {content[0] for content in added}
        self._hint = starts.pop() if len(starts) == 1 else ""
        self._table = np.full(CODE_POINTS + 1, UNSEEN, np.intp)
        self._table[CODE_POINTS] = WORD
        self._identity = np.arange(backend.get_vocab_size(), dtype=np.int32)
        self._words: dict[str, Pieces] = {}
        self._spans: dict[str, tuple[Pieces, Spans]] = {}
        self._stretches: dict[str, bytes] = {}
        self._marked: list[int] = []
        self._marks = [[self._mark(ids) for ids in layout.ids] for layout in layouts]
        self._stretch = _pattern(map(ord, f" {_ALNUM}")).search
        self._misses, self._rebuild_at = 0, FIRST_REBUILD

    @classmethod
    def of(cls, backend: Backend) -> FastWordPiece | None:
        """Return the fast path of a tokenizer, None if it has settings that are not BERT's.

        Args:
            backend: Any tokenizer.
        """
        kinds = [type(backend.normalizer), type(backend.pre_tokenizer), type(backend.model)]
        if [kind.__name__ for kind in kinds] != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            return None
        layouts = read_layouts(backend.post_processor)
        if layouts is None or backend.encode_special_tokens:
            return None
        added: dict[str, int] = {}
        for number, token in backend.get_added_tokens_decoder().items():
            if token.normalized or token.single_word or token.lstrip or token.rstrip:
                return None
            if not token.content or "\n" in token.content:
                return None
            added[token.content] = number
        fast = cls(backend, layouts, added)
        assumed = [*map(ord, f" \n{_ALNUM}")]
        fast._learn(assumed)
        expected = [SPACE] * 2 + [WORD] * len(_ALNUM)
        return fast if fast._table[assumed].tolist() == expected else None

    def _mark(self, ids: tuple[int, ...]) -> bytes:
        """Return what stands for special tokens among a text's characters, in UTF-32.

        Halves of surrogate pairs do, which no text has that can be encoded.
        """
        codes = [HALVES + len(self._marked) + i for i in range(len(ids))]
        self._table[codes] = ids
        self._marked += ids
        return np.array(codes, "<u4").tobytes()

    # One text or pair

    def encode(self, text: str, pair: str | None, max_length: int) -> Encoded | None:
        """Encode a text or a pair without offsets; None if the library has to.

        Args:
            text: Raw text; may be empty.
            pair: Second text of a pair.
            max_length: Most ids, special tokens included.
        """
        if pair is not None:
            return self._encode_pair(text, pair, max_length)
        if self._hint in text and self._find_added.search(text):
            return self._encode_rare(text, None, max_length)
        head, tail = self._marks[0]
        try:
            codes = _from(head + _encode(text)[0] + tail, _CODE).astype(_INDEX)
            values = self._table[codes]
            match = self._stretch(text)
            if match is not None:
                values = _from(self._filled(values.tobytes(), text, len(head) // 4, match), _INDEX)
            row = self._identity[values]
        except (IndexError, UnicodeEncodeError):  # something that is not known yet, or rare
            return self._encode_rare(text, None, max_length)
        size = len(row)
        if size <= max_length and self._text.plain:
            return Encoded(row, np.zeros(size, np.int32), False)
        return self._finished(row, (size - self._text.added,), self._text, max_length)

    def _encode_pair(self, text: str, pair: str, max_length: int) -> Encoded | None:
        if self._hint in text + pair and self._find_added.search(f"{text}\n{pair}"):
            return self._encode_rare(text, pair, max_length)
        head, middle, tail = self._marks[1]
        try:
            data = head + _encode(text)[0] + middle + _encode(pair)[0] + tail
            values = self._table[_from(data, _CODE).astype(_INDEX)].tobytes()
            begin = len(head) // 4
            end = (begin + len(text)) * _WIDTH
            first = self._filled(values[:end], text, begin, self._stretch(text))
            second = self._filled(values[end:], pair, len(middle) // 4, self._stretch(pair))
            row = self._identity[_from(first + second, _INDEX)]
        except (IndexError, UnicodeEncodeError):
            return self._encode_rare(text, pair, max_length)
        length = len(first) // _WIDTH - begin
        layout = self._pair
        return self._finished(row, (length, len(row) - length - layout.added), layout, max_length)

    def _finished(
        self, row: np.ndarray, lengths: tuple[int, ...], layout: Layout, max_length: int
    ) -> Encoded | None:
        """Return a row of members of so many tokens, truncated."""
        truncated = len(row) > max_length
        if truncated:
            if max_length <= layout.added:
                return None
            row, lengths = _truncate(row, lengths, max_length - layout.added, layout)
        return Encoded(row, layout.type_ids(lengths), truncated)

    def _encode_rare(self, text: str, pair: str | None, max_length: int) -> Encoded | None:
        found = self._encode_many([text if pair is None else (text, pair)], max_length, False)
        self._misses += 1
        if self._misses >= self._rebuild_at:
            self._rebuild_at *= 2
            table = self._table[:CODE_POINTS]
            known = np.flatnonzero((table == SPACE) | (table == WORD))
            self._stretch = _pattern(known[:MOST_IN_PATTERN].tolist()).search
        return found[0] if found else None

    def _filled(
        self, values: bytes, text: str, shift: int, match: re.Match[str] | None
    ) -> bytes:
        """Return what the table says of a text with the ids of its words in their places.

        Args:
            values: What the table says, of `shift` special tokens first.
            text: The text.
            shift: Special tokens before it.
            match: Its first stretch of words and separators.
        """
        parts: list[bytes] = []
        end = 0
        known = self._stretches
        while match is not None:
            start, stop = match.span()
            parts.append(values[end : (start + shift) * _WIDTH])
            stretch = match[0]
            ids = known.get(stretch)
            parts.append(self._ids_of(stretch) if ids is None else ids)
            end = (stop + shift) * _WIDTH
            match = self._stretch(text, stop)
        parts.append(values[end:])
        return b"".join(parts)

    def _ids_of(self, stretch: str) -> bytes:
        """Return the ids of a stretch of words and separators."""
        words = stretch.split(" ")
        get = self._words.get
        pieces = (get(word) or self._word(word) for word in words if word)
        found = np.array([*chain.from_iterable(pieces)], _INDEX).tobytes()
        if len(words) == 1 or len(stretch) <= LONGEST_STRETCH:
            _remember(self._stretches, stretch, found)
        return found

    # Many texts or pairs

    def encode_batch(
        self,
        texts: Sequence[Text],
        max_length: int,
        offsets: bool = False,
    ) -> list[Encoded] | None:
        """Encode texts and pairs; None if the library has to.

        Args:
            texts: Texts and pairs.
            max_length: Most ids of one, special tokens included.
            offsets: Also character offsets, (0, 0) at special tokens.
        """
        if not offsets and len(texts) <= FEW:
            rows: list[Encoded] = []
            for text in texts:
                first, second = (text, None) if isinstance(text, str) else text
                row = self.encode(first, second, max_length)
                if row is None:
                    return None
                rows.append(row)
            return rows
        return self._encode_many(texts, max_length, offsets)

    def _encode_many(
        self, texts: Sequence[Text], max_length: int, offsets: bool
    ) -> list[Encoded] | None:
        if max_length <= max(self._text.added, self._pair.added):
            return None
        alone = [i for i, text in enumerate(texts) if isinstance(text, str)]
        found: dict[int, Encoded] = {}
        try:
            for numbers, layout in (
                (alone, self._text),
                (sorted(set(range(len(texts))).difference(alone)), self._pair),
            ):
                for chunk in _chunks(numbers, texts):
                    members: list[str] = []
                    for i in chunk:
                        text = texts[i]
                        members += [text] if isinstance(text, str) else text
                    found.update(
                        zip(chunk, self._rows(members, layout, max_length, offsets), strict=True)
                    )
        except UnicodeEncodeError:  # half a surrogate pair: the library says what it thinks of it
            return None
        return [found[i] for i in range(len(texts))]

    def _rows(
        self, texts: list[str], layout: Layout, max_length: int, offsets: bool
    ) -> Iterator[Encoded]:
        """Yield rows of the members of texts or pairs, member after member in `texts`."""
        width = len(layout.members)
        ids, counts, spans = self._flat(texts, offsets)
        counts = counts.reshape(-1, width)
        keep = _keep(counts, max_length - layout.added)
        cut = keep.sum(1) < counts.sum(1)
        if cut.any():
            flat = counts.ravel()
            rank = np.arange(len(ids)) - np.repeat(np.cumsum(flat) - flat, flat)
            stays = rank < np.repeat(keep.ravel(), flat)
            ids = ids[stays]
            spans = spans[stays] if spans is not None else None
        lengths = keep.sum(1) + layout.added
        stops = np.cumsum(lengths)
        row_ids = np.empty(int(lengths.sum()), np.int32)
        types = np.zeros(len(row_ids), np.int32)
        inner = np.ones(len(row_ids), bool)
        at = stops - lengths
        for number, (special, kinds) in enumerate(zip(layout.ids, layout.types, strict=True)):
            for token, kind in zip(special, kinds, strict=True):
                row_ids[at], types[at], inner[at] = token, kind, False
                at = at + 1
            if number < width:
                at = at + keep[:, number]
        row_ids[inner] = ids
        if any(layout.members):
            types[inner] = np.repeat(np.tile(layout.members, len(keep)), keep.ravel())
        row_spans = None
        if spans is not None:
            row_spans = np.zeros((len(row_ids), 2), np.int32)
            row_spans[inner] = spans
        start = 0
        for stop, was_cut in zip(stops.tolist(), cut.tolist(), strict=True):
            yield Encoded(
                row_ids[start:stop], types[start:stop], was_cut,
                row_spans[start:stop] if row_spans is not None else None,
            )  # fmt: skip
            start = stop

    def _flat(
        self, texts: list[str], offsets: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the ids of all texts in one row, how many each has, and their offsets."""
        joined = "\n".join(texts)
        codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32).astype(np.intp)
        np.minimum(codes, CODE_POINTS, out=codes)
        values = self._table[codes]
        unseen = values == UNSEEN
        if unseen.any():
            self._learn(np.unique(codes[unseen]).tolist())
            values = self._table[codes]
        ends = np.ones(len(values), np.int32) if offsets else None
        if self._hint in joined:
            for match in self._find_added.finditer(joined):
                begin, end = match.span()
                values[begin:end] = SPACE
                values[begin] = self.added[match.group()]
                if ends is not None:
                    ends[begin] = end - begin
        in_word = values == WORD
        alone = values < SPACE
        per_code = alone.astype(np.intp)
        edges = np.flatnonzero(np.diff(in_word, prepend=False, append=False))
        starts, stops = edges[::2], edges[1::2]
        words = [joined[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        if offsets:
            known = [self._spans.get(word) or self._word_spans(word) for word in words]
            pieces = [ids for ids, _ in known]
        else:
            get = self._words.get
            pieces = [
                self._word(word) if found is None else found
                for word, found in zip(words, map(get, words), strict=True)
            ]
        per_word = np.fromiter(map(len, pieces), np.intp, len(pieces))
        per_code[starts] = per_word
        before = np.cumsum(per_code)
        total = int(before[-1]) if len(before) else 0
        before -= per_code
        alone = np.flatnonzero(alone)
        ids = np.empty(total, np.int32)
        place = before[alone]
        ids[place] = values[alone]
        inside = np.repeat(before[starts] - np.cumsum(per_word) + per_word, per_word)
        inside += np.arange(len(inside))
        ids[inside] = np.fromiter(chain.from_iterable(pieces), np.int32, len(inside))

        lengths = np.fromiter(map(len, texts), np.intp, len(texts))
        begins = np.cumsum(lengths + 1) - lengths - 1
        counts = np.diff(np.append(before, [total, total])[np.append(begins, len(before))])
        spans: np.ndarray | None = None
        if ends is not None:
            spans = np.empty((total, 2), np.int32)
            spans[place, 0] = alone
            spans[place, 1] = alone + ends[alone]
            parts = np.fromiter(
                chain.from_iterable(chain.from_iterable(each) for _, each in known),
                np.int32, 2 * len(inside),
            )  # fmt: skip
            spans[inside] = parts.reshape(-1, 2) + np.repeat(starts, per_word)[:, None]
            spans -= np.repeat(begins, counts)[:, None].astype(np.int32)
        return ids, counts, spans

    # What the library is asked

    def _learn(self, codes: Sequence[int]) -> None:
        """Ask what characters are, and remember it."""
        for code in codes:
            self._table[code] = self._kind(chr(code))

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

    def _word(self, text: str) -> Pieces:
        """Return the ids of a stretch between separators."""
        words = self._words_of(text)
        found = tuple(token.id for word in words for token in self._model.tokenize(word))
        _remember(self._words, text, found)
        return found

    def _word_spans(self, text: str) -> tuple[Pieces, Spans]:
        """Return the ids of a stretch between separators, and their offsets into it."""
        text_in_pieces = PreTokenizedString(text)
        text_in_pieces.normalize(self._normalizer.normalize)
        self._pre_tokenizer.pre_tokenize(text_in_pieces)
        text_in_pieces.tokenize(self._model.tokenize)
        encoding = text_in_pieces.to_encoding()
        found = tuple(encoding.ids), tuple(encoding.offsets)
        _remember(self._spans, text, found)
        return found


_ALNUM = "".join(chr(c) for c in range(128) if chr(c).isalnum())


def _pattern(codes: Iterable[int]) -> re.Pattern[str]:
    """Return what finds stretches of these characters in a text."""
    members = "".join(rf"\U{code:08x}" for code in codes)
    return re.compile(f"[{members}]+")


def _remember(memory: dict[str, Any], text: str, found: Any) -> None:
    if len(text) <= LONGEST_WORD:
        if len(memory) >= MOST_WORDS:
            memory.clear()
        memory[text] = found


def _truncate(
    row: np.ndarray, lengths: tuple[int, ...], room: int, layout: Layout
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a row without the tokens that truncation takes, and the members' lengths."""
    kept = (room,) if len(lengths) == 1 else longest_first(*lengths, room)
    stays, at = np.ones(len(row), bool), 0
    for special, length, keep in zip(layout.ids, lengths, kept, strict=False):
        at += len(special) + length
        stays[at - length + keep : at] = False
    return row[stays], kept


def _chunks(numbers: Sequence[int], texts: Sequence[Any]) -> Iterator[list[int]]:
    """Yield the numbers of texts in portions of about `CHUNK` characters."""
    chunk: list[int] = []
    size = 0
    for number in numbers:
        text = texts[number]
        chunk.append(number)
        size += len(text) if isinstance(text, str) else sum(map(len, text))
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _keep(counts: np.ndarray, room: int) -> np.ndarray:
    """Return how many tokens of each member stay, (rows, members) as `counts`."""
    if counts.shape[1] == 1:
        return np.minimum(counts, room)
    keep = counts.copy()
    for row in np.flatnonzero(counts.sum(1) > room):
        keep[row] = longest_first(int(counts[row, 0]), int(counts[row, 1]), room)
    return keep
