"""Text in, predictions out: a task and a model together, and the one on-disk format.

A folder holds ``easynlp.json`` (which task, with which options and labels), ``tokenizer.json``
and a model. A *run folder* holds torch weights, and after ``easynlp export`` a folder ``onnx/``,
which is complete in itself and needs no torch. `Pipeline.load` takes either.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from easynlp.calibration import Calibration, least_score, withhold
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.meta import META, fingerprint, make_meta, read_meta, save_meta
from easynlp.models.runtime import Model, OnnxModel, TorchModel, portions
from easynlp.tasks import find_task
from easynlp.tasks.base import Batch, Example, Features, OneLabel, Prediction, Task
from easynlp.text.tokenizer import Tokenizer

__all__ = [
    "META",
    "Backend",
    "Counts",
    "Item",
    "Pipeline",
    "fingerprint",
    "make_meta",
    "read_meta",
    "save_meta",
]

MODELS = {"int8": "model.int8.onnx", "onnx": "model.onnx"}
"""Backend names to the model files of an exported folder, in order of preference."""
WINDOW = 32
"""Batches of a window: rows of a window are sorted by length together."""
BATCH_TOKENS = 16_384
"""Most tokens of a batch, padding included, so that memory does not grow with `batch_size`."""

Backend = Literal["auto", "int8", "onnx", "torch"]
Item = str | tuple[str, str] | Example
"""A text, a pair of texts, or a mapping with the task's fields."""


@dataclass
class Counts:
    """What a pipeline has been given so far."""

    rows: int = 0
    truncated: int = 0
    """Rows longer than the model's ``max_length``, whose end was not read."""


class Pipeline:
    """A trained task, ready to predict.

    Args:
        task: What is asked.
        model: Computes logits.
        meta: What ``easynlp.json`` says, beyond task and options.

    Example:
        >>> pipeline = Pipeline.load("runs/x")                        # doctest: +SKIP
        >>> pipeline.predict(["房间很干净", "前台态度差"])            # doctest: +SKIP
        [{'label': '好评', 'score': 0.98}, {'label': '差评', 'score': 0.97}]
    """

    def __init__(self, task: Task, model: Model, meta: Mapping[str, Any] | None = None) -> None:
        self.task, self.model = task, model
        self.meta: dict[str, Any] = dict(meta or {})
        self.calibration = Calibration.from_dict(self.meta.get("calibration"))
        if self.calibration is not None and isinstance(task, OneLabel):
            task.temperature = self.calibration.temperature
        self.counts = Counts()
        self._inputs = tuple(field.name for field in task.fields if not field.target)
        self._targets = frozenset(field.name for field in task.fields if field.target)
        self._encode_batch = getattr(task, "encode_batch", None)

    @classmethod
    def load(cls, path: str | Path, backend: Backend = "auto", threads: int = 1) -> Pipeline:
        """Read a run folder, or the folder an export made.

        Args:
            path: The folder.
            backend: ``int8`` or ``onnx`` for an exported model, ``torch`` for the weights;
                ``auto`` takes the first of these that is there.
            threads: Threads of one call of an exported model.

        Raises:
            ModelError: If the folder is no run, its parts are missing, damaged or pickled, or
                its export is of other weights.
            MissingExtra: If only torch weights are there and torch is not installed.
        """
        folder = Path(path)
        meta = read_meta(folder)
        exported = _find_exported(folder, backend)
        home = folder if exported is None else exported.parent
        if exported is not None and home != folder:
            _check_same_weights(folder, home)
            meta = read_meta(home)
        try:
            task: Task = find_task(meta["task"]).restore(meta["config"], Tokenizer.load(home))
        except (TypeError, KeyError, ValueError) as error:
            raise ModelError(
                f"{home / META} does not describe the task {meta.get('task')!r}: {error}"
            ) from error
        model: Model = (
            TorchModel.load(folder, task.build)
            if exported is None
            else OnnxModel(exported, threads)
        )
        return cls(task, model, meta)

    def predict(
        self,
        items: Sequence[Item],
        batch_size: int = 32,
        *,
        threshold: float | None = None,
        abstain: bool = False,
    ) -> list[Prediction]:
        """Predict texts, pairs or examples; answers come in the order of the questions.

        Rows of similar length are run together. Targets an example may hold are not looked at.

        Args:
            items: Texts, ``(text, text_b)`` tuples, or mappings with the task's fields.
            batch_size: Most rows of one call of the model; makes no difference to the answers.
            threshold: Least score of a label that is given; below it ``label`` is None, and the
                scores are there all the same.
            abstain: Take the threshold that ``easynlp calibrate`` found.

        Raises:
            ConfigError: If there is no such threshold, or the task gives no single label.
            DataError: If an item is empty or of a wrong type; says which, counted from 0.

        Example:
            >>> pipeline.predict([("今天天气怎么样", "天气如何")])      # doctest: +SKIP
            [{'label': '1', 'score': 0.93}]
        """
        if isinstance(items, str):
            raise DataError("predict takes a list of texts, not one text", hint='["..."]')
        return list(self.stream(items, batch_size, threshold=threshold, abstain=abstain))

    def stream(
        self,
        items: Iterable[Item],
        batch_size: int = 32,
        *,
        threshold: float | None = None,
        abstain: bool = False,
    ) -> Iterator[Prediction]:
        """Predict without end in constant memory: lazy, a window of rows ahead of the answers.

        Args:
            items: As for `predict`; read as answers are taken, `WINDOW` batches at a time.
            batch_size: Most rows of one call of the model.
            threshold: As for `predict`.
            abstain: As for `predict`.

        Yields:
            One prediction an item, in order.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, not {batch_size}")
        least = self.least_score(threshold, abstain)
        found = self._stream(items, batch_size, self.example)
        return found if least is None else (withhold(each, least) for each in found)

    def least_score(self, threshold: float | None = None, abstain: bool = False) -> float | None:
        """Return the score below which no label is given: as asked, as calibrated, or None.

        Raises:
            ConfigError: See `predict`.
        """
        return least_score(self.task, self.calibration, threshold, abstain)

    def evaluate(self, examples: Iterable[Example], batch_size: int = 32) -> dict[str, float]:
        """Predict examples and compare with their targets.

        Args:
            examples: Mappings with the task's fields, targets included.
            batch_size: Most rows of one call of the model.

        Returns:
            The task's scores.

        Raises:
            DataError: If there are no examples, or one is wrong or without its target.
        """
        rows = list(examples)
        if not rows:
            raise DataError("there are no examples to evaluate on")
        return self.task.score(list(self._stream(rows, batch_size, dict)), rows)

    def example(self, item: Item) -> Example:
        """Return an item as an example: fields by name, targets left out.

        Raises:
            DataError: If the item is no text, pair or mapping, or the task takes no pair.
        """
        if isinstance(item, str):
            return {self._inputs[0]: item}
        if isinstance(item, Mapping):
            if self._targets.isdisjoint(item):
                return item
            return {name: item[name] for name in item if name not in self._targets}
        if isinstance(item, tuple | list):
            if 1 <= len(item) <= len(self._inputs):
                return dict(zip(self._inputs, item, strict=False))
            raise DataError(
                f"{len(item)} texts were given as one item, but {self.task.name} takes at most "
                f"{len(self._inputs)}: {', '.join(self._inputs)}"
            )
        raise DataError(
            f"{_show(item)} is not a text",
            hint=f"Give text, or a mapping with {', '.join(self._inputs)}",
        )

    def encode(self, examples: Sequence[Example], first: int = 0) -> list[Features]:
        """Turn examples into features, together where the task can.

        Args:
            examples: See `example`.
            first: Number of the first one, for messages.

        Raises:
            DataError: For the first example that is wrong, with its number from 0.
        """
        features: list[Features] | None = None
        if self._encode_batch is not None:
            # Which of them is wrong is found out below.
            with contextlib.suppress(DataError):
                features = self._encode_batch(examples)
        if features is None:
            features = [self._encode_one(each, first + i) for i, each in enumerate(examples)]
        self.counts.rows += len(features)
        self.counts.truncated += sum(bool(item.get("truncated")) for item in features)
        return features

    def infer(
        self, features: Sequence[Features], examples: Sequence[Example], batch_size: int = 32
    ) -> list[Prediction]:
        """Run the model on encoded rows; predictions come in the order of the rows."""
        found: list[Prediction] = [{}] * len(features)
        for rows in self._batches(features, batch_size):
            batch = self.task.collate([features[i] for i in rows])
            decoded = self.task.decode(self._logits(batch), batch, [examples[i] for i in rows])
            for i, prediction in zip(rows, decoded, strict=True):
                found[i] = prediction
        return found

    def _stream(
        self, items: Iterable[Any], batch_size: int, convert: Callable[[Any], Example]
    ) -> Iterator[Prediction]:
        source, start = iter(items), 0
        while window := list(itertools.islice(source, WINDOW * batch_size)):
            examples = [
                _numbered(convert, item, number) for number, item in enumerate(window, start)
            ]
            yield from self.infer(self.encode(examples, start), examples, batch_size)
            start += len(window)

    def _encode_one(self, example: Example, number: int) -> Features:
        features: Features = _numbered(self.task.encode, example, number)
        return features

    def _logits(self, batch: Batch) -> np.ndarray:
        """Run the model; a batch too large for one call (windows of a long text) is cut up."""
        ids = batch.get("input_ids")
        if ids is None:  # a task of another shape: its batches are its own affair
            return self.model.logits(batch)
        rows = max(1, BATCH_TOKENS // ids.shape[1])
        feeds = {name: batch[name] for name in self.model.inputs if name in batch}
        if len(ids) <= rows or any(array.shape != ids.shape for array in feeds.values()):
            return self.model.logits(batch)
        return np.concatenate(
            [
                self.model.logits({name: array[i : i + rows] for name, array in feeds.items()})
                for i in range(0, len(ids), rows)
            ]
        )

    def _batches(self, features: Sequence[Features], batch_size: int) -> Iterator[list[int]]:
        """Yield the row numbers of each batch."""
        if self.model.row_wise or len(features) == 1 or batch_size == 1:
            yield from ([i] for i in range(len(features)))
            return
        lengths = [len(item["input_ids"]) for item in features]
        cost = self.model.call_cost
        batch: list[int] = []
        for i in sorted(range(len(features)), key=lengths.__getitem__):
            full = len(batch) == batch_size or (len(batch) + 1) * lengths[i] > BATCH_TOKENS
            if batch and full:
                yield from portions(batch, lengths, cost)
                batch = []
            batch.append(i)
        if batch:
            yield from portions(batch, lengths, cost)


def _find_exported(folder: Path, backend: Backend) -> Path | None:
    """Return the model file to run, or None for torch weights.

    Raises:
        ModelError: If what was asked for, or anything at all, is not there.
    """
    if backend not in ("auto", "torch", *MODELS):
        raise ConfigError(f'unknown backend "{backend}". Known: auto, {", ".join(MODELS)}, torch')
    has_weights = (folder / "config.json").is_file()
    if backend == "torch":
        if not has_weights:
            raise ModelError(f"{folder} has no torch weights (config.json, model.safetensors)")
        return None
    homes = (folder / "onnx", folder)
    for file in MODELS.values() if backend == "auto" else [MODELS[backend]]:
        for home in homes:
            if (home / file).is_file():
                return home / file
    if backend == "auto" and has_weights:
        return None
    wanted = "exported model" if backend == "auto" else MODELS[backend]
    raise ModelError(
        f"{folder} has no {wanted}. Type: easynlp export {folder}"
        + (" --int8" if backend == "int8" else "")
    )


def _check_same_weights(run: Path, exported: Path) -> None:
    """Refuse an export of weights the run no longer has.

    Weights older than the export are taken to be those exported; only newer ones are read.

    Raises:
        ModelError: If the weights have changed since.
    """
    weights, report = run / "model.safetensors", exported / "export.json"
    if not (weights.is_file() and report.is_file()):
        return
    if weights.stat().st_mtime_ns < report.stat().st_mtime_ns:
        return
    recorded = json.loads(report.read_text(encoding="utf-8")).get("weights")
    if recorded is not None and recorded != fingerprint(weights):
        raise ModelError(
            f"{exported} was exported from other weights than {weights} holds now. "
            f"Type: easynlp export {run}, or use the torch backend"
        )


def _numbered(function: Callable[[Any], Any], item: Any, number: int) -> Any:
    """Call a function; an error of the item says its number."""
    try:
        return function(item)
    except DataError as error:
        if error.path is not None:
            raise
        raise DataError(f"item {number}: {error.message}", hint=error.hint) from error


def _show(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
