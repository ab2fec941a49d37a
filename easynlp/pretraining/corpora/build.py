"""From source files to a corpus: the stages of ``easynlp corpus build``, resumable at any time.

====================  ================================================================
``text/``             the text, a shard a file: ``NAME-000012.txt.zst``
``tokenizer/``        what it was tokenized with, also as ``vocab.txt``
``tokens/``           rows, as `easynlp.pretraining.rows` reads them
``corpus.json``       the report; there when the rest is complete
``corpus.yaml``       the options
``work/``             what is unfinished; gone at the end
====================  ================================================================

Memory is bounded by shards in flight (a few hundred MB a process at 2 M characters), not by the
corpus: text streams through shard by shard, and what must be known of all of it (hashes and
sketches to find duplicates) lies on disk, see `easynlp.pretraining.corpora.duplicates`.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.config import to_yaml
from easynlp.errors import ConfigError, DataError
from easynlp.extras import versions
from easynlp.pretraining.corpora.duplicates import Marks, mark_near, mark_repeated
from easynlp.pretraining.corpora.parallel import spread
from easynlp.pretraining.corpora.reading import Shard, Source, find_sources, shards
from easynlp.pretraining.corpora.settings import CorpusConfig
from easynlp.pretraining.corpora.shard import REASONS, Sieve, Verdict, keep, shard_folder, sift
from easynlp.pretraining.corpora.tokens import tokenize
from easynlp.pretraining.corpus import Heldout
from easynlp.training.folder import claim_folder

__all__ = ["build_corpus"]

log = logging.getLogger("easynlp")
Report = dict[str, Any]
Progress = Callable[[str], None]


def build_corpus(config: CorpusConfig, progress: Progress = log.info) -> Report:
    """Clean, filter, de-duplicate and tokenize text; return the report, ``corpus.json``.

    The result depends on the sources and the options, not on `workers` or on where a build was
    interrupted.

    Args:
        config: Options; see `CorpusConfig`.
        progress: Called with lines of text.

    Returns:
        Options, versions, sources with their SHA-256 and counts, documents, paragraphs and
        characters left out for each reason, held-out text found for each file, seconds.

    Raises:
        ConfigError: If the folder is taken, or the sources changed since the build to resume.
        DataError: If a source is broken, or nothing is left of them.
        RunError: If the disk refuses or a process dies.
    """
    output = Path(config.output)
    paths = find_sources(config.sources, config.exclude)
    for source in map(Path, config.sources):
        if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
            raise ConfigError(
                f"--output {output} is inside the source {source}, so the next build would read "
                "it: choose a folder elsewhere"
            )
    clock = _Clock()
    heldout = Heldout.read(config.heldout) if config.heldout else None
    claim_folder(
        output, to_yaml(config), overwrite=config.overwrite, resume=config.resume, name="corpus",
        inputs=(*config.sources, *config.heldout, config.vocab),
    )  # fmt: skip
    sources = [Source.of(path) for path in paths]
    key = {
        "sources": [[str(s.path), s.sha256] for s in sources],
        "heldout": heldout.fingerprint() if heldout else None,
    }
    report_path = output / "corpus.json"
    if report_path.is_file():
        report: Report = json.loads(report_path.read_text(encoding="utf-8"))
        _check_same(key, report["made_from"])
        return report
    work = output / "work"
    work.mkdir(exist_ok=True)
    resumed = (work / "made_from.json").is_file()
    if resumed:
        _check_same(key, json.loads((work / "made_from.json").read_text(encoding="utf-8")))
    write_json(work / "made_from.json", key)
    clock.lap("reading sources")
    text_done = work / "text.json"
    if not text_done.is_file():
        write_json(text_done, _text(config, sources, heldout, work, clock, progress))
    found: Report = json.loads(text_done.read_text(encoding="utf-8"))
    if not found["counts"]["out"][1]:
        raise DataError("nothing is left of the sources: see work/text.json for the reasons",
                        path=config.output)  # fmt: skip
    tokens = tokenize(config, output, found["counts"]["out"][2], progress)
    clock.lap("tokenizing")
    size = sum(each["text_bytes"] for each in found["inputs"])
    report = {
        "options": {name: value for name, value in vars(config).items()
                    if name not in ("overwrite", "resume")},
        "versions": versions(), **found, "tokens": tokens,
        "seconds": clock.laps, "resumed": resumed, "text_bytes": size,
        "heldout_fingerprint": key["heldout"], "made_from": key,
    }  # fmt: skip
    write_json(report_path, report)
    shutil.rmtree(work)
    return report


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self.last, 3)
        self.last = now


def _check_same(now: Report, before: Report) -> None:
    if now != before:
        raise ConfigError(
            "the sources or held-out files are not those this corpus was begun with: start anew "
            "with --overwrite, or choose another --output"
        )


def _text(
    config: CorpusConfig,
    sources: list[Source],
    heldout: Heldout | None,
    work: Path,
    clock: _Clock,
    progress: Progress,
) -> Report:
    """Take the sources through all filters to the files in ``text``; return the counts."""
    number = _sift_all(config, sources, Sieve(config, heldout, work), progress)
    clock.lap("cleaning and filtering")
    sifted = _Sifted.of([shard_folder(work, place) for place in range(number)])
    progress(f"comparing {sifted.starts[-1, 0]:,} documents, {sifted.starts[-1, 1]:,} paragraphs")
    marks = _mark_duplicates(config, work, sifted)
    clock.lap("finding duplicates")
    counts = {name: [0, 0, 0] for name in ("in", "cleaned", *REASONS, "out")}
    by_source: list[dict[str, Any]] = [
        {"text_bytes": 0, "in": [0, 0, 0], "out": [0, 0, 0], "held_out": 0} for _ in sources
    ]
    leaks = dict.fromkeys(config.heldout, 0)
    text = work.parent / "text"
    text.mkdir(exist_ok=True)
    verdicts = _verdicts(sifted, marks, text)
    kept = spread(keep, Sieve(config, None, work), verdicts, config.workers)
    for place, late in enumerate(kept):
        about = json.loads((shard_folder(work, place) / "about.json").read_text("utf-8"))
        both = {name: value for name, value in about["counts"].items() if any(value)} | late
        for name, value in both.items():
            counts[name] = [a + b for a, b in zip(counts[name], value, strict=True)]
        mine = by_source[about["source"]]
        mine["text_bytes"] += about["bytes"]
        for name in ("in", "out"):
            mine[name] = [a + b for a, b in zip(mine[name], both[name], strict=True)]
        for file, paragraphs in about["leaks"].items():
            leaks[config.heldout[int(file)]] += paragraphs
            mine["held_out"] += paragraphs
    clock.lap("writing text")
    inputs = [
        {"path": str(source.path), "bytes": source.bytes, "sha256": source.sha256, **mine}
        for source, mine in zip(sources, by_source, strict=True)
    ]
    return {"shards": number, "counts": counts, "held_out": leaks, "inputs": inputs}


def _sift_all(config: CorpusConfig, sources: list[Source], sieve: Sieve, progress: Progress) -> int:
    """Sift the shards that are not there yet; return how many shards there are in all.

    ``shards.json`` keeps how many shards each finished source has, so that it is not read again.
    """
    memory = sieve.work / "shards.json"
    known: list[int | None] = [None] * len(sources)
    if memory.is_file():
        known = json.loads(memory.read_text(encoding="utf-8"))
    made = [0] * len(sources)
    before = list(known)

    def counted() -> Iterator[Shard]:
        for shard in shards(sources, config.text, config.shard_characters, before):
            made[shard.source] += 1
            yield shard

    started, megabytes = time.perf_counter(), 0.0
    at = next((i for i, count in enumerate(known) if count is None), len(sources))
    for number in spread(sift, sieve, counted(), config.workers):
        folder = shard_folder(sieve.work, number)
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if about["source"] > at:  # results come in order: the sources before are finished
            known[at : about["source"]] = made[at : about["source"]]
            at = about["source"]
            write_json(memory, known)
        megabytes += about["bytes"] / 1e6
        speed = megabytes / (time.perf_counter() - started)
        progress(
            f"{about['name']}: source {at + 1} of {len(sources)}, shard {number + 1}, "
            f"{megabytes:,.1f} MB, {speed:.2f} MB/s"
        )
    known[at:] = [made[i] if count is None else count for i, count in enumerate(known)][at:]
    write_json(memory, known)
    return sum(count or 0 for count in known)


@dataclass(frozen=True)
class _Sifted:
    """The arrays of all sifted shards, as if they stood in one.

    Attributes:
        folders: The shards.
        starts: Documents and paragraphs before each shard, shape (shards + 1, 2).
    """

    folders: list[Path]
    starts: np.ndarray

    @classmethod
    def of(cls, folders: list[Path]) -> _Sifted:
        """Count documents and paragraphs."""
        starts = np.zeros((len(folders) + 1, 2), np.int64)
        for place, folder in enumerate(folders):
            sizes = np.load(folder / "paragraphs.npy")
            starts[place + 1] = starts[place] + (len(sizes), sizes.sum())
        return cls(folders, starts)

    def column(self, name: str, place: int) -> np.ndarray:
        """Return an array of a shard."""
        found: np.ndarray = np.load(self.folders[place] / f"{name}.npy")
        return found

    def documents(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield hashes and places of all documents."""
        for place in range(len(self.folders)):
            hashes = self.column("document_hash", place)
            yield hashes, np.arange(len(hashes)) + self.starts[place, 0]

    def paragraphs(self, gone: Marks, least: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield hashes and places of paragraphs of at least some length in documents not gone."""
        for place in range(len(self.folders)):
            sizes = self.column("paragraphs", place)
            marks = np.repeat(gone.slice(int(self.starts[place, 0]), len(sizes)), sizes)
            chosen = np.flatnonzero((marks == 0) & (self.column("characters", place) >= least))
            yield self.column("paragraph_hash", place)[chosen], chosen + self.starts[place, 1]


def _mark_duplicates(config: CorpusConfig, work: Path, sifted: _Sifted) -> tuple[Marks, Marks]:
    """Compare all shards; return the marks of documents and of paragraphs."""
    documents = Marks(work / "documents.marks", int(sifted.starts[-1, 0]))
    paragraphs = Marks(work / "paragraphs.marks", int(sifted.starts[-1, 1]))
    value = {reason: place for place, reason in enumerate(REASONS, 1)}
    buckets = work / "buckets"
    if config.duplicates != "keep":
        mark_repeated(sifted.documents(), documents, value["duplicate document"], buckets)
    if config.duplicates == "near":
        sketches = (sifted.column("sketch", place) for place in range(len(sifted.folders)))
        mark_near(sketches, documents, value["near-duplicate document"], config.similarity, buckets)
    if config.duplicates != "keep":
        found = sifted.paragraphs(documents, config.min_duplicate)
        mark_repeated(found, paragraphs, value["duplicate paragraph"], buckets)
    return documents, paragraphs


def _verdicts(sifted: _Sifted, marks: tuple[Marks, Marks], text: Path) -> Iterator[Verdict]:
    """Yield for each shard which of its documents and paragraphs to leave out."""
    for place, folder in enumerate(sifted.folders):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        starts, sizes = sifted.starts[place], sifted.starts[place + 1] - sifted.starts[place]
        mine = [marks[i].slice(int(starts[i]), int(sizes[i])) for i in range(2)]
        yield Verdict(place, text / f"{about['name']}-{place:06d}.txt.zst", *mine)
