"""Texts to ids, the same way with and without torch: Hugging Face `tokenizers` underneath.

A run folder holds ``tokenizer.json``; training, evaluation, prediction, export and the
server all read it through `Tokenizer`, so there is no second preprocessing. What BERT's WordPiece
does is done by `FastWordPiece`, to the same ids and offsets; everything else by the library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from easynlp.errors import ModelError
from easynlp.text.encoded import Encoded
from easynlp.text.fast_check import agrees
from easynlp.text.fast_wordpiece import FastWordPiece
from easynlp.text.special_layout import longest_first

__all__ = ["SPACE", "Encoded", "Tokenizer"]

MAX_CHARS = 20_000
"""A text is cut to ``max(MAX_CHARS, 16 * max_length)`` characters before tokenizing: nothing
after that can reach the model, and a hostile text then costs no more than a long one."""
SPACE = "▁"
"""What SentencePiece writes for a space."""
_CHECKING = Lock()


class Tokenizer:
    """Encode texts and pairs with special tokens, truncated from the right.

    Args:
        backend: A Hugging Face ``tokenizers.Tokenizer`` with its post-processor set. It is not to
            be changed afterwards: what was learned of it would be wrong.
        fast: Whether `FastWordPiece` may take the library's place. It does so only for the
            settings it knows, and after it has answered as the library does on probe texts.

    Example:
        >>> tokenizer = Tokenizer.load("runs/x")                      # doctest: +SKIP
        >>> tokenizer.encode("很好", max_length=16).ids               # doctest: +SKIP
        array([2, 871, 534, 3], dtype=int32)
    """

    def __init__(self, backend: Backend, *, fast: bool = True) -> None:
        self.backend = backend
        backend.no_padding()
        backend.no_truncation()
        self._max_length: int | None = None
        self.pad_id = self._special("[PAD]", "<pad>")
        self.mask_id = self._special("[MASK]", "<mask>", required=False)
        self.unk_id = self._special("[UNK]", "<unk>", required=False)
        self._may_be_fast = fast

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read ``tokenizer.json`` of a model folder, or how it hashes n-grams.

        Raises:
            ModelError: If the file is missing or is not a tokenizer.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            from easynlp.text import hashed_ngrams

            if (Path(folder) / hashed_ngrams.FILE).is_file():
                return hashed_ngrams.HashedNgrams.load(folder)
            raise ModelError(f"{folder} has no tokenizer.json: not a model folder?")
        try:
            return cls(Backend.from_file(str(path)))
        except ModelError:
            raise
        except Exception as error:  # the Rust library raises bare Exception
            raise ModelError(f"{path} is not a tokenizer: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json`` into a folder, without padding or truncation set."""
        self._set_truncation(None)
        self.backend.save(str(Path(folder) / "tokenizer.json"))

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that decides which ids a text gets."""
        self._set_truncation(None)
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    @cached_property
    def fast(self) -> FastWordPiece | None:
        """What takes the library's place, made and checked when it is first asked for; or None."""
        # It takes some 40 ms, which who only reads a vocabulary does not wait for. Checking sets
        # the library's truncation, so that no second thread may begin meanwhile.
        with _CHECKING:
            if "fast" not in self.__dict__:
                self.__dict__["fast"] = self._checked() if self._may_be_fast else None
            found: FastWordPiece | None = self.__dict__["fast"]
            return found

    def _checked(self) -> FastWordPiece | None:
        found = FastWordPiece.of(self.backend)
        right = found is not None and agrees(found, self.by_library, [*found.added])
        self._set_truncation(None)
        return found if right else None

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.backend.get_vocab_size()

    def tokens(self) -> list[str]:
        """Return every id's token; an id without one is empty."""
        return [self.backend.id_to_token(i) or "" for i in range(self.vocab_size)]

    def id_of(self, token: str) -> int | None:
        """Return a token's id, or None."""
        return self.backend.token_to_id(token)

    def pieces(self, texts: Sequence[str]) -> list[Encoding]:
        """Cut whole texts into tokens: nothing is truncated, no special tokens are added."""
        self._set_truncation(None)
        found: list[Encoding] = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return found

    @cached_property
    def begins_with_space(self) -> bool:
        """Whether a text's first token carries a space that the text does not have (``▁``).

        SentencePiece tokenizers do so; in the vocabulary of another one ``▁`` is a character.
        """
        tokens = self.backend.encode("好", add_special_tokens=False).tokens
        return bool(tokens) and tokens[0].startswith(SPACE)

    def word_ids(self, word: str, *, after_space: bool = True) -> list[int]:
        """Return the ids of a word as it stands in a text, without special tokens.

        Args:
            word: One or more characters.
            after_space: False: directly behind another character, as Chinese words do; it makes a
                difference only where `begins_with_space`, and special tokens are not read then.

        Example:
            >>> tokenizer.tokens()[tokenizer.word_ids("好", after_space=False)[0]]
            ...                                                       # doctest: +SKIP
            '好'
        """
        backend = self.backend
        if after_space or not self.begins_with_space:
            return list(backend.encode(word, add_special_tokens=False).ids)
        normal = backend.normalizer.normalize_str(word) if backend.normalizer else word
        inner = normal.lstrip(f" {SPACE}").replace(" ", SPACE)
        return [token.id for token in backend.model.tokenize(inner)] if inner else []

    def without_spaces(self, ids: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids without the spaces that the tokenizer put behind special tokens.

        Where `begins_with_space`, every stretch of text between special tokens begins with one,
        which a language model never saw inside a sentence: a lone one is dropped, and ``▁我``
        becomes ``我``. Latin words keep theirs.

        Args:
            ids: Shape (tokens,).
            after: Ids of the special tokens.

        Returns:
            The ids that are left, and which of the tokens given they are, bool (tokens,).
        """
        if not self.begins_with_space:
            return ids, np.ones(len(ids), bool)
        behind = np.append(False, np.isin(ids[:-1], after))
        ids = np.where(behind, self._bare[ids], ids).astype(ids.dtype)
        return ids[ids >= 0], ids >= 0

    @cached_property
    def _bare(self) -> np.ndarray:
        """Each id's id without the space it begins with, itself if there is none; -1: a space."""
        found = np.arange(self.vocab_size)
        for number, name in enumerate(self.tokens()):
            rest = name.removeprefix(SPACE)
            if name == SPACE:
                found[number] = -1
            elif rest != name and not rest[0].isascii():
                bare = self.id_of(rest)
                found[number] = number if bare is None else bare
        return found

    def encode(
        self, text: str, pair: str | None = None, *, max_length: int, offsets: bool = False
    ) -> Encoded:
        """Encode a text, or a pair whose longer member is cut first.

        Args:
            text: Raw text; may be empty.
            pair: Second text of a pair.
            max_length: Most ids to return, special tokens included.
            offsets: Also return character offsets into `text` ((0, 0) at special tokens).
        """
        fast = None if offsets or len(text) > MAX_CHARS else self.fast
        if fast is not None and (pair is None or len(pair) <= MAX_CHARS):
            found = fast.encode(text, pair, max_length)
            if found is not None:
                return found
        return self.encode_batch([text if pair is None else (text, pair)], max_length, offsets)[0]

    def encode_batch(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]] | Sequence[str | tuple[str, str]],
        max_length: int,
        offsets: bool = False,
    ) -> list[Encoded]:
        """Encode many texts or pairs; see `encode`."""
        limit = max(MAX_CHARS, 16 * max_length)
        cut = [_cut(text, limit) for text in texts]
        found = self.fast and self.fast.encode_batch([text for text, _ in cut], max_length, offsets)
        if not found:
            found = self.by_library([text for text, _ in cut], max_length, offsets)
        return [
            item._replace(truncated=True) if was_cut else item
            for item, (_, was_cut) in zip(found, cut, strict=True)
        ]

    def by_library(
        self, texts: Sequence[str | tuple[str, str]], max_length: int, offsets: bool = False
    ) -> list[Encoded]:
        """Encode many texts or pairs without the fast path; for tests and comparisons."""
        self._set_truncation(max_length)
        found: list[Encoding | None] = [self._long_pair(text, max_length) for text in texts]
        run = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        rest = iter(run([text for text, row in zip(texts, found, strict=True) if row is None]))
        return [
            Encoded(
                np.asarray(item.ids, np.int32),
                np.asarray(item.type_ids, np.int32),
                bool(item.overflowing),
                np.asarray(item.offsets, np.int32).reshape(-1, 2) if offsets else None,
            )
            for item in (next(rest) if row is None else row for row in found)
        ]

    def _long_pair(self, text: str | tuple[str, str], max_length: int) -> Encoding | None:
        """Encode a pair of which a member is longer than `max_length`; None: it is not one.

        The library keeps all that truncation takes away in pieces, and of a pair it combines
        every piece of the one with every piece of the other: two texts of 10,000 characters
        would take half a minute and gigabytes. So members are cut before they are joined.
        """
        room = max_length - self.backend.num_special_tokens_to_add(True)
        if isinstance(text, str) or max(map(len, text)) <= max_length or room < 2:
            return None
        heads = [self.backend.encode(member, add_special_tokens=False) for member in text]
        if not any(head.overflowing for head in heads):
            return None
        first, second = (len(head) + sum(map(len, head.overflowing)) for head in heads)
        for head, keep in zip(heads, longest_first(first, second, room), strict=True):
            head.truncate(keep)
        found: Encoding = self.backend.post_process(heads[0], heads[1])
        return found

    def _set_truncation(self, max_length: int | None) -> None:
        if max_length == self._max_length:
            return
        if max_length is None:
            self.backend.no_truncation()
        else:
            self.backend.enable_truncation(max_length, strategy="longest_first")
        self._max_length = max_length

    def _special(self, *names: str, required: bool = True) -> int:
        for name in names:
            found = self.backend.token_to_id(name)
            if found is not None:
                return found
        if required:
            raise ModelError(f"the tokenizer has none of the special tokens {', '.join(names)}")
        return -1


def _cut(text: str | tuple[str, str], limit: int) -> tuple[str | tuple[str, str], bool]:
    if isinstance(text, str):
        return (text, False) if len(text) <= limit else (text[:limit], True)
    first, second = text
    if len(first) <= limit and len(second) <= limit:
        return text, False
    return (first[:limit], second[:limit]), True
