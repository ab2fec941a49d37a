"""``easynlp bench fewclue``: contenders on all nine tasks, by rules that cannot be bent.

One process computes the cells (`easynlp.benchmarks.cells`) that are not done, and makes one table
and one JSON of them: means over the five splits of means over seeds, sample standard deviation,
95% interval, the paired bootstrap of one contender against the others, parameters, CPU seconds,
rows and classes scored, and every single answer with the hash of all.

What makes FewCLUE figures too good is refused, each with an error that says what it is: changed
files, missing rows or classes, labels in the text, test rows in training or unlabelled text
(`released`), dev rows of another split (`fewclue.Split`), a test file opened while learning
(`seal`), label words that collide (`prompts`), few_all in a mean (`settings`, `scores`), seeds,
splits or tasks taken away once a folder was begun (`register`).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.benchmarks.arms import expand, fuzzy_spread, is_fuzzy_arm
from easynlp.benchmarks.bootstrap import Scored, difference_draws, interval_of, mean_draws
from easynlp.benchmarks.cells import find_splits, plan_cells, read_answers, read_done, run_cells
from easynlp.benchmarks.contender import budget_of
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.encodings import gold_of, groups_of
from easynlp.benchmarks.fewclue import FEWCLUE, OFFICIAL, Split, read_split_file
from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.names import placebo_of
from easynlp.benchmarks.scores import FOUR, HEADLINE, MEANS, summarize
from easynlp.benchmarks.settings import FEW_ALL, FewclueOptions
from easynlp.errors import ConfigError, DataError, did_you_mean

__all__ = ["bench_fewclue", "differences", "over_placebos", "reference", "register", "scores_of"]

log = logging.getLogger("easynlp")

WITHIN = 0.5
"""Points within which a floor reproduces its reference figure."""


def bench_fewclue(options: FewclueOptions) -> dict[str, Any]:
    """Run the cells that are not done yet; return the report on all.

    The report holds ``scores``, ``differences``, ``placebos`` (what each method has over its
    placebo arms), ``fuzzy`` (how far scores spread over label words), ``cells`` (with all answers
    and their SHA-256), ``not_shown`` (what else the folder has cells of: contenders that were not
    asked for, and those that were with other settings), ``skipped``,
    ``options`` and ``machine``; it is also written to ``fewclue.json``.

    Args:
        options: Contenders, tasks, splits, seeds, budget.

    Raises:
        ConfigError: If a task, split, model, method or prompt does not exist.
        DataError: If data is not there, not as released, or any rule is broken.
    """
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    names = expand(options.names(), placebos=options.placebos)
    if not names:
        raise ConfigError("nobody takes part: name contenders, as in --contenders floor,lp-ft")
    shown = [name for name in names if not is_fuzzy_arm(name)]
    real = [name for name in shown if not placebo_of(name)[0]]
    against = options.against or (real or names)[-1]
    if against not in names:
        raise ConfigError(
            f'--against "{against}" does not take part.{did_you_mean(against, names)} '
            f"Contenders: {', '.join(names)}"
        )
    contenders = [find(name, budget_of(options), options.model) for name in names]
    splits, skipped = find_splits(Path(options.data_root), options.task_names(), options.numbers())
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    register(folder, options, skipped)
    cells = run_cells(
        list(plan_cells(contenders, splits, options.seeds, drop_near=options.drop_near_test)),
        folder,
    )
    answers = {cell["key"]: read_answers(folder, cell["key"], cell["answers_sha256"])
               for cell in cells}  # fmt: skip
    plain = [cell for cell in cells if cell["contender"] in shown]
    report = {
        "scores": scores_of(cells),
        "against": against,
        "differences": differences(plain, answers, splits, against, draws=options.draws),
        "placebos": over_placebos(plain, answers, splits, draws=options.draws),
        "fuzzy": fuzzy_spread(cells),
        "not_shown": _not_shown(folder, names, {cell["key"] for cell in cells}),
        "skipped": skipped,
        "cells": [{**cell, "answers": answers[cell["key"]]} for cell in cells],
        "options": asdict(options),
        "machine": machine(options.threads),
    }
    write_json(folder / "fewclue.json", report)
    return report


def register(folder: Path, options: FewclueOptions, skipped: Collection[str] = ()) -> None:
    """Write down what a folder is to hold before its first cell; refuse to take away from it.

    Before there is a cell no result was seen, and the plan may change. Finished cells count as
    planned: a plan that was deleted is no way to drop them.

    Args:
        folder: Of the results.
        options: What is asked for now.
        skipped: Tasks whose data is not there; those that have cells are missing.

    Raises:
        DataError: If seeds, splits or tasks of an earlier run are missing now.
    """
    path = folder / "plan.json"
    now: dict[str, list[Any]] = {
        "seeds": list(options.seeds), "splits": options.numbers(), "tasks": options.task_names(),
    }  # fmt: skip
    cells = list(read_done(folder / "cells.jsonl").values())
    if cells:
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for what, given in now.items():
            done = dict.fromkeys(cell[what.removesuffix("s")] for cell in cells)
            planned = list(dict.fromkeys([*before.get(what, ()), *done]))
            gone = [each for each in given if each in skipped and each in done]
            known = [each for each in planned if each != FEW_ALL]
            missing = [str(each) for each in known if each not in given or each in gone]
            if missing:
                raise DataError(
                    f"this folder was begun with the {what} {', '.join(map(str, known))}; "
                    f"{', '.join(missing)} cannot be dropped after results were seen",
                    path=str(path),
                    hint="Name all of them, or begin a folder with --output.",
                )
            now[what] = [*planned, *(each for each in given if each not in planned)]
    write_json(path, now)


def scores_of(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a contender's scores on each task, with what they cost and what they are of."""
    clean = {
        (row["contender"], row["task"]): row["mean"]
        for row in summarize(cells, lambda cell: cell["accuracy_without_them"] or 0.0)
    }
    rows = []
    for row in summarize(cells):
        pair = row["contender"], row["task"]
        of = [cell for cell in cells if (cell["contender"], cell["task"]) == pair]
        more: dict[str, Any] = {}
        if of:
            more = {
                "rows": of[0]["rows"], "classes": of[0]["classes"],
                "parameters": max(cell["parameters"] for cell in of),
                "cpu_seconds": round(sum(cell["cpu_seconds"] for cell in of), 1),
                "near_train": max(
                    (cell["test_rows_near_train"] for cell in of if cell["split"] != FEW_ALL),
                    default=0,
                ),
                "mean_without_near": clean[pair],
                "reference": reference()["floors"].get(pair[1], {}).get(_floor(of)),
                "official": len([s for s in row["splits"] if s != FEW_ALL]) == len(OFFICIAL),
            }  # fmt: skip
        rows.append({**row, **more})
    return rows


def differences(
    cells: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]],
    splits: Sequence[Split], against: str, *, draws: int = 10_000,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return how much better one contender is than each other, with bootstrap intervals.

    Args:
        cells: Finished cells.
        answers: Their answers by key.
        splits: The splits, for the right answers.
        against: The contender that is compared.
        draws: Bootstrap samples.
    """
    tests = {split.task: split.test for split in splits}
    found: list[dict[str, Any]] = []
    of: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
    for number, (task, path) in enumerate(tests.items()):
        test = read_split_file(path, task)
        gold, groups = gold_of(test), groups_of(test)
        scored = _scored([cell for cell in cells if cell["task"] == task], answers, gold)
        for name, theirs in scored.items():
            ours = scored.get(against)
            if name == against or ours is None or not set(ours.right) & set(theirs.right):
                continue
            shared = sorted(set(ours.right) & set(theirs.right))
            ours, theirs = (Scored({s: x.right[s] for s in shared}) for x in (ours, theirs))
            drawn = difference_draws(ours, theirs, groups, draws=draws, seed=number)
            of[name, task] = ours.mean() - theirs.mean(), drawn
    for name, averaged in ((HEADLINE, FOUR), (MEANS[1], tuple(FEWCLUE))):
        for other in dict.fromkeys(contender for contender, _ in list(of)):
            parts = [of[other, task] for task in averaged if (other, task) in of]
            if len(parts) == len(averaged):
                mean = float(np.mean([gain for gain, _ in parts]))
                of[other, name] = mean, mean_draws([drawn for _, drawn in parts])
    for (other, task), (mean, drawn) in of.items():
        found.append({"contender": against, "minus": other, "task": task,
                      **asdict(interval_of(mean, drawn))})  # fmt: skip
    return found


def over_placebos(
    cells: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]],
    splits: Sequence[Split], *, draws: int = 10_000,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return how much better each method is than each of its placebo arms; see `differences`."""
    names = list(dict.fromkeys(cell["contender"] for cell in cells))
    found: list[dict[str, Any]] = []
    for arm in names:
        method, kind = placebo_of(arm)
        if method in names:
            pair = [cell for cell in cells if cell["contender"] in (method, arm)]
            rows = differences(pair, answers, splits, method, draws=draws)
            found += [{**row, "placebo": kind} for row in rows]
    return found


@lru_cache
def reference() -> Mapping[str, Any]:
    """Return figures to compare with, in percent: ``floors`` and ``published``."""
    file = resources.files("easynlp.benchmarks").joinpath("fewclue_reference.json")
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _scored(
    cells: Sequence[Mapping[str, Any]], answers: Mapping[str, Sequence[str]], gold: Sequence[str]
) -> dict[str, Scored]:
    """Return which rows each contender answered rightly, on official splits."""
    right: dict[str, dict[str, list[np.ndarray]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        if cell["split"] != FEW_ALL:
            hits = np.array([a == g for a, g in zip(answers[cell["key"]], gold, strict=True)])
            right.setdefault(cell["contender"], {}).setdefault(cell["split"], []).append(
                hits.astype(np.float64)
            )
    return {name: Scored(splits) for name, splits in right.items()}


def _floor(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return which floor the cells are of."""
    return str(cells[0]["chosen"].get("floor", cells[0]["contender"]))


def _not_shown(folder: Path, names: Sequence[str], shown: Collection[str]) -> list[str]:
    """Return what the folder has cells of, beside those shown.

    A budget that is changed after the scores were seen makes new cells; the old ones are told.
    """
    lines = (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()
    cells = {cell["key"]: cell["contender"] for cell in map(json.loads, lines)}
    hidden = Counter(name for key, name in cells.items() if key not in shown)
    return [
        name if name not in names else f"{name} with other settings ({count} cells)"
        for name, count in hidden.items()
    ]
