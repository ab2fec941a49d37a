"""The report of ``easynlp bench landing`` as tables, on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from easynlp.atomic import write_text

__all__ = ["landing_tables", "write_landing_page"]

HEADINGS = ("part", "figure", "measured", "target", "verdict", "how")
ARMS = ("arm", "parameters", "accuracy, test", "95%", "dev", "lr")
TIMES = ("model", "bytes", "p50", "p99", "p50, processor", "p99, processor")


def landing_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return the figures, then the arms and times of every part that was run."""
    found = [_table("Landing: figures to reach", HEADINGS, _figures(report))]
    for title, about in _blocks(report):
        if rows := _arms(about):
            found.append(_table(f"{title}: accuracy in %", ARMS, rows))
        if rows := _times(about):
            found.append(_table(f"{title}: one text, one thread, ms", TIMES, rows))
    return found


def write_landing_page(report: Mapping[str, Any], path: Path) -> None:
    """Write the tables as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    parts = [
        "# Landing, measured",
        f"Written by `{report['command']}`; {about}.",
        "Every figure was measured by running it; a figure that was not reached says so, one that "
        "was not run says why. Everything is chosen on dev; test rows are answered once. The "
        "placebo is the same distillation with the teacher's answers dealt out by chance.",
        _markdown(HEADINGS, _figures(report)),
    ]
    for title, block in _blocks(report):
        parts.append(f"## {title}")
        if counts := block.get("counts"):
            notes = {**counts, **block.get("notes", {})}
            parts.append("Rows: " + ", ".join(f"{k} {v}" for k, v in notes.items()) + ".")
        if rows := _arms(block):
            parts.append(_markdown(ARMS, rows))
        if rows := _times(block):
            parts.append("One text, one thread, ms; ONNX Runtime for every model.")
            parts.append(_markdown(TIMES, rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n\n".join(parts) + "\n")


def _figures(report: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for each in report["figures"]:
        value, unit = each["value"], each["unit"]
        shown = "-" if value is None else f"{value:.{_digits(unit)}f} {unit}".strip()
        sense = ">" if each["strict"] else each["sense"]
        verdict = {True: "reached", False: "not reached", None: "not run"}[each["reached"]]
        target = f"{sense} {each['target']:g} {unit}".strip()
        rows.append([each["part"], each["about"], shown, target, verdict, each["note"]])
    return rows


def _digits(unit: str) -> int:
    return {"ms": 2, "MB": 2, "": 0}.get(unit, 1)


def _blocks(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return what has tables of its own: parts, and of titles each set."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name, about in report["details"].items():
        if name == "titles":
            found += [(each, block) for each, block in about.items() if "skipped" not in block]
        elif "rows" in about:
            found.append((name, about))
    return found


def _arms(about: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            each["arm"],
            "" if each["parameters"] is None else f"{each['parameters']:,}",
            f"{100 * each['accuracy']:.1f}",
            f"{100 * each['low']:.1f} to {100 * each['high']:.1f}",
            f"{100 * each['dev']:.1f}" if "dev" in each else "",
            f"{each['lr']:g}" if "lr" in each else "",
        ]
        for each in about["rows"] if "arm" in each
    ]  # fmt: skip


def _times(about: Mapping[str, Any]) -> list[list[str]]:
    rows = about.get("times") or [each for each in about["rows"] if "p50_ms" in each]
    keys = ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms")
    return [[each["model"], f"{each['bytes']:,}", *(f"{each[key]:.2f}" for key in keys)]
            for each in rows]  # fmt: skip


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                     for line in lines)  # fmt: skip
