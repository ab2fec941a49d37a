"""``easynlp bench models``: contenders on FewCLUE's official splits, with their uncertainty.

A cell is one contender on one split of one task with one seed. It is trained on ``train_i``,
everything is chosen on ``dev_i``, and ``test_public`` is read afterwards and scored once. Each
finished cell is a line of ``cells.jsonl`` in the output folder, so that a run that was stopped
goes on where it was; a line counts only for the same data, weights and budget. With ``--probe``
a linear probe of every model (`easynlp.benchmarks.probe`) stands beside its fine-tuning.
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

from easynlp.benchmarks.contenders import CONTENDERS, Budget, Contender, accuracy, find, joined
from easynlp.benchmarks.fewclue import Split, find_split, read_split_file
from easynlp.benchmarks.settings import PREFIX, ModelsOptions
from easynlp.benchmarks.statistics import mean_interval
from easynlp.benchmarks.timing import machine
from easynlp.errors import DataError

__all__ = ["FOUR", "bench_models", "models_table", "probe_table", "summarize"]

log = logging.getLogger("easynlp")

FOUR = ("eprstmt", "tnews", "csldcp", "iflytek")
"""The tasks of the headline mean: one text a row, from 2 to 119 classes."""
HEADLINE = "four-task mean"


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
    sample standard deviation and 95% t interval; the mean over tasks is one more "task"),
    ``differences`` (the last contender minus each other, paired by split; of probes the last
    probe), ``skipped`` (tasks whose data is not there, and why), ``options`` and ``machine``; it
    is also written to ``report.json``.

    Args:
        options: Contenders, tasks, splits, seeds, budget.

    Raises:
        ConfigError: If a task, split or model does not exist.
        DataError: If no task's data is there, or a file is not whole.
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
    contenders = [find(name, budget) for name in options.contenders()]
    splits, skipped = _splits(options)
    cells = list(_cells(options, contenders, splits))
    identities = {contender.name: contender.identity() for contender in contenders}
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
        "skipped": skipped,
        "cells": found,
        "options": asdict(options),
        "machine": machine(options.threads),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


def _splits(options: ModelsOptions) -> tuple[list[Split], dict[str, str]]:
    """Return the splits of the tasks whose data is there, and why others are left out.

    Raises:
        ConfigError: If a task or split does not exist.
        DataError: If there is no data at all.
    """
    splits: list[Split] = []
    skipped: dict[str, str] = {}
    for task in options.task_names():
        try:
            root = Path(options.data_root)
            splits += [find_split(root, task, number) for number in options.numbers()]
        except DataError as error:
            skipped[task] = error.message
            missing = error
    if not splits:
        raise missing
    for task, why in skipped.items():
        log.warning("%s is left out: %s", task, why)
    return splits, skipped


def _cells(
    options: ModelsOptions, contenders: Sequence[Contender], splits: Sequence[Split]
) -> Iterator[Cell]:
    """Yield all cells: task by task, split by split, so that early results compare."""
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
        variants = learned.variants(test) if learned.variants else {}
    right = round(accuracy(answers, test) * len(test))
    train_texts = {joined(each) for each in read_split_file(split.train, split.task)}
    answers_file = folder / "answers" / f"{key}.json"
    answers_file.parent.mkdir(exist_ok=True)
    answers_file.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
    line = {
        "key": key, "contender": name, "task": split.task, "split": split.number,
        "seed": cell.seed, "accuracy": right / len(test), "right": right, "rows": len(test),
        "dev_accuracy": learned.dev_accuracy, "chosen": dict(learned.chosen),
        "variants": {name: accuracy(found, test) for name, found in variants.items()},
        "test_rows_in_train": sum(joined(each) in train_texts for each in test),
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


def _per_split(
    cells: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> dict[tuple[str, str], dict[str, float]]:
    """Return (contender, task) to the value of each split, a mean over seeds.

    The mean over tasks is one more task, of the splits that all of them have: over the tasks of
    `FOUR` where all are there, else over the tasks there are.
    """
    seeds: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        seeds[cell["contender"], cell["task"]][cell["split"]].append(value(cell))
    found = {
        pair: {split: sum(values) / len(values) for split, values in splits.items()}
        for pair, splits in seeds.items()
    }
    tasks = list(dict.fromkeys(task for _, task in found))
    if len(tasks) > 1:
        averaged, name = (FOUR, HEADLINE) if set(FOUR) <= set(tasks) else (tasks, "mean of all")
        for contender in dict.fromkeys(contender for contender, _ in found):
            parts = [found.get((contender, task), {}) for task in averaged]
            shared = [split for split in parts[0] if all(split in part for part in parts)]
            if shared:
                found[contender, name] = {
                    split: sum(part[split] for part in parts) / len(parts) for split in shared
                }
    return found


def _accuracy(cell: Mapping[str, Any]) -> float:
    found: float = cell["accuracy"]
    return found


def summarize(
    cells: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float] = _accuracy
) -> list[dict[str, Any]]:
    """Return a contender's mean over splits on each task, with standard deviation and interval.

    Args:
        cells: Finished cells.
        value: What of a cell is averaged; by default its accuracy.
    """
    rows = []
    for (contender, task), splits in _per_split(cells, value).items():
        found = mean_interval(list(splits.values()))
        rows.append({"contender": contender, "task": task, **asdict(found), "splits": splits})
    return rows


def differences(
    cells: Sequence[Mapping[str, Any]], contenders: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the last contender's accuracy minus each other's, paired by split.

    With probes there are two such: the last probe against floors and probes, and the last of
    the others against the rest.
    """
    scores = _per_split(cells, _accuracy)
    rows = []
    for last in _compared(contenders):
        for (contender, task), splits in scores.items():
            if contender == last or (contender not in CONTENDERS and not _alike(contender, last)):
                continue
            ours = scores.get((last, task), {})
            gains = [ours[split] - value for split, value in splits.items() if split in ours]
            if gains:
                rows.append({"contender": last, "minus": contender, "task": task,
                             **asdict(mean_interval(gains))})  # fmt: skip
    return rows


def _alike(one: str, other: str) -> bool:
    """Return whether both contenders are probes, or neither is."""
    return one.startswith(PREFIX) == other.startswith(PREFIX)


def _compared(contenders: Sequence[str]) -> list[str]:
    """Return the last contender that is no probe, and the last probe, where there are any.

    A floor is the measure of others: beside probes it is not compared itself.
    """
    probes = [name for name in contenders if name.startswith(PREFIX)]
    others = [name for name in contenders if name not in probes]
    if probes and others and others[-1] in CONTENDERS:
        others = []
    return [names[-1] for names in (others, probes) if names]


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
    for row in sorted(report["scores"], key=lambda row: _rank(report, row)):
        if task and row["task"] != task:
            table.add_section()
        cells = [_percent(row["mean"]), _percent(row["half_width"]), _percent(row["sd"])]
        more = [gains.get((name, row["contender"], row["task"])) for name in compared]
        shown = row["task"] if row["task"] != task else ""
        table.add_row(
            shown, row["contender"], *cells, str(row["runs"]),
            *(f"{_percent(gain['mean'])} ± {_percent(gain['half_width'])}" if gain else ""
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
    for rows in sorted(zip(*columns, strict=True), key=lambda rows: _rank(report, rows[0])):
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
        table.add_row(shown, row["contender"], *(_percent(each["mean"]) for each in rows), *chosen)
        task = row["task"]
    return table


def _rank(report: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[bool, int]:
    """Order rows by task as they came, the mean last."""
    tasks = list(dict.fromkeys(each["task"] for each in report["scores"]))
    return row["task"] in (HEADLINE, "mean of all"), tasks.index(row["task"])


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
