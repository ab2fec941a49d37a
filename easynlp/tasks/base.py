"""The Task contract: what is asked of text, and nothing about files, devices or loops.

One noun per thing everywhere: an *example* is raw (a mapping with the task's fields),
*features* are one encoded example (numpy), a *batch* is collated features (numpy arrays), an
*output* is what the model returns, a *prediction* is a decoded, JSON-ready mapping.

`encode`, `collate` and `decode` use numpy only, so the same code serves training,
evaluation, prediction, the exported model and the server; `build` and `loss` import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

    from easynlp.data.sampling import Source
    from easynlp.models.backbone import Backbone

__all__ = [
    "Batch",
    "Example",
    "Features",
    "Field",
    "MakesRows",
    "OneLabel",
    "Prediction",
    "Task",
]

Example = Mapping[str, Any]
Features = dict[str, Any]
Batch = dict[str, np.ndarray]
Prediction = dict[str, Any]

INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Batch keys a model's forward takes; every other key of a batch is a target."""


@dataclass(frozen=True)
class Field:
    """One field of a task's examples, and the column names that usually hold it."""

    name: str
    """Key in the example: ``text``, ``text_b``, ``label``, ``entities``."""
    guesses: tuple[str, ...]
    """Column names tried in order when the user names none."""
    required: bool = True
    target: bool = False
    """True for what is to be predicted: needed to train and evaluate, not to predict."""


class Task(Protocol):
    """What is asked of text. One app is one file that satisfies this.

    Attributes:
        name: The app's name on the command line.
        architecture: The transformers auto class of the whole model, e.g.
            ``AutoModelForSequenceClassification``; stock transformers loads a saved run with it.
        metric: The score that picks the best checkpoint (higher is better); may depend on the
            options.
        fields: What an example is made of. The class names all it could be, a task made by
            `prepare` or `restore` what it is (pairs or single texts).
        config: A frozen dataclass; what `saved` returns and `restore` takes.
        tokenizer: The `Tokenizer` that makes its ids.
    """

    name: ClassVar[str]
    architecture: ClassVar[str]
    config: Any
    tokenizer: Any

    @property
    def metric(self) -> str:
        """See above."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """See above."""

    @classmethod
    def prepare(cls, config: Any, tokenizer: Any, examples: Sequence[Example]) -> Task:
        """Make the task for training data: learns the label set, checks the options.

        Raises:
            DataError: If the examples cannot define the task (one class only …).
        """

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Any) -> Task:
        """Make the task again from what was saved in ``easynlp.json``."""

    def saved(self) -> dict[str, Any]:
        """Return the options and everything learned as plain JSON values, for `restore`."""

    def encode(self, example: Example) -> Features:
        """Turn an example into features; targets are included when the example has them.

        Features always hold ``input_ids`` (1-D int32) and ``truncated`` (bool).

        Raises:
            DataError: If a field is missing, of a wrong type, or a label is unknown.
        """

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples at once; the same as `encode` on each, only faster."""

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad features to the longest and stack them; arrays are int64 or float32."""

    def count(self, batch: Batch) -> int:
        """Return the number of targets (rows, tokens …) the summed loss of a batch covers.

        `log_probs` has as many rows.
        """

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with this task's head on it."""

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss summed over the batch's targets."""

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities at the targets, shape (targets, classes).

        Consistency and distillation terms compare two outputs through this, so they work
        for every app.
        """

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Turn the logits of a batch into one prediction an example, in order."""

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Compare predictions with the examples' targets; `metric` is among the keys."""


@runtime_checkable
class MakesRows(Protocol):
    """What a task may have beside `Task`: a word on what a training row is.

    Rows to evaluate and predict are not asked about.
    """

    def training_rows(self, source: Source, seed: int) -> Source:
        """Return the rows to train on, made of the encoded ones: with negatives, other each epoch.

        Args:
            source: Encoded training rows.
            seed: The run's.
        """


@runtime_checkable
class OneLabel(Protocol):
    """What a task that answers with one label has beside `Task`, so that it can be calibrated.

    Attributes:
        labels: In the order of `label_logits`.
        temperature: What `decode` divides the labels' logits by; 1 unless calibrated.
    """

    labels: Sequence[str]
    temperature: float

    def label_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return what the model says of each label, (texts, labels), before the temperature."""
