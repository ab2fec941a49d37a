"""Start a student from some of a checkpoint's layers.

Layers picked from a trained encoder, its embeddings with them, need a few hundred steps of
distillation to speak as one again, where random layers need days: DistilBERT (Sanh et al. 2019)
takes every second layer of its teacher; which ones matters little as long as they are spread
over the depth (Sajjad et al. 2023, "On the Effect of Dropping Layers of Pre-trained Transformer
Models").
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from easynlp.errors import ConfigError
from easynlp.training.depth import LAYER

__all__ = ["chosen_layers", "keep_layers"]


def chosen_layers(
    spec: str, config: PretrainedConfig, option: str = "--keep-layers"
) -> tuple[int, ...]:
    """Read what names layers to keep: numbers from 0, rising, with commas between.

    Args:
        spec: What was given.
        config: Of the checkpoint the layers are of.
        option: Where it was given, for messages.

    Raises:
        ConfigError: If they are no such numbers, or its layers are none of their own (ALBERT).

    Example:
        >>> from transformers import BertConfig
        >>> chosen_layers("0,3,7,11", BertConfig(num_hidden_layers=12))
        (0, 3, 7, 11)
    """
    there = getattr(config, "num_hidden_layers", 0)
    given = [piece.strip() for piece in spec.split(",")]  # a number named twice is told
    numbers = tuple(int(piece) for piece in given if piece.isascii() and piece.isdigit())
    rising = all(low < high for low, high in pairwise(numbers))
    if len(numbers) != len(given) or not rising or not numbers or numbers[-1] >= there:
        raise ConfigError(
            f"{option} {spec}: rising numbers of 0 to {there - 1} wanted, "
            f"e.g. {option} 0,3,7,11 of twelve layers"
        )
    if config.model_type not in ("bert", "ngram_bert", "roberta", "xlm-roberta", "electra"):
        raise ConfigError(f"{option} works on BERT and its like, not on {config.model_type}")
    return numbers


def keep_layers(model: PreTrainedModel, layers: tuple[int, ...]) -> PreTrainedModel:
    """Return a model of only the given layers of another, which is left as it is.

    Args:
        model: A transformers encoder with whatever head.
        layers: Which of its layers to keep, counted from 0, in the order they get.

    Example:
        >>> small = keep_layers(model, (0, 3, 7, 11))                 # doctest: +SKIP
    """
    kind: Any = type(model)
    config: Any = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    place = {old: new for new, old in enumerate(layers)}
    state = {}
    for name, value in model.state_dict().items():
        found = LAYER.search(name)
        if found is None:
            state[name] = value
        elif (old := int(found[1])) in place:
            state[f"{name[: found.start(1)]}{place[old]}{name[found.end(1) :]}"] = value
    made: Any = kind(config)
    made.load_state_dict(state)
    made.tie_weights()
    return made.train(model.training)  # type: ignore[no-any-return]
