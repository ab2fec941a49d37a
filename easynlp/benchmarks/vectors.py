"""Neighbours and centroids on a frozen encoder's vectors: ``knn@MODEL``, ``centroid@MODEL``.

A text's vector is the mean of the encoder's last layer over its tokens, at most ``max_length`` of
them; of a pair both texts are read alone (see `easynlp.benchmarks.probe`). Vectors are centred by
the mean of the training rows, since those of most encoders share one direction. Nothing else is
learned; ``knn:neighbours=N`` sets how many rows vote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from easynlp.benchmarks.contender import Budget, Learned, weights_identity
from easynlp.benchmarks.encodings import grade, joined
from easynlp.benchmarks.fewclue import Split, read_split_file, read_training
from easynlp.benchmarks.names import Name, typed
from easynlp.config import Count
from easynlp.fewshot.baselines import VectorClassifier
from easynlp.fewshot.vectors import Encoder
from easynlp.tasks.base import Example, Prediction

__all__ = ["WAYS", "Nearest"]

WAYS = ("knn", "centroid")


@dataclass(frozen=True)
class _Options:
    neighbours: Count = 5


class Nearest:
    """Neighbours or centroids; see the module's docstring.

    Args:
        name: ``knn`` or ``centroid``, options, ``@`` and a model.
        budget: Its `max_length` holds here too.
        model: The model, if the name has none.

    Raises:
        ConfigError: If there is no such option.
    """

    def __init__(self, name: str, budget: Budget, model: str) -> None:
        parsed = Name.parse(name)
        self.name, self.budget, self.kind = name, budget, parsed.way
        self.options = _Options(**typed(parsed.options, _Options, name))
        self.model = parsed.model or model
        self.seeded, self.unlabelled = self.model.startswith("random:"), False
        self._encoders: dict[int, Encoder] = {}

    def takes(self, task: str) -> bool:
        """Return that it takes every task."""
        return True

    def identity(self) -> str:
        """Return the options and a hash of the weights or of the shape."""
        weights = weights_identity(self.model)
        return f"{self.kind} {self.options} {self.budget.max_length} {weights}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Take the training rows' vectors for what is near."""
        key = seed if self.seeded else 0
        if key not in self._encoders:
            self._encoders[key] = Encoder(self.model, self.budget.max_length, key)
        encoder = self._encoders[key]
        train, dev = read_training(split), read_split_file(split.dev, split.task)
        say("vectors")
        known = {joined(each): each for each in train}
        centre = encoder.features(train)["mean"].mean(0)

        def vectors(texts: Sequence[str]) -> np.ndarray:
            found: np.ndarray = encoder.features([known[text] for text in texts])["mean"] - centre
            return found

        assert self.kind in ("knn", "centroid")
        model = VectorClassifier(
            vectors,
            kind="knn" if self.kind == "knn" else "centroid",
            neighbours=self.options.neighbours,
        )
        model.fit([joined(each) for each in train], [str(each["label"]) for each in train])

        def predict(examples: Sequence[Example]) -> list[Prediction]:
            known.update((joined(each), each) for each in examples)
            found = model.predict_proba([joined(each) for each in examples])
            return [
                {"label": model.classes_[row.argmax()],
                 "scores": dict(zip(model.classes_, map(float, row), strict=True))}
                for row in found
            ]  # fmt: skip

        chosen = {"neighbours": self.options.neighbours} if self.kind == "knn" else {}
        return Learned(predict, grade(dev, predict(dev)), chosen, parameters=encoder.parameters)
