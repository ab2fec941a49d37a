"""Options of few-shot learning: flat dataclasses, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from easynlp.config import ONCE, Count, DataOptions, Positive, Precision, Share, Steps
from easynlp.options import Range
from easynlp.tasks.labels import Pooling

__all__ = ["FewShotConfig", "SelfTrainingOptions"]


@dataclass(frozen=True, kw_only=True)
class SelfTrainingOptions:
    """Options of learning from unlabelled text."""

    unlabeled: str | None = None
    """Unlabelled texts of the same kind, in any format training data may have."""
    exclude: tuple[str, ...] = ()
    """Further files whose texts must not be learned from; those of train, dev and test never
    are."""
    rounds: Count = 3
    """Times the unlabelled text is labelled anew and learned from."""
    quota: Count = 100
    """Most unlabelled rows of a label that the first round believes."""
    growth: Annotated[float, Range(1)] = 2.0
    """What the quota is multiplied with from round to round."""
    confidence: Share = 0.0
    """Least probability of a guess that is believed."""
    balance: bool = True
    """Hold every label to the quota; off: only their sum."""
    restart: bool = True
    """Start every round from the pre-trained model; off: from the round before."""
    patience_rounds: Steps = 0
    """Stop after so many rounds that are no better on dev; 0: never."""
    placebo: bool = False
    """Deal the labels of believed rows out by chance: what is gained then, guesses did not gain."""


@dataclass(frozen=True, kw_only=True)
class FewShotConfig(DataOptions, SelfTrainingOptions):
    """Options of ``easynlp fewshot``: the best way to train on dev, under an equal budget."""

    train: str
    """Training data with a label each; a handful a label will do."""
    dev: str
    """Labelled data that ways to train are compared on; not among the training data."""
    output: str
    """Folder of the chosen run, with what was tried in tried/."""
    test: str | None = None
    """Data to score the chosen run on at the end; never used to choose anything."""
    model: str = "tiny-zh"
    """Where all start: tiny-zh (built in), a local folder, or a Hugging Face or ModelScope id."""
    overwrite: bool = field(default=False, metadata=ONCE)
    """Delete what is in the output folder first."""
    resume: bool = field(default=False, metadata=ONCE)
    """Go on where it was stopped; what was tried is not tried again."""

    ways: tuple[str, ...] = ()
    """Ways to try, e.g. probe,lp_ft,setfit; by default all that the options allow."""
    pattern: tuple[str, ...] = ()
    """A prompt's pattern such as "{text}。总之很[MASK]。"; each is tried."""
    words: str = ""
    """Words of each label, "好评=好;差评=差", for prompts and for fitted heads to lean towards; by
    default the labels' names."""
    lrs: tuple[Positive, ...] = (1e-4, 3e-4)
    """Peak learning rates; each way is tried with each."""
    steps: Count = 100
    """Optimizer steps of every try."""
    evaluations: Count = 10
    """Most looks at dev in a try: checkpoints, times the ways to read one, and a probe before."""
    batch_size: Count = 16
    """Rows of one optimizer step."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a text."""
    pooling: Pooling = "auto"
    """What the heads read: the first token, or the mean of all; see train text_classify."""
    precision: Precision = "auto"
    """Number format; auto takes bf16 where the hardware multiplies it natively."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: Steps = 0
    """CPU threads; 0: as torch decides."""
    seed: Steps = 42
    """Same seed, data and machine: same weights."""
