"""What Triton's Python backend runs before and after the ONNX model: our own tokenizer and labels.

Triton makes one object a model instance and calls `initialize`, then `execute` with requests. Its
module ``triton_python_backend_utils`` is there only inside it.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.calibration import Calibration, withhold
from easynlp.errors import EasyNLPError
from easynlp.pipeline import read_meta
from easynlp.tasks import find_task
from easynlp.text.tokenizer import Tokenizer

__all__ = ["Decode", "Encode"]


class _Model(ABC):
    """Reads the task from the files beside it, and answers requests one by one."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load; `args` are Triton's: where the model is, and its configuration as JSON."""
        self.triton = importlib.import_module("triton_python_backend_utils")
        folder = Path(args["model_repository"]) / args["model_version"]
        meta = read_meta(folder)
        self.task: Any = find_task(meta["task"]).restore(meta["config"], Tokenizer.load(folder))
        if (calibration := Calibration.from_dict(meta.get("calibration"))) is not None:
            self.task.temperature = calibration.temperature
        config = json.loads(args["model_config"])
        self.outputs = [each["name"] for each in config["output"]]
        self.parameters = {
            name: each["string_value"] for name, each in config.get("parameters", {}).items()
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request; a request that is wrong fails alone."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            found = self.answer(request)
        except (EasyNLPError, UnicodeDecodeError) as error:
            return self.triton.InferenceResponse(error=self.triton.TritonError(str(error)))
        tensors = [self.triton.Tensor(name, found[name]) for name in self.outputs]
        return self.triton.InferenceResponse(output_tensors=tensors)

    @abstractmethod
    def answer(self, request: Any) -> dict[str, np.ndarray]:
        """Return the output tensors of a request by name."""

    def read(self, request: Any, name: str) -> np.ndarray:
        """Return an input tensor of a request."""
        found: np.ndarray = self.triton.get_input_tensor_by_name(request, name).as_numpy()
        return found


class Encode(_Model):
    """``TEXT`` (and ``TEXT_B``), (rows, 1), to the model's inputs, (rows, tokens) int64."""

    def answer(self, request: Any) -> dict[str, np.ndarray]:
        """Tokenize and pad the texts of a request."""
        names = [each.name for each in self.task.fields if not each.target]
        columns = [
            [value.decode() for value in self.read(request, name.upper()).reshape(-1)]
            for name in names
        ]
        rows = [dict(zip(names, texts, strict=True)) for texts in zip(*columns, strict=True)]
        batch: dict[str, np.ndarray] = self.task.collate(self.task.encode_batch(rows))
        ids = batch["input_ids"]
        batch.setdefault("attention_mask", np.ones_like(ids))
        batch.setdefault("token_type_ids", np.zeros_like(ids))
        return {name: batch[name].astype(np.int64) for name in self.outputs}


class Decode(_Model):
    """``logits`` (rows, labels) to ``LABEL``, ``SCORE`` (rows, 1) and ``SCORES`` (rows, labels)."""

    def answer(self, request: Any) -> dict[str, np.ndarray]:
        """Decode the logits of a request; calibrated, and without a label below the threshold."""
        logits = self.read(request, "logits")
        least = float(self.parameters.get("threshold", 0))
        said = [withhold(e, least) for e in self.task.decode(logits, {}, [{}] * len(logits))]
        labels = [[(each["label"] or "").encode()] for each in said]
        return {
            "LABEL": np.array(labels, np.object_),
            "SCORE": np.array([[each["score"]] for each in said], np.float32),
            "SCORES": np.array([[*each["scores"].values()] for each in said], np.float32),
        }
