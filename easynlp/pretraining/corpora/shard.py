"""One shard's way through the filters: what a worker process does.

A shard passes twice. `sift` cleans and judges it by itself and leaves, in a folder of its own,
the text that passed with the hashes and sketches of it; then all shards' hashes are compared
(`duplicates`); `keep` writes what is left. Both end by renaming something into place, so a
shard is there whole or not at all, and what is there is not done again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zstandard

from easynlp.atomic import write_folder, write_json
from easynlp.pretraining.corpora.cleaning import clean_paragraphs
from easynlp.pretraining.corpora.minhash import BINS, sketches
from easynlp.pretraining.corpora.quality import (
    PARAGRAPH_REASONS,
    judge_paragraphs,
    repeated_lines,
)
from easynlp.pretraining.corpora.reading import Shard
from easynlp.pretraining.corpora.settings import CorpusConfig
from easynlp.pretraining.corpus import Heldout

__all__ = ["REASONS", "Sieve", "Verdict", "keep", "shard_folder", "sift"]

REASONS = (
    *PARAGRAPH_REASONS, "repeated lines", "held-out", "short document",
    "duplicate document", "near-duplicate document", "duplicate paragraph",
)  # fmt: skip
"""All reasons to leave out, in the order they are asked."""
_BATCH = 1 << 18
"""Characters judged at a time."""
Counts = dict[str, list[int]]
"""Reason, ``in`` or ``out`` to documents, paragraphs and characters."""


@dataclass(frozen=True)
class Sieve:
    """What every worker knows."""

    config: CorpusConfig
    heldout: Heldout | None
    work: Path


@dataclass
class _Kept:
    """What has passed, of many batches."""

    texts: list[str] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, **arrays: np.ndarray) -> None:
        for name, array in arrays.items():
            self.arrays.setdefault(name, []).append(array)


@dataclass(frozen=True)
class Verdict:
    """Which of a shard's documents and paragraphs are left out for being duplicates.

    Attributes:
        number: The shard.
        name: File to write.
        documents: 0, or 1 + the place in `REASONS` of the reason, shape (documents,).
        paragraphs: The same for the paragraphs of all of them.
    """

    number: int
    name: Path
    documents: np.ndarray
    paragraphs: np.ndarray


def shard_folder(work: Path, number: int) -> Path:
    """Return where `sift` puts a shard."""
    return work / f"{number:06d}"


def sift(sieve: Sieve, shard: Shard) -> int:
    """Clean and judge a shard; return its number. Nothing is done if it is there already."""
    folder = shard_folder(sieve.work, shard.number)
    if folder.is_dir():
        return shard.number
    counts: Counts = {name: [0, 0, 0] for name in ("in", "cleaned", *REASONS)}
    leaks: dict[int, int] = {}
    kept = _Kept()
    for batch in _batches(shard.documents):
        _sift(batch, sieve, counts, leaks, kept)
    empty = {
        "document_hash": np.empty(0, np.uint64), "sketch": np.empty((0, BINS), np.uint8),
        "paragraphs": np.empty(0, np.int64), "paragraph_hash": np.empty(0, np.uint64),
        "characters": np.empty(0, np.int64),
    }  # fmt: skip

    def fill(target: Path) -> None:
        data = "".join(kept.texts).encode("utf-8")
        (target / "text.zst").write_bytes(zstandard.ZstdCompressor(1).compress(data))
        for name, array in empty.items():
            np.save(target / f"{name}.npy", np.concatenate([array, *kept.arrays.get(name, [])]))
        size = sum(len(p.encode("utf-8", "surrogatepass")) for d in shard.documents for p in d)
        about = {"source": shard.source, "name": shard.name, "counts": counts, "leaks": leaks,
                 "bytes": size}  # fmt: skip
        (target / "about.json").write_text(json.dumps(about), encoding="utf-8")

    write_folder(folder, fill)
    return shard.number


def _batches(documents: Sequence[list[str]]) -> Iterator[list[list[str]]]:
    batch: list[list[str]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, document))
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _sift(
    batch: list[list[str]], sieve: Sieve, counts: Counts, leaks: dict[int, int], kept: _Kept
) -> None:
    config = sieve.config
    raw = [paragraph for document in batch for paragraph in document]
    owner = np.repeat(np.arange(len(batch)), [len(document) for document in batch])
    texts = clean_paragraphs(raw, nfkc=config.nfkc)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    counts["in"] = _plus(counts["in"], [len(batch), len(raw), sum(map(len, raw))])
    changed = [len(a) - len(b) for a, b in zip(raw, texts, strict=True) if a != b]
    counts["cleaned"] = _plus(counts["cleaned"], [0, len(changed), sum(changed)])
    alive = np.ones(len(texts), bool)

    def leave_out(which: np.ndarray, reason: str) -> None:
        nonlocal alive
        after = alive & ~which
        documents = len(np.unique(owner[alive])) - len(np.unique(owner[after]))
        gone = alive & which
        counts[reason] = _plus(
            counts[reason], [documents, int(gone.sum()), int(lengths[gone].sum())]
        )
        alive = after

    reasons = judge_paragraphs(texts, config)
    for number, reason in enumerate(PARAGRAPH_REASONS, 1):
        leave_out(reasons == number, reason)
    hashes = np.zeros(len(texts), np.uint64)
    hashes[alive] = [_hash(texts[i]) for i in np.flatnonzero(alive)]
    share = repeated_lines(hashes[alive], owner[alive], len(batch))
    leave_out(share[owner] > config.max_repeated_lines, "repeated lines")
    if sieve.heldout is not None:
        places = np.flatnonzero(alive)
        shown = np.full(len(texts), -1)
        shown[places] = sieve.heldout.shown([texts[i] for i in places])
        for file in shown[shown >= 0].tolist():
            leaks[file] = leaks.get(file, 0) + 1
        leave_out(shown >= 0, "held-out")
    whole = np.bincount(owner[alive], lengths[alive], len(batch))
    leave_out(whole[owner] < config.min_document, "short document")
    _keep(texts, owner, hashes, alive, kept)


def _keep(
    texts: list[str], owner: np.ndarray, hashes: np.ndarray, alive: np.ndarray, kept: _Kept
) -> None:
    places = np.flatnonzero(alive)
    if not len(places):
        return
    _, firsts, sizes = np.unique(owner[places], return_index=True, return_counts=True)
    documents = [
        [texts[i] for i in places[first : first + size]]
        for first, size in zip(firsts, sizes, strict=True)
    ]
    joined = ["\n".join(document) for document in documents]
    kept.texts += [text + "\n\n" for text in joined]
    kept.add(
        document_hash=np.array([_hash(text) for text in joined], np.uint64),
        sketch=sketches(joined),
        paragraphs=sizes.astype(np.int64),
        paragraph_hash=hashes[places],
        characters=np.array([len(texts[i]) for i in places], np.int64),
    )


def keep(sieve: Sieve, verdict: Verdict) -> Counts:
    """Write the text of a shard that is not left out; return the counts of what is."""
    folder = shard_folder(sieve.work, verdict.number)
    done = folder / "kept.json"
    if done.is_file():
        found: Counts = json.loads(done.read_text(encoding="utf-8"))
        return found
    sizes = np.load(folder / "paragraphs.npy")
    characters = np.load(folder / "characters.npy")
    owner = np.repeat(np.arange(len(sizes)), sizes)
    why = np.where(verdict.documents[owner] > 0, verdict.documents[owner], verdict.paragraphs)
    counts: Counts = {}
    alive = np.ones(len(owner), bool)
    for reason in REASONS[-3:]:
        gone = why == REASONS.index(reason) + 1
        documents = len(np.unique(owner[alive])) - len(np.unique(owner[alive & ~gone]))
        alive &= ~gone
        counts[reason] = [documents, int(gone.sum()), int(characters[gone].sum())]
    counts["out"] = [
        len(np.unique(owner[alive])), int(alive.sum()), int(characters[alive].sum())
    ]  # fmt: skip
    if alive.any():
        data = zstandard.ZstdDecompressor().decompress((folder / "text.zst").read_bytes())
        lines = [line for line in data.decode("utf-8").split("\n") if line]
        kept = np.flatnonzero(alive)
        begins = np.diff(owner[kept], prepend=owner[kept[0]]) > 0
        text = "".join(
            ("\n" if begin else "") + lines[i] + "\n"
            for i, begin in zip(kept.tolist(), begins, strict=True)
        )
        temporary = folder / "kept.zst"
        with temporary.open("wb") as file:
            file.write(zstandard.ZstdCompressor(6).compress(text.encode("utf-8")))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(verdict.name)
    write_json(done, counts)
    return counts


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _plus(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
