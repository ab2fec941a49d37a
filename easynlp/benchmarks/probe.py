"""Linear probes: what a frozen encoder already knows, read off by logistic regression.

The rule, fixed beforehand and the same for every model: a text (at most ``max_length`` tokens)
gives two vectors, the pooled ``[CLS]`` (the pooler's output where the checkpoint holds a
trained pooler, else the last layer's first vector) and the mean of the last layer over the
text's tokens. Of a pair both texts are read alone and give u, v, |u - v| and u * v side by side.
Features are centred and scaled by the training rows; logistic regression has `C` for all
tasks and models. Both vectors are scored; the headline is the one that is better on the split's
dev file (the mean, if they are equal there). The test file decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from easynlp.benchmarks.contenders import Budget, Learned, accuracy, weights_identity
from easynlp.benchmarks.fewclue import Split, check_classes, read_split_file
from easynlp.benchmarks.settings import PREFIX
from easynlp.errors import MissingExtra
from easynlp.tasks.base import Example

if TYPE_CHECKING:
    from easynlp.models.backbone import Backbone

__all__ = ["VECTORS", "C", "LinearProbe", "pair_features"]

C = 0.01
"""Inverse strength of the L2 penalty on standardised features; chosen once, on dev files."""
VECTORS = ("mean", "cls")
"""Names of the two vectors; of equal ones on dev the first is taken."""


class LinearProbe:
    """Logistic regression on a frozen model's sentence vectors; see the module's docstring.

    Args:
        name: ``probe:`` and a model as ``--model`` takes it.
        budget: Its `max_length` holds here too.
    """

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget = name, budget
        self._model = name.removeprefix(PREFIX)
        self.seeded = self._model.startswith("random:")
        self._encoders: dict[int, Encoder] = {}

    def identity(self) -> str:
        """Return the rule's numbers and a hash of the weights or of the shape."""
        return f"probe {C} {self.budget.max_length} {weights_identity(self._model)}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Fit one regression for each vector; dev chooses which vector is the headline."""
        train, dev = (read_split_file(path, split.task) for path in (split.train, split.dev))
        check_classes(train, split)
        encoder = self._encoder(seed)
        say("vectors")
        labels = [str(each["label"]) for each in train]
        features, dev_features = encoder.features(train), encoder.features(dev)
        fitted = {vector: _fit(features[vector], labels) for vector in VECTORS}
        on_dev = {
            vector: accuracy(predict(dev_features[vector]), dev)
            for vector, predict in fitted.items()
        }
        best = max(VECTORS, key=on_dev.__getitem__)

        def variants(examples: Sequence[Example]) -> dict[str, list[str]]:
            found = encoder.features(examples)
            return {vector: predict(found[vector]) for vector, predict in fitted.items()}

        def predict(examples: Sequence[Example]) -> list[str]:
            return variants(examples)[best]

        chosen = {"vector": best, "dev": on_dev}
        return Learned(predict, on_dev[best], chosen, variants)

    def _encoder(self, seed: int) -> Encoder:
        key = seed if self.seeded else 0
        if key not in self._encoders:
            self._encoders[key] = Encoder(self._model, self.budget.max_length, key)
        return self._encoders[key]


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
        self._known: dict[str, np.ndarray] = {}

    def vectors(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Return both vectors of each text, shape (texts, 2, width), in the order of `VECTORS`."""
        import torch

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
            real = tensors.get("attention_mask", torch.ones_like(tensors["input_ids"]))
            weights = real.unsqueeze(-1).float()
            mean = (hidden * weights).sum(1) / weights.sum(1)
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


def _fit(features: np.ndarray, labels: Sequence[str]) -> Callable[[np.ndarray], list[str]]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra("the linear probe", "train") from error
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    model.fit(features.astype(np.float64), labels)
    return lambda rows: [str(label) for label in model.predict(rows.astype(np.float64))]


def _is_pooled(backbone: Backbone, encoder: Any, gaps: Sequence[str]) -> bool:
    """Return whether the encoder has a pooler that is not freshly initialised.

    Random weights are random throughout, so there the pooler is as good as the rest.
    """
    has = any(name.startswith("pooler.") for name, _ in encoder.named_parameters())
    fresh = any("pooler." in name for name in gaps)
    return has and (backbone.folder is None or not fresh)
