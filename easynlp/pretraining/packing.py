"""Text to full rows of tokens on disk, file by file, in several processes; resumable.

Documents are tokenized once, joined with ``[SEP]`` and cut into rows of equal length, so
nothing is ever padded. A row is an array of uint32 in a memory-mapped file: the id, with the
highest bit set where the token continues the word of the token before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easynlp.atomic import write_json
from easynlp.errors import DataError, RunError
from easynlp.pretraining.corpora.parallel import spread
from easynlp.pretraining.corpus import Heldout, documents
from easynlp.text.segment import continues, word_lengths
from easynlp.text.tokenizer import Encoded, Tokenizer

__all__ = ["CONTINUES", "PackStats", "clean", "frame_ids", "pack"]

CONTINUES = np.uint32(1 << 31)
BATCH = 1024
BLOCK = 1 << 20
"""Tokens read back at a time."""


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
    workers: int = 1,
) -> PackStats:
    """Tokenize corpus files into ``rows.bin`` and ``rows.json``; keep them if already there.

    Files are tokenized one by one into parts, which are kept if the work is cut short and joined
    at the end: the rows do not depend on `workers`. Of a folder that ``easynlp corpus build``
    wrote, its own rows are taken (linked, not copied) if tokenizer and length are the same.

    Args:
        files: Corpus files, read in order.
        tokenizer: Its special tokens ``[CLS]`` and ``[SEP]`` frame every row.
        folder: Where to write.
        row_length: Tokens of a row, special tokens included.
        heldout: Paragraphs that show one of these texts are left out and counted.
        progress: Called with a line of text after each file.
        workers: Processes, each at a file of its own.

    Raises:
        DataError: If the corpus is too small to fill one row.
        RunError: If the disk refuses.
    """
    key = _fingerprint(files, tokenizer, row_length, heldout)
    manifest = folder / "rows.json"
    if (stats := _saved(manifest, key)) is not None:
        return stats
    frame = frame_ids(tokenizer)
    parts = folder / f"parts-{key[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stats = _ready_made(files, tokenizer, row_length, heldout, folder)
        if stats is None:
            for old in folder.glob("parts-*"):
                if old != parts:
                    shutil.rmtree(old)
            parts.mkdir(exist_ok=True)
            counts = _tokenize(
                files, _Packing(tokenizer, frame[1], heldout, parts), progress, workers
            )
            rows = _join(parts, len(files), folder / "rows.bin", frame, row_length)
            stats = PackStats(files=len(files), rows=rows, **counts)
        if stats.rows == 0:
            raise DataError(f"the corpus holds {stats.tokens} tokens, not enough for one row")
        write_json(manifest, {"fingerprint": key, **vars(stats)})
        shutil.rmtree(parts, ignore_errors=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}") from error
    return stats


@dataclass(frozen=True)
class _Packing:
    """What every process that tokenizes knows."""

    tokenizer: Tokenizer
    sep: int
    heldout: Heldout | None
    parts: Path


def _saved(manifest: Path, key: str) -> PackStats | None:
    if manifest.is_file():
        saved = json.loads(manifest.read_text(encoding="utf-8"))
        if saved.pop("fingerprint") == key:
            return PackStats(**saved)
    return None


def _ready_made(
    files: Sequence[Path],
    tokenizer: Tokenizer,
    row_length: int,
    heldout: Heldout | None,
    folder: Path,
) -> PackStats | None:
    """Link the rows that came with a built corpus into `folder`, if they are the same.

    A corpus built without these held-out texts needs no second look for them.
    """
    home = files[0].parent.parent
    report = home / "corpus.json"
    if files[0].parent.name != "text" or not report.is_file():
        return None
    if heldout is not None:
        checked = json.loads(report.read_text(encoding="utf-8"))["heldout_fingerprint"]
        if checked != heldout.fingerprint():
            return None
    key = _fingerprint(files, tokenizer, row_length, None)
    stats = _saved(home / "tokens" / "rows.json", key)
    if stats is None:
        return None
    source, temporary = home / "tokens" / "rows.bin", folder / "rows.bin.tmp"
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # another disk, or one without links
        temporary.symlink_to(source.resolve())
    temporary.replace(folder / "rows.bin")
    return stats


def _tokenize(
    files: Sequence[Path],
    packing: _Packing,
    progress: Callable[[str], None] | None,
    workers: int,
) -> dict[str, int]:
    """Write the parts of all files that are not there; return the sum of their counts."""
    names = ("documents", "paragraphs", "refused", "characters", "tokens", "unknown")
    total = dict.fromkeys(names, 0)
    found = spread(_tokenize_file, packing, list(enumerate(files)), min(workers, len(files)))
    for file, counts in zip(files, found, strict=True):
        total = {name: total[name] + counts[name] for name in names}
        if progress is not None:
            progress(f"{file.name}: {total['tokens']:,} tokens so far")
    return total


def _tokenize_file(packing: _Packing, item: tuple[int, Path]) -> dict[str, int]:
    """Write the tokens of a file as a part, whole or not at all; return its counts."""
    number, file = item
    part, done = packing.parts / f"{number}.bin", packing.parts / f"{number}.json"
    if done.is_file():
        kept: dict[str, int] = json.loads(done.read_text(encoding="utf-8"))
        return kept
    names = ("documents", "paragraphs", "refused", "characters", "tokens", "unknown")
    counts = dict.fromkeys(names, 0)
    unknown = packing.tokenizer.unk_id
    with part.open("wb") as out:
        for pieces in _tokenized(file, packing.tokenizer, packing.sep, packing.heldout, counts):
            counts["unknown"] += int(np.count_nonzero((pieces & ~CONTINUES) == unknown))
            counts["tokens"] += len(pieces)
            out.write(pieces.tobytes())
    write_json(done, counts)
    return counts


def _join(parts: Path, count: int, path: Path, frame: tuple[int, int], row_length: int) -> int:
    """Cut the parts, one after another, into rows between ``[CLS]`` and ``[SEP]``; count them."""
    rows, body = 0, row_length - 2
    left = np.empty(0, np.uint32)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as out:
        for number in range(count):
            with (parts / f"{number}.bin").open("rb") as part:
                while len(pieces := np.fromfile(part, np.uint32, BLOCK)):
                    left = np.concatenate([left, pieces])
                    full = len(left) // body
                    block = np.empty((full, row_length), np.uint32)
                    block[:, 0], block[:, -1] = frame
                    block[:, 1:-1] = left[: full * body].reshape(full, body)
                    block[:, 1] &= ~CONTINUES  # a word cut by the row's edge starts anew
                    out.write(block.tobytes())
                    rows, left = rows + full, left[full * body :]
    temporary.replace(path)
    return rows


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
        encoded = tokenizer.encode_batch(batch, 1 << 20, offsets=True)
        sizes = np.fromiter(map(len, batch), np.int64, len(batch))
        stop = np.cumsum(sizes)
        of_char = np.repeat(*_numbered([n for text in batch for n in word_lengths(text)]))
        ids = np.concatenate([item.ids for item in encoded]).astype(np.uint32)
        text = np.repeat(np.arange(len(batch)), [len(item.ids) for item in encoded])
        spans = np.concatenate([_spans(item) for item in encoded]) + (stop - sizes)[text, None]
        inside = ~np.isin(ids, special)
        ids, text, spans = ids[inside], text[inside], spans[inside]
        first = np.minimum(spans[:, 0], stop[text] - 1)  # characters, numbered through all texts
        last = np.clip(spans[:, 1] - 1, first, stop[text] - 1)
        ids[continues(of_char[first], of_char[last])] |= CONTINUES
        joined = np.insert(ids, np.searchsorted(text, np.flatnonzero(ends), side="right"), sep)
        batch.clear()
        ends.clear()
        return joined

    for paragraphs in clean(documents(file), heldout, counts):
        batch += paragraphs
        ends += [False] * (len(paragraphs) - 1) + [True]
        if len(batch) >= BATCH:
            yield flush()
    if batch:
        yield flush()


def _numbered(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(len(lengths), dtype=np.int32), np.array(lengths, np.int64)


def _spans(item: Encoded) -> np.ndarray:
    assert item.offsets is not None
    return item.offsets


def clean(
    found: Iterable[list[str]], heldout: Heldout | None, counts: dict[str, int]
) -> Iterator[list[str]]:
    """Yield documents without paragraphs that show a held-out text; keep count."""
    for document, kept in _without(found, heldout):
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


def _without(
    found: Iterable[list[str]], heldout: Heldout | None
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield documents and what is left of each; judged many at a time, which is faster."""
    batch: list[list[str]] = []
    size = 0

    def flush() -> Iterator[tuple[list[str], list[str]]]:
        assert heldout is not None
        shown = iter(heldout.shown([p for document in batch for p in document]).tolist())
        for document in batch:
            yield document, [p for p in document if next(shown) < 0]

    for document in found:
        if heldout is None:
            yield document, document
            continue
        batch.append(document)
        size += sum(map(len, document))
        if size >= BLOCK // 4:
            yield from flush()
            batch, size = [], 0
    if batch:
        yield from flush()


def _fingerprint(
    files: Sequence[Path], tokenizer: Tokenizer, row_length: int, heldout: Heldout | None
) -> str:
    digest = hashlib.sha256(f"2 {row_length} {heldout is not None}".encode())
    digest.update(tokenizer.fingerprint().encode())
    for file in files:
        with file.open("rb") as content:
            digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    if heldout is not None:
        digest.update(heldout.fingerprint().encode())
    return digest.hexdigest()
