"""Options of ``easynlp land``; docstrings are the help of their flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from easynlp.compression.settings import parse_size
from easynlp.config import ONCE, Count, DataOptions, NotNegative, Positive, Precision, Share, Steps
from easynlp.errors import ConfigError
from easynlp.options import Range
from easynlp.tasks.labels import Pooling

__all__ = ["LandOptions"]


@dataclass(frozen=True, kw_only=True)
class LandOptions(DataOptions):
    """Options of ``easynlp land``: a small served model from few labels, and its report."""

    train: str
    """Labelled data; a handful a label will do."""
    output: str
    """Folder of everything: stages, report.html, report.json, and the model to serve in model/."""
    dev: str | None = None
    """Labelled data that everything is chosen on; without it part of --train is split off."""
    test: str | None = None
    """Labelled data for the report's figures, looked at once; never used to choose anything."""
    unlabeled: str | None = None
    """Unlabelled texts of the same kind, which the teacher labels for the student."""
    teacher: str | None = None
    """What teaches: a model (folder, hub id), or the folder of a finished run. Without it the
    student is its own teacher."""
    student: str = "tiny-zh"
    """What is to be served: tiny-zh (built in), a local folder, or a hub id."""
    target_size: str | None = None
    """Most bytes of all files that are served, e.g. 4MB: model, tokenizer and description. Where
    int8 alone has more, the model is pruned and its vocabulary cut."""
    max_drop: NotNegative = 1.0
    """Points of dev accuracy a stage may cost; one that costs more is dropped."""
    skip: tuple[str, ...] = ()
    """Stages to leave out, e.g. curve,latency."""
    leaks: Literal["drop", "warn", "error"] = "drop"
    """What becomes of rows whose text stands in a split they must not know (test in dev; either in
    train): dropped, kept with a warning, or an error. From the unlabelled text they always go."""
    overwrite: bool = field(default=False, metadata=ONCE)
    """Delete what is in the output folder first."""
    resume: bool = field(default=False, metadata=ONCE)
    """Go on in the output folder; only stages whose options or inputs changed run again."""

    ways: tuple[str, ...] = ()
    """Ways the teacher may learn, as for easynlp fewshot; by default all that can be had."""
    pattern: tuple[str, ...] = ()
    """A prompt's pattern for the teacher, such as "{text}。总之很[MASK]。"; each is tried."""
    words: str = ""
    """Words of each label for the prompts, "好评=好;差评=差"; by default the labels' names."""
    teacher_lrs: tuple[Positive, ...] = (1e-4, 3e-4)
    """Peak learning rates every way of the teacher is tried with."""
    teacher_steps: Count = 100
    """Optimizer steps of each try of the teacher."""
    student_lrs: tuple[Positive, ...] = (1e-4, 3e-4)
    """Peak learning rates the student is tried with, taught and untaught alike."""
    student_steps: Count = 300
    """Optimizer steps of each try of the student, taught and untaught alike."""
    evaluations: Count = 10
    """Looks at dev in each try."""
    batch_size: Count = 32
    """Rows of one optimizer step."""
    pool_rows: Count = 20_000
    """Most unlabelled texts to learn from."""
    alpha: Share = 0.2
    """Share of the labels in what the student learns, the rest is the teacher's."""
    temperature: Positive = 2.0
    """The teacher's answers are learned at this temperature; higher is softer."""
    augment: Steps = 2
    """Changed copies made of every training row for the teacher to label; they are used only if the
    student is better on dev with them. 0: none."""
    augment_model: str = "tiny-zh"
    """The masked language model that puts other words into copies; empty: none does."""
    candidates: Count = 4
    """Most shapes to try for the target size: the largest that fit."""
    abstain_precision: Annotated[float, Range(0.5, 1)] = 0.95
    """Share of right answers that a threshold to abstain below is to give, found on dev."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a text."""
    pooling: Pooling = "auto"
    """What the heads read: the first token, or the mean of all; see train text_classify."""
    timed: Count = 200
    """Texts that are timed."""
    precision: Precision = "auto"
    """Number format; auto takes bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: Steps = 0
    """CPU threads of training; 0: as torch decides. Times are always of one thread."""
    seed: Steps = 42
    """Same seed, data and machine: same weights."""

    def __post_init__(self) -> None:
        """Refuse a size that is none, and a precision that no number of rows can prove."""
        if self.target_size is not None:
            parse_size(self.target_size)
        if self.abstain_precision == 1:
            raise ConfigError("--abstain-precision 1 cannot be promised; valid: 0.5 up to below 1")
