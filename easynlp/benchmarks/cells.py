"""Cells: one contender on one split of one task with one seed, computed once.

A contender learns from ``train_i`` and chooses on ``dev_i`` while the test file is closed; then
``test_public`` is read and answered once. The rows it answers have no labels and come in a
random order, so that neither is a hint. Each finished cell is a line of ``cells.jsonl`` in the
output folder, its answers a file beside it: a run that was stopped goes on where it was. A line
counts only for the same data, weights and settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from easynlp.atomic import write_text
from easynlp.benchmarks.contender import Contender, Learned
from easynlp.benchmarks.encodings import (
    answers_of,
    gold_of,
    grade,
    hide,
    plain_texts,
    rows_of,
)
from easynlp.benchmarks.fewclue import FEWCLUE, Split, find_split, read_split_file
from easynlp.benchmarks.lineage import check_lineage
from easynlp.benchmarks.pool import Pool, has_unlabelled, read_unlabelled
from easynlp.benchmarks.released import check_split, digest, near_rows
from easynlp.benchmarks.seal import sealed
from easynlp.errors import DataError, ModelError
from easynlp.tasks.base import Example, Prediction

__all__ = ["Cell", "find_splits", "plan_cells", "progress_bar", "read_answers", "read_done",
           "run_cells"]  # fmt: skip

log = logging.getLogger("easynlp")

FORMAT = 2
"""Of a cell's line; a change makes old lines count no more."""
ORDER = 0
"""Seed of the order in which test rows are answered."""


@dataclass(frozen=True)
class Cell:
    """One contender on one split with one seed."""

    contender: Contender
    split: Split
    seed: int

    def key(self, identity: str) -> str:
        """Return a hash of all that decides the cell's result."""
        split = self.split
        assert split.test is not None
        parts = [
            str(FORMAT), self.contender.name, identity, split.task, split.number,
            str(self.seed if self.contender.seeded else "-"),
            *(digest(path) for path in (split.train, split.dev, split.test)),
        ]  # fmt: skip
        if split.unlabelled:
            parts += plain_texts(split.unlabelled)
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:20]


def find_splits(
    root: Path, tasks: Sequence[str], numbers: Sequence[str]
) -> tuple[list[Split], dict[str, str]]:
    """Return the splits of the tasks whose data is there, checked, and why others are left out.

    Raises:
        ConfigError: If a task or split does not exist.
        DataError: If there is no data at all, or it is not as released.
    """
    splits: list[Split] = []
    skipped: dict[str, str] = {}
    for task in tasks:
        try:
            splits += [find_split(root, task, number) for number in numbers]
        except DataError as error:
            skipped[task] = error.message
            missing = error
    if not splits:
        raise missing
    for task, why in skipped.items():
        log.warning("%s is left out: %s", task, why)
    for split in splits:
        check_split(split)
    return splits, skipped


def plan_cells(
    contenders: Sequence[Contender], splits: Sequence[Split], seeds: Sequence[int],
    *, drop_near: bool = False,
) -> Iterator[tuple[Cell, dict[str, Any]]]:  # fmt: skip
    """Yield all cells, split by split, so that early results compare; and what to note of each.

    A contender that the seed makes no difference to has one cell a split.

    Args:
        contenders: Who takes part, where they are made for the task.
        splits: The splits.
        seeds: For contenders that a seed makes a difference to.
        drop_near: Leave out unlabelled texts that are near test rows.

    Raises:
        DataError: If unlabelled text is wanted and it holds test rows, and `drop_near` is not
            asked for; if a contender begins with a run that has seen the task's labels.
    """
    pools: dict[str, Pool] = {}
    for split in splits:
        pool: Pool | None = None
        for contender in contenders:
            if not contender.takes(split.task):
                continue
            check_lineage(contender, split)
            more: dict[str, Any] = {}
            used = split
            if contender.unlabelled:
                pool = pool or _pool(split, pools, drop_near=drop_near)
                used = replace(split, unlabelled=pool.examples)
                more = dict(pool.noted())
            for seed in seeds if contender.seeded else seeds[:1]:
                yield Cell(contender, used, seed), more


def _pool(split: Split, pools: dict[str, Pool], *, drop_near: bool) -> Pool:
    """Return a split's unlabelled text; none, if none was released for its task."""
    if split.task not in pools:
        pools[split.task] = Pool(())
        if has_unlabelled(split.task):
            root = split.train.parent.parent
            pools[split.task] = read_unlabelled(root, split.task, drop_near=drop_near)
    return pools[split.task].for_split(split)


def run_cells(cells: Sequence[tuple[Cell, dict[str, Any]]], folder: Path) -> list[dict[str, Any]]:
    """Compute the cells that are not done yet; return the lines of all.

    Args:
        cells: The cells, each with what else to write into its line.
        folder: Where ``cells.jsonl`` and the answers are.

    Raises:
        DataError: If a contender opens the test file, or does not answer every row.
        ModelError: If a contender's model cannot be had; then no cell is computed.
    """
    identities = _identities([cell.contender for cell, _ in cells])
    folder.mkdir(parents=True, exist_ok=True)
    done = read_done(folder / "cells.jsonl")
    found = []
    with progress_bar(len(cells)) as advance:
        for cell, more in cells:
            key = cell.key(identities[cell.contender.name])
            if key not in done:
                done[key] = _run(cell, key, more, folder, advance)
            found.append(done[key])
            advance("", 1)
    return found


def _identities(contenders: Iterable[Contender]) -> dict[str, str]:
    """Ask all before the first learns: hours later a name that is no model's would end the run."""
    found: dict[str, str] = {}
    for contender in contenders:
        if contender.name not in found:
            try:
                found[contender.name] = contender.identity()
            except ModelError as error:
                raise ModelError(f'contender "{contender.name}": {error}') from error
    return found


def read_answers(folder: Path, key: str, sha256: str) -> list[str]:
    """Return a finished cell's answers.

    Raises:
        DataError: If they are not those that were scored.
    """
    path = folder / "answers" / f"{key}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"a cell's answers are gone: {error.strerror}", path=str(path)) from error
    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise DataError("the answers are not those that were scored", path=str(path))
    answers: list[str] = json.loads(text)
    return answers


def _run(
    cell: Cell, key: str, more: dict[str, Any], folder: Path, advance: Callable[[str, int], None]
) -> dict[str, Any]:
    """Compute a cell and write its line and its answers."""
    started, cpu = time.perf_counter(), time.process_time()
    name, split = cell.contender.name, cell.split
    title = f"{split.task} {split.number}  {name}"
    with _quiet():
        with sealed():
            learned = cell.contender.learn(
                split.closed(), cell.seed, lambda text: advance(f"{title}  {text}", 0)
            )
        # Only now: nothing above has seen the test rows.
        test = read_split_file(split.test, split.task)
        with sealed():
            predictions = _answer(learned, test)
        train = read_split_file(split.train, split.task)
        _check_answers(predictions, train, split)
        with sealed():
            variants = learned.variants(hide(test)) if learned.variants else {}
    answers, gold = answers_of(test, predictions), gold_of(test)
    right = [a == g for a, g in zip(answers, gold, strict=True)]
    near = near_rows(plain_texts(train), test)
    clean = [hit for row, hit in enumerate(right) if row not in near]
    text = json.dumps(answers, ensure_ascii=False)
    answers_file = folder / "answers" / f"{key}.json"
    answers_file.parent.mkdir(exist_ok=True)
    write_text(answers_file, text)
    line = {
        "key": key, "contender": name, "task": split.task, "split": split.number,
        "seed": cell.seed, "accuracy": sum(right) / len(right), "right": sum(right),
        "rows": len(right), "classes": len(set(gold)), "dev_accuracy": learned.dev_accuracy,
        "chosen": dict(learned.chosen),
        "variants": {each: grade(test, found) for each, found in variants.items()},
        "test_rows_near_train": len(near),
        "accuracy_without_them": sum(clean) / len(clean) if clean else None,
        "parameters": learned.parameters,
        "answers_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "seconds": round(time.perf_counter() - started, 2), **more,
    }  # fmt: skip
    with (folder / "cells.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    log.info("%s  test %.4f  dev %.4f  %.0f s", title, line["accuracy"], learned.dev_accuracy,
             line["seconds"])  # fmt: skip
    return line


def _answer(learned: Learned, test: Sequence[Example]) -> list[Prediction]:
    """Return a prediction for each example, asked without labels and in a random order."""
    numbers = iter(range(len(test)))
    rows = [[next(numbers) for _ in row] for row in rows_of(test)]
    random.Random(ORDER).shuffle(rows)
    order = [number for row in rows for number in row]
    hidden = hide(test)
    given = learned.predict([hidden[number] for number in order])
    if len(given) != len(test):
        raise DataError(f"{len(given)} predictions for {len(test)} rows; every row counts")
    found: list[Prediction] = [{}] * len(test)
    for number, prediction in zip(order, given, strict=True):
        found[number] = prediction
    return found


def _check_answers(
    predictions: Sequence[Prediction], train: Sequence[Example], split: Split
) -> None:
    """Refuse answers that leave out classes of the task.

    Raises:
        DataError: If there is another label, or scores are of some labels only.
    """
    classes = {str(each["label"]) for each in train}
    for prediction in predictions:
        scores = prediction.get("scores", {})
        if len(scores) > 1 and set(scores) != classes:
            raise DataError(
                f"answers are chosen among {len(scores)} labels, but {split.task} has "
                f"{len(classes)}: a task with fewer classes is an easier one"
            )
        if not FEWCLUE[split.task].is_choice and str(prediction.get("label")) not in classes:
            raise DataError(f'the answer "{prediction.get("label")}" is no label of {split.task}')


def read_done(path: Path) -> dict[str, dict[str, Any]]:
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
        write_text(path, "".join(whole))
    return done


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
def progress_bar(cells: int) -> Iterator[Callable[[str, int], None]]:
    """Show progress on standard error if somebody watches."""
    if not sys.stderr.isatty():
        yield lambda text, steps: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=cells)
        yield lambda text, steps: progress.update(bar, description=text, advance=steps)
