"""Sentence vectors of a frozen encoder: what probes, neighbours and centroids are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from easynlp.tasks.base import Example

if TYPE_CHECKING:
    from easynlp.models.backbone import Backbone

__all__ = ["VECTORS", "Encoder", "pair_features"]

VECTORS = ("mean", "cls")
"""Names of the two vectors of a text: the mean of the last layer over its tokens, and the pooled
``[CLS]`` (the pooler's output where the checkpoint holds a trained pooler, else the last layer's
first vector). Of equal ones on dev the first is taken."""


class Encoder:
    """Texts to both vectors; a text is computed once, for all splits.

    Args:
        model: As ``--model`` takes it.
        max_length: Most tokens of a text.
        seed: Of random weights, where there are any.
    """

    def __init__(self, model: str, max_length: int, seed: int = 0) -> None:
        import torch

        from easynlp.models.backbone import Backbone
        from easynlp.training.precision import pick_device

        torch.manual_seed(seed)
        backbone = Backbone.load(model)
        self.tokenizer, self.max_length = backbone.tokenizer, max_length
        self.device = pick_device()
        encoder, gaps = backbone.with_head_and_gaps("AutoModel")
        self.pooled = _is_pooled(backbone, encoder, gaps)
        self.model = encoder.train(False).to(self.device)
        self.parameters = sum(value.numel() for value in encoder.parameters())
        self._known: dict[str, np.ndarray] = {}

    def vectors(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Return both vectors of each text, shape (texts, 2, width), in the order of `VECTORS`."""
        import torch

        from easynlp.models.heads import mean_of_tokens
        from easynlp.tasks.inputs import pad_rows

        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        rows = [item.ids for item in self.tokenizer.encode_batch(new, self.max_length)]
        order = sorted(range(len(new)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            batch = pad_rows([rows[i] for i in part], self.tokenizer.pad_id)
            tensors = {name: torch.from_numpy(a).to(self.device) for name, a in batch.items()}
            with torch.inference_mode():
                output = self.model(**tensors)
            hidden = output.last_hidden_state.float()
            mean = mean_of_tokens(hidden, tensors.get("attention_mask"))
            first = output.pooler_output.float() if self.pooled else hidden[:, 0]
            both = torch.stack((mean, first), 1).cpu().numpy()
            self._known.update({new[i]: both[row] for row, i in enumerate(part)})
        return np.stack([self._known[text] for text in texts])

    def features(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Return what each regression sees, by the name of the vector."""
        first = self.vectors([str(each["text"]) for each in examples])
        if "text_b" not in examples[0]:
            return {name: first[:, i] for i, name in enumerate(VECTORS)}
        second = self.vectors([str(each["text_b"]) for each in examples])
        return {name: pair_features(first[:, i], second[:, i]) for i, name in enumerate(VECTORS)}


def pair_features(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return u, v, |u - v| and u * v side by side, shape (rows, 4 * width).

    Example:
        >>> pair_features(np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]])).tolist()
        [[1.0, 2.0, 3.0, 0.0, 2.0, 2.0, 3.0, 0.0]]
    """
    return np.concatenate((u, v, np.abs(u - v), u * v), axis=1)


def _is_pooled(backbone: Backbone, encoder: Any, gaps: Sequence[str]) -> bool:
    """Return whether the encoder has a pooler that is not freshly initialised.

    Random weights are random throughout, so there the pooler is as good as the rest.
    """
    from easynlp.models.backbone import lacks_pooler

    has = any(name.startswith("pooler.") for name, _ in encoder.named_parameters())
    return has and (backbone.folder is None or not lacks_pooler(gaps))
