"""``easynlp bench models``: contenders on FewCLUE's official splits, with their uncertainty.

A cell is one contender on one split of one task with one seed. It is trained on ``train_i``,
everything is chosen on ``dev_i``, and ``test_public`` is read afterwards and scored once. Each
finished cell is a line of ``cells.jsonl`` in the output folder, so that a run that was stopped
goes on where it was; a line counts only for the same data, weights and budget.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from easynlp.benchmarks.contenders import Budget, Contender, accuracy, find
from easynlp.benchmarks.fewclue import Split, find_split, read_split_file
from easynlp.benchmarks.settings import ModelsOptions
from easynlp.benchmarks.statistics import mean_interval
from easynlp.benchmarks.timing import machine

__all__ = ["bench_models", "models_table", "summarize"]

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Cell:
    """One contender on one split with one seed."""

    contender: Contender
    split: Split
    seed: int

    def key(self, identity: str) -> str:
        """Return a hash of all that decides the cell's result."""
        digest = hashlib.sha256(
            f"{self.contender.name}|{identity}|{self.split.task}|{self.split.number}|"
            f"{self.seed if self.contender.seeded else '-'}".encode()
        )
        for path in (self.split.train, self.split.dev, self.split.test):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:20]


def bench_models(options: ModelsOptions) -> dict[str, Any]:
    """Run the cells that are not done yet; return the report on all.

    The report holds ``cells``, ``scores`` (a mean over splits for each contender and task, with
    sample standard deviation and 95% t interval), ``differences`` (the last contender minus each
    other, paired by split), ``options`` and ``machine``; it is also written to ``report.json``.

    Args:
        options: Contenders, tasks, splits, seeds, budget.

    Raises:
        ConfigError: If a task, split or model does not exist.
        DataError: If the data is not there or is not whole.
    """
    budget = Budget(
        options.lrs, options.epochs, options.min_steps, options.max_steps, options.evaluations,
        options.batch_size, options.max_length,
    )  # fmt: skip
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    cells = list(_cells(options, budget))
    identities = {cell.contender.name: cell.contender.identity() for cell in cells}
    done = _read_done(folder / "cells.jsonl")
    found: list[dict[str, Any]] = []
    with _progress(len(cells)) as advance:
        for cell in cells:
            key = cell.key(identities[cell.contender.name])
            if key not in done:
                done[key] = _run(cell, key, folder, advance)
            found.append(done[key])
            advance("", 1)
    report = {
        "scores": summarize(found),
        "differences": differences(found, options.contenders()),
        "cells": found,
        "options": asdict(options),
        "machine": machine(options.threads),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


def _cells(options: ModelsOptions, budget: Budget) -> Iterator[Cell]:
    """Yield all cells: task by task, split by split, so that early results compare."""
    contenders = [find(name, budget) for name in options.contenders()]
    splits = [
        find_split(Path(options.data_root), task, number)
        for task in options.task_names()
        for number in options.numbers()
    ]
    for split in splits:
        for contender in contenders:
            for seed in options.seeds if contender.seeded else options.seeds[:1]:
                yield Cell(contender, split, seed)


def _run(cell: Cell, key: str, folder: Path, advance: Callable[[str, int], None]) -> dict[str, Any]:
    """Compute a cell and write its line and its answers."""
    started = time.perf_counter()
    name, split = cell.contender.name, cell.split
    title = f"{split.task} {split.number}  {name}"
    with _quiet():
        learned = cell.contender.learn(
            split, cell.seed, lambda text: advance(f"{title}  {text}", 0)
        )
        # Only now: nothing above has seen the test rows.
        test = read_split_file(split.test, split.task)
        answers = learned.predict(test)
    right = round(accuracy(answers, test) * len(test))
    train_texts = {str(each["text"]) for each in read_split_file(split.train, split.task)}
    answers_file = folder / "answers" / f"{key}.json"
    answers_file.parent.mkdir(exist_ok=True)
    answers_file.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    line = {
        "key": key, "contender": name, "task": split.task, "split": split.number,
        "seed": cell.seed, "accuracy": right / len(test), "right": right, "rows": len(test),
        "dev_accuracy": learned.dev_accuracy, "chosen": dict(learned.chosen),
        "test_rows_in_train": sum(str(each["text"]) in train_texts for each in test),
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    with (folder / "cells.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    log.info("%s  test %.4f  dev %.4f  %.0f s", title, line["accuracy"], learned.dev_accuracy,
             line["seconds"])  # fmt: skip
    return line


def _read_done(path: Path) -> dict[str, dict[str, Any]]:
    """Return finished cells by key; a line cut short by a crash is left out."""
    done: dict[str, dict[str, Any]] = {}
    if path.is_file():
        whole = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                cell = json.loads(line)
                done[cell["key"]] = cell
                whole.append(line + "\n")
            except (ValueError, KeyError):
                continue
        path.write_text("".join(whole), encoding="utf-8")
    return done


def _per_split(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, float]]:
    """Return (contender, task) to accuracy of each split, a mean over seeds."""
    seeds: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        seeds[cell["contender"], cell["task"]][cell["split"]].append(cell["accuracy"])
    return {
        pair: {split: sum(values) / len(values) for split, values in splits.items()}
        for pair, splits in seeds.items()
    }


def summarize(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a contender's mean over splits on each task, with standard deviation and interval."""
    rows = []
    for (contender, task), splits in _per_split(cells).items():
        found = mean_interval(list(splits.values()))
        rows.append({"contender": contender, "task": task, **asdict(found), "splits": splits})
    return rows


def differences(
    cells: Sequence[Mapping[str, Any]], contenders: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the last contender's accuracy minus each other's, paired by split."""
    scores = _per_split(cells)
    last = contenders[-1]
    rows = []
    for (contender, task), splits in scores.items():
        ours = scores.get((last, task), {})
        gains = [ours[split] - value for split, value in splits.items() if split in ours]
        if contender != last and gains:
            rows.append({"contender": last, "minus": contender, "task": task,
                         **asdict(mean_interval(gains))})  # fmt: skip
    return rows


def models_table(report: Mapping[str, Any]) -> Table:
    """Return a report's scores as a table, in percent: a row for each task and contender."""
    gains = {(row["minus"], row["task"]): row for row in report["differences"]}
    compared = report["differences"][0]["contender"] if report["differences"] else ""
    table = Table(title="FewCLUE, accuracy on test_public in %, mean of splits")
    for heading in ("task", "contender"):
        table.add_column(heading, no_wrap=True)
    for heading in ("mean", "± 95%", "sd", "splits"):
        table.add_column(heading, justify="right", no_wrap=True)
    if compared:
        table.add_column(f"{compared} is better by", justify="right")
    means: dict[str, list[float]] = defaultdict(list)
    task = ""
    for row in sorted(report["scores"], key=lambda row: _rank(report, row)):
        if task and row["task"] != task:
            table.add_section()
        gain = gains.get((row["contender"], row["task"]))
        cells = [_percent(row["mean"]), _percent(row["half_width"]), _percent(row["sd"])]
        if compared:
            cells.append(
                f"{_percent(gain['mean'])} ± {_percent(gain['half_width'])}" if gain else ""
            )
        shown = row["task"] if row["task"] != task else ""
        table.add_row(shown, row["contender"], *cells[:3], str(row["runs"]), *cells[3:])
        task = row["task"]
        means[row["contender"]].append(row["mean"])
    table.add_section()
    for number, (contender, values) in enumerate(means.items()):
        table.add_row("" if number else "mean", contender, _percent(sum(values) / len(values)))
    return table


def _rank(report: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    tasks = list(dict.fromkeys(each["task"] for each in report["scores"]))
    return tasks.index(row["task"])


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notices of reading and training away: a table of a hundred cells needs none."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _progress(cells: int) -> Iterator[Callable[[str, int], None]]:
    """Show progress on standard error if somebody watches."""
    if not sys.stderr.isatty():
        yield lambda text, steps: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=cells)
        yield lambda text, steps: progress.update(bar, description=text, advance=steps)
