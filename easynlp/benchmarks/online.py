"""``easynlp bench online``: what do online distillation and its parts do for small students?

Every arm trains the same students on the same rows, with the same seeds, steps, learning rate and
looks at dev. ``online`` is the method; what it must beat:

- ``labels``: the students learn the labels alone;
- ``trained teacher``: they learn from a teacher that was trained first and is fixed, without an
  assistant: vanilla distillation;
- ``no assistant``, ``no extra layer``, ``no relations``: the method without one of its parts;
- ``shuffled source``: learners get what was said of another row, which is the placebo.

Test rows are read once an arm is trained. Every arm is a folder of runs; those that are complete
are not trained again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from easynlp.atomic import write_json
from easynlp.benchmarks.distill_settings import OnlineOptions
from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.statistics import mean_interval
from easynlp.benchmarks.task_floors import majority, right_of_floor, tfidf_svm
from easynlp.config import DataOptions, TrainConfig, to_yaml
from easynlp.data.diagnose import example_hash
from easynlp.dataset import read_all
from easynlp.distillation.cohort import train_cohort
from easynlp.distillation.settings import CohortOptions
from easynlp.errors import DataError
from easynlp.fewshot.phases import keep_rows, train_once
from easynlp.tasks.base import Example
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.folder import check_folder, claim_folder

__all__ = ["ARMS", "bench_online", "online_table"]

log = logging.getLogger("easynlp")
METHOD, TEACHER, VANILLA = "online", "teacher", "trained teacher"
ARMS: dict[str, dict[str, Any]] = {
    "labels": {"assistant": "", "alpha": 1.0, "relations": 0.0},
    VANILLA: {"assistant": "", "frozen": True},
    METHOD: {},
    "no assistant": {"assistant": ""},
    "no extra layer": {"extra": False},
    "no relations": {"relations": 0.0},
    "shuffled source": {"placebo": "shuffled-source"},
}
"""What differs from the method in each arm."""
FLOORS = {"majority": majority, "tfidf-svm": tfidf_svm}


@dataclass
class _Found:
    """Accuracy by arm and learner, a value for each seed."""

    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, arm: str, learner: str, value: float) -> None:
        log.info("%s, %s: %.4f", arm, learner, value)
        self.scores.setdefault(arm, {}).setdefault(learner, []).append(value)


def bench_online(options: OnlineOptions) -> dict[str, Any]:
    """Train and score all arms.

    Returns:
        ``accuracy`` (by arm and learner, a mean over seeds), ``gains`` (of the method over every
        arm, paired by student and seed, with a 95% t interval), ``rows``, ``machine`` and
        ``options``.

    Raises:
        DataError: If the data is not there or too small.
        ConfigError: If the folder holds other figures, or an option is wrong.
    """
    folder = Path(options.output)
    claim: dict[str, Any] = {"overwrite": False, "name": "bench", "written": to_yaml(options),
                             "resume": (folder / "bench.yaml").is_file()}  # fmt: skip
    check_folder(folder, **claim)
    train, test = _read(options)
    claim_folder(folder, **claim)
    found = _Found()
    counts: dict[str, int] = {}
    for seed in options.seeds:
        order = np.random.default_rng(seed).permutation(len(train))
        drawn = [train[i] for i in order[: options.rows + options.dev_rows]]
        parts = {"train": drawn[: options.rows], "dev": drawn[options.rows :]}
        counts = {name: len(rows) for name, rows in parts.items()} | {"test": len(test)}
        _seed(options, seed, parts, test, found)
    students = [f"student{number}" for number in range(len(options.students))]
    report = {
        "accuracy": {
            arm: {learner: float(np.mean(values)) for learner, values in scores.items()}
            for arm, scores in found.scores.items()
        },
        "gains": {
            arm: asdict(mean_interval(_differences(found, arm, students)))
            for arm in ARMS
            if arm != METHOD
        },
        "rows": counts, "machine": machine(options.threads), "options": asdict(options),
    }  # fmt: skip
    write_json(folder / "report.json", report)
    return report


def _differences(found: _Found, arm: str, students: list[str]) -> list[float]:
    ours, theirs = found.scores[METHOD], found.scores[arm]
    return [
        one - other
        for name in students
        for one, other in zip(ours[name], theirs[name], strict=True)
    ]


def _seed(
    options: OnlineOptions, seed: int, parts: Mapping[str, list[Example]], test: list[Example],
    found: _Found,
) -> None:  # fmt: skip
    """Train all arms on one draw of the rows and score them."""
    home = Path(options.output) / str(seed)
    for name, rows in parts.items():
        keep_rows(home / f"{name}.jsonl", rows)
    for name, make in FLOORS.items():
        right = right_of_floor(make(), parts["train"], (), test, seed)
        found.add(name, "", float(right.mean()))
    plain = TrainConfig(
        task="text_classify", model=options.teacher, train=str(home / "train.jsonl"),
        dev=str(home / "dev.jsonl"), output=str(home / TEACHER), steps=options.steps,
        lr=options.lr, batch_size=options.batch_size, eval_every=options.eval_every, seed=seed,
        threads=options.threads,
    )  # fmt: skip
    task = ClassifyConfig(max_length=options.max_length)
    trained = train_once(plain, task)
    found.add(TEACHER, TEACHER, trained.evaluate(test)["accuracy"])
    usual = CohortOptions(
        students=options.students, assistant=options.assistant, alpha=options.alpha,
        temperature=options.temperature, relations=options.relations,
    )  # fmt: skip
    for arm, changes in ARMS.items():
        output = home / arm.replace(" ", "-")
        model = plain.output if arm == VANILLA else plain.model
        config = replace(plain, model=model, output=str(output),
                         resume=(output / "online.yaml").is_file())  # fmt: skip
        for name, run in train_cohort(config, replace(usual, **changes), task).items():
            if name != TEACHER or arm == METHOD:
                found.add(arm, name, run.evaluate(test)["accuracy"])


def _read(options: OnlineOptions) -> tuple[list[Example], list[Example]]:
    """Return rows to draw from and test rows; what stands in both is left out of the former."""
    folder = Path(options.data_root) / options.data
    paths = {name: sorted(folder.glob(f"{name}.jsonl*")) for name in ("train", "test")}
    if not all(paths.values()):
        raise DataError(
            "train.jsonl and test.jsonl are wanted (or .gz)", path=str(folder),
            hint="Name a labelled set with --data, and the folder it lies in with --data-root.",
        )  # fmt: skip
    train, test = (
        read_all(str(paths[name][0]), TextClassify.fields, DataOptions())
        for name in ("train", "test")
    )
    order = np.random.default_rng(0).permutation(len(test))
    test = [test[i] for i in sorted(order[: options.test_rows])]
    known = {example_hash(row) for row in test}
    distinct = {key: row for row in train if (key := example_hash(row)) not in known}
    wanted = options.rows + options.dev_rows
    if len(distinct) < wanted:
        raise DataError(
            f"{len(distinct)} distinct rows to train on; {wanted} are wanted", path=str(folder),
            hint="Lower --rows or --dev-rows.",
        )  # fmt: skip
    return list(distinct.values()), test


def online_table(report: Mapping[str, Any]) -> Table:
    """Return a report as a table, in percent: a row for each arm, a column for each learner."""
    learners = [TEACHER, "assistant"]
    learners += [f"student{number}" for number in range(len(report["options"]["students"]))]
    shapes = [report["options"][name] for name in learners[:2]] + [*report["options"]["students"]]
    table = Table(
        title="Accuracy on test rows, in %; gain: the method minus the arm, over students"
    )
    table.add_column("arm", no_wrap=True)
    for name, shape in zip(learners, shapes, strict=True):
        table.add_column(f"{name}\n{shape}", justify="right")
    table.add_column("gain", justify="right")
    for arm, scores in report["accuracy"].items():
        if arm in (TEACHER, next(iter(ARMS))):
            table.add_section()
        shown = ""
        if (gain := report["gains"].get(arm)) is not None:
            half = gain["half_width"]
            shown = f"{100 * gain['mean'] + 0.0:+.1f}"
            shown += f" ± {100 * half:.1f}" if half is not None else ""
        cells = [f"{100 * scores[n]:.1f}" if n in scores else "-" for n in learners]
        if "" in scores:
            cells = [f"{100 * scores['']:.1f}"] + [""] * (len(learners) - 1)
        table.add_row(arm, *cells, shown)
    counts = ", ".join(f"{count} {name}" for name, count in report["rows"].items())
    seeds = ", ".join(map(str, report["options"]["seeds"]))
    table.caption = (
        f"{report['options']['data']}: {counts} rows; seeds {seeds}; a floor's figure stands first"
    )
    return table
