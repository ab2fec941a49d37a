"""``easynlp bench masked``: how many hidden characters models guess, genre by genre.

Each text file is a genre. From it passages are drawn, in them whole Chinese words are hidden
(all of them by the mask token), the same for every model; the likeliest Chinese character is
the guess. Tokenizers whose pieces hold several characters have those around a hole cut into
characters, so the question is the same; see `easynlp.models.cloze`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from easynlp.atomic import write_json
from easynlp.benchmarks.settings import MaskedOptions
from easynlp.benchmarks.statistics import mean_interval
from easynlp.errors import DataError, ModelError
from easynlp.metrics import share_interval
from easynlp.pretraining.corpus import documents, find_files
from easynlp.text.characters import is_han

__all__ = ["bench_masked", "masked_table", "sample_passages"]

LEAST_HAN = 20
"""A paragraph with fewer Chinese characters is no passage: there is nothing to infer from."""


def bench_masked(options: MaskedOptions) -> dict[str, Any]:
    """Score the models on every file.

    Returns:
        ``genres`` (for each file its holes, what guessing its commonest hidden character would
        score, and each model's share of right guesses with a 95% Wilson interval), ``means``
        over files, ``differences`` (the last model minus each other, paired by file, with a 95%
        t interval), ``left_out`` (models that cannot be compared, and why) and ``options``.

    Raises:
        DataError: If there is no text.
        ModelError: If no model is left, or one has no trained masked-LM head.
    """
    from easynlp.models.backbone import Backbone
    from easynlp.models.cloze import Filler, commonest_share, hide_words
    from easynlp.training.precision import pick_device

    genres = {}
    for path in find_files(options.data):
        texts = sample_passages(path, options.passages, options.characters, options.seed)
        hidden = [hide_words(text, options.rate, options.seed) for text in texts]
        if hidden := [passage for passage in hidden if passage.holes]:
            genres[path.name.split(".txt")[0]] = hidden
    if not genres:
        raise DataError(
            f"no paragraph of {LEAST_HAN} Chinese characters in {', '.join(options.data)}"
        )
    rows: list[dict[str, Any]] = [
        {"genre": genre, "holes": sum(len(each.holes) for each in passages),
         "commonest": commonest_share(passages), "accuracy": {}, "interval": {}}
        for genre, passages in genres.items()
    ]  # fmt: skip
    left_out: dict[str, str] = {}
    for name in options.names():
        backbone = Backbone.load(name)
        filler = Filler(backbone, pick_device())
        if filler.gaps and backbone.folder is not None:
            raise ModelError(
                f"{name} has no trained masked-LM head (its weights lack "
                f"{', '.join(filler.gaps[:3])}). See: easynlp models check {name}"
            )
        try:
            found = [filler.fill(passages) for passages in genres.values()]
        except ModelError as error:
            left_out[name] = str(error)
            continue
        for row, right in zip(rows, found, strict=True):
            row["accuracy"][name] = float(right.mean())
            row["interval"][name] = share_interval(int(right.sum()), len(right))
    names = [name for name in options.names() if name not in left_out]
    if not names:
        raise ModelError("; ".join(left_out.values()))
    report = {
        "genres": rows,
        "means": {name: _over_files(rows, name) for name in names},
        "differences": {
            name: _over_files(rows, names[-1], name) for name in names if name != names[-1]
        },
        "left_out": left_out,
        "options": asdict(options),
    }
    if options.output:
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(options.output), report)
    return report


def sample_passages(path: Path, count: int, characters: int, seed: int) -> list[str]:
    """Return up to `count` paragraphs of a file, drawn evenly, each cut to `characters`.

    The draw is a function of seed and file; memory does not grow with the file (reservoir
    sampling, Vitter 1985, algorithm R).
    """
    rng = np.random.default_rng((seed, zlib.crc32(path.name.encode())))
    kept: list[str] = []
    seen = 0
    for document in documents(path):
        for paragraph in document:
            text = paragraph[:characters]
            if sum(map(is_han, text)) < LEAST_HAN:
                continue
            seen += 1
            if len(kept) < count:
                kept.append(text)
            elif (place := int(rng.integers(seen))) < count:
                kept[place] = text
    return kept


def _over_files(
    rows: Sequence[Mapping[str, Any]], name: str, minus: str | None = None
) -> dict[str, Any]:
    values = [row["accuracy"][name] - (row["accuracy"][minus] if minus else 0.0) for row in rows]
    return asdict(mean_interval(values))


def masked_table(report: Mapping[str, Any]) -> Table:
    """Return a report as a table, in percent: a row for each file, a column for each model."""
    names = list(report["means"])
    table = Table(title="Hidden characters guessed, in %: whole words, the same for all models")
    table.add_column("file", no_wrap=True)
    for heading in ("holes", "commonest character", *names):
        table.add_column(heading, justify="right")
    for row in report["genres"]:
        shares = [row["commonest"], *(row["accuracy"][name] for name in names)]
        table.add_row(row["genre"], str(row["holes"]), *(f"{100 * share:.1f}" for share in shares))
    table.add_section()
    table.add_row(
        "mean of files", "", "", *(f"{100 * report['means'][name]['mean']:.1f}" for name in names)
    )
    for name, gain in report["differences"].items():
        half = gain["half_width"]
        shown = f"{100 * gain['mean']:+.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")
        blanks = [""] * (len(names) - 1)
        table.add_row(f"{names[-1]} minus {name}", "", "", *blanks, shown)
    if report["left_out"]:
        table.caption = "left out: " + "; ".join(report["left_out"].values())
    return table
