"""``easynlp land``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easynlp.cli.command import Command
from easynlp.cli.output import complain, say, say_rows
from easynlp.cli.train import prepare_process
from easynlp.config import DataOptions
from easynlp.errors import GateError
from easynlp.landing.settings import LandOptions

__all__ = ["land"]


def land(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "land",
        "From a few labels and a large model to a small served one, with a report as proof.",
        (LandOptions,), _land, recipe=True, titles={LandOptions: "Landing", DataOptions: "Data"},
        after="Example: easynlp land --train few.jsonl --dev dev.jsonl --unlabeled pool.jsonl "
        "--teacher runs/t --target-size 4MB --test test.jsonl --output runs/land",
    )  # fmt: skip


def _land(options: LandOptions) -> None:
    prepare_process(options.threads)
    from easynlp.landing.land import land as run_land

    landed = run_land(options)
    report = landed.report
    if "table" in report:
        say_rows([_shown(row) for row in (*report["table"], *report["floors"])])
    say(str(landed.page))
    say(str(landed.model))
    for each in report["verdicts"]:
        if each["status"] == "dropped":
            complain(f"{each['stage']} was dropped: {each['why']}")
    complain(f"next: {report['commands']['serve']}")
    if (target := report["target"])["reached"] is False:
        raise GateError(
            f"--target-size is missed: {target['bytes'] / 1e6:.3g} MB are served, "
            f"{target['wanted'] / 1e6:.3g} MB were wanted; {landed.page} says why"
        )


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    one, batch = row.get("one"), row.get("batch")
    return {
        "": ("* " if row["served"] else "") + row["name"],
        "parameters": f"{row['parameters']:,}" if row["parameters"] else "-",
        "file": f"{row['bytes'] / 1e6:.2f} MB" if row["bytes"] else "-",
        "accuracy": f"{100 * row['accuracy']:.1f}",
        "95 %": f"{100 * row['low']:.1f}-{100 * row['high']:.1f}",
        "1 text p50 ms": f"{one['p50_ms']:.2f}" if one else "-",
        "p99 ms": f"{one['p99_ms']:.2f}" if one else "-",
        "32 texts p50 ms": f"{batch['p50_ms']:.1f}" if batch else "-",
    }
