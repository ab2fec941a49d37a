"""``easynlp prompt``: which pattern suits the task, and prompts that take several trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easynlp.cli.command import Command
from easynlp.cli.deploy import JsonOption
from easynlp.cli.output import say, say_json, say_table
from easynlp.cli.train import prepare_process
from easynlp.config import DataOptions
from easynlp.errors import GateError
from easynlp.fewshot.prompt_settings import (
    IpetOptions,
    PromptCheckOptions,
    PromptTraining,
    TransPromptOptions,
)
from easynlp.tasks.text_classify import ClassifyConfig

__all__ = ["check", "ipet", "transprompt"]


def check(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "prompt check",
        "Say whether a model can fill holes, and compare patterns on labelled rows.",
        (PromptCheckOptions, JsonOption), _check, recipe=True, titles={DataOptions: "Data"},
        after='Example: easynlp prompt check --model tiny-zh --dev dev.jsonl --words "1=好;0=差" '
        '--pattern "{text}。总之很[MASK]。" --pattern "总体来说很[MASK]。{text}"',
    )  # fmt: skip


def ipet(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "prompt ipet",
        "Train a model for each of several patterns, and one classifier on what they say together.",
        (PromptTraining, IpetOptions, ClassifyConfig), _ipet, recipe=True,
        titles={PromptTraining: "Training", IpetOptions: "Patterns", DataOptions: "Data",
                ClassifyConfig: "Classifier"},
        after='Example: easynlp prompt ipet --train few.jsonl --unlabeled pool.jsonl --patterns '
        '"{text}。总之很[MASK]。" --patterns "总体来说很[MASK]。{text}" --words "好评=好;差评=差" '
        "--output runs/x",
    )  # fmt: skip


def transprompt(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "prompt transprompt",
        "Learn a prompt on several similar labelled sets, then on the training data alone.",
        (PromptTraining, TransPromptOptions), _transprompt, recipe=True,
        titles={PromptTraining: "Training", TransPromptOptions: "Prompts", DataOptions: "Data"},
        after="Example: easynlp prompt transprompt --train hotels.jsonl --others books.jsonl "
        '--pattern "[PRO]*4{text}。总之很[MASK]。" --words "好评=好;差评=差" --output runs/x',
    )  # fmt: skip


def _ipet(config: PromptTraining, options: IpetOptions, own: ClassifyConfig) -> None:
    prepare_process(config.threads)
    from easynlp.fewshot.ipet import ipet as train

    _say_run(train(config.plain(), options, own).meta, config.output)


def _transprompt(config: PromptTraining, options: TransPromptOptions) -> None:
    prepare_process(config.threads)
    from easynlp.fewshot.transprompt import transprompt as train

    _say_run(train(config.plain(), options).meta, config.output)


def _say_run(meta: Mapping[str, Any], folder: str) -> None:
    for split, scores in meta.get("scores", {}).items():
        say(f"{split}  " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    say(folder)


def _check(options: PromptCheckOptions, output: JsonOption) -> None:
    prepare_process()
    from easynlp.fewshot.check_prompts import check_prompts

    report = check_prompts(options)
    head = report["mask_head"]
    if output.json:
        say_json(report)
    else:
        say(f"masked-LM head of {options.model}: {head['verdict']} ({head['why']})")
        if "patterns" in report:
            _say_patterns(report)
    if head["verdict"] in ("missing", "none"):
        raise GateError(
            f"{options.model} cannot fill holes, so prompts do not work with it. Look for another: "
            "easynlp models"
        )


def _say_patterns(report: Mapping[str, Any]) -> None:
    from rich.table import Table

    scored, kinds = report["rows"], list(report["best"])
    table = Table(title=f"accuracy on {scored['rows']} rows of {scored['scored_on']}")
    table.add_column("pattern")
    for kind in kinds:
        table.add_column(kind.replace("_", " "), justify="right")
    table.add_column("untrained, it mostly says")
    for entry in report["patterns"]:
        ((label, share),) = entry["commonest_answer"].items()
        scores = [f"{100 * entry[kind]:.1f}" for kind in kinds]
        table.add_row(entry["pattern"].replace("[", r"\["), *scores, f"{label} ({share:.0%})")
    say_table(table)
    say(f"always the commonest label: {100 * report['majority']:.1f}")
    for kind in kinds:
        spread = report["spread"][kind]
        say(
            f"{kind.replace('_', ' ')}: best {report['best'][kind]}; patterns spread over "
            f"{100 * spread['range']:.1f} points (sd {100 * spread['sd']:.1f}), chance alone "
            f"explains about ±{100 * spread['noise']:.1f}"
        )
