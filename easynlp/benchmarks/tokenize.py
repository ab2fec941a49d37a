"""``easynlp bench tokenize``: the fast tokenizer beside Hugging Face's, exactness first.

Every text of FewCLUE and fuzzed Unicode strings are encoded by both, alone and in batches, whole
and truncated, with offsets and without; any difference fails the command. Then both are timed in
turns, without truncation, on one thread. Times are the processor's, so that other programs on
the machine do not count; what a side returns is dropped at once.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table
from tokenizers import Tokenizer as Backend

from easynlp.atomic import write_text
from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.settings import TokenizeOptions
from easynlp.benchmarks.speed import DEMO
from easynlp.data.readers import read_rows
from easynlp.errors import ConfigError, GateError, MissingExtra
from easynlp.text.fast_check import UNCUT, Item, differences, fuzzed
from easynlp.text.tokenizer import Tokenizer

__all__ = ["bench_tokenize", "tokenize_tables"]

log = logging.getLogger("easynlp")
PORTION = 2000
"""Texts compared at a time."""
TRUNCATED = 64
"""The `max_length` of the truncated comparison."""
SIZE = 21_128
"""Tokens of the vocabulary that is trained where no model is given: as many as BERT's."""
SETS = {"titles": "tnews", "documents": "iflytek", "pairs": "ocnli"}
"""What is timed, and of which FewCLUE set."""

Run = Callable[[Any], object]


def bench_tokenize(options: TokenizeOptions) -> dict[str, Any]:
    """Compare and time; return the report, and write it to ``options.output`` if given.

    The report holds ``exact`` (for every kind of text: how many, and how many differ), ``speed``
    (for every set and way of calling: microseconds a text of either side and the ratios of all
    rounds), ``vocabulary``, ``options`` and ``machine``.

    Raises:
        ConfigError: If the model's tokenizer is not one that the fast path takes over.
        GateError: If a text is encoded otherwise than by the library.
        MissingExtra: If transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtra("bench tokenize", "train")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sets = _texts(Path(options.data_root))
    with tempfile.TemporaryDirectory(prefix="easynlp-tokenize-") as scratch:
        folder = _folder(options.model, sets, Path(scratch))
        tokenizer = Tokenizer.load(folder)
        if tokenizer.fast is None:
            raise ConfigError(
                f'the tokenizer of "{options.model}" is not BERT\'s WordPiece: it goes through '
                "Hugging Face unchanged, and there is nothing to measure"
            )
        exact = _compare(tokenizer, sets, options)
        speed = list(_time(tokenizer, _peer(folder), sets, options))
    report = {
        "exact": exact, "speed": speed, "vocabulary": tokenizer.vocab_size,
        "options": asdict(options), "machine": machine(1),
    }  # fmt: skip
    if options.output:
        write_text(Path(options.output), json.dumps(report, ensure_ascii=False, indent=1))
    return report


def tokenize_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return a report's tables: exactness and speed."""
    exact = Table(title="Encoded otherwise than by Hugging Face's tokenizers")
    for heading in ("", "texts", "characters", "different"):
        exact.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in report["exact"]:
        counts = (f"{row[key]:,}" for key in ("texts", "characters", "different"))
        exact.add_row(row["source"], *counts)
    found = "; ".join(f"{name} {value}" for name, value in report["machine"].items())
    speed = Table(
        title="Text to ids: processor time of a text, and how many times faster",
        caption=f"{report['options']['rounds']} rounds, sides in turns; vocabulary of "
        f"{report['vocabulary']:,}; {found}",
    )
    for heading in ("", "beside", "peer µs", "our µs", "times: median", "least", "most"):
        speed.add_column(heading, justify="right" if "µ" in heading else "left", no_wrap=True)
    last = ""
    for row in report["speed"]:
        if row["set"] != last:
            speed.add_section()
        last = row["set"]
        ratios = row["ratios"]
        speed.add_row(
            f"{row['set']} ({row['characters']:.0f} characters), {row['way']}", row["peer"],
            f"{row['peer_us']:.1f}", f"{row['our_us']:.1f}", f"{median(ratios):.1f}",
            f"{min(ratios):.1f}", f"{max(ratios):.1f}",
        )  # fmt: skip
    return [exact, speed]


def _texts(root: Path) -> dict[str, list[str]]:
    """Return the distinct texts of every FewCLUE set, the demo's reviews if there is none."""
    found: dict[str, list[str]] = {}
    for folder in sorted(root.glob("fewclue_*")):
        texts: dict[str, None] = {}
        for path in sorted(folder.glob("*.jsonl*")):
            for row in read_rows(str(path)):
                texts.update(dict.fromkeys(_strings(row.values)))
        if texts:
            found[folder.name.removeprefix("fewclue_")] = list(texts)
    if not found:
        log.warning("no fewclue_* in %s: measuring on the demo's reviews", root)
        rows = [row for path in sorted(DEMO.glob("*.jsonl")) for row in read_rows(str(path))]
        found["reviews"] = list(dict.fromkeys(str(row.values["text"]) for row in rows))
    return found


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _folder(model: str | None, sets: Mapping[str, Sequence[str]], scratch: Path) -> Path:
    """Return a folder with a tokenizer: the one given, or one trained on the texts."""
    if model is not None:
        return Path(model)
    from easynlp.pretraining.vocabulary import save_vocabulary, train_vocabulary

    texts = (text for name in sets for text in sets[name])
    save_vocabulary(train_vocabulary(texts, SIZE, min_frequency=1), scratch, max_length=512)
    return scratch


def _peer(folder: Path) -> Any:
    """Return the tokenizer as transformers wraps it."""
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_file=str(folder / "tokenizer.json"), model_max_length=UNCUT)


def _compare(
    tokenizer: Tokenizer, sets: Mapping[str, Sequence[str]], options: TokenizeOptions
) -> list[dict[str, Any]]:
    assert tokenizer.fast is not None
    added = [*tokenizer.fast.added]
    library = Tokenizer(tokenizer.backend, fast=False)
    sources: dict[str, Iterator[str]] = {name: iter(texts) for name, texts in sets.items()}
    sources[f"fuzzed, seed {options.seed}"] = fuzzed(options.fuzz, options.seed, added)
    rows = []
    wrong: list[str] = []
    for name, texts in sources.items():
        row: dict[str, Any] = {"source": name, "texts": 0, "characters": 0, "different": 0}
        while part := list(islice(texts, PORTION)):
            items: list[Item] = [*part, *zip(part[::2], part[1::2], strict=False)]
            lines: set[str] = set()
            for length in (UNCUT, TRUNCATED):
                found = differences(tokenizer.fast, library.by_library, items, (length,))
                lines.update(line.partition(": ")[2] for line in found)
            row["texts"] += len(part)
            row["characters"] += sum(map(len, part))
            row["different"] += len(lines)
            wrong += sorted(lines)
        rows.append(row)
    if wrong:
        raise GateError(f"{len(wrong):,} texts are encoded otherwise, for example {wrong[0]}")
    return rows


def _time(
    tokenizer: Tokenizer, peer: Any, sets: Mapping[str, Sequence[str]], options: TokenizeOptions
) -> Iterator[dict[str, Any]]:
    for name, source in SETS.items():
        texts = list(sets.get(source, next(iter(sets.values()))))
        texts = texts[:: max(1, len(texts) // options.texts)][: options.texts]
        items: list[Any] = list(texts)
        if name == "pairs":
            items = list(zip(texts[::2], texts[1::2], strict=False))
        for way, other, portions, ours, theirs in _ways(tokenizer, peer, items, options):
            yield {
                "set": name, "way": way, "peer": other,
                "characters": sum(map(len, texts)) / len(items),
            } | _rounds(portions, ours, theirs, options.rounds, len(items))  # fmt: skip


def _ways(
    tokenizer: Tokenizer, peer: Any, items: Sequence[Any], options: TokenizeOptions
) -> Iterator[tuple[str, str, Sequence[Any], Callable[[], Run], Run]]:
    """Yield what is timed.

    That is: the way of calling and the peer, the calls' arguments, and what each side does with
    one; of ours, what makes it, anew for every round.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.no_truncation()
    calls = [(item, None) if isinstance(item, str) else item for item in items]
    size = options.batch_size
    batches = [items[i : i + size] for i in range(0, len(items), size)]

    def one(ours: Tokenizer) -> Run:
        encode = ours.encode
        return lambda call: encode(*call, max_length=UNCUT).ids

    def bare(part: Sequence[Any]) -> object:
        return [found.ids for found in backend.encode_batch_fast(part)]

    def spans(part: Sequence[Any]) -> object:
        return [(found.ids, found.offsets) for found in backend.encode_batch(part)]

    def many(offsets: bool) -> Callable[[], Run]:
        return lambda: partial(tokenizer.encode_batch, max_length=UNCUT, offsets=offsets)

    encode: Run = lambda call: backend.encode(*call).ids  # noqa: E731
    transformers: Run = lambda call: peer(*call)["input_ids"]  # noqa: E731
    yield "one at a time", "tokenizers encode", calls, lambda: one(tokenizer), encode
    yield "one at a time", "transformers call", calls, lambda: one(tokenizer), transformers
    fresh = lambda: one(Tokenizer(tokenizer.backend))  # noqa: E731
    yield "one, nothing learned yet", "tokenizers encode", calls, fresh, encode
    yield f"batches of {size}", "encode_batch_fast", batches, many(False), bare
    yield "all at once", "encode_batch_fast", [items], many(False), bare
    yield "all at once, offsets", "encode_batch", [items], many(True), spans


def _rounds(
    portions: Sequence[Any], ours: Callable[[], Run], theirs: Run, rounds: int, count: int
) -> dict[str, Any]:
    """Time two sides in turns; one more round before them is not counted."""
    times = []
    for number in range(rounds + 1):
        sides = [ours(), theirs]
        spent = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            run = sides[side]
            began = time.process_time()
            for portion in portions:
                run(portion)
            spent[side] = time.process_time() - began
        times.append(spent)
    counted = times[1:]
    return {
        "peer_us": median(peer for _, peer in counted) / count * 1e6,
        "our_us": median(own for own, _ in counted) / count * 1e6,
        "ratios": [peer / own for own, peer in counted],
    }
