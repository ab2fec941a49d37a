"""What ``import easynlp`` offers: the commands as functions, options as keyword arguments."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

from easynlp.config import PretrainConfig, TrainConfig
from easynlp.data.columns import Reading, read_examples
from easynlp.data.diagnose import FIELDS, inspect_data
from easynlp.data.lines import STDIN
from easynlp.data.readers import Row
from easynlp.data.writers import Layout, open_writer, refuse_existing
from easynlp.deployment.settings import ServeOptions
from easynlp.errors import ConfigError, DataError
from easynlp.extras import needed_for
from easynlp.options import read_recipe, resolve
from easynlp.pipeline import Backend, Pipeline, read_meta
from easynlp.tasks import RAW_TEXT, find_task
from easynlp.tasks.base import Example, Prediction
from easynlp.tasks.inputs import encode_rows

__all__ = [
    "evaluate",
    "inspect",
    "load",
    "predict",
    "pretrain",
    "serve",
    "task_options",
    "train",
]


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
    with needed_for("easynlp.train"):
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
    resolved = _options(PretrainConfig, options, config)
    with needed_for("easynlp.pretrain"):
        from easynlp.pretraining.run import pretrain as run_pretraining

        return run_pretraining(resolved)


def load(path: str | Path, backend: Backend = "auto", threads: int = 1) -> Pipeline:
    """Load a run folder, or the onnx folder of an exported one, to predict with.

    Args:
        path: The folder.
        backend: ``int8``, ``onnx`` or ``torch``; ``auto`` takes the first of these that is there.
        threads: CPU threads of an exported model.

    Raises:
        ModelError: If the folder cannot be used.
        MissingExtra: If only torch weights are there and torch is not installed.

    Example:
        >>> load("runs/x").predict(["房间很干净"])                        # doctest: +SKIP
        [{'label': '好评', 'score': 0.98}]
    """
    return Pipeline.load(path, backend=backend, threads=threads)


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    columns: Mapping[str, str | None] | None = None,
    backend: Backend = "auto",
    batch_size: int = 32,
    threads: int = 1,
    **reading: Unpack[Reading],
) -> dict[str, float]:
    """Score a run on labelled data.

    Args:
        run: Run folder, or the onnx folder of an exported one.
        data: The file.
        columns: Field names (``text``, ``label`` …) to column names; the rest are found.
        backend: What computes, see `load`.
        batch_size: Texts computed together; makes no difference to the scores.
        threads: CPU threads of an exported model.
        **reading: ``encoding``, ``schema``, ``header`` and ``format`` of the file.

    Returns:
        The task's scores.
    """
    pipeline = load(run, backend, threads)
    found = read_examples(
        str(data), pipeline.task.fields, chosen=columns, preferred=pipeline.meta.get("columns"),
        **reading,
    )  # fmt: skip
    rows = list(found)
    try:
        return pipeline.evaluate([example for _, example in rows], batch_size)
    except DataError as error:
        encode_rows(pipeline.task, rows)  # raises at the row's line
        raise _in_file(error, data) from error


def predict(
    run: str | Path,
    input: str | Path,
    output: str | Path,
    *,
    columns: Mapping[str, str | None] | None = None,
    backend: Backend = "auto",
    batch_size: int = 32,
    threads: int = 1,
    overwrite: bool = False,
    threshold: float | None = None,
    abstain: bool = False,
    **reading: Unpack[Reading],
) -> dict[str, int]:
    """Predict a file of any size in constant memory.

    Rows keep their order and all their columns; the prediction's keys are added. The output
    appears when it is complete, or not at all.

    Args:
        run: Run folder, or the onnx folder of an exported one.
        input: What to predict.
        output: Where to write; the extension is the format.
        columns: Field names to column names; the rest are found.
        backend: What computes, see `load`.
        batch_size: Texts computed together; makes no difference to the answers.
        threads: CPU threads of an exported model.
        overwrite: Replace an output that exists.
        threshold: Least score of a label that is given, see `Pipeline.predict`.
        abstain: Take the threshold that ``easynlp calibrate`` found.
        **reading: ``encoding``, ``schema``, ``header`` and ``format`` of the input.

    Returns:
        Counts: ``rows`` written, and of these ``truncated`` and, where a threshold is set,
        ``abstained``.
    """
    if str(output) != STDIN and not overwrite:
        refuse_existing(str(output))
    pipeline = load(run, backend, threads)
    least = pipeline.least_score(threshold, abstain)
    abstained = 0
    found = read_examples(
        str(input), pipeline.task.fields, chosen=columns, preferred=pipeline.meta.get("columns"),
        with_targets=False, on_empty="keep", **reading,
    )  # fmt: skip
    waiting: deque[tuple[Row, Example]] = deque()

    def examples() -> Iterator[Example]:
        for row, example in found:
            waiting.append((row, example))
            yield example

    try:
        predictions: Iterator[Prediction] = pipeline.stream(examples(), batch_size, threshold=least)
        first = next(predictions)  # says how the answer's columns are called
        layout = Layout.of(found.header, list(first))
        with open_writer(str(output), layout.columns, overwrite=overwrite) as out:
            for prediction in chain([first], predictions):
                abstained += least is not None and prediction["label"] is None
                out.write(layout.merge(waiting.popleft()[0].values, prediction))
    except DataError as error:
        encode_rows(pipeline.task, list(waiting))  # raises at the row's line
        raise _in_file(error, input) from error
    counts = {"rows": pipeline.counts.rows, "truncated": pipeline.counts.truncated}
    return counts if least is None else {**counts, "abstained": abstained}


def serve(run: str | Path | Mapping[str, str | Path], **options: Any) -> None:
    """Serve one run or several over HTTP until SIGINT or SIGTERM.

    Args:
        run: Run folder, or the onnx folder of an exported one; or several by name.
        **options: Fields of `easynlp.deployment.settings.ServeOptions`, e.g. ``port=8080``.

    Example:
        >>> serve("runs/x", port=8080)                                    # doctest: +SKIP
    """
    from easynlp.deployment.server import serve as run_server

    named = [f"{k}={v}" for k, v in run.items()] if isinstance(run, Mapping) else [str(run)]
    run_server(_options(ServeOptions, {"run": named, **options}))


def inspect(
    path: str | Path,
    *,
    task: str | None = None,
    columns: Mapping[str, str | None] | None = None,
    **reading: Unpack[Reading],
) -> dict[str, Any]:
    """Tell what is in a run folder, an exported one, or a data file.

    Args:
        path: The folder or file.
        task: Task whose fields to look for in a data file; by default text, label and entities.
        columns: Field names to column names; the rest are found.
        **reading: ``encoding``, ``schema``, ``header`` and ``format`` of a data file.

    Returns:
        Of a folder its task, options, labels, scores and the sizes of its models in bytes; of
        a file its columns, labels, lengths and what is wrong with it, see
        `easynlp.data.diagnose.Inspection`.

    Raises:
        ModelError: If a folder is no run.
        DataError: If a file cannot be read.
    """
    if not Path(path).is_dir():
        fields = find_task(task).fields if task else FIELDS
        return inspect_data(str(path), fields=fields, chosen=columns, **reading).as_dict()
    folder = Path(path)
    meta = read_meta(folder)
    weights = sorted(
        file
        for place in (folder, folder / "onnx")
        for file in place.glob("*")
        if file.suffix in (".safetensors", ".onnx")
    )
    sizes = {str(file.relative_to(folder)): file.stat().st_size for file in weights}
    return {**meta, "models": sizes}


def _in_file(error: DataError, path: str | Path) -> DataError:
    """Add the file to an error that has none."""
    if error.path is not None:
        return error
    return DataError(error.message, path=str(path), hint=error.hint)


def task_options(name: str) -> type:
    """Return the dataclass of a task's own options.

    Raises:
        ConfigError: If there is no such task, or it is not trained on labelled data.
    """
    if name in RAW_TEXT:
        raise ConfigError(f"{name} learns from raw text: type easynlp pretrain --corpus")
    options: type = find_task(name).Config
    return options


def _task_of(task: str | None, config: str | Path | None) -> str:
    recipe = read_recipe(config) if config is not None else {}
    name = task or (recipe["task"].raw if "task" in recipe else os.environ.get("EASYNLP_TASK"))
    if not name:
        raise ConfigError("which task? E.g. text_classify")
    return str(name)


def _options(cls: type, flags: Mapping[str, Any], path: str | Path | None = None) -> Any:
    """Return one dataclass filled from all sources."""
    (resolved,) = resolve([cls], path=path, env=os.environ, flags=flags, spell=_keyword)
    return resolved


def _keyword(name: str) -> str:
    return f"{name}="
