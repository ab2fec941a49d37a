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

import numpy as np

from easynlp.benchmarks.contender import Budget, Learned, weights_identity
from easynlp.benchmarks.encodings import grade
from easynlp.benchmarks.fewclue import Split, read_split_file, read_training
from easynlp.benchmarks.settings import PREFIX
from easynlp.errors import MissingExtra
from easynlp.fewshot.vectors import VECTORS, Encoder, pair_features
from easynlp.tasks.base import Example, Prediction

__all__ = ["VECTORS", "C", "Encoder", "LinearProbe", "pair_features"]

C = 0.01
"""Inverse strength of the L2 penalty on standardised features; chosen once, on dev files."""


class LinearProbe:
    """Logistic regression on a frozen model's sentence vectors; see the module's docstring.

    Args:
        name: ``probe:`` and a model as ``--model`` takes it.
        budget: Its `max_length` holds here too.
    """

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget = name, budget
        self._model = name.removeprefix(PREFIX)
        self.seeded, self.unlabelled = self._model.startswith("random:"), False
        self._encoders: dict[int, Encoder] = {}

    def takes(self, task: str) -> bool:
        """Return that it takes every task."""
        return True

    def identity(self) -> str:
        """Return the rule's numbers and a hash of the weights or of the shape."""
        return f"probe {C} {self.budget.max_length} {weights_identity(self._model)}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Fit one regression for each vector; dev chooses which vector is the headline."""
        train, dev = read_training(split), read_split_file(split.dev, split.task)
        encoder = self._encoder(seed)
        say("vectors")
        labels = [str(each["label"]) for each in train]
        features, dev_features = encoder.features(train), encoder.features(dev)
        fitted = {vector: _fit(features[vector], labels) for vector in VECTORS}
        on_dev = {
            vector: grade(dev, predict(dev_features[vector])) for vector, predict in fitted.items()
        }
        best = max(VECTORS, key=on_dev.__getitem__)

        def variants(examples: Sequence[Example]) -> dict[str, Sequence[Prediction]]:
            found = encoder.features(examples)
            return {vector: predict(found[vector]) for vector, predict in fitted.items()}

        def predict(examples: Sequence[Example]) -> Sequence[Prediction]:
            return variants(examples)[best]

        chosen = {"vector": best, "dev": on_dev}
        head = (features[best].shape[1] + 1) * len(set(labels))
        return Learned(predict, on_dev[best], chosen, variants, encoder.parameters + head)

    def _encoder(self, seed: int) -> Encoder:
        key = seed if self.seeded else 0
        if key not in self._encoders:
            self._encoders[key] = Encoder(self._model, self.budget.max_length, key)
        return self._encoders[key]


def _fit(features: np.ndarray, labels: Sequence[str]) -> Callable[[np.ndarray], list[Prediction]]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise MissingExtra("the linear probe", "train") from error
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    model.fit(features.astype(np.float64), labels)
    names = [str(label) for label in model.classes_]
    return lambda rows: [
        {"label": names[each.argmax()], "scores": dict(zip(names, each.tolist(), strict=True))}
        for each in model.predict_proba(rows.astype(np.float64))
    ]
