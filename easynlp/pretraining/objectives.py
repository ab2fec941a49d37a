"""What a model is pre-trained to do: ``pretrain --objective``, and the model it starts from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from easynlp.config import PretrainConfig
from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone, set_dropout
from easynlp.pretraining.architectures import (
    ARCHITECTURES,
    Shape,
    make_config,
    positions_of,
)
from easynlp.pretraining.layer_choice import chosen_layers
from easynlp.pretraining.similar_words import FILE
from easynlp.tasks import find_task
from easynlp.tasks.language_modeling import LanguageModeling
from easynlp.text.tokenizer import Tokenizer

__all__ = ["OBJECTIVES", "Objective", "fit_positions", "make_task", "settle", "starting_backbone"]

START = "start"
"""Folder in a run's: the checkpoint of --init, its layers or vocabulary changed."""


@dataclass(frozen=True)
class Objective:
    """An entry of `OBJECTIVES`.

    Attributes:
        task: Name of the task.
        architecture: What it trains by default.
        fits: Model types it can train; empty: whatever has the head.
        options: The task's options, from those of the run.
        methods: Methods it cannot do without.
    """

    task: str
    architecture: str
    fits: tuple[str, ...]
    options: Callable[[PretrainConfig], dict[str, Any]]
    methods: tuple[str, ...] = ()


def _masked(config: PretrainConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"mask_rate": config.mask_rate, "masking": config.masking}
    if config.masking == "similar":
        options["similar_words"] = config.similar_words or str(Path(config.output) / FILE)
    return options


OBJECTIVES: dict[str, Objective] = {
    "mlm": Objective("language_modeling", "bert", (), _masked),
    "electra": Objective(
        "replaced_token_detection", "electra", ("electra",), _masked, methods=("electra",)
    ),
    "causal": Objective("causal_language_modeling", "gpt2", ("gpt2",), lambda config: {}),
    "t5": Objective(
        "span_corruption", "t5", ("t5",), lambda config: {"mask_rate": config.mask_rate}
    ),
}


def settle(config: PretrainConfig) -> PretrainConfig:
    """Return the options with architecture, objective and methods filled in.

    Each of the first two follows from the other; without both it is BERT by masked language
    modeling. With ``init`` the architecture is the checkpoint's.

    Raises:
        ConfigError: If architecture and objective do not go together, or an option is of use only
            with another one.
        ModelError: If there is no such checkpoint.
    """
    architecture: str | None = config.architecture
    objective: str | None = config.objective
    if config.init is not None:
        start = Backbone.load(config.init).config
        found = start.model_type
        if architecture not in (None, found):
            raise ConfigError(f"--init {config.init} is {found}, not --architecture {architecture}")
        _check_init(config, start)
        architecture = found if found in ARCHITECTURES else None
        objective = objective or (ARCHITECTURES[found].objective if architecture else "mlm")
    else:
        found = architecture or OBJECTIVES[objective or "mlm"].architecture
        architecture, objective = found, objective or ARCHITECTURES[found].objective
    entry = OBJECTIVES[objective]
    if (entry.fits and found not in entry.fits) or (not entry.fits and found in ("t5", "gpt2")):
        fit = entry.fits or ("bert", "ngram_bert", "roberta", "albert", "electra")
        raise ConfigError(f"--objective {objective} trains {', '.join(fit)}, and not {found}")
    _check_changes(config)
    if config.masking != "word" and objective not in ("mlm", "electra"):
        raise ConfigError(f"--masking says what --objective mlm hides; {objective} hides no words")
    if config.masking == "similar" and objective != "mlm":
        raise ConfigError("--masking similar replaces words for --objective mlm to correct")
    if config.similar_words is not None and config.masking != "similar":
        raise ConfigError("--similar-words is read by --masking similar")
    if config.teacher is not None and objective != "mlm":
        raise ConfigError(f"--teacher helps --objective mlm, not {objective}")
    startable = ("bert", "ngram_bert", "roberta")
    if config.embeddings != "random" and (config.init or architecture not in startable):
        raise ConfigError(f"--embeddings {config.embeddings} starts a new {', '.join(startable)}")
    named = {spec.partition(":")[0] for spec in config.method}
    if "fgm" in named and objective in ("electra", "t5"):
        raise ConfigError(f"fgm perturbs the embeddings of one encoder: not with {objective}")
    if {"sop", "nsp"} & named and config.rows != "packed":
        raise ConfigError("sop and nsp make two segments of a packed row: drop --rows texts")
    methods = tuple(name for name in entry.methods if name not in named) + tuple(config.method)
    return replace(config, architecture=architecture, objective=objective, method=methods)  # type: ignore[arg-type]


def _check_init(config: PretrainConfig, start: PretrainedConfig) -> None:
    """Refuse options of a new model beside ``init``, and layers that it has not."""
    if config.config_json is not None:
        raise ConfigError("--init takes the checkpoint's configuration: drop --config-json")
    shaped = {f.name for f in fields(Shape)} & {f.name for f in fields(config)} - {"dropout"}
    new = {f.name: f.default for f in fields(config)}
    for name in sorted(shaped - {"max_positions"}):
        if getattr(config, name) != new[name]:
            flag = "--" + name.replace("_", "-")
            raise ConfigError(f"--init takes the checkpoint's shape: drop {flag}")
    if config.keep_layers:
        chosen_layers(config.keep_layers, start)


def _check_changes(config: PretrainConfig) -> None:
    """Refuse changes to ``init`` without one, and two that exclude each other."""
    if config.keep_layers and config.init is None:
        raise ConfigError("--keep-layers names layers of --init; of a new model say --layers")
    if config.cut_vocab and (config.init is None or config.vocab is not None):
        raise ConfigError("--cut-vocab cuts the vocabulary of --init, and goes without --vocab")


def make_task(config: PretrainConfig, tokenizer: Tokenizer) -> LanguageModeling:
    """Return the task of settled options."""
    entry = OBJECTIVES[config.objective or "mlm"]
    kind: Any = find_task(entry.task)
    made: LanguageModeling = kind(
        kind.Config(max_length=config.row_length, **entry.options(config)), tokenizer
    )
    return made


def starting_backbone(config: PretrainConfig, tokenizer: Tokenizer) -> Backbone:
    """Return what training starts from: new weights of a shape, or a checkpoint.

    Args:
        config: Settled options.
        tokenizer: The run's.

    Raises:
        ConfigError: If the shape's options do not fit each other.
    """
    if config.init is None:
        assert config.architecture is not None  # `settle` saw to it
        shape = Shape(
            config.layers, config.hidden_size, config.heads, config.ffn, config.max_positions,
            config.inner_group_num, config.embedding_size, config.dropout, config.ngram_buckets,
        )  # fmt: skip
        made = make_config(config.architecture, shape, tokenizer, config.config_json)
        return Backbone("new", made, tokenizer)
    changed = Path(config.output) / START
    backbone = Backbone.load(str(changed.resolve()) if changed.is_dir() else config.init)
    settings = copy.deepcopy(backbone.config)
    set_dropout(settings, config.dropout)
    return replace(backbone, config=settings, tokenizer=tokenizer)


def fit_positions(config: PretrainConfig, model: Any) -> PretrainConfig:
    """Return the options with no more positions than the model has.

    Raises:
        ConfigError: If a row is longer than that.
    """
    there = positions_of(model)
    if there is None or there >= config.max_positions:
        return config
    if there < config.row_length:
        raise ConfigError(f"--row-length {config.row_length}: the model has {there} positions")
    return replace(config, max_positions=there)
