"""A table of similar words, for masking by replacement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from easynlp.errors import DataError
from easynlp.text.tokenizer import Tokenizer

__all__ = ["SimilarWords", "read_similar"]


class SimilarWords:
    """Words to similar words of as many tokens, looked up by token ids.

    A replacement of another length would move every token behind it, so it is left out, and so is
    one with an unknown token. Where a tokenizer puts a space into the first token of a text
    (SentencePiece), a word is found with and without it, and replaced by one that is like it.

    Args:
        table: Words to similar words.
        tokenizer: Cuts both into tokens.
    """

    def __init__(self, table: Mapping[str, Sequence[str]], tokenizer: Tokenizer) -> None:
        names = list(dict.fromkeys([*table, *(each for found in table.values() for each in found)]))
        self._table: dict[bytes, np.ndarray] = {}
        for after_space in (False, True) if tokenizer.begins_with_space else (True,):
            cut = {name: tokenizer.word_ids(name, after_space=after_space) for name in names}
            ids = {
                name: np.asarray(found, np.int32)
                for name, found in cut.items()
                if found and tokenizer.unk_id not in found
            }
            for word, similar in table.items():
                if word in ids and (fitting := _fitting(ids[word], similar, ids)):
                    self._table.setdefault(_key(ids[word]), np.stack(fitting))

    @classmethod
    def read(cls, path: str | Path, tokenizer: Tokenizer) -> SimilarWords:
        """Read a UTF-8 file with a line ``word<TAB>similar,similar`` each.

        Raises:
            DataError: If the file cannot be read, a line has no tab or names no similar word, or
                no word has a similar one of as many tokens.
        """
        made = cls(read_similar(path), tokenizer)
        if not len(made):
            raise DataError("no word has a similar one of as many tokens", path=str(path))
        return made

    def __len__(self) -> int:
        return len(self._table)

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return the ids of a similar word drawn at random, or None if there is none."""
        found = self._table.get(_key(ids))
        return None if found is None else found[int(rng.integers(len(found)))]


def read_similar(path: str | Path) -> dict[str, list[str]]:
    """Read a UTF-8 file with a line ``word<TAB>similar,similar`` each.

    Raises:
        DataError: If it cannot be read or a line is not so.
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
    return table


def _fitting(
    word: np.ndarray, similar: Sequence[str], ids: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Return the ids of those similar words that have as many as a word, and other ones."""
    found = [ids[each] for each in similar if each in ids]
    return [each for each in found if len(each) == len(word) and not np.array_equal(each, word)]


def _key(ids: np.ndarray) -> bytes:
    return np.asarray(ids, np.int32).tobytes()
