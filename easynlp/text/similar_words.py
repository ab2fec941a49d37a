"""A table of similar words, for masking by replacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from easynlp.errors import DataError
from easynlp.text.tokenizer import Tokenizer

__all__ = ["SimilarWords"]


class SimilarWords:
    """Words to similar words of as many tokens, looked up by token ids.

    A replacement of another length would move every token behind it, so it is left out, and so is
    one with an unknown token.

    Args:
        table: Words to similar words.
        tokenizer: Cuts both into tokens.
    """

    def __init__(self, table: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> None:
        unknown = tokenizer.id_of("[UNK]")
        names = list(dict.fromkeys([*table, *(each for found in table.values() for each in found)]))
        cut = tokenizer.backend.encode_batch(names, add_special_tokens=False)
        ids = {
            name: np.asarray(item.ids, np.int32)
            for name, item in zip(names, cut, strict=True)
            if item.ids and unknown not in item.ids
        }
        self._table: dict[bytes, np.ndarray] = {}
        for word, found in table.items():
            if word not in ids:
                continue
            fitting = [
                ids[each]
                for each in found
                if each in ids
                and len(ids[each]) == len(ids[word])
                and not np.array_equal(ids[each], ids[word])
            ]
            if fitting:
                self._table[_key(ids[word])] = np.stack(fitting)

    @classmethod
    def read(cls, path: str | Path, tokenizer: Tokenizer) -> SimilarWords:
        """Read a UTF-8 file with a line ``word<TAB>similar,similar`` each.

        Raises:
            DataError: If the file cannot be read, a line has no tab or names no similar word, or
                no word has a similar one of as many tokens.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read similar words: {error}", path=str(path)) from error
        table: dict[str, list[str]] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            word, tab, rest = line.partition("\t")
            found = [each.strip() for each in rest.split(",") if each.strip()]
            if not tab or not word.strip() or not found:
                raise DataError(
                    f'"{line[:40]}" is no line of similar words',
                    path=str(path), line=number, hint="write word<TAB>similar,similar",
                )  # fmt: skip
            table.setdefault(word.strip(), []).extend(found)
        made = cls(table, tokenizer)
        if not len(made):
            raise DataError("no word has a similar one of as many tokens", path=str(path))
        return made

    def __len__(self) -> int:
        return len(self._table)

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return the ids of a similar word drawn at random, or None if there is none."""
        found = self._table.get(_key(ids))
        return None if found is None else found[int(rng.integers(len(found)))]


def _key(ids: np.ndarray) -> bytes:
    return np.asarray(ids, np.int32).tobytes()
