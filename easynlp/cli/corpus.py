"""``easynlp corpus build``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easynlp.cli.command import Command
from easynlp.cli.output import complain, say, say_table
from easynlp.pretraining.corpora.settings import CorpusConfig

__all__ = ["build"]


def build(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "corpus build",
        "Clean, filter, de-duplicate and tokenize raw text for pre-training.",
        (CorpusConfig,), _build, positional=("sources",), recipe=True,
        after="Example: easynlp corpus build web/ books.txt.gz --output corpora/zh "
        "--heldout test.jsonl",
    )  # fmt: skip


def _build(config: CorpusConfig) -> None:
    from easynlp.pretraining.corpora.build import build_corpus

    report = build_corpus(config)
    say_table(_table(report))
    for file, paragraphs in report["held_out"].items():
        say(f"held out: {paragraphs:,} paragraphs showed {file}")
    megabytes, seconds = report["text_bytes"] / 1e6, sum(report["seconds"].values())
    stages = ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
    rate = "resumed" if report["resumed"] else f"{megabytes / seconds:.2f} MB/s"
    say(f"{megabytes:,.1f} MB of text, {seconds:.1f} seconds, {rate} ({stages})")
    say(config.output)
    if report["tokens"]:
        complain(
            f"use it: easynlp pretrain --corpus {config.output} "
            f"--vocab {config.output}/tokenizer/vocab.txt --row-length {config.row_length} ..."
        )


def _table(report: dict[str, Any]) -> Any:
    """Return the way from all text to what is left, a filter a line."""
    from rich.table import Table

    table = Table("", *("documents", "paragraphs", "characters", "%"))
    for column in table.columns[1:]:
        column.justify = "right"
    read = max(1, report["counts"]["in"][2])
    for name, counts in report["counts"].items():
        total = name in ("in", "out")
        if total or any(counts):
            shown = [f"{'' if total else '−'}{n:,}" if n else "0" for n in counts]
            table.add_row(name, *shown, f"{100 * counts[2] / read:.2f}", end_section=total)
    return table
