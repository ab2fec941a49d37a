"""Architectures made from configuration alone: what ``pretrain --architecture`` can start.

An entry of `ARCHITECTURES` turns the shape options of a run into a transformers configuration;
``--config-json`` goes over it, so everything transformers knows of an architecture can be set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from easynlp.errors import ConfigError, did_you_mean
from easynlp.models.backbone import set_dropout
from easynlp.models.heads import first_position
from easynlp.models.ngram_bert import NgramBertConfig
from easynlp.text.tokenizer import Tokenizer

__all__ = [
    "ARCHITECTURES",
    "Shape",
    "make_config",
    "positions_of",
    "start_positions",
]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model to make; the names are those of the options."""

    layers: int
    hidden_size: int
    heads: int
    ffn: int
    max_positions: int
    inner_group_num: int = 1
    """ALBERT: distinct layers of the stack that is repeated."""
    embedding_size: int = 0
    """ALBERT, ELECTRA: width of the embeddings; 0: 128, or the hidden size if that is less."""
    dropout: float = 0.0
    ngram_buckets: int = 20_479
    """ngram_bert: hashed vectors of neighbouring tokens."""

    @property
    def narrow(self) -> int:
        """Width of factorized embeddings."""
        return self.embedding_size or min(128, self.hidden_size)


@dataclass(frozen=True)
class Architecture:
    """An entry of `ARCHITECTURES`.

    Attributes:
        config: The configuration's class, by its name if it is of transformers.
        objective: What it is trained for by default.
        fields: Turns a shape and a tokenizer into the configuration's fields.
    """

    config: str | type[PretrainedConfig]
    objective: str
    fields: Callable[[Shape, Tokenizer], dict[str, Any]]


def _encoder(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden_size, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.max_positions,
    }  # fmt: skip


def _ngram_bert(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return _encoder(shape, tokenizer) | {"ngram_buckets": shape.ngram_buckets}


def _roberta(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    # Its positions begin behind the padding token's id.
    positions = shape.max_positions + tokenizer.pad_id + 1
    return _encoder(shape, tokenizer) | {"max_position_embeddings": positions, "type_vocab_size": 1}


def _albert(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    if shape.layers % shape.inner_group_num:
        raise ConfigError(
            f"--layers {shape.layers} is not a multiple of --inner-group-num "
            f"{shape.inner_group_num}: the stack is repeated whole"
        )
    return _encoder(shape, tokenizer) | {
        "num_hidden_layers": shape.layers // shape.inner_group_num, "num_hidden_groups": 1,
        "inner_group_num": shape.inner_group_num, "embedding_size": shape.narrow,
    }  # fmt: skip


def _electra(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return _encoder(shape, tokenizer) | {"embedding_size": shape.narrow}


def _t5(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "d_model": shape.hidden_size, "d_kv": shape.hidden_size // shape.heads, "d_ff": shape.ffn,
        "num_layers": shape.layers, "num_decoder_layers": shape.layers, "num_heads": shape.heads,
        "decoder_start_token_id": tokenizer.pad_id,
    }  # fmt: skip


def _gpt2(shape: Shape, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "n_embd": shape.hidden_size, "n_layer": shape.layers, "n_head": shape.heads,
        "n_inner": shape.ffn, "n_positions": shape.max_positions,
    }  # fmt: skip


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture("BertConfig", "mlm", _encoder),
    "ngram_bert": Architecture(NgramBertConfig, "mlm", _ngram_bert),
    "roberta": Architecture("RobertaConfig", "mlm", _roberta),
    "albert": Architecture("AlbertConfig", "mlm", _albert),
    "electra": Architecture("ElectraConfig", "electra", _electra),
    "t5": Architecture("T5Config", "t5", _t5),
    "gpt2": Architecture("GPT2Config", "causal", _gpt2),
}


def make_config(
    name: str, shape: Shape, tokenizer: Tokenizer, override: str | Path | None = None
) -> PretrainedConfig:
    """Return the transformers configuration of a new model.

    Args:
        name: An entry of `ARCHITECTURES`.
        shape: Sizes.
        tokenizer: Gives the vocabulary's size and the special tokens' ids, which `override`
            cannot change.
        override: A JSON file of configuration fields that go over those of the shape.

    Raises:
        ConfigError: If there is no such architecture, the sizes do not fit each other, or the
            file is no JSON object of fields the architecture has.

    Example:
        >>> shape = Shape(layers=12, hidden_size=64, heads=2, ffn=128, max_positions=64,
        ...               inner_group_num=2)
        >>> config = make_config("albert", shape, tokenizer)          # doctest: +SKIP
        >>> config.num_hidden_layers, config.inner_group_num          # doctest: +SKIP
        (6, 2)
    """
    if name not in ARCHITECTURES:
        raise ConfigError(
            f'no architecture "{name}".{did_you_mean(name, ARCHITECTURES)} '
            f"Known: {', '.join(ARCHITECTURES)}"
        )
    if shape.hidden_size % shape.heads:
        raise ConfigError(
            f"--hidden-size {shape.hidden_size} is not a multiple of --heads {shape.heads}"
        )
    entry = ARCHITECTURES[name]
    kind: Any = entry.config
    if isinstance(kind, str):
        kind = getattr(transformers, kind)
    fields = entry.fields(shape, tokenizer)
    if override is not None:
        fields |= _read(override, name, kind)
    first, last = (
        next((i for t in names if (i := tokenizer.id_of(t)) is not None), None)
        for names in (("[CLS]", "<s>"), ("[SEP]", "</s>"))
    )
    fields |= {
        "vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id,
        "bos_token_id": first, "eos_token_id": last,
    }  # fmt: skip
    try:
        config: PretrainedConfig = kind(**fields)
    except Exception as error:  # transformers checks types in its own ways
        raise ConfigError(f"{kind.__name__} cannot be made: {error}") from error
    set_dropout(config, shape.dropout)
    return config


def _read(path: str | Path, name: str, kind: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config-json {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"--config-json {path} holds no object of fields")
    if found.pop("model_type", name) != name:
        raise ConfigError(f"--config-json {path} is not of --architecture {name}")
    known = set(kind().to_dict()) | set(kind.attribute_map)
    if unknown := sorted(set(found) - known):
        raise ConfigError(
            f'--config-json {path}: {kind.__name__} has no field "{unknown[0]}".'
            f"{did_you_mean(unknown[0], known)}"
        )
    return found


def positions_of(config: Any) -> int | None:
    """Return how many tokens a model has positions for; None if its positions are relative."""
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(found := getattr(config, name, None), int) and config.model_type != "t5":
            return found - first_position(config)
    return None


@torch.no_grad()
def start_positions(model: Any) -> None:
    """Start the position vectors as sinusoids, at the scale of the other embeddings.

    Random ones must each be learned before attention can find a neighbour; sinusoids (Vaswani et
    al. 2017) say from the first step how far apart two tokens are. They are trained on from there.
    Models of relative positions are left alone.

    Args:
        model: A transformers model.
    """
    base = model.base_model
    found = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    found = found if found is not None else getattr(base, "wpe", None)
    if found is None:
        return
    table = found.weight
    count, width = table.shape
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()[:, : width // 2]
    table *= model.config.initializer_range * math.sqrt(2.0)
