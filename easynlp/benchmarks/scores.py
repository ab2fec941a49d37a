"""From cells to scores: the mean over splits of the mean over seeds, and what one has over another.

The unit of replication is the split. ``few_all`` holds five times the labels and is the union of
the splits, so it is never a sixth one: it stands apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from easynlp.benchmarks.fewclue import FEWCLUE
from easynlp.benchmarks.settings import FEW_ALL, PREFIX, is_floor
from easynlp.benchmarks.statistics import mean_interval
from easynlp.errors import DataError

__all__ = ["FOUR", "HEADLINE", "MEANS", "differences", "per_split", "rank", "summarize"]

FOUR = ("eprstmt", "tnews", "csldcp", "iflytek")
"""The tasks of the headline mean: one text a row, from 2 to 119 classes."""
HEADLINE, NINE = "four-task mean", "nine-task mean"
MEANS = (HEADLINE, NINE, "mean of all")
"""Names of means over tasks."""


def per_split(
    cells: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> dict[tuple[str, str], dict[str, float]]:
    """Return (contender, task) to the value of each split, a mean over seeds.

    Means over tasks are more tasks, of the splits that all of them have: over the tasks of
    `FOUR` and over all nine where they are there, else over the tasks there are.

    Raises:
        DataError: If a contender has other seeds on one split than on another: a mean of what is
            left after some were dropped is no mean.
    """
    seeds: dict[tuple[str, str], dict[str, dict[Any, float]]] = defaultdict(dict)
    for cell in cells:
        by_seed = seeds[cell["contender"], cell["task"]].setdefault(cell["split"], {})
        by_seed[cell.get("seed", len(by_seed))] = value(cell)
    for (contender, task), splits in seeds.items():
        sets = {tuple(sorted(map(str, by_seed))) for by_seed in splits.values()}
        if len(sets) > 1:
            raise DataError(
                f"{contender} on {task} has different seeds on different splits: "
                f"{' / '.join(', '.join(each) for each in sorted(sets))}; none may be dropped"
            )
    found = {
        pair: {split: sum(by_seed.values()) / len(by_seed) for split, by_seed in splits.items()}
        for pair, splits in seeds.items()
    }
    tasks = list(dict.fromkeys(task for _, task in found))
    over = {HEADLINE: FOUR, NINE: tuple(FEWCLUE)}
    over = {name: each for name, each in over.items() if set(each) <= set(tasks)}
    if not over and len(tasks) > 1:
        over = {MEANS[-1]: tuple(tasks)}
    for name, averaged in over.items():
        for contender in dict.fromkeys(contender for contender, _ in list(found)):
            parts = [found.get((contender, task), {}) for task in averaged]
            shared = [split for split in parts[0] if all(split in part for part in parts)]
            if shared:
                found[contender, name] = {
                    split: sum(part[split] for part in parts) / len(parts) for split in shared
                }
    return found


def official(splits: Mapping[str, float]) -> list[float]:
    """Return the values of the official splits: all but few_all."""
    return [value for split, value in splits.items() if split != FEW_ALL]


def _accuracy(cell: Mapping[str, Any]) -> float:
    found: float = cell["accuracy"]
    return found


def summarize(
    cells: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float] = _accuracy
) -> list[dict[str, Any]]:
    """Return a contender's mean over splits on each task, with standard deviation and interval.

    ``few_all`` has a key of its own, None where it was not run; without official splits there is
    no mean (None).

    Args:
        cells: Finished cells.
        value: What of a cell is averaged; by default its accuracy.
    """
    rows = []
    for (contender, task), splits in per_split(cells, value).items():
        values = official(splits)
        found: dict[str, Any] = {"mean": None, "sd": None, "half_width": None, "runs": 0}
        if values:
            found = asdict(mean_interval(values))
        rows.append({"contender": contender, "task": task, **found, "splits": splits,
                     FEW_ALL: splits.get(FEW_ALL)})  # fmt: skip
    return rows


def differences(
    cells: Sequence[Mapping[str, Any]], contenders: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the last contender's accuracy minus each other's, paired by official split.

    With probes there are two such: the last probe against floors and probes, and the last of
    the others against the rest.
    """
    scores = per_split(cells, _accuracy)
    rows = []
    for last in compared(contenders):
        for (contender, task), splits in scores.items():
            if contender == last or (not is_floor(contender) and not _alike(contender, last)):
                continue
            ours = scores.get((last, task), {})
            gains = official({s: ours[s] - value for s, value in splits.items() if s in ours})
            if gains:
                rows.append({"contender": last, "minus": contender, "task": task,
                             **asdict(mean_interval(gains))})  # fmt: skip
    return rows


def _alike(one: str, other: str) -> bool:
    """Return whether both contenders are probes, or neither is."""
    return one.startswith(PREFIX) == other.startswith(PREFIX)


def compared(contenders: Sequence[str]) -> list[str]:
    """Return the last contender that is no probe, and the last probe, where there are any.

    A floor is the measure of others: beside probes it is not compared itself.
    """
    probes = [name for name in contenders if name.startswith(PREFIX)]
    others = [name for name in contenders if name not in probes]
    if probes and others and is_floor(others[-1]):
        others = []
    return [names[-1] for names in (others, probes) if names]


def rank(scores: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> tuple[bool, int]:
    """Order rows by task as they came, means last."""
    tasks = list(dict.fromkeys(each["task"] for each in scores))
    return row["task"] in MEANS, tasks.index(row["task"])
