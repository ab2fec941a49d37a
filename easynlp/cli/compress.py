"""``easynlp compress``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from easynlp.cli.command import Command
from easynlp.cli.deploy import JsonOption
from easynlp.cli.output import complain, say, say_json, say_table
from easynlp.cli.train import prepare_process
from easynlp.compression.settings import CompressConfig
from easynlp.config import DataOptions
from easynlp.errors import GateError

if TYPE_CHECKING:
    from easynlp.compression.compress import Result

__all__ = ["compress"]


def compress(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "compress",
        "Make a run smaller: prune, cut the vocabulary, quantize; measure every candidate, keep "
        "the best under a budget.",
        (CompressConfig, JsonOption), _compress, positional=("run",), recipe=True,
        titles={CompressConfig: "Compression", DataOptions: "Data"},
        after="Example: easynlp compress runs/x --target-size 4MB --max-drop 0.5",
    )  # fmt: skip


def _compress(config: CompressConfig, output: JsonOption) -> None:
    prepare_process(config.threads)
    from easynlp.compression.compress import compress as run

    result = run(config)
    if output.json:
        say_json(asdict(result))
    else:
        say_table(_table(result))
        for name, (score, low, high) in result.test.items():
            say(f"test  {name}: {100 * score:.2f} ({100 * low:.1f}-{100 * high:.1f})")
    if result.chosen is None:
        raise GateError(f"{result.why} All are in {result.output}/candidates.jsonl and pareto.svg")
    if not output.json:
        say(result.why)
        say(result.output)
    complain(f"next: easynlp serve {result.output}, and look at {result.output}/pareto.svg")


def _table(result: Result) -> Any:
    from rich.table import Table

    table = Table(title="Candidates, measured on what would be served; one text, one thread")
    for heading in ("", "", "dev", "95%", "points", "MB", "parameters", "unknown", "p50 ms",
                    "p99 ms", "times", "memory MB"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for row in (result.baseline, *result.candidates):
        mark = "*" if row.name == result.chosen else "o" if row.name in result.front else ""
        table.add_row(
            mark, row.name, f"{100 * row.score:.2f}", f"{100 * row.low:.1f}-{100 * row.high:.1f}",
            f"{0.0 - row.drop:+.2f}", f"{row.bytes / 1e6:.2f}", f"{row.parameters / 1e6:.2f} M",
            f"{100 * row.unknown:.2f}%", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}",
            f"{row.speedup:.1f}x", f"{row.memory_mb:.0f}",
        )  # fmt: skip
    table.caption = "*: kept, o: no other is both smaller and better"
    return table
