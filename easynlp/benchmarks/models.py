"""``easynlp bench models``: models and floors on FewCLUE's official splits, with their spread.

A small view of the same cells as ``easynlp bench fewclue`` (`easynlp.benchmarks.cells`), for a
look at a model: any splits, any seeds, means and intervals over splits. With ``--probe`` a linear
probe of every model (`easynlp.benchmarks.probe`) stands beside its fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from easynlp.atomic import write_json
from easynlp.benchmarks.cells import find_splits, plan_cells, run_cells
from easynlp.benchmarks.contender import budget_of
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.scores import differences, rank, summarize
from easynlp.benchmarks.settings import ModelsOptions

__all__ = ["bench_models", "models_table", "percent", "probe_table"]


def bench_models(options: ModelsOptions) -> dict[str, Any]:
    """Run the cells that are not done yet; return the report on all.

    The report holds ``cells``, ``scores`` (a mean over splits for each contender and task, with
    sample standard deviation and 95% t interval; the mean over tasks is one more "task"),
    ``differences`` (the last contender minus each other, paired by split; of probes the last
    probe), ``skipped`` (tasks whose data is not there, and why), ``options`` and ``machine``; it
    is also written to ``report.json``.

    Args:
        options: Contenders, tasks, splits, seeds, budget.

    Raises:
        ConfigError: If a task, split or model does not exist.
        DataError: If no task's data is there, or a file is not as released.
    """
    budget = budget_of(options)
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    folder = Path(options.output)
    contenders = [find(name, budget) for name in options.contenders()]
    splits, skipped = find_splits(Path(options.data_root), options.task_names(), options.numbers())
    found = run_cells(list(plan_cells(contenders, splits, options.seeds)), folder)
    report = {
        "scores": summarize(found),
        "differences": differences(found, options.contenders()),
        "skipped": skipped,
        "cells": found,
        "options": asdict(options),
        "machine": machine(options.threads),
    }
    write_json(folder / "report.json", report)
    return report


def models_table(report: Mapping[str, Any]) -> Table:
    """Return a report's scores as a table, in percent: a row for each task and contender."""
    gains = {(row["contender"], row["minus"], row["task"]): row for row in report["differences"]}
    compared = list(dict.fromkeys(row["contender"] for row in report["differences"]))
    left_out = "".join(f"; {task} left out, no data" for task in report["skipped"])
    table = Table(title=f"FewCLUE, accuracy on test_public in %, mean of splits{left_out}")
    for heading in ("task", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean", "± 95%", "sd", "splits"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in compared:
        table.add_column(f"{name} is better by", justify="right")
    task = ""
    for row in sorted(report["scores"], key=lambda row: rank(report["scores"], row)):
        if task and row["task"] != task:
            table.add_section()
        cells = [percent(row["mean"]), percent(row["half_width"]), percent(row["sd"])]
        more = [gains.get((name, row["contender"], row["task"])) for name in compared]
        shown = row["task"] if row["task"] != task else ""
        table.add_row(
            shown, row["contender"], *cells, str(row["runs"]),
            *(f"{percent(gain['mean'])} ± {percent(gain['half_width'])}" if gain else ""
              for gain in more),
        )  # fmt: skip
        task = row["task"]
    return table


def probe_table(report: Mapping[str, Any]) -> Table | None:
    """Return what each vector of the probes scored, in percent; None if there are no probes."""
    probes = [cell for cell in report["cells"] if cell.get("variants")]
    if not probes:
        return None
    vectors = list(probes[0]["variants"])
    table = Table(title="Linear probes by vector, test_public in % (dev chooses the headline)")
    for heading in ("task", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("headline", *vectors, *(f"dev chose {vector}" for vector in vectors)):
        table.add_column(heading, justify="right", no_wrap=True)
    columns = [summarize(probes)] + [
        summarize(probes, lambda cell, vector=vector: cell["variants"][vector])  # type: ignore[misc]
        for vector in vectors
    ]
    task = ""
    for rows in sorted(
        zip(*columns, strict=True), key=lambda rows: rank(report["scores"], rows[0])
    ):
        row = rows[0]
        if task and row["task"] != task:
            table.add_section()
        ours = [
            cell["chosen"]["vector"]
            for cell in probes
            if (cell["contender"], cell["task"]) == (row["contender"], row["task"])
        ]
        chosen = [f"{ours.count(vector)} of {len(ours)}" if ours else "" for vector in vectors]
        shown = row["task"] if row["task"] != task else ""
        table.add_row(shown, row["contender"], *(percent(each["mean"]) for each in rows), *chosen)
        task = row["task"]
    return table


def percent(value: float | None) -> str:
    """Return a share as text, empty if there is none."""
    return "" if value is None else f"{100 * value:.1f}"
