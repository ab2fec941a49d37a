"""What ways of classifying by a prompt share once they have said something of each label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from easynlp.tasks.base import Batch, Example, Prediction
from easynlp.tasks.text_classify import TextClassify

__all__ = ["AnswersAsClassifier"]


class AnswersAsClassifier(ABC):
    """Answers as text_classify does, from `label_logits`; see `easynlp.tasks.base.OneLabel`."""

    _classify: TextClassify

    @property
    def temperature(self) -> float:
        """Return what the labels' logits are divided by."""
        return self._classify.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        self._classify.temperature = value

    @abstractmethod
    def label_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return what the model says of each label, (texts, labels)."""

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return the label and all probabilities of each text."""
        return self._classify.decode(self.label_logits(logits), batch, examples)

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return accuracy and macro F1.

        Raises:
            DataError: If an example has no label, or an unknown one.
        """
        return self._classify.score(predictions, examples)
