"""What takes part in a benchmark: a contender, what it may spend, what it has learned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from easynlp.benchmarks.fewclue import Split
from easynlp.benchmarks.settings import SplitOptions
from easynlp.tasks.base import Example, Prediction

__all__ = ["Budget", "Contender", "Learned", "budget_of", "weights_identity"]


@dataclass(frozen=True)
class Budget:
    """What every fine-tuned contender may spend on a split: the same for all.

    Attributes:
        lrs: Peak learning rates to try.
        epochs: Passes over the training rows, within the limits on steps.
        min_steps: Fewest optimizer steps of one try: a handful of rows needs many passes.
        max_steps: Most optimizer steps of one try.
        evaluations: Checkpoints of a try among which dev chooses; 0: the last one, unchosen.
        batch_size: Rows of a step.
        max_length: Tokens of a text.
    """

    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: float = 20
    min_steps: int = 150
    max_steps: int = 900
    evaluations: int = 10
    batch_size: int = 16
    max_length: int = 128

    def steps(self, rows: int) -> int:
        """Return the optimizer steps of one try on this many training rows.

        Example:
            >>> Budget().steps(32), Budget().steps(240)
            (150, 300)
        """
        wanted = round(self.epochs * -(-rows // self.batch_size))
        return min(self.max_steps, max(self.min_steps, wanted))


def budget_of(options: SplitOptions) -> Budget:
    """Return the budget that options ask for."""
    return Budget(
        options.lrs, options.epochs, options.min_steps, options.max_steps, options.evaluations,
        options.batch_size, options.max_length,
    )  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """What a contender learned: how it answers, and what dev said about its choice.

    Attributes:
        predict: Gives a prediction (``label``, ``scores``) for each example.
        dev_accuracy: Share of dev rows answered rightly.
        chosen: What was chosen on dev.
        variants: Gives the answers of all it chose among, where they are reported too.
        parameters: Numbers in the model that answers.
    """

    predict: Callable[[Sequence[Example]], Sequence[Prediction]]
    dev_accuracy: float
    chosen: Mapping[str, Any] = field(default_factory=dict)
    variants: Callable[[Sequence[Example]], dict[str, Sequence[Prediction]]] | None = None
    parameters: int = 0


class Contender(Protocol):
    """Learns a split.

    Attributes:
        name: As typed.
        seeded: Whether the seed makes a difference.
        unlabelled: Whether it learns from ``split.unlabelled``.
    """

    name: str
    seeded: bool
    unlabelled: bool

    def takes(self, task: str) -> bool:
        """Return whether it is made for a task."""

    def identity(self) -> str:
        """Return what, beside data and seed, decides the result: settings, weights."""

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Learn from ``split.train``, choose on ``split.dev``, tell progress."""


def weights_identity(model: str) -> str:
    """Return a hash of a model's weights, or of its shape where they are random."""
    from easynlp.models.backbone import Backbone

    backbone = Backbone.load(model)
    if backbone.folder is None:
        weights = backbone.config.to_json_string().encode()
    else:
        weights = b"".join(
            hashlib.sha256(path.read_bytes()).digest()
            for path in sorted(Path(backbone.folder).glob("*.safetensors"))
        )
    return hashlib.sha256(weights).hexdigest()[:16]
