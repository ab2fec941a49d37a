"""Text classification taught with probabilities: each row says how likely every label is.

The training rows have a field ``scores``, ``{"好评": 0.9, "差评": 0.1}``, as predictions have; the
loss is the cross entropy to them. Rows to evaluate on have labels as ever. What is trained is a
classifier as `easynlp.tasks.text_classify` makes it, and can be described and loaded as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from easynlp.errors import DataError
from easynlp.tasks.base import Batch, Example, Features, Field
from easynlp.tasks.text_classify import TextClassify

if TYPE_CHECKING:
    import torch

__all__ = ["SoftClassify"]

SCORES = Field("scores", ("scores",), required=False, target=True)


class SoftClassify(TextClassify):
    """Learn a teacher's probabilities; see the module's docstring.

    Args:
        config: As for text_classify; `labels` known.
        tokenizer: Of the backbone.
    """

    fields = (*TextClassify.fields, SCORES)

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples; those with `scores` get ``soft``, (labels,) float32.

        Raises:
            DataError: If scores are missing for a label, or are no probabilities.
        """
        rows = super().encode_batch(examples)
        for features, example in zip(rows, examples, strict=True):
            if "scores" in example:
                features["soft"] = self._soft(example["scores"])
        return rows

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad and stack; with scores also ``soft``, (rows, labels) float32."""
        batch = super().collate(features)
        if all("soft" in item for item in features):
            batch["soft"] = np.stack([item["soft"] for item in features])
        return batch

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the cross entropy to the scores, or to the labels, summed over rows."""
        if "soft" not in batch:
            return super().loss(output, batch)
        return -(batch["soft"] * self.log_probs(output, batch)).sum()

    def _soft(self, scores: Any) -> np.ndarray:
        if not isinstance(scores, Mapping) or set(scores) != set(self.labels):
            raise DataError(
                f"`scores` is {str(scores)[:60]}; a probability for each of the labels is wanted: "
                f"{', '.join(self.labels)}"
            )
        found = np.array([scores[name] for name in self.labels], np.float32)
        if not np.isfinite(found).all() or (found < 0).any() or abs(found.sum() - 1) > 0.01:
            raise DataError(f"`scores` are no probabilities: {str(scores)[:60]}")
        result: np.ndarray = found / found.sum()
        return result
