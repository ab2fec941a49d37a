"""``easynlp distill``: a small model learns from a large one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easynlp.api import task_options
from easynlp.cli.command import Command, option_of
from easynlp.cli.output import complain, say
from easynlp.cli.train import prepare_process
from easynlp.config import DataOptions, TrainConfig
from easynlp.distillation.settings import (
    CohortConfig,
    CohortOptions,
    DistillConfig,
    DistillOptions,
    EndpointOptions,
)
from easynlp.errors import EasyNLPError
from easynlp.options import read_recipe
from easynlp.pipeline import read_meta

__all__ = ["distill", "online"]


def distill(tokens: Sequence[str]) -> Command:
    """Make the command; the task the first teacher was trained for adds its options."""
    task = _task_name(tokens)
    own = task_options(task)
    assert own is not None

    def call(
        options: DistillOptions, config: DistillConfig, endpoint: EndpointOptions, own: Any
    ) -> None:
        prepare_process(config.threads)
        from easynlp.distillation.run import distill as run

        pipeline = run(replace(config, task=task), options, endpoint, own)
        report = json.loads(Path(config.output, "distill.json").read_text(encoding="utf-8"))
        for name, scores in (
            *report.get("teachers", {}).items(),
            ("student", pipeline.meta["scores"]),
        ):
            for split, found in scores.items():
                say(
                    f"{split}  " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()) + f"  {name}"
                )
        say(config.output)
        complain(f"next: easynlp export {config.output} --int8, easynlp serve {config.output}")

    return Command(
        "distill", "Train a small model on what a large one says of labelled and unlabelled text.",
        (DistillOptions, DistillConfig, EndpointOptions, own), call, recipe=True,
        titles={DistillConfig: "Student", TrainConfig: "Training", DistillOptions: "Teaching",
                EndpointOptions: "Endpoint", DataOptions: "Data", own: f"Task {task}"},
        after="Example: easynlp distill --teacher runs/large --student tiny-zh --train few.jsonl "
        "--dev dev.jsonl --unlabeled pool.jsonl --output runs/small\nSeveral students in one pass: "
        "easynlp distill online --help",
    )  # fmt: skip


def online(tokens: Sequence[str]) -> Command:
    """Make the command; the task adds its options."""
    task = option_of(tokens, "task") or _of_recipe(tokens, "task") or "text_classify"
    own = task_options(task)
    assert own is not None

    def call(options: CohortOptions, config: CohortConfig, own: Any) -> None:
        prepare_process(config.threads)
        from easynlp.distillation.cohort import train_cohort

        train_cohort(replace(config, task=task).plain(), options, own)
        report = json.loads(Path(config.output, "online.json").read_text(encoding="utf-8"))
        for name, scores in report["scores"].items():
            for split, found in scores.items():
                line = "  ".join(f"{key} {value:.4f}" for key, value in found.items())
                say(f"{split}  {line}  {name}")
        say(config.output)
        complain(f"next: easynlp export {config.output}/student0 --int8")

    return Command(
        "distill online", "Train a teacher, an assistant and several students in one pass.",
        (CohortOptions, CohortConfig, own), call, recipe=True,
        titles={CohortConfig: "Teacher", TrainConfig: "Training", CohortOptions: "Learners",
                DataOptions: "Data", own: f"Task {task}"},
        after="Example: easynlp distill online --teacher tiny-zh --assistant 4x256 "
        "--students 2x128,1x64 --train train.jsonl --dev dev.jsonl --output runs/online",
    )  # fmt: skip


def _task_name(tokens: Sequence[str]) -> str:
    """Find the task before parsing: named, or the recipe's, or what the first teacher does."""
    found = {
        name: option_of(tokens, name) or _of_recipe(tokens, name) for name in ("task", "teacher")
    }
    if found["task"]:
        return found["task"]
    first = (found["teacher"] or "").split(",")[0].strip()
    try:
        told = read_meta(first)["task"] if first else ""
    except EasyNLPError:  # no run: it is said elsewhere whether it is a model
        told = ""
    return "sequence_labeling" if told == "sequence_labeling" else "text_classify"


def _of_recipe(tokens: Sequence[str], name: str) -> str | None:
    """Return an option of the recipe that the tokens name; the first of several."""
    path = option_of(tokens, "config")
    if path is None or not Path(path).is_file() or name not in (recipe := read_recipe(path)):
        return None
    raw = recipe[name].raw
    return str(raw[0] if isinstance(raw, list) and raw else raw)
