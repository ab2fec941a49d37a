"""``easynlp calibrate``: fit a run's temperature, and a threshold to abstain below, on dev data."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from easynlp.calibration import (
    Abstention,
    Calibration,
    calibration_error,
    choose_threshold,
    fit_temperature,
    negative_log_likelihood,
    one_label,
)
from easynlp.data.columns import Reading
from easynlp.deployment.texts import labelled_examples, labelled_rows
from easynlp.errors import ConfigError, DataError, GateError
from easynlp.metrics import softmax
from easynlp.pipeline import Pipeline, read_meta, save_meta
from easynlp.tasks.base import Example
from easynlp.tasks.inputs import check_rows

__all__ = ["calibrate", "fit_calibration"]

log = logging.getLogger("easynlp")


def calibrate(
    run: str | Path,
    dev: str | Path | None = None,
    *,
    abstain_precision: float | None = None,
    columns: Mapping[str, str | None] | None = None,
    **reading: Unpack[Reading],
) -> dict[str, Calibration]:
    """Fit a temperature on labelled rows and keep it in ``easynlp.json``; labels never change.

    A run's weights and the export in its ``onnx/`` say slightly different things, so each is
    fitted by itself, and each keeps its own. An earlier calibration is replaced.

    Args:
        run: Run folder, or the folder of an export.
        dev: Labelled data not trained on; by default the dev data the run was made with, if it
            is still where it was.
        abstain_precision: Find also the least score from which on so large a share of the
            answers is right, see `easynlp.calibration.choose_threshold`.
        columns: Field names to column names; the rest are found.
        **reading: ``encoding``, ``schema``, ``header`` and ``format`` of the data.

    Returns:
        The calibration of each model there is, by its folder.

    Raises:
        ConfigError: If the task does not answer with a single label.
        DataError: If there is no such data, or it is wrong.
        GateError: If no threshold gives the wanted precision; nothing is written then.
        ModelError: If the folder is no run.

    Example:
        >>> calibrate("runs/x", "dev.jsonl", abstain_precision=0.95)     # doctest: +SKIP
        {'runs/x': Calibration(temperature=1.42, rows=500, …), 'runs/x/onnx': …}
    """
    found: dict[str, Calibration] = {}
    folder = Path(run)
    for home, pipeline in _models(folder):
        if dev is None:
            examples = labelled_examples(folder, pipeline.task)
        else:
            examples = check_rows(pipeline.task, labelled_rows(
                str(dev), pipeline.task.fields, preferred=pipeline.meta.get("columns"),
                chosen=columns, **reading,
            ))  # fmt: skip
        if not examples:
            raise DataError(
                "there are no labelled rows to calibrate on",
                hint="Name data that was not trained on with --dev FILE",
            )
        found[str(home)] = fit_calibration(pipeline, examples, abstain_precision)
        log.info("%s (%s): %s", home, pipeline.model.backend, describe(found[str(home)]))
    for place, calibration in found.items():
        save_meta(place, read_meta(place) | {"calibration": calibration.as_dict()})
    return found


def fit_calibration(
    pipeline: Pipeline, examples: Sequence[Example], abstain_precision: float | None = None
) -> Calibration:
    """Return the calibration of a pipeline on labelled examples; the pipeline is left as it is.

    Raises:
        ConfigError: If the task does not answer with a single label.
        GateError: If no threshold gives the wanted precision.
    """
    task = one_label(pipeline.task)
    if task is None:
        raise ConfigError(
            f"{pipeline.task.name} with these options does not answer with a single label; "
            "there is no confidence to calibrate"
        )
    logits, targets = _label_logits(pipeline, task, examples)
    temperature = fit_temperature(logits, targets)
    right = logits.argmax(-1) == targets
    before, after = (_scores(logits / each) for each in (1.0, temperature))
    return Calibration(
        temperature=temperature,
        rows=len(right),
        accuracy=float(right.mean()),
        nll=negative_log_likelihood(logits, targets),
        nll_after=negative_log_likelihood(logits / temperature, targets),
        ece=calibration_error(before, right),
        ece_after=calibration_error(after, right),
        abstention=None if abstain_precision is None else _abstain(after, right, abstain_precision),
    )


def describe(found: Calibration) -> str:
    """Return a calibration as a line for people."""
    said = (
        f"temperature {found.temperature:.3f} on {found.rows} rows; expected calibration error "
        f"{100 * found.ece:.1f} % before, {100 * found.ece_after:.1f} % after; "
        f"accuracy {100 * found.accuracy:.1f} %, as before"
    )
    if found.accuracy == 1:
        said += ". Every row is right, so nothing can be said of errors: scores stay"
    if (rest := found.abstention) is not None:
        said += (
            f". From a score of {rest.threshold:.4f} on, {rest.right} of {rest.accepted} answers "
            f"are right ({100 * rest.coverage:.0f} % of the rows; at least "
            f"{100 * rest.lower:.1f} % with 99 % confidence)"
        )
    return said


def _models(folder: Path) -> Iterator[tuple[Path, Pipeline]]:
    """Yield each model of a folder with where its description is: the weights, and the export."""
    read_meta(folder)
    torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if (folder / "config.json").is_file() and torch:
        yield folder, Pipeline.load(folder, "torch")
    for home in (folder / "onnx", folder):
        if any(home.glob("model*.onnx")):
            yield home, Pipeline.load(home)
            return


def _label_logits(
    pipeline: Pipeline, task: Any, examples: Sequence[Example]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the model says of each label, and the right ones; a text at a time."""
    features = pipeline.encode(examples)
    rows, targets = [], []
    for item, example in zip(features, examples, strict=True):
        logits = pipeline.model.logits(pipeline.task.collate([item]))
        rows.append(task.label_logits(logits)[0])
        targets.append(task.labels.index_of(_label(example["label"])))
    return np.stack(rows), np.array(targets)


def _label(value: Any) -> str:
    from easynlp.tasks.labels import label_of

    return label_of(value[0] if isinstance(value, list | tuple) and len(value) == 1 else value)


def _scores(logits: np.ndarray) -> np.ndarray:
    """Return the scores of the answers, rounded as `decode` gives them."""
    found: np.ndarray = np.round(softmax(logits).max(-1), 6)
    return found


def _abstain(scores: np.ndarray, right: np.ndarray, precision: float) -> Abstention:
    found = choose_threshold(scores, right, precision)
    if found is None:
        raise GateError(
            f"on these {len(right)} rows no threshold is sure to give {100 * precision:g} % right "
            f"answers (all together {100 * right.mean():.1f} % are right). More labelled rows or a "
            "lower precision would help. Nothing was written"
        )
    return found
