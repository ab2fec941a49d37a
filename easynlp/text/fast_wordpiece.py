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
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from easynlp.text.encoded import Encoded
from easynlp.text.learned_words import CODE_POINTS, SPACE, STRETCH, UNSEEN, WORD, Learned
from easynlp.text.special_layout import Layout, longest_first, read_layouts

__all__ = ["FastWordPiece"]

HALVES = 0xD800
"""The first of 2,048 code points that are no characters."""
CHUNK = 1 << 18
"""Characters of a batch that are worked on at a time."""
FEW = 64
"""Texts up to which one after the other is faster than all at once."""
_from, _encode, _stretch = np.frombuffer, codecs.utf_32_le_encode, STRETCH.search
_CODE, _INDEX = np.dtype("<u4"), np.dtype(np.intp)
_WIDTH = _INDEX.itemsize

Text = str | tuple[str, str]


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
        self._text, self._pair = layouts
        self.added = added
        longest = sorted(map(re.escape, added), key=len, reverse=True)
        self._find_added = re.compile("|".join(longest) or "(?!)")
        starts = {content[0] for content in added}
        self._hint = starts.pop() if len(starts) == 1 else ""
        self._learned = Learned(backend)
        self._table, self._identity = self._learned.table, self._learned.identity
        self._stretches = self._learned.stretches
        self._marked: list[int] = []
        self._marks = [[self._mark(ids) for ids in layout.ids] for layout in layouts]

    @classmethod
    def of(cls, backend: Backend) -> FastWordPiece | None:
        """Return the fast path of a tokenizer, None if it has settings that are not BERT's.

        Args:
            backend: Any tokenizer.
        """
        kinds = [type(backend.normalizer), type(backend.pre_tokenizer), type(backend.model)]
        if [kind.__name__ for kind in kinds] != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            return None
        try:
            backend.model.tokenize("\U0010ffff")
        except (
            Exception
        ):  # bare, from the Rust library: the vocabulary has no token for the unknown
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
        return fast if fast._learned.as_assumed() else None

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
            match = _stretch(text)
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
            first = self._filled(values[:end], text, begin, _stretch(text))
            second = self._filled(values[end:], pair, len(middle) // 4, _stretch(pair))
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
        return found[0] if found else None

    def _filled(self, values: bytes, text: str, shift: int, match: re.Match[str] | None) -> bytes:
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
            parts.append(self._learned.ids_of(stretch) if ids is None else ids)
            end = (stop + shift) * _WIDTH
            match = _stretch(text, stop)
        parts.append(values[end:])
        return b"".join(parts)

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
        learned = self._learned
        joined = "\n".join(texts)
        codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32).astype(np.intp)
        np.minimum(codes, CODE_POINTS, out=codes)
        values = self._table[codes]
        unseen = values == UNSEEN
        if unseen.any():
            learned.learn(np.unique(codes[unseen]).tolist())
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
        is_token = values < SPACE
        per_code = is_token.astype(np.intp)
        edges = np.flatnonzero(np.diff(in_word, prepend=False, append=False))
        starts, stops = edges[::2], edges[1::2]
        words = [joined[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
        if offsets:
            known = [learned.spans.get(word) or learned.word_spans(word) for word in words]
            pieces = [ids for ids, _ in known]
        else:
            get = learned.words.get
            pieces = [
                learned.word(word) if found is None else found
                for word, found in zip(words, map(get, words), strict=True)
            ]
        per_word = np.fromiter(map(len, pieces), np.intp, len(pieces))
        per_code[starts] = per_word
        before = np.cumsum(per_code)
        total = int(before[-1]) if len(before) else 0
        before -= per_code
        alone = np.flatnonzero(is_token)
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


def _truncate(
    row: np.ndarray, lengths: tuple[int, ...], room: int, layout: Layout
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a row without the tokens that truncation takes, and the members' lengths."""
    kept = (room,) if len(lengths) == 1 else longest_first(lengths[0], lengths[1], room)
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
    keep: np.ndarray = counts.copy()
    if counts.shape[1] == 1:
        np.minimum(keep, room, out=keep)
        return keep
    for row in np.flatnonzero(counts.sum(1) > room):
        keep[row] = longest_first(int(counts[row, 0]), int(counts[row, 1]), room)
    return keep
