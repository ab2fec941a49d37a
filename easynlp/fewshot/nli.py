"""A start for EFL: a model that has learned entailment from natural-language-inference rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from easynlp import run
from easynlp.atomic import write_text
from easynlp.config import DataOptions, TrainConfig
from easynlp.dataset import read_all
from easynlp.errors import DataError
from easynlp.fewshot.efl import ANSWERS
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
        DataError: If no row of a file is entailed, or all are: then `entailed` names the wrong
            labels.

    Example:
        >>> folder = pretrain_entailment(config, ["ocnli/train.jsonl"])       # doctest: +SKIP
    """
    files = tuple(files)
    named = {"train": files, "dev": (config.dev,), "test": (config.test,)}
    converted: dict[str, Any] = {}
    for name, paths in named.items():
        given = [path for path in paths if path is not None]
        converted[name] = f"{config.output}.{name}.jsonl" if given else None
        if given:
            lines = [line for path in given for line in _entailment_rows(path, config, entailed)]
            target = Path(f"{config.output}.{name}.jsonl")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, "".join(lines))
    plain = DataOptions()
    read = {name: getattr(plain, name) for name in DataOptions.__dataclass_fields__}
    run.train(
        replace(config, task="text_classify", **converted, **read),
        ClassifyConfig(labels=ANSWERS, pair=True),
    )
    return config.output


def _entailment_rows(path: str, config: TrainConfig, entailed: Sequence[str]) -> list[str]:
    """Return a file's pairs as JSON lines, their labels turned into `ANSWERS`.

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
        json.dumps(
            {"text": row["text"], "text_b": row["text_b"], "label": ANSWERS[yes]},
            ensure_ascii=False,
        )
        + "\n"
        for row, yes in zip(rows, follows, strict=True)
    ]
