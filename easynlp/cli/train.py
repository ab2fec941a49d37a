"""``easynlp train``, ``easynlp fewshot`` and ``easynlp pretrain``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easynlp.api import task_options
from easynlp.cli.command import Command, option_of
from easynlp.cli.output import complain, is_main_process, say, say_rows
from easynlp.config import DataOptions, PretrainConfig, TrainConfig
from easynlp.fewshot.settings import FewShotConfig, SelfTrainingOptions
from easynlp.options import read_recipe
from easynlp.tasks import RAW_TEXT, TASKS

__all__ = ["fewshot", "prepare_process", "pretrain", "train"]


def train(tokens: Sequence[str]) -> Command:
    """Make the command; the task named in the tokens, or in their recipe, adds its options."""
    task = _task_name(tokens)
    own = task_options(task) if task else None
    classes = (TrainConfig, own) if own is not None else (TrainConfig,)
    titles = {TrainConfig: "Training", DataOptions: "Data"}
    if own is not None:
        titles[own] = f"Task {task}"
    summary = "Train a model on labelled data."
    if own is None:
        summary += f" Tasks, each with options of its own: {', '.join(_trainable())}."
    return Command(
        "train", summary, classes, _train, positional=("task",), recipe=True, titles=titles,
        after="Example: easynlp train text_classify --train train.jsonl --dev dev.jsonl "
        "--output runs/x",
    )  # fmt: skip


def pretrain(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "pretrain", "Pre-train an encoder from raw text by masked language modeling.",
        (PretrainConfig,), _pretrain, recipe=True, titles={PretrainConfig: "Pre-training"},
        after="Example: easynlp pretrain --corpus corpus/ --output runs/encoder",
    )  # fmt: skip


def fewshot(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "fewshot",
        "Learn from few labels: try several ways with an equal budget, keep the best on dev.",
        (FewShotConfig,), _fewshot, recipe=True,
        titles={FewShotConfig: "Few-shot", SelfTrainingOptions: "Unlabelled text",
                DataOptions: "Data"},
        after="Example: easynlp fewshot --train few.jsonl --dev dev.jsonl --unlabeled pool.jsonl "
        "--output runs/x",
    )  # fmt: skip


def prepare_process(threads: int = 0) -> None:
    """Set what must be set before torch computes: threads and the allocator."""
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    from easynlp.training.precision import tune_allocator

    tune_allocator()


def _train(config: TrainConfig, own: Any = None) -> None:
    prepare_process(config.threads)
    from easynlp import run

    pipeline = run.train(config, own)
    for split, scores in pipeline.meta.get("scores", {}).items():
        say(f"{split}  " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    say(config.output)
    if is_main_process():
        complain(f"next: easynlp export {config.output} --int8, easynlp serve {config.output}")


def _pretrain(config: PretrainConfig) -> None:
    prepare_process(config.threads)
    from easynlp.pretraining.run import pretrain as run_pretraining

    folder = run_pretraining(config)
    say(str(folder))
    if is_main_process():
        complain(f"use it: easynlp train text_classify --model {folder} ...")


def _fewshot(config: FewShotConfig) -> None:
    prepare_process(config.threads)
    from easynlp.fewshot.choose import choose

    choice = choose(config)
    say_rows(
        [
            {
                "": "*" if each == choice.chosen else "", "way": each.way, "detail": each.detail,
                "dev": f"{each.dev:.4f}" if not each.note else "-",
                "log-probability": f"{each.surety:.3f}" if not each.note else "-",
                "looks": each.looks, "seconds": each.seconds, "note": each.note,
            }
            for each in choice.tries
        ]
    )  # fmt: skip
    say(choice.why)
    for split, scores in choice.scores.items():
        say(f"{split}  " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    say(config.output)
    complain(f"next: easynlp export {config.output} --int8, easynlp serve {config.output}")


def _trainable() -> list[str]:
    return [name for name in TASKS if name not in RAW_TEXT]


def _task_name(tokens: Sequence[str]) -> str | None:
    """Find the task before parsing: first token, else the recipe's, else one among the tokens."""
    if tokens and not tokens[0].startswith("-"):
        return tokens[0]
    path = option_of(tokens, "config")
    if path is not None and Path(path).is_file():
        found = read_recipe(path).get("task")
        if found is not None:
            return str(found.raw)
    named = os.environ.get("EASYNLP_TASK")
    return named or next((token for token in tokens if token in TASKS), None)
