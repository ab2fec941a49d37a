"""Full rows of tokens on disk, and the masks drawn on them at every read.

Documents are tokenized once, joined with ``[SEP]`` and cut into rows of equal length, so
nothing is ever padded. A row is an array of uint32 in a memory-mapped file: the id, with the
highest bit set where the token continues the word of the token before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easynlp.atomic import write_json
from easynlp.errors import DataError, RunError
from easynlp.pretraining.corpus import Heldout, documents
from easynlp.tasks.base import Features
from easynlp.tasks.language_modeling import LanguageModeling, token_words
from easynlp.text.tokenizer import Tokenizer

__all__ = ["CONTINUES", "MaskedRows", "PackStats", "clean", "pack"]

CONTINUES = np.uint32(1 << 31)
BATCH = 1024


@dataclass(frozen=True)
class PackStats:
    """What packing read and wrote."""

    files: int
    documents: int
    paragraphs: int
    refused: int
    """Paragraphs left out because they show a held-out text."""
    characters: int
    tokens: int
    unknown: int
    """Tokens that are ``[UNK]``."""
    rows: int


def pack(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    row_length: int,
    heldout: Heldout | None = None,
    progress: Callable[[str], None] | None = None,
) -> PackStats:
    """Tokenize corpus files into ``rows.bin`` and ``rows.json``; keep them if already there.

    Args:
        files: Corpus files, read in order.
        tokenizer: Its special tokens ``[CLS]`` and ``[SEP]`` frame every row.
        folder: Where to write.
        row_length: Tokens of a row, special tokens included.
        heldout: Paragraphs that show one of these texts are left out and counted.
        progress: Called with a line of text after each file.

    Raises:
        DataError: If the corpus is too small to fill one row.
        RunError: If the disk refuses.
    """
    key = _fingerprint(files, tokenizer, row_length, heldout)
    manifest = folder / "rows.json"
    if manifest.is_file():
        saved = json.loads(manifest.read_text(encoding="utf-8"))
        if saved.pop("fingerprint") == key:
            return PackStats(**saved)
    folder.mkdir(parents=True, exist_ok=True)
    cls, sep = frame_ids(tokenizer)
    unknown_id = tokenizer.id_of("[UNK]")
    counts = dict.fromkeys(("documents", "paragraphs", "refused", "characters", "tokens"), 0)
    unknown = rows = 0
    body = row_length - 2
    left = np.empty(0, np.uint32)
    temporary = folder / "rows.bin.tmp"
    try:
        with temporary.open("wb") as out:
            for file in files:
                for pieces in _tokenized(file, tokenizer, sep, heldout, counts):
                    unknown += int(np.count_nonzero((pieces & ~CONTINUES) == unknown_id))
                    counts["tokens"] += len(pieces)
                    left = np.concatenate([left, pieces])
                    full = len(left) // body
                    block = np.empty((full, row_length), np.uint32)
                    block[:, 0], block[:, -1] = cls, sep
                    block[:, 1:-1] = left[: full * body].reshape(full, body)
                    block[:, 1] &= ~CONTINUES  # a word cut by the row's edge starts anew
                    out.write(block.tobytes())
                    rows, left = rows + full, left[full * body :]
                if progress is not None:
                    progress(f"{file.name}: {counts['tokens']:,} tokens so far")
        temporary.replace(folder / "rows.bin")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {temporary}: {error.strerror}") from error
    if rows == 0:
        raise DataError(f"the corpus holds {counts['tokens']} tokens, not enough for one row")
    stats = PackStats(files=len(files), unknown=unknown, rows=rows, **counts)
    write_json(manifest, {"fingerprint": key, **vars(stats)})
    return stats


class MaskedRows:
    """Packed rows as a training source: masks are a function of (seed, epoch, row).

    Args:
        folder: Where `pack` wrote.
        task: Hides the words.
        row_length: Tokens of a row.
        max_positions: Positions the model has. Half of the rows start at a random position, so
            that all of them are trained although rows are shorter (SHAPE, Kiyono et al. 2021).
        seed: Seed of masks and shifts.
        rows: Use only these row numbers.
    """

    def __init__(
        self,
        folder: Path,
        task: LanguageModeling,
        *,
        row_length: int,
        max_positions: int,
        seed: int,
        rows: np.ndarray | None = None,
    ) -> None:
        self.data = np.memmap(folder / "rows.bin", np.uint32, "r").reshape(-1, row_length)
        self.rows = np.arange(len(self.data)) if rows is None else rows
        self.task, self.seed = task, seed
        self.slack = max(0, max_positions - row_length)
        self.lengths = np.full(len(self.rows), row_length, np.int32)
        self._documents: np.ndarray | None = None

    def features(self, index: int, epoch: int) -> Features:
        """Return row `index` with the masks of `epoch`."""
        number = int(self.rows[index])
        rng = np.random.default_rng((self.seed, epoch, number))
        ids, words = self._row(number)
        pair = getattr(self.task, "pair", None)  # sop and nsp make two segments of a row
        if pair is None:
            features = self.task.hide(ids, words, rng)
        else:
            features = pair(ids, words, rng, lambda draw: self._elsewhere(number, draw))
        if self.slack:
            features["shift"] = int(rng.integers(self.slack + 1)) if rng.random() < 0.5 else 0
        return features

    def _row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row's ids and word numbers, -1 at special tokens."""
        row = np.asarray(self.data[number])
        ids = (row & ~CONTINUES).astype(np.int32)
        words = np.cumsum((row & CONTINUES) == 0).astype(np.int32)
        words[np.isin(ids, self.task.special)] = -1
        return ids, words

    def _elsewhere(
        self, number: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a random row of other documents than a row's, None if none is found."""
        if self._documents is None:
            _, ends = frame_ids(self.task.tokenizer)
            inside = [
                ((self.data[i : i + 4096, 1:-1] & ~CONTINUES) == ends).sum(1)
                for i in range(0, len(self.data), 4096)
            ]
            # Documents that have ended before each row.
            self._documents = np.concatenate([[0], np.cumsum(np.concatenate(inside))])
        first, last = self._documents[number], self._documents[number + 1]
        for _ in range(20):
            chosen = int(self.rows[int(rng.integers(len(self.rows)))])
            if self._documents[chosen] > last or self._documents[chosen + 1] < first:
                return self._row(chosen)
        return None


def _tokenized(
    file: Path,
    tokenizer: Tokenizer,
    sep: int,
    heldout: Heldout | None,
    counts: dict[str, int],
) -> Iterator[np.ndarray]:
    """Yield runs of tokens with their continuation bits, a ``[SEP]`` after each document."""
    special = np.array(frame_ids(tokenizer))
    batch: list[str] = []
    ends: list[bool] = []

    def flush() -> np.ndarray:
        parts: list[np.ndarray] = []
        encoded = tokenizer.encode_batch(batch, 1 << 20, offsets=True)
        for text, item, end in zip(batch, encoded, ends, strict=True):
            assert item.offsets is not None
            words = token_words(text, item.ids, item.offsets, special)
            inside = words >= 0
            ids, words = item.ids[inside].astype(np.uint32), words[inside]
            ids[1:][words[1:] == words[:-1]] |= CONTINUES
            parts.append(ids)
            if end:
                parts.append(np.array([sep], np.uint32))
        batch.clear()
        ends.clear()
        return np.concatenate(parts)

    for paragraphs in clean(documents(file), heldout, counts):
        batch += paragraphs
        ends += [False] * (len(paragraphs) - 1) + [True]
        if len(batch) >= BATCH:
            yield flush()
    if batch:
        yield flush()


def clean(
    found: Iterable[list[str]], heldout: Heldout | None, counts: dict[str, int]
) -> Iterator[list[str]]:
    """Yield documents without paragraphs that show a held-out text; keep count."""
    for document in found:
        kept = [p for p in document if heldout is None or not heldout.shows(p)]
        counts["refused"] += len(document) - len(kept)
        if kept:
            counts["documents"] += 1
            counts["paragraphs"] += len(kept)
            counts["characters"] += sum(map(len, kept))
            yield kept


def frame_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """Return the ids of the tokens a row begins and ends with: ``[CLS]`` and ``[SEP]`` or alike.

    Raises:
        DataError: If the tokenizer has none.
    """
    for names in (("[CLS]", "[SEP]"), ("<s>", "</s>")):
        first, last = map(tokenizer.id_of, names)
        if first is not None and last is not None:
            return first, last
    raise DataError("the tokenizer has no [CLS] and [SEP], and no <s> and </s>, to frame rows with")


def _fingerprint(
    files: Sequence[Path], tokenizer: Tokenizer, row_length: int, heldout: Heldout | None
) -> str:
    digest = hashlib.sha256(f"2 {row_length} {heldout is not None}".encode())
    digest.update(tokenizer.fingerprint().encode())
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    if heldout is not None:
        digest.update(heldout.fingerprint().encode())
    return digest.hexdigest()
