"""Options of the benchmarks of distillation; nothing heavy is imported for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from easynlp.config import Count
from easynlp.options import Range

__all__ = ["MetaKdOptions", "OnlineOptions"]


@dataclass(frozen=True, kw_only=True)
class MetaKdOptions:
    """Options of ``easynlp bench metakd``."""

    data: Literal["shopping", "ocnli"] = "shopping"
    """shopping: reviews of ten kinds of goods (online_shopping_10_cats); ocnli: sentence pairs of
    five genres (ocnli_10k)."""
    data_root: str = "../shared/data/bench"
    """Folder that holds them."""
    output: str = "runs/metakd"
    """Folder of all runs and of report.json; the same command goes on where it stopped."""
    domains: Annotated[int, Range(0)] = 0
    """Only so many of the domains, the largest; 0: all."""
    rows: Count = 200
    """Training rows of a domain; one with fewer is left out and named."""
    dev_rows: Count = 100
    """Rows of a domain that checkpoints are chosen on, drawn from the training file."""
    test_rows: Count = 300
    """Most test rows of a domain."""
    teacher: str = "tiny-zh"
    """Where teachers start."""
    student: str = "text_cnn"
    """Where students start."""
    teacher_epochs: Annotated[float, Range(0, above=True)] = 3.0
    """Passes of a teacher over its rows."""
    teacher_lr: Annotated[float, Range(0, above=True)] = 3e-4
    """Learning rate of teachers."""
    epochs: Annotated[float, Range(0, above=True)] = 15.0
    """Passes of a student over its rows."""
    lr: Annotated[float, Range(0, above=True)] = 2e-3
    """Learning rate of students."""
    temperature: Annotated[float, Range(0, above=True)] = 2.0
    """Answers are compared at it, in every arm."""
    alpha: Annotated[float, Range(0, 0.99)] = 0.2
    """Share of the labels in a student's loss, in every arm."""
    corruption: Annotated[float, Range(0)] = 0.5
    """Weight of telling false domains, of the meta-teacher."""
    transfer: Annotated[float, Range(0)] = 0.5
    """Weight of the distance of views, of its students."""
    max_length: Annotated[int, Range(8)] = 96
    """Most tokens of a text."""
    seeds: tuple[int, ...] = (42,)
    """Everything is done once for each, draws of rows included."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: as torch decides."""
    json: bool = False
    """Print the report as JSON in place of the table."""


@dataclass(frozen=True, kw_only=True)
class OnlineOptions:
    """Options of ``easynlp bench online``."""

    data: str = "chnsenticorp"
    """A labelled set: a folder with train.jsonl and test.jsonl (or .gz) in --data-root."""
    data_root: str = "../shared/data/bench"
    """Folder that holds it."""
    output: str = "runs/bench-online"
    """Folder of all runs and of report.json; the same command goes on where it stopped."""
    rows: Count = 2000
    """Training rows, drawn anew for each seed."""
    dev_rows: Count = 300
    """Rows that checkpoints are chosen on, drawn from the training file."""
    test_rows: Count = 1200
    """Most test rows."""
    teacher: str = "tiny-zh"
    """Where the teacher starts."""
    assistant: str = "4x256"
    """The assistant: a model, or a shape."""
    students: tuple[str, ...] = ("2x128", "1x64")
    """The students: models, or shapes."""
    steps: Count = 500
    """Steps of every arm, and of the teacher that is trained first."""
    lr: Annotated[float, Range(0, above=True)] = 5e-4
    """Learning rate of all."""
    batch_size: Count = 16
    """Rows of a step."""
    eval_every: Count = 100
    """Steps from one look at dev to the next."""
    max_length: Annotated[int, Range(8)] = 64
    """Most tokens of a text."""
    alpha: Annotated[float, Range(0, 1)] = 0.5
    """Share of the labels in a learner's loss, in all arms but labels."""
    temperature: Annotated[float, Range(0, above=True)] = 2.0
    """Answers are compared at it, in every arm."""
    relations: Annotated[float, Range(0)] = 0.1
    """Weight of relations among tokens."""
    seeds: tuple[int, ...] = (13, 42)
    """Everything is done once for each, draws of rows included."""
    threads: Annotated[int, Range(0)] = 0
    """CPU threads; 0: as torch decides."""
    json: bool = False
    """Print the report as JSON in place of the table."""
