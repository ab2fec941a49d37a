"""``easynlp evaluate``, ``predict`` and ``inspect``: a run or an exported folder at work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from easynlp import api
from easynlp.cli.command import Command
from easynlp.cli.output import complain, say, say_facts, say_json, say_scores
from easynlp.config import Count, DataOptions, Share
from easynlp.data.writers import STDOUT
from easynlp.pipeline import Backend

__all__ = ["evaluate", "inspect", "predict"]


@dataclass(frozen=True, kw_only=True)
class UseOptions(DataOptions):
    """What evaluate and predict share."""

    run: str
    """Run folder, or the onnx folder of an exported one."""
    backend: Backend = "auto"
    """What computes; auto takes the first of int8, onnx and torch that is there."""
    batch_size: Count = 32
    """Texts computed together."""
    threads: Count = 1
    """CPU threads of an exported model."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(UseOptions):
    """Options of ``easynlp evaluate``."""

    data: str
    """Labelled data to score on."""
    json: bool = False
    """Print the scores as one line of JSON."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(UseOptions):
    """Options of ``easynlp predict``."""

    input: str
    """Data to predict, of any size; its columns are kept."""
    output: str
    """File to write, row for row as the input: .jsonl, .csv, .tsv, also .gz and .zst."""
    overwrite: bool = False
    """Replace the output file if it exists."""
    threshold: Share | None = None
    """Least score of a label that is given; below it the label is empty, its scores are there."""
    abstain: bool = False
    """Take the threshold that easynlp calibrate found."""
    json: bool = False
    """Print the counts as one line of JSON."""


@dataclass(frozen=True, kw_only=True)
class InspectOptions(DataOptions):
    """Options of ``easynlp inspect``."""

    path: str
    """Run folder, exported folder or data file."""
    task: str | None = None
    """Task whose fields to look for in a data file, e.g. sequence_labeling."""
    json: bool = False
    """Print as one line of JSON."""


TITLES = {
    DataOptions: "Data",
    UseOptions: "Model",
    EvaluateOptions: "Evaluation",
    PredictOptions: "Prediction",
    InspectOptions: "Inspection",
}


def evaluate(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "evaluate", "Score a run on labelled data.", (EvaluateOptions,), _evaluate,
        positional=("run",), titles=TITLES,
        after="Example: easynlp evaluate runs/x --data test.jsonl",
    )  # fmt: skip


def predict(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "predict",
        "Predict a file of any size in constant memory; rows keep their order and columns.",
        (PredictOptions,), _predict, positional=("run",), titles=TITLES,
        after="Example: easynlp predict runs/x --input new.csv --output out.jsonl",
    )  # fmt: skip


def inspect(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "inspect", "Show what is in a run folder or a data file.", (InspectOptions,), _inspect,
        positional=("path",), titles=TITLES,
        after="Examples: easynlp inspect runs/x; easynlp inspect train.jsonl",
    )  # fmt: skip


def _evaluate(options: EvaluateOptions) -> None:
    scores = api.evaluate(
        options.run, options.data, columns=options.columns, encoding=options.encoding,
        schema=options.schema, header=options.header, format=options.format,
        backend=options.backend, batch_size=options.batch_size, threads=options.threads,
    )  # fmt: skip
    say_scores(scores, as_json=options.json)


def _predict(options: PredictOptions) -> None:
    counts = api.predict(
        options.run, options.input, options.output, columns=options.columns,
        encoding=options.encoding, schema=options.schema, header=options.header,
        format=options.format, backend=options.backend, batch_size=options.batch_size,
        threads=options.threads, overwrite=options.overwrite, threshold=options.threshold,
        abstain=options.abstain,
    )  # fmt: skip
    text = f"{counts['rows']} rows in {options.output}, {counts['truncated']} of them truncated"
    if options.abstain or options.threshold is not None:
        text += f", {counts['abstained']} without a label"
    if options.output == STDOUT:  # where the rows went: nothing may be mixed in
        complain(text)
    elif options.json:
        say_json({"output": options.output, **counts})
    else:
        say(text)


def _inspect(options: InspectOptions) -> None:
    found = api.inspect(
        options.path, task=options.task, columns=options.columns, encoding=options.encoding,
        schema=options.schema, header=options.header, format=options.format,
    )  # fmt: skip
    say_facts(found, as_json=options.json)
