"""Cut heads, neurons, layers, tokens and positions out of a trained model: a smaller real model.

The weights of what stays are copied, the most important head or neuron first (DynaBERT's
rewiring), so that any narrower cut of the same model is the beginning of a wider one. Nothing is
changed in place: several cuts of one model do not know of each other.

Every layer keeps as many heads and neurons as the others. Fewer layers, neurons, tokens and
positions are things a stock configuration can say, so such a model is what it was before, only
smaller. Fewer heads are not: such a BERT becomes a ``narrow_bert``
(`easynlp.models.narrow_bert`); of other architectures the heads stay.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from easynlp.atomic import write_folder
from easynlp.compression.importance import Importance
from easynlp.errors import ConfigError, ModelError
from easynlp.models.heads import core, first_position
from easynlp.models.narrow_bert import NarrowBertConfig
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.depth import LAYER

__all__ = ["Cut", "can_lose_heads", "full_cut", "kept_count", "make_cut", "prune_state",
           "pruned_config", "save_pruned", "spread_layers"]  # fmt: skip

_PER_TOKEN = ("word_embeddings.weight", "predictions.bias", "predictions.decoder.weight",
              "predictions.decoder.bias", "lm_head.bias", "lm_head.decoder.weight",
              "lm_head.decoder.bias", "generator_lm_head.weight", "generator_lm_head.bias",
              "embeddings.token_codes")  # fmt: skip
"""Ends of the names of parameters that have a row for each token."""


@dataclass(frozen=True)
class Cut:
    """What is kept of a model.

    Attributes:
        layers: Numbers of the layers, rising.
        heads: For each layer of the old model the heads kept, the most important first.
        neurons: The same of its feed-forward neurons.
        tokens: Old ids of the tokens kept, in their new order; None: all.
        positions: How many positions are kept; None: all.
    """

    layers: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    tokens: tuple[int, ...] | None = None
    positions: int | None = None


def kept_count(there: int, width: float, multiple: int = 1) -> int:
    """Return how many of `there` a width keeps: at least one, rounded to a multiple.

    Example:
        >>> kept_count(12, 0.75), kept_count(12, 0.01), kept_count(1536, 0.66, 32)
        (9, 1, 1024)
    """
    return min(there, max(multiple, int(there * width / multiple + 0.5) * multiple))


def spread_layers(there: int, keep: int) -> tuple[int, ...]:
    """Return which layers stay: the first, the last and others evenly between.

    Raises:
        ConfigError: If there are not so many.

    Example:
        >>> spread_layers(12, 4), spread_layers(4, 3), spread_layers(4, 1)
        ((0, 4, 7, 11), (0, 2, 3), (0,))
    """
    if not 1 <= keep <= there:
        raise ConfigError(f"--depth {keep}: the model has {there} layers; valid: 1 to {there}")
    if keep == 1:
        return (0,)
    return tuple(int(i * (there - 1) / (keep - 1) + 0.5) for i in range(keep))


def can_lose_heads(config: Any) -> bool:
    """Return whether a model of a configuration may have fewer heads than its width says."""
    return config.model_type in ("bert", "narrow_bert")


def full_cut(config: Any) -> Cut:
    """Return the cut that cuts nothing.

    Args:
        config: A BERT-shaped model's configuration.
    """
    layers, heads = int(config.num_hidden_layers), _heads_of(config)
    return Cut(
        tuple(range(layers)),
        (tuple(range(heads)),) * layers,
        (tuple(range(int(config.intermediate_size))),) * layers,
    )


def make_cut(
    config: Any,
    importance: Importance,
    *,
    width: float = 1.0,
    depth: int | None = None,
    tokens: Sequence[int] | None = None,
    positions: int | None = None,
) -> Cut:
    """Return what to keep of a model.

    Args:
        config: The model's configuration.
        importance: Of its heads and neurons.
        width: Share of the heads and neurons of every layer.
        depth: Layers; None: all. They are spread over the depth: Sajjad et al. 2023, "On the
            Effect of Dropping Layers of Pre-trained Transformer Models".
        tokens: Old ids in their new order; None: all.
        positions: Longest row in tokens; None: as now.

    Raises:
        ConfigError: If a number is out of range.
    """
    if not 0 < width <= 1:
        raise ConfigError(f"--width {width:g}; valid: above 0 up to 1")
    there = full_cut(config)
    share = width if can_lose_heads(config) else 1.0
    heads = kept_count(len(there.heads[0]), share)
    # Int8 kernels work on blocks of columns: a width between two of them costs the larger one.
    neurons = kept_count(len(there.neurons[0]), width, 32 if len(there.neurons[0]) >= 64 else 1)
    offset = first_position(config)
    return Cut(
        spread_layers(len(there.layers), len(there.layers) if depth is None else depth),
        _first(importance.heads, heads),
        _first(importance.neurons, neurons),
        tuple(tokens) if tokens is not None else None,
        min(positions + offset, int(config.max_position_embeddings)) if positions else None,
    )


def _first(scores: torch.Tensor, count: int) -> tuple[tuple[int, ...], ...]:
    """Return the places of the largest scores of each row, falling; of equal ones the first."""
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :count]
    return tuple(tuple(row) for row in order.tolist())


def pruned_config(config: Any, cut: Cut, pad_id: int) -> Any:
    """Return the configuration of the smaller model.

    Args:
        config: Of the model that is cut.
        cut: What is kept.
        pad_id: The padding token's id afterwards.

    Raises:
        ModelError: If positions are counted from the padding token's id, and that changes.
    """
    kept, there = len(cut.heads[0]), full_cut(config)
    made: Any = copy.deepcopy(config)
    if kept < len(there.heads[0]) or config.model_type == "narrow_bert":
        values = {k: v for k, v in config.to_dict().items()
                  if k not in ("model_type", "auto_map", "architectures", "transformers_version",
                               "kept_heads")}  # fmt: skip
        made = NarrowBertConfig(**values, kept_heads=kept)
        names = [str(name) for name in config.architectures or ()]
        made.architectures = [n if n.startswith("Narrow") else f"Narrow{n}" for n in names]
    made.num_hidden_layers = len(cut.layers)
    made.intermediate_size = len(cut.neurons[0])
    if cut.tokens is not None:
        made.vocab_size, made.pad_token_id = len(cut.tokens), pad_id
    if first_position(made) != first_position(config):
        raise ModelError(
            "this model counts positions from the padding token's id, which a cut vocabulary "
            f"moves from {config.pad_token_id} to {pad_id}: leave --vocab out"
        )
    if cut.positions is not None:
        made.max_position_embeddings = cut.positions
    return made


def prune_state(
    state: Mapping[str, torch.Tensor], config: Any, cut: Cut
) -> dict[str, torch.Tensor]:
    """Return the weights that stay; `state` is left as it is.

    Args:
        state: A BERT-shaped model's tensors by name, whatever its head.
        config: Its configuration.
        cut: What to keep.

    Raises:
        ModelError: If a tensor's shape does not fit the configuration.
    """
    size = int(config.hidden_size) // int(config.num_attention_heads)
    place = {old: new for new, old in enumerate(cut.layers)}
    made: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        found = LAYER.search(name)
        if found is None:
            made[name] = _outside(name, value, config, cut)
            continue
        old = int(found[1])
        if old not in place:
            continue
        inner = name[found.end() :]
        columns = torch.tensor([h * size + i for h in cut.heads[old] for i in range(size)])
        neurons = torch.tensor(cut.neurons[old])
        if inner.startswith(("attention.self.query", "attention.self.key", "attention.self.value")):
            value = value[columns]
        elif inner == "attention.output.dense.weight":
            value = value[:, columns]
        elif inner.startswith("intermediate.dense."):
            value = value[neurons]
        elif inner == "output.dense.weight":
            value = value[:, neurons]
        made[f"{name[: found.start(1)]}{place[old]}{name[found.end(1) :]}"] = value
    return {name: value.detach().clone().contiguous() for name, value in made.items()}


def _outside(name: str, value: torch.Tensor, config: Any, cut: Cut) -> torch.Tensor:
    """Return what stays of a tensor that is in no layer."""
    if cut.tokens is not None and name.endswith(_PER_TOKEN):
        if len(value) != config.vocab_size:
            raise ModelError(f"{name} has {len(value)} rows for {config.vocab_size} tokens")
        return value[torch.tensor(cut.tokens)]
    if cut.positions is not None and name.endswith("position_embeddings.weight"):
        return value[: cut.positions]
    return value


def save_pruned(model: torch.nn.Module, cut: Cut, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the smaller model as a model folder that `Backbone.load` reads.

    Args:
        model: The trained model of a task; left as it is.
        cut: What to keep of it.
        tokenizer: The smaller model's.
        folder: To write; one that is there is replaced.

    Example:
        >>> save_pruned(model, cut, tokenizer, Path("runs/small"))    # doctest: +SKIP
    """
    inner: Any = core(model)
    config = pruned_config(inner.config, cut, tokenizer.pad_id)
    config.dtype = torch.float32
    state = prune_state(inner.state_dict(), inner.config, cut)
    # transformers stores tied weights once
    tied = set(getattr(inner, "all_tied_weights_keys", None) or ())
    state = {name: value.float() if value.is_floating_point() else value
             for name, value in state.items() if name not in tied}  # fmt: skip

    def fill(target: Path) -> None:
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(target)
        tokenizer.save(target)

    write_folder(folder, fill)


def _heads_of(config: Any) -> int:
    return int(getattr(config, "kept_heads", config.num_attention_heads))
