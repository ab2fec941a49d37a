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
from easynlp.distillation.settings import DistillConfig, DistillOptions, EndpointOptions
from easynlp.errors import EasyNLPError
from easynlp.options import read_recipe
from easynlp.pipeline import read_meta

__all__ = ["distill"]


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
        "--dev dev.jsonl --unlabeled pool.jsonl --output runs/small",
    )  # fmt: skip


def _task_name(tokens: Sequence[str]) -> str:
    """Find the task before parsing: named, or the recipe's, or what the first teacher does."""
    found: dict[str, str | None] = {name: option_of(tokens, name) for name in ("task", "teacher")}
    path = option_of(tokens, "config")
    if path is not None and Path(path).is_file():
        recipe = read_recipe(path)
        for name in found:
            if found[name] is None and name in recipe:
                raw = recipe[name].raw
                found[name] = str(raw[0] if isinstance(raw, list) and raw else raw)
    if found["task"]:
        return found["task"]
    first = (found["teacher"] or "").split(",")[0].strip()
    try:
        told = read_meta(first)["task"] if first else ""
    except EasyNLPError:  # no run: it is said elsewhere whether it is a model
        told = ""
    return "sequence_labeling" if told == "sequence_labeling" else "text_classify"
