"""A start for EFL: a model that has learned entailment from natural-language-inference rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easynlp import run
from easynlp.config import TrainConfig
from easynlp.dataset import read_all
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.efl import ANSWERS
from easynlp.fewshot.phases import plain_reading, write_rows
from easynlp.tasks.base import Example
from easynlp.tasks.labels import label_of
from easynlp.tasks.text_classify import LABEL, TEXT, TEXT_B, ClassifyConfig

__all__ = ["pretrain_entailment"]

UNDECIDED = "-"
log = logging.getLogger("easynlp")


def pretrain_entailment(
    config: TrainConfig, files: Sequence[str], *, entailed: Sequence[str] = ("entailment", "1")
) -> str:
    """Train a model on natural-language-inference rows as a start for `efl`.

    Args:
        config: Of the run; its `train` is set here. Its options of reading are those of all files,
            and labels of `dev` and `test` are turned into yes and no as well.
        files: Rows of two texts and a label each, from one task or several. Rows labelled "-",
            which is how OCNLI and SNLI say that annotators did not agree, are left out.
        entailed: Labels that mean that the second text follows from the first; all others mean
            that it does not.

    Returns:
        The run folder, which works as `model`.

    Raises:
        ConfigError: If what is written beside the run folder would take the place of a file given.
        DataError: If no row of a file is entailed, or all are: then `entailed` names the wrong
            labels.

    Example:
        >>> folder = pretrain_entailment(config, ["ocnli/train.jsonl"])       # doctest: +SKIP
    """
    files = tuple(files)
    named = {"train": files, "dev": (config.dev,), "test": (config.test,)}
    inputs = {Path(path).resolve() for paths in named.values() for path in paths if path}
    for name in named:
        if (target := Path(f"{config.output}.{name}.jsonl")).resolve() in inputs:
            raise ConfigError(
                f"the rows as yes and no are written to {target}, which is one of the files given: "
                "choose another output"
            )
    converted: dict[str, Any] = {}
    for name, paths in named.items():
        given = [path for path in paths if path is not None]
        converted[name] = f"{config.output}.{name}.jsonl" if given else None
        if given:
            rows = [row for path in given for row in _entailment_rows(path, config, entailed)]
            write_rows(Path(converted[name]), rows)
    run.train(
        replace(config, task="text_classify", **converted, **plain_reading()),
        ClassifyConfig(labels=ANSWERS, pair=True),
    )
    return config.output


def _entailment_rows(path: str, config: TrainConfig, entailed: Sequence[str]) -> list[Example]:
    """Return a file's pairs, their labels turned into `ANSWERS`.

    Raises:
        DataError: See `pretrain_entailment`.
    """
    fields = (TEXT, replace(TEXT_B, required=True), LABEL)
    everything = read_all(path, fields, config)
    rows = [row for row in everything if label_of(row["label"]) != UNDECIDED]
    if len(rows) < len(everything):
        left = len(everything) - len(rows)
        log.info("%s: %d rows whose annotators did not agree (%s) are left out",
                 path, left, UNDECIDED)  # fmt: skip
    follows = [label_of(row["label"]) in entailed for row in rows]
    if all(follows) or not any(follows):
        found = sorted({label_of(row["label"]) for row in rows})
        raise DataError(
            f"{sum(follows)} of {len(rows)} rows are entailed; the labels are "
            f"{', '.join(found[:10])}, and {', '.join(entailed)} would mean yes", path=path,
        )  # fmt: skip
    return [
        {"text": row["text"], "text_b": row["text_b"], "label": ANSWERS[yes]}
        for row, yes in zip(rows, follows, strict=True)
    ]
