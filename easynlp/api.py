"""What ``import easynlp`` offers: the commands as functions, options as keyword arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easynlp.config import PretrainConfig, TrainConfig
from easynlp.errors import ConfigError
from easynlp.options import resolve
from easynlp.tasks import find_task

if TYPE_CHECKING:
    from easynlp.pipeline import Pipeline

__all__ = ["pretrain", "task_options", "train"]


def train(task: str | None = None, *, config: str | Path | None = None, **options: Any) -> Pipeline:
    """Train a model on labelled data; the same as ``easynlp train``.

    Args:
        task: ``text_classify``, ``sequence_labeling`` or ``package.module:Class``; may be left
            to the recipe.
        config: YAML recipe; keyword arguments and ``EASYNLP_*`` win over it.
        **options: Fields of `TrainConfig` and of the task's ``Config``.

    Returns:
        The best checkpoint, ready to predict.

    Raises:
        EasyNLPError: If options, data or the model are wrong, with all that is known about it.

    Example:
        >>> train("text_classify", train="a.jsonl", dev="b.jsonl", output="runs/x",
        ...       lr=3e-4)                                              # doctest: +SKIP
    """
    if task is not None:
        options["task"] = task
    name = _task_of(task, config)
    classes = (TrainConfig, task_options(name))
    resolved = resolve(classes, path=config, env=os.environ, flags=options, spell=_keyword)
    from easynlp import run

    return run.train(*resolved)


def pretrain(*, config: str | Path | None = None, **options: Any) -> Path:
    """Pre-train an encoder from raw text; the same as ``easynlp pretrain``.

    Args:
        config: YAML recipe.
        **options: Fields of `PretrainConfig`.

    Returns:
        The model folder, which works as ``model=``.
    """
    (resolved,) = resolve(
        [PretrainConfig], path=config, env=os.environ, flags=options, spell=_keyword
    )
    from easynlp.pretraining.run import pretrain as run_pretraining

    return run_pretraining(resolved)


def task_options(name: str) -> type:
    """Return the dataclass of a task's own options.

    Raises:
        ConfigError: If there is no such task, or it is not trained on labelled data.
    """
    if name == "language_modeling":
        raise ConfigError("language_modeling learns from raw text: type easynlp pretrain --corpus")
    options: type = find_task(name).Config
    return options


def _task_of(task: str | None, config: str | Path | None) -> str:
    from easynlp.options import read_recipe

    recipe = read_recipe(config) if config is not None else {}
    name = task or (recipe["task"].raw if "task" in recipe else os.environ.get("EASYNLP_TASK"))
    if not name:
        raise ConfigError("which task? E.g. text_classify")
    return str(name)


def _keyword(name: str) -> str:
    return f"{name}="
