"""Texts to ids by hashing: every run of one to four characters is a number, and there is no list.

For models that only add up what a text holds (`easynlp.models.light.HashedNgramModel`). A text is
normalized (NFKC, lower case, stretches of white space as one space), a mark is put at both ends,
and each n-gram of its characters is hashed into one of a fixed number of buckets; n-grams that
share a bucket share a vector (Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask
Learning"). A folder says how in ``hashed_ngrams.json``; it needs no vocabulary.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.errors import ModelError
from easynlp.text.tokenizer import MAX_CHARS, Encoded, Tokenizer

__all__ = ["FILE", "HashedNgrams"]

FILE = "hashed_ngrams.json"
FORMAT = 1
_END = "\x03"
"""Stands before and behind a text; one in the text itself is white space."""
_FIRST, _NEXT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_SHIFT = np.uint64(29)
_SECOND = np.uint64(1) << np.uint64(40)
"""Added to the characters of a second text, whose n-grams are so others than those of the first."""


class HashedNgrams(Tokenizer):
    """Encode a text as the buckets of its n-grams, those of one character first.

    Lengths are of characters, marks included: ``max_length=128`` reads 126 characters and gives
    up to ``orders`` times as many ids.

    Args:
        buckets: Ids are 1 to this; a prime number hashes best. 0 is padding.
        orders: Characters of the longest n-gram.

    Raises:
        ModelError: If a number is out of range.

    Example:
        >>> tokenizer = HashedNgrams(buckets=97, orders=2)
        >>> len(tokenizer.encode("很好", max_length=16).ids)  # 4 with both ends, and 3 pairs
        7
        >>> tokenizer.encode("ＯＫ", max_length=16).ids.tolist() == (
        ...     tokenizer.encode(" ok ", max_length=16).ids.tolist())
        True
    """

    def __init__(self, buckets: int = 65_521, orders: int = 4) -> None:
        if not 2 <= buckets < 1 << 31 or not 1 <= orders <= 8:
            raise ModelError(
                f"hashed n-grams of up to {orders} characters in {buckets} buckets: valid are 1 to "
                "8 characters and 2 or more buckets"
            )
        self.buckets, self.orders = buckets, orders
        self._modulus = np.uint64(buckets)
        self.pad_id, self.mask_id, self.unk_id = 0, -1, -1
        self.fast = None  # there is no library to be faster than

    @property
    def backend(self) -> Any:  # type: ignore[override]
        """Nothing: what needs a vocabulary cannot be had of this.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            "hashed n-grams have no vocabulary and no tokens: they are for text_classify alone. "
            "For other tasks take --model text_cnn, bilstm or tiny-zh"
        )

    @classmethod
    def load(cls, folder: str | Path) -> HashedNgrams:
        """Read ``hashed_ngrams.json`` of a model folder.

        Raises:
            ModelError: If the file is missing, damaged or of a newer format.
        """
        path = Path(folder) / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format is {found['format']!r}; this easynlp reads {FORMAT}")
            return cls(int(found["buckets"]), int(found["orders"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{path} does not say how n-grams are hashed: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write ``hashed_ngrams.json`` into a folder."""
        write_json(Path(folder) / FILE, self._says())

    def fingerprint(self) -> str:
        """Return all that decides which ids a text gets."""
        return json.dumps(self._says(), sort_keys=True)

    @property
    def vocab_size(self) -> int:
        """Number of ids: the buckets, and padding."""
        return self.buckets + 1

    def tokens(self) -> list[str]:
        """Return nothing: no id is one token's."""
        return []

    def id_of(self, token: str) -> int | None:
        """Return None: no id is one token's."""
        return None

    def encode_batch(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[str | tuple[str, str]],
        max_length: int,
        offsets: bool = False,
    ) -> list[Encoded]:
        """Encode many texts or pairs.

        Args:
            texts: Raw texts; may be empty.
            max_length: Most characters of a row, marks included; a pair's longer text is cut first.
            offsets: Must be False.

        Raises:
            ModelError: If offsets are asked for; n-grams overlap.
        """
        if offsets:
            self.backend  # noqa: B018 - says why not
        limit = max(MAX_CHARS, 16 * max_length)
        return [
            self._text(item, max_length, limit)
            if isinstance(item, str)
            else self._pair(item, max_length, limit)
            for item in texts
        ]

    def _text(self, text: str, max_length: int, limit: int) -> Encoded:
        short = _normal(text[:limit])
        kept = short[: max(0, max_length - 2)]
        ids = self._ids(kept)
        cut = len(kept) < len(short) or len(text) > limit
        return Encoded(ids, np.zeros(len(ids), np.int32), cut)

    def _pair(self, pair: tuple[str, str], max_length: int, limit: int) -> Encoded:
        first, second = (_normal(text[:limit]) for text in pair)
        room = max(0, max_length - 4)
        # The longer is cut until both are of one length, then both.
        left = min(len(first), max(room - len(second), (room + 1) // 2))
        right = min(len(second), room - left)
        ids = self._ids(first[:left]), self._ids(second[:right], _SECOND)
        cut = left < len(first) or right < len(second) or max(map(len, pair)) > limit
        types = np.repeat(np.array([0, 1], np.int32), [len(part) for part in ids])
        return Encoded(np.concatenate(ids), types, cut)

    def _ids(self, text: str, salt: np.uint64 | None = None) -> np.ndarray:
        marked = f"{_END}{text}{_END}"
        codes = np.frombuffer(marked.encode("utf-32-le"), np.uint32).astype(np.uint64)
        if salt is not None:
            codes += salt
        # One product a character and order; the shift brings high bits, which are the mixed ones,
        # to where the remainder and the next product see them.
        hashed = codes * _FIRST
        hashed ^= hashed >> _SHIFT
        found = [hashed]
        for order in range(1, min(self.orders, len(codes))):
            hashed = (hashed[:-1] + codes[order:]) * _NEXT
            hashed ^= hashed >> _SHIFT
            found.append(hashed)
        return (np.concatenate(found) % self._modulus).astype(np.int32) + np.int32(1)

    def _says(self) -> dict[str, int]:
        return {"format": FORMAT, "buckets": self.buckets, "orders": self.orders}


def _normal(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().replace(_END, " ").split())
