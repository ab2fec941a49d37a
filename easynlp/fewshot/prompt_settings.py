"""Options of ``easynlp prompt …``; nothing heavy is imported for them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from easynlp.config import Count, DataOptions, NotNegative, Positive, Share, Steps, TrainConfig
from easynlp.fewshot.verbalizer import Scoring, WordScore
from easynlp.options import Range

__all__ = ["IpetOptions", "PromptCheckOptions", "PromptTraining", "TransPromptOptions"]


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


@dataclass(frozen=True, kw_only=True)
class PromptTraining(TrainConfig):
    """Options of a training that makes a model of several; the task is given."""

    task: str = field(default="text_classify", metadata={"learned": True})
    """What the model is in the end."""

    def plain(self) -> TrainConfig:
        """Return the same options as those of a run."""
        return TrainConfig(**{each.name: getattr(self, each.name) for each in fields(TrainConfig)})


@dataclass(frozen=True, kw_only=True)
class IpetOptions:
    """Options of PET with several patterns."""

    patterns: tuple[str, ...]
    """Patterns, each a text with a hole."""
    words: str = ""
    """Words of each label, for all patterns."""
    unlabeled: str
    """Texts for the ensemble to label."""
    generations: Steps = 0
    """Generations of models that teach each other before the classifier learns; 0: PET."""
    runs: Count = 1
    """Models of each pattern, with different seeds; the paper's 3."""
    weighting: Literal["train", "dev", "uniform"] = "train"
    """Rows on which a pattern's accuracy before training is its weight; the paper's are train."""
    growth: Annotated[float, Range(1, above=True)] = 5.0
    """How many times the rows of a generation the next one has."""
    share: Share = 0.25
    """Share of the other models that label texts for one; at least one does."""
    temperature: Positive = 2.0
    """Of the soft labels: higher is softer."""
    student_epochs: Positive = 3.0
    """Passes of the classifier over the unlabelled texts."""
    loss: Literal["restricted", "vocabulary"] = "restricted"
    """Of the prompted models; see prompt_classify."""


@dataclass(frozen=True, kw_only=True)
class TransPromptOptions:
    """Options of prompts that are learned on several labelled sets, then on one."""

    others: tuple[str, ...]
    """Labelled files of similar tasks, with the same labels as the training data; their columns are
    guessed."""
    pattern: str
    """A text with a hole and soft tokens, e.g. "[PRO]*4{text}。总之很[MASK]。", or @FILE; without
    [PRO] four soft tokens go before it."""
    words: str = ""
    """Words of each label, e.g. "好评=好;差评=差", or @FILE; by default the labels' own names."""
    own_share: Share = 0.8
    """Share of a set's own prompt encoder in its soft tokens; the rest is the universal one's."""
    weighting: Literal["prototypes", "uniform", "shuffled"] = "prototypes"
    """How rows weigh in the first phase: by their nearness to their label's centre; all the same;
    or, as a placebo, the prototypes' weights dealt out by chance."""
    own_label: Share = 0.5
    """Share of the own set's centre in the nearness; the rest is the other sets' centres."""
    entropy: NotNegative = 0.01
    """Factor of the answers' entropy, which the first phase rewards."""
    unseen: bool = False
    """Leave the training data out of the first phase: what is learned there is tried on a set it
    has not seen, and its soft tokens start as the universal ones."""
    encoder: Literal["lstm", "mlp", "none"] = "lstm"
    """What makes the soft tokens in the first phase; see --method p_tuning."""
    first_epochs: Positive = 10.0
    """Passes over all sets in the first phase; --epochs or --steps are of the second."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a row; the text is cut, never the pattern."""
