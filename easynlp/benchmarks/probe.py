"""Linear probes: what a frozen encoder already knows, read off by logistic regression.

The rule, fixed beforehand and the same for every model: a text (at most ``max_length`` tokens)
gives two vectors, the pooled ``[CLS]`` (the pooler's output where the checkpoint holds a
trained pooler, else the last layer's first vector) and the mean of the last layer over the
text's tokens. Of a pair both texts are read alone and give u, v, |u - v| and u * v side by side.
Features are centred and scaled by the training rows; logistic regression has `C` for all
tasks and models. Both vectors are scored; the headline is the one that is better on the split's
dev file (the mean, if they are equal there). The test file decides nothing.

``probe:names=PROMPT@MODEL`` leans towards the vectors of what the labels are called
(`easynlp.training.label_prior`): the words of that prompt, in its hypothesis if it has one, or with
``names=labels`` the labels themselves where they are words (else as ``names=efl``).
``placebo=shuffled-names`` deals them out to other labels. Not for pairs, which no word is like.

``probe:pool=N@MODEL``, also together with names, learns on from the head's surest guesses about at
most N of the task's unlabelled texts (`easynlp.training.self_trained`);
``placebo=random-pseudo-labels`` lets the guesses change places. Without such text it is the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from easynlp.benchmarks.contender import Budget, Learned, weights_identity
from easynlp.benchmarks.encodings import grade
from easynlp.benchmarks.fewclue import Split, read_split_file, read_training
from easynlp.benchmarks.label_names import NAME_PLACEBO, Names
from easynlp.benchmarks.names import Name, typed
from easynlp.benchmarks.pool import PLACEBO_LABELS, draw
from easynlp.benchmarks.settings import PREFIX
from easynlp.errors import ConfigError
from easynlp.fewshot.vectors import VECTORS, Encoder, pair_features
from easynlp.metrics import softmax
from easynlp.tasks.base import Example, Prediction
from easynlp.training.label_prior import lean
from easynlp.training.regression import regress
from easynlp.training.self_trained import learn_on

__all__ = ["VECTORS", "C", "Encoder", "LinearProbe", "pair_features"]

C = 0.01
"""Inverse strength of the L2 penalty on standardised features; chosen once, on dev files."""


@dataclass(frozen=True)
class ProbeOptions(Names):
    """Options of a probe.

    Attributes:
        pool: Most unlabelled texts to learn on from; 0: none.

    Raises:
        ConfigError: If there is no such prompt or placebo, or fewer than no texts.
    """

    pool: int = 0

    def __post_init__(self) -> None:
        if self.pool < 0:
            raise ConfigError(f"pool={self.pool}: how many unlabelled texts? 0 or more")
        if self.placebo != PLACEBO_LABELS:
            super().__post_init__()
        elif not self.pool:
            raise ConfigError(f"placebo={PLACEBO_LABELS} needs pool=N")

    def identity(self) -> str:
        """Return what decides names and guesses."""
        guesses = f"pool {self.pool} {self.placebo}" if self.pool else ""
        return f"{super().identity()} {guesses}".strip()


class LinearProbe:
    """Logistic regression on a frozen model's sentence vectors; see the module's docstring.

    Args:
        name: ``probe:`` and a model as ``--model`` takes it; or with options, see above.
        budget: Its `max_length` holds here too.
        model: The model, if the name has options and no model.

    Raises:
        ConfigError: If an option is unknown.
    """

    def __init__(self, name: str, budget: Budget, model: str = "") -> None:
        self.name, self.budget = name, budget
        parsed = Name.parse(name)
        if with_options := parsed.way == PREFIX.rstrip(":"):
            self._model = parsed.model or model
        else:
            self._model = name.removeprefix(PREFIX)
        given = typed(parsed.options, ProbeOptions, name) if with_options else {}
        self.options = ProbeOptions(**given)
        # Random weights are drawn by the seed, and so is what a placebo deals out.
        self._random = self._model.startswith("random:")
        self.seeded = self._random or bool(self.options.placebo)
        self.unlabelled = bool(self.options.pool)

    def takes(self, task: str) -> bool:
        """Return that it takes every task."""
        return True

    def identity(self) -> str:
        """Return the rule's numbers and a hash of the weights or of the shape."""
        said = f"probe {C} {self.budget.max_length} {weights_identity(self._model)}"
        return f"{said} {self.options.identity()}".rstrip()

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Fit one regression for each vector; dev chooses which vector is the headline."""
        train, dev = read_training(split), read_split_file(split.dev, split.task)
        encoder = self._encoder(seed)
        say("vectors")
        labels = [str(each["label"]) for each in train]
        features, dev_features = encoder.features(train), encoder.features(dev)
        known = self.options.of(split.task, sorted(set(labels)))
        called = encoder.features([{"text": text} for text in known.values()]) if known else {}
        pool = draw(split, self.options.pool)
        unlabelled = encoder.features(pool) if pool else {}
        placebo = {self.options.placebo: seed}
        fitted = {
            vector: _fit(
                features[vector], labels, called.get(vector), unlabelled.get(vector), placebo
            )
            for vector in VECTORS
        }
        on_dev = {
            vector: grade(dev, predict(dev_features[vector])) for vector, predict in fitted.items()
        }
        best = max(VECTORS, key=on_dev.__getitem__)

        def variants(examples: Sequence[Example]) -> dict[str, Sequence[Prediction]]:
            found = encoder.features(examples)
            return {vector: predict(found[vector]) for vector, predict in fitted.items()}

        def predict(examples: Sequence[Example]) -> Sequence[Prediction]:
            return variants(examples)[best]

        chosen: dict[str, Any] = {"vector": best, "dev": on_dev}
        if self.options.pool:
            chosen["pool"] = len(pool)
        head = (features[best].shape[1] + 1) * len(set(labels))
        return Learned(predict, on_dev[best], chosen, variants, encoder.parameters + head)

    def _encoder(self, seed: int) -> Encoder:
        return _encoder_of(self._model, self.budget.max_length, seed if self._random else 0)


@lru_cache(maxsize=4)
def _encoder_of(model: str, max_length: int, seed: int) -> Encoder:
    """Return the one encoder of a model: what it has read, all probes of a call share."""
    return Encoder(model, max_length, seed)


def _fit(
    features: np.ndarray,
    labels: Sequence[str],
    called: np.ndarray | None,
    pool: np.ndarray | None,
    placebo: Mapping[str, int],
) -> Callable[[np.ndarray], list[Prediction]]:
    names = sorted(set(labels))
    targets = np.array([names.index(each) for each in labels])
    rows = features.astype(np.float64)
    if called is None:
        weight, bias = regress(rows, targets, len(names), C, several=False)
    else:
        weight, bias, _ = lean(
            rows,
            targets,
            len(names),
            C,
            called.astype(np.float64),
            shuffle=placebo.get(NAME_PLACEBO),
        )
    if pool is not None:
        weight, bias, _ = learn_on(
            (weight, bias),
            rows,
            targets,
            pool.astype(np.float64),
            C,
            shuffle=placebo.get(PLACEBO_LABELS),
        )

    def predict(rows: np.ndarray) -> list[Prediction]:
        shares = softmax(rows.astype(np.float64) @ weight.T + bias)
        return [
            {"label": names[each.argmax()], "scores": dict(zip(names, each.tolist(), strict=True))}
            for each in shares
        ]

    return predict
