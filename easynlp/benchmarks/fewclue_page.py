"""The tables of ``easynlp bench fewclue``: on the terminal, and as ``docs/fewclue.md``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from easynlp.atomic import write_text
from easynlp.benchmarks.arms import FEWER, WORSE, is_fuzzy_arm
from easynlp.benchmarks.harness import WITHIN, reference
from easynlp.benchmarks.models import percent
from easynlp.benchmarks.names import placebo_of
from easynlp.benchmarks.scores import MEANS, rank
from easynlp.benchmarks.settings import FEW_ALL, FLOOR, is_floor

__all__ = ["fewclue_page", "fewclue_table", "fuzzy_table", "write_page"]

KEPT = "<!-- What stands below is kept when this page is written again. -->"


def fewclue_table(report: Mapping[str, Any]) -> Table:
    """Return a report as a table, in percent: a row for each task and contender."""
    against = report["against"]
    gains = {(row["minus"], row["task"]): row for row in report["differences"]}
    table = Table(title=f"FewCLUE, accuracy on test_public in %{_left_out(report)}")
    for heading in ("task", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean", "± 95%", "sd", "splits", "few_all", "ref", "less near",
                    "parameters", "CPU s", "rows", "classes"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    if gains:
        table.add_column(f"{against} is better by", justify="right")
    task = ""
    for row in sorted(_shown(report), key=lambda row: rank(report["scores"], row)):
        if task and row["task"] != task:
            table.add_section()
        gain = gains.get((row["contender"], row["task"]))
        cells = [
            row["task"] if row["task"] != task else "", _named(row["contender"]),
            percent(row["mean"]),
            percent(row["half_width"]), percent(row["sd"]), str(row["runs"]),
            percent(row[FEW_ALL]), _said(row.get("reference")),
            percent(row["mean_without_near"]) if row.get("near_train") else "",
            *(_said(row.get(name)) for name in ("parameters", "cpu_seconds", "rows", "classes")),
        ]  # fmt: skip
        table.add_row(*cells, *([_gain(gain)] if gains else []))
        task = row["task"]
    return table


def write_page(report: Mapping[str, Any], path: Path, command: str) -> None:
    """Write the page; what stands below its mark in an older page is kept.

    Raises:
        RunError: If the disk is full or refuses.
    """
    kept = ""
    if path.is_file():
        _, _, kept = path.read_text(encoding="utf-8").partition(KEPT)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, fewclue_page(report, command) + KEPT + (kept or "\n"))


def fewclue_page(report: Mapping[str, Any], command: str) -> str:
    """Return a report as a page of Markdown.

    Args:
        report: What `bench_fewclue` returned.
        command: What was typed.
    """
    scores = _shown(report)
    tasks = list(
        dict.fromkeys(row["task"] for row in sorted(scores, key=lambda r: rank(scores, r)))
    )
    names = list(dict.fromkeys(row["contender"] for row in scores))
    by = {(row["contender"], row["task"]): row for row in scores}
    parts = [
        "# FewCLUE, by the harness",
        f"Written by `{command}`; {_how(report)}",
        "## Scores",
        "Accuracy on test_public in %, mean over the splits of the mean over seeds ± the sample "
        "standard deviation over splits. A dash: not made for the task, or not run.",
        _markdown(
            ["contender", *tasks],
            [[_named(name), *(_score(by.get((name, task))) for task in tasks)] for name in names]
            + [[f"*{name}*", *(_said(figures.get(task)) or "-" for task in tasks)]
               for name, figures in reference()["published"].items()],
        ),
        "In italics: published figures (FewCLUE's paper; test_public, five splits).",
    ]  # fmt: skip
    if any(row[FEW_ALL] is not None for row in scores):
        parts += ["### few_all", "Five times the labels; in no mean above.", _markdown(
            ["contender", *tasks],
            [[_named(name), *(percent(by[name, task][FEW_ALL]) if (name, task) in by else "-"
                      for task in tasks)] for name in names],
        )]  # fmt: skip
    parts += _compared(report, tasks)
    parts += _over_placebos(report, tasks)
    parts += _fuzzy(report)
    parts += _floors(report)
    parts += _costs(report)
    parts += ["## What did not work", *_failures(report)]
    return "\n\n".join(parts) + "\n\n"


def _how(report: Mapping[str, Any]) -> str:
    options, on = report["options"], report["machine"]
    splits = {split for row in report["scores"] for split in row["splits"]}
    shown = ", ".join(f"{key} {value}" for key, value in on.items() if key != "system")
    said = (
        f"seeds {', '.join(map(str, options['seeds']))}; splits {', '.join(sorted(splits))}; "
        f"test_public, every row and class; {shown}."
    )
    if report["not_shown"]:
        said += f" Also run in this folder, not shown: {', '.join(report['not_shown'])}."
    for task, why in report["skipped"].items():
        said += f" {task} is left out: {why}."
    return said


def _compared(report: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    rows = report["differences"]
    if not rows:
        return []
    by = {(row["minus"], row["task"]): row for row in rows}
    names = list(dict.fromkeys(row["minus"] for row in rows))
    return [
        f"## What {report['against']} is better by",
        "Points, with the 95% interval of a paired hierarchical bootstrap "
        f"({report['options']['draws']} draws of splits, seeds, and groups of test rows).",
        _markdown(["than", *tasks],
                  [[name, *(_gain(by.get((name, task))) or "-" for task in tasks)]
                   for name in names]),
    ]  # fmt: skip


def _over_placebos(report: Mapping[str, Any], tasks: Sequence[str]) -> list[str]:
    rows = report.get("placebos", [])
    if not rows:
        return []
    by = {(row["contender"], row["placebo"], row["task"]): row for row in rows}
    pairs = list(dict.fromkeys((row["contender"], row["placebo"]) for row in rows))
    return [
        "## What methods have over their placebos",
        "Points over the same method with its labels, words, pseudo-labels or anchors dealt out by "
        "chance; intervals as above. What is not above 0 here is not the method's doing.",
        _markdown(["method", "placebo", *tasks],
                  [[*pair, *(_gain(by.get((*pair, task))) or "-" for task in tasks)]
                   for pair in pairs]),
    ]  # fmt: skip


def _fuzzy(report: Mapping[str, Any]) -> list[str]:
    rows = report.get("fuzzy", [])
    if not rows:
        return []
    lines = [
        [row["contender"], row["task"],
         *(percent(row[arm][value]) for value in ("mean", "sd", "worst")
           for arm in ("single", "triples")),
         "-" if row["ratio"] is None else f"{row['ratio']:.2f}", f"{100 * row['worst_gain']:+.1f}",
         "yes" if row["reached"] else "no"]
        for row in rows
    ]  # fmt: skip
    return [
        "## Fuzzy-PET: how far the choice of words matters",
        f"PET with {rows[0]['single']['arms']} word sets alone, and with "
        f"{rows[0]['triples']['arms']} triples of them, all written down beforehand. sd is the "
        f"sample standard deviation over sets or triples; aimed at: at most {FEWER:g} of it, and a "
        f"worst case {100 * WORSE:g} points better.",
        _markdown(["contender", "task", *(f"{value}, {arm}" for value in ("mean", "sd", "worst")
                                          for arm in ("single", "triples")),
                   "sd ratio", "worst gains", "reached"], lines),
    ]  # fmt: skip


def fuzzy_table(report: Mapping[str, Any]) -> Table | None:
    """Return how word sets and triples of them spread, as a table; None if none were run."""
    if not report["fuzzy"]:
        return None
    table = Table(title="Fuzzy-PET: accuracy in % over word sets alone and over triples of them")
    for heading in ("contender", "task"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean", "", "sd", "", "worst", "", "sd ratio", "worst gains", "reached"):
        table.add_column(heading, justify="right")
    table.add_row("", "", *("single", "triples") * 3)
    for row in report["fuzzy"]:
        table.add_row(
            row["contender"], row["task"],
            *(percent(row[arm][value]) for value in ("mean", "sd", "worst")
              for arm in ("single", "triples")),
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{100 * row['worst_gain']:+.1f}", "yes" if row["reached"] else "no",
        )  # fmt: skip
    return table


def _shown(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the scores but those of Fuzzy-PET's arms, which have a table of their own."""
    return [row for row in report["scores"] if not is_fuzzy_arm(row["contender"])]


def _named(name: str) -> str:
    """Return a contender's name; a placebo arm's stands under that of its method."""
    _, kind = placebo_of(name)
    return f"↳ placebo {kind}" if kind else name


def _floors(report: Mapping[str, Any]) -> list[str]:
    rows = _referred(report)
    if not rows:
        return []
    lines = []
    for row in rows:
        off = 100 * row["mean"] - row["reference"]
        lines.append([row["task"], row["contender"], percent(row["mean"]), _said(row["reference"]),
                      f"{off:+.2f}", "yes" if abs(off) <= WITHIN + 1e-9 else "no"])  # fmt: skip
    return [
        "## Floors and their reference",
        f"Figures measured before and elsewhere, and whether ours are within {WITHIN} points.",
        _markdown(["task", "floor", "ours", "reference", "off by", "within"], lines),
    ]


def _costs(report: Mapping[str, Any]) -> list[str]:
    rows = [
        [row["task"], row["contender"], _said(row["parameters"]), _said(row["cpu_seconds"]),
         str(row["rows"]), str(row["classes"]), str(row["near_train"]),
         percent(row["mean"]), percent(row["mean_without_near"])]
        for row in _shown(report) if row["task"] not in MEANS
    ]  # fmt: skip
    headings = ["task", "contender", "parameters", "CPU seconds, all cells", "test rows",
                "classes in them", "near training rows", "mean", "mean without them"]  # fmt: skip
    return ["## What was scored, and its price", _markdown(headings, rows)]


def _failures(report: Mapping[str, Any]) -> list[str]:
    """Say which models are below the floor, and which floors are off their reference."""
    floor = {row["task"]: row for row in report["scores"] if row["contender"] == FLOOR}
    said = []
    for row in _shown(report):
        own = floor.get(row["task"])
        if None in (own, row["mean"]) or is_floor(row["contender"]) or row["task"] in MEANS:
            continue
        if placebo_of(row["contender"])[0]:
            continue
        if own and own["mean"] is not None and row["mean"] < own["mean"]:
            said.append(
                f"- {row['contender']} is below the floor on {row['task']}: "
                f"{percent(row['mean'])} against {percent(own['mean'])}."
            )
    for row in _referred(report):
        off = 100 * row["mean"] - row["reference"]
        if abs(off) > WITHIN + 1e-9:
            said.append(
                f"- {row['contender']} on {row['task']} is {off:+.1f} points off its reference "
                f"({row['reference']:g})."
            )
    return ["\n".join(said)] if said else ["Nothing in this report is below its floor."]


def _referred(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return rows with a reference, of all five splits; ``floor`` only where it stands alone."""
    rows = [row for row in report["scores"] if row.get("reference") is not None and row["official"]]
    named = {row["task"] for row in rows if row["contender"] != FLOOR}
    return [row for row in rows if row["contender"] != FLOOR or row["task"] not in named]


def _left_out(report: Mapping[str, Any]) -> str:
    said = "".join(f"; {task} left out, no data" for task in report["skipped"])
    if any(row["runs"] < 5 for row in report["scores"]):
        said += "; fewer than the five splits: a try, no result"
    return said


def _score(row: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "-"
    return percent(row["mean"]) + (f" ± {percent(row['sd'])}" if row["sd"] is not None else "")


def _gain(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{100 * row['mean']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"


def _said(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * 1 + ["---:"] * (len(headings) - 1)
    lines = [headings, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
                     for line in lines)  # fmt: skip
