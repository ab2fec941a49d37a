"""Short texts to learn from: documents cut at sentence ends into pieces of many lengths.

Packed rows (`rows`) suit masked language modeling, where nothing may be padded. A sentence
vector is of one text, so distilling one needs texts: here they are, from a few characters to a
full row, with the text kept beside the ids, for a teacher with another tokenizer to read.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from easynlp.atomic import write_folder
from easynlp.errors import DataError
from easynlp.pretraining.corpus import Heldout, documents
from easynlp.pretraining.rows import CONTINUES, clean
from easynlp.tasks.base import Features
from easynlp.tasks.language_modeling import LanguageModeling, token_words
from easynlp.text.tokenizer import Tokenizer

__all__ = ["SegmentRows", "Segments", "cut", "encode_segments", "write_segments"]

SHORTEST = 8
"""Characters a piece aims at, at least; a document may be shorter."""
_SENTENCE = re.compile(r"[^。！？!?；;…]*[。！？!?；;…]+[”’」』）)\"']*|[^。！？!?；;…]+")
_BATCH = 4096
_SHIFTED = 0.2


@dataclass(frozen=True)
class Segments(Sequence[str]):
    """Texts in a folder, memory-mapped: one blob and where each text ends in it."""

    folder: Path
    ends: np.ndarray
    blob: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> Segments:
        """Open what `write_segments` wrote."""
        return cls(folder, np.load(folder / "text_ends.npy"),
                   np.memmap(folder / "texts.bin", np.uint8, "r"))  # fmt: skip

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self.ends[index - 1]) if index else 0
        return self.blob[start : int(self.ends[index])].tobytes().decode("utf-8")

    def fingerprint(self) -> str:
        """Return a SHA-256 of all texts."""
        return str(json.loads((self.folder / "segments.json").read_text("utf-8"))["sha256"])


def cut(document: Sequence[str], longest: int, rng: np.random.Generator) -> Iterator[str]:
    """Cut a document at sentence ends into pieces of random length.

    The length aimed at is drawn log-uniformly from 8 to `longest` characters for each piece: a
    piece of one clause is as likely as one of a paragraph. A sentence over `longest` is cut.

    Args:
        document: Its paragraphs.
        longest: Most characters of a piece.
        rng: Source of the lengths.

    Example:
        >>> list(cut(["今天很好。明天呢？"], 100, np.random.default_rng(0)))
        ['今天很好。明天呢？']
    """
    piece = ""
    goal = _goal(longest, rng)
    for paragraph in document:
        for sentence in _SENTENCE.findall(paragraph):
            if piece and len(piece) + len(sentence) > longest:
                yield piece.strip()
                piece, goal = "", _goal(longest, rng)
            while len(sentence) > longest:
                yield sentence[:longest].strip()
                sentence = sentence[longest:]
            piece += sentence
            if len(piece) >= goal:
                yield piece.strip()
                piece, goal = "", _goal(longest, rng)
    if piece.strip():
        yield piece.strip()


def write_segments(
    files: Sequence[Path],
    folder: Path,
    *,
    longest: int,
    per_file: int = 0,
    heldout: Heldout | None = None,
    seed: int = 42,
    progress: Callable[[str], None] | None = None,
) -> Segments:
    """Cut corpus files into texts; keep them if they are there already.

    Args:
        files: Corpus files, read in order.
        folder: Where to write.
        longest: Most characters of a text.
        per_file: Most characters taken of one file, spread over its documents, so that one
            large source does not drown the others; 0: all.
        heldout: Paragraphs that show one of these texts are left out.
        seed: Seed of the lengths.
        progress: Called with a line of text after each file.

    Raises:
        DataError: If the corpus is empty or not UTF-8.
    """
    key = _key(files, longest, per_file, heldout, seed)
    manifest = folder / "segments.json"
    if manifest.is_file():
        if json.loads(manifest.read_text("utf-8"))["made_from"] == key:
            return Segments.open(folder)
        raise DataError(
            "holds the texts of another corpus, or of another --row-length, --per-file, --heldout "
            "or --seed; give another --cache or --output",
            path=str(folder),
        )

    def fill(target: Path) -> None:
        digest = hashlib.sha256()
        ends: list[int] = []
        at = 0
        sources: dict[str, int] = {}
        counts = dict.fromkeys(("documents", "paragraphs", "refused", "characters"), 0)
        with (target / "texts.bin").open("wb") as out:
            for number, file in enumerate(files):
                before = len(ends)
                rng = np.random.default_rng((seed, number))
                for text in _texts(file, longest, per_file, heldout, counts, rng):
                    data = text.encode("utf-8")
                    out.write(data)
                    digest.update(data + b"\n")
                    at += len(data)
                    ends.append(at)
                sources[file.name] = len(ends) - before
                if progress is not None:
                    progress(f"{file.name}: {sources[file.name]:,} texts")
        if not ends:
            raise DataError("the corpus holds no text")
        np.save(target / "text_ends.npy", np.array(ends, np.int64))
        report = {"made_from": key, "sha256": digest.hexdigest(), "texts": len(ends),
                  "sources": sources, **counts}  # fmt: skip
        (target / "segments.json").write_text(
            json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8"
        )

    write_folder(folder, fill)
    return Segments.open(folder)


def encode_segments(segments: Segments, tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """Tokenize texts into ``tokens.bin`` once; ids carry `rows.CONTINUES` inside a word.

    Args:
        segments: The texts.
        tokenizer: Gives ids, special tokens included.
        folder: Where to write; kept if it is of the same texts and tokenizer.
        length: Most tokens of a text, special tokens included.
    """
    key = f"{segments.fingerprint()} {tokenizer.fingerprint()} {length}"
    manifest = folder / "tokens.json"
    if manifest.is_file() and json.loads(manifest.read_text("utf-8"))["made_from"] == key:
        return
    names = ("[PAD]", "[CLS]", "[SEP]", "<s>", "</s>", "<pad>")
    special = np.array([i for t in names if (i := tokenizer.id_of(t)) is not None])

    def fill(target: Path) -> None:
        ends = np.empty(len(segments), np.int64)
        at = 0
        with (target / "tokens.bin").open("wb") as out:
            for start in range(0, len(segments), _BATCH):
                texts = [segments[i] for i in range(start, min(start + _BATCH, len(segments)))]
                encoded = tokenizer.encode_batch(texts, length, offsets=True)
                for offset, (text, item) in enumerate(zip(texts, encoded, strict=True)):
                    assert item.offsets is not None
                    words = token_words(text, item.ids, item.offsets, special)
                    ids = item.ids.astype(np.uint32)
                    ids[1:][(words[1:] == words[:-1]) & (words[1:] >= 0)] |= CONTINUES
                    out.write(ids.tobytes())
                    at += len(ids)
                    ends[start + offset] = at
        np.save(target / "token_ends.npy", ends)
        (target / "tokens.json").write_text(json.dumps({"made_from": key}), encoding="utf-8")

    write_folder(folder, fill)


class SegmentRows:
    """Texts as a training source: masks are a function of (seed, epoch, text).

    Args:
        folder: Where `encode_segments` wrote.
        task: Hides the words.
        seed: Seed of the masks.
        rows: Use only these texts.
        vectors: A teacher's vector of every text, shape (texts, width); rides along as the
            feature ``vector``.
        texts: The texts themselves; ride along as the feature ``text``.
        slack: Positions of the model that no text reaches. One text in five starts at a random
            one of them, so that all are trained (SHAPE, Kiyono et al. 2021).
    """

    def __init__(
        self,
        folder: Path,
        task: LanguageModeling,
        *,
        seed: int,
        rows: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
        texts: Sequence[str] | None = None,
        slack: int = 0,
    ) -> None:
        self.data = np.memmap(folder / "tokens.bin", np.uint32, "r")
        self.ends = np.load(folder / "token_ends.npy")
        self.rows = np.arange(len(self.ends)) if rows is None else rows
        self.task, self.seed, self.vectors, self.texts = task, seed, vectors, texts
        self.slack = slack
        lengths: np.ndarray = np.diff(self.ends, prepend=0)
        self.lengths = lengths[self.rows].astype(np.int32)

    def features(self, index: int, epoch: int) -> Features:
        """Return text `index` with the masks of `epoch`."""
        number = int(self.rows[index])
        rng = np.random.default_rng((self.seed, epoch, number))
        row = np.asarray(self.data[int(self.ends[number - 1]) if number else 0 : self.ends[number]])
        ids = (row & ~CONTINUES).astype(np.int32)
        words = np.cumsum((row & CONTINUES) == 0).astype(np.int32)
        words[np.isin(ids, self.task.special)] = -1
        features = self.task.hide(ids, words, rng)
        if self.slack:
            shifted = rng.random() < _SHIFTED
            features["shift"] = int(rng.integers(self.slack + 1)) if shifted else 0
        if self.vectors is not None:
            features["vector"] = np.asarray(self.vectors[number], np.float32)
        if self.texts is not None:
            features["text"] = self.texts[number]
        return features


def _goal(longest: int, rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(math.log(min(SHORTEST, longest)), math.log(longest)))


def _texts(
    file: Path,
    longest: int,
    per_file: int,
    heldout: Heldout | None,
    counts: dict[str, int],
    rng: np.random.Generator,
) -> Iterator[str]:
    """Yield the pieces of a file, of a random share of its documents if it is too large."""
    share = 1.0
    if per_file:
        size = sum(len(p) for document in documents(file) for p in document)
        share = min(1.0, per_file / max(1, size))
    for document in clean(_chosen(documents(file), share, rng), heldout, counts):
        yield from filter(None, cut(document, longest, rng))


def _chosen(
    found: Iterable[list[str]], share: float, rng: np.random.Generator
) -> Iterator[list[str]]:
    for document in found:
        if share >= 1.0 or rng.random() < share:
            yield document


def _key(
    files: Sequence[Path], longest: int, per_file: int, heldout: Heldout | None, seed: int
) -> str:
    digest = hashlib.sha256(f"1 {longest} {per_file} {seed} {heldout is not None}".encode())
    for file in files:
        with file.open("rb") as handle:
            digest.update(file.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    if heldout is not None:
        digest.update(heldout.fingerprint().encode())
    return digest.hexdigest()
