"""Options of ``easynlp prompt check``; nothing heavy is imported for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from easynlp.config import Count, DataOptions, Positive, Steps
from easynlp.fewshot.verbalizer import Scoring, WordScore
from easynlp.options import Range

__all__ = ["PromptCheckOptions"]


@dataclass(frozen=True, kw_only=True)
class PromptCheckOptions(DataOptions):
    """Options of ``easynlp prompt check``."""

    model: str = "tiny-zh"
    """A model as easynlp train takes it."""
    dev: str | None = None
    """Labelled rows to score patterns on."""
    train: str | None = None
    """Labelled rows for a short training with each pattern; scored on dev. Without dev, patterns
    are scored on these rows, untrained."""
    pattern: tuple[str, ...] = ()
    """A text with a hole, e.g. "{text}。总之很[MASK]。", or @FILE; once for each pattern."""
    words: str = ""
    """Words of each label, e.g. "好评=好;差评=差", or @FILE; by default the labels' own names."""
    scoring: Scoring = "candidates"
    """How several words a label count, see easynlp train prompt_classify."""
    word_score: WordScore = "sum"
    """How a word's tokens count: sum or mean of their log-probabilities."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a row; the text is cut, never the pattern."""
    epochs: Positive = 5.0
    """Passes over the training rows."""
    lr: Positive = 5e-5
    """Peak learning rate."""
    batch_size: Count = 8
    """Rows of one step."""
    seed: Steps = 42
    """Seed of the trainings."""
