"""A model as prediction sees it: batches of numpy arrays in, logits out, ONNX or torch behind."""

from __future__ import annotations

import importlib.util
import inspect
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from easynlp.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DYNAMIC_INT8",
    "INT8_WEIGHTS",
    "POSITIONS",
    "Model",
    "OnnxModel",
    "TorchModel",
    "portions",
]

DYNAMIC_INT8 = "dynamic-int8"
"""Value of ``quantization`` in the metadata of an exported int8 model."""
INT8_WEIGHTS = "int8-weights"
"""The same of a model stored as int8 and computed in fp32."""


POSITIONS = "masked_positions"
"""Input of a masked-LM model: flat places in rows x tokens, whose words are asked for."""
SLOWER_FUSIONS = ["SkipLayerNormFusion"]
"""Rewrites of ONNX Runtime that cost: its sum with normalization takes 2.7 times as long as the
two nodes it replaces, an eighth of a small model's time."""


CALL_TOKENS = 512
"""Most tokens of a call, padding included, where a call's cost is known."""


class Model(Protocol):
    """What `easynlp.pipeline.Pipeline` needs of a model.

    Attributes:
        backend: What computes, for people: ``onnx``, ``onnx int8``, ``torch``.
        row_wise: Whether rows must be run one at a time to get the same answer in any company.
        inputs: Names of the arrays it takes from a batch.
        call_cost: Time a call takes by itself, in tokens of a small model's time: with rows of
            unlike lengths two calls are faster than the padding of one. 0: hardware that wants
            whole batches.
    """

    backend: str
    row_wise: bool
    inputs: tuple[str, ...]
    call_cost: int

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the model's logits on a batch, float32."""


class OnnxModel:
    """An exported model under ONNX Runtime, on the CPU; needs no torch.

    Dynamic int8 scales activations by the largest value of the whole batch, so a row's answer
    would depend on the rows beside it. Such a model asks to be run row by row (`row_wise`):
    answers are then a function of the text alone, and on one thread int8 loses little or
    nothing by it, since no padding is computed.

    Args:
        path: The ``.onnx`` file.
        threads: Threads of one call; 1 is best for a server that has other cores to itself.

    Raises:
        ModelError: If the file is missing or is not a model.
    """

    call_cost = 24

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        import onnxruntime as ort

        self.path = Path(path)
        if not self.path.is_file():
            raise ModelError(f"{path} does not exist")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOWER_FUSIONS,
            )  # fmt: skip
        except Exception as error:  # its errors share no base class
            raise ModelError(f"{path} is not an ONNX model: {error}") from error
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self._output = [self._session.get_outputs()[0].name]
        metadata = self._session.get_modelmeta().custom_metadata_map
        kind = metadata.get("quantization")
        self.row_wise = kind == DYNAMIC_INT8
        names = {DYNAMIC_INT8: "onnx int8", INT8_WEIGHTS: "onnx int8 weights"}
        self.backend = names.get(kind, "onnx")

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the logits, float32.

        Only the inputs the graph names are fed. A batch that leaves out the attention mask (no
        padding) or the type ids (one text) gets ones and zeros.

        Args:
            batch: Integer arrays; ``input_ids`` has shape (rows, tokens).
        """
        feeds: dict[str, np.ndarray] = {}
        for name in self.inputs:
            array = batch.get(name)
            if array is None:
                array = _default(name, batch["input_ids"], self.path)
            feeds[name] = array if array.dtype == np.int64 else array.astype(np.int64)
        result: np.ndarray = self._session.run(self._output, feeds)[0]
        return result


def _default(name: str, ids: np.ndarray, path: Path) -> np.ndarray:
    if name == "attention_mask":
        return np.ones(ids.shape, np.int64)
    if name == "token_type_ids":
        return np.zeros(ids.shape, np.int64)
    raise ModelError(f'{path} wants the input "{name}", which this task does not make')


class TorchModel:
    """A torch module, run without gradients.

    Several threads may call it, one at a time: a module may hold what belongs to the pass under way
    (a prompt's holes, see `easynlp.models.heads.MaskedPositions`), and torch has its own threads.

    Args:
        model: Takes some of the batch's arrays by name; returns logits, or an output with
            ``.logits``. Its mode (train, eval) is left as it is.
        precision: ``fp32``, or ``bf16`` for autocast.
        device: Where it lives; by default where its parameters are.
    """

    backend = "torch"
    row_wise = False

    def __init__(
        self,
        model: torch.nn.Module,
        precision: str = "fp32",
        device: torch.device | str | None = None,
    ) -> None:
        import torch

        found = device if device is not None else next(model.parameters()).device
        self.model, self.precision, self.device = model, precision, torch.device(found)
        self._running = threading.Lock()
        self.call_cost = 40 if self.device.type == "cpu" else 0  # others want whole batches
        self.inputs = tuple(inspect.signature(model.forward).parameters)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        build: Callable[[Any], torch.nn.Module],
        *,
        precision: str = "fp32",
        device: str = "cpu",
    ) -> TorchModel:
        """Read a run's model from its folder: safetensors only, nothing is unpickled.

        Args:
            folder: Holds ``config.json`` and ``model.safetensors``.
            build: Puts the task's head on a `Backbone` (``task.build``).
            precision: See the class.
            device: Where to put it.

        Raises:
            MissingExtra: If torch is not installed.
            ModelError: If the weights are missing, pickled, damaged or not this model's.
        """
        if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
            raise MissingExtra(f"running {folder}, which is not exported to ONNX,", "train")
        from easynlp.models.backbone import Backbone

        model = build(Backbone.load(str(Path(folder).resolve())))
        _check_complete(model, Path(folder))
        return cls(model.eval().to(device), precision, device)

    def logits(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the logits, float32."""
        import torch

        feeds = {
            name: torch.from_numpy(batch[name]).to(self.device)
            for name in self.inputs
            if name in batch
        }
        reduced = self.precision == "bf16"
        with (
            self._running,
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=reduced),
        ):
            output = self.model(**feeds)
        found: torch.Tensor = getattr(output, "logits", output)
        result: np.ndarray = found.float().cpu().numpy()
        return result


def _check_complete(model: torch.nn.Module, folder: Path) -> None:
    """Refuse weights that leave parameters of the model (its head) at random values."""
    stored: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            stored |= json.loads(file.read(int.from_bytes(file.read(8), "little"))).keys()
    from easynlp.models.heads import core

    inner = core(model)
    state = inner.state_dict(keep_vars=True)
    # Tied weights are stored once, under either name.
    present = {value.data_ptr() for name, value in state.items() if name in stored}
    learned = {name for name, _ in inner.named_parameters(remove_duplicate=False)}
    missing = [
        name
        for name, value in state.items()
        if name in learned and name not in stored and value.data_ptr() not in present
    ]
    if missing:
        some = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise ModelError(
            f"{folder}: the weights lack {len(missing)} parameters of this task's model ({some}). "
            "Is it a pre-trained model rather than a trained run?"
        )


def portions(batch: list[int], lengths: Sequence[int], cost: int) -> Iterator[list[int]]:
    """Yield a batch's rows, the shortest first, in portions that take the least time together.

    A call takes `cost` tokens' time and that of its tokens, padding included; on a processor core
    more than `CALL_TOKENS` at a time are not faster.

    Args:
        batch: Row numbers, sorted by length.
        lengths: Tokens of all rows.
        cost: 0: the batch stays whole.

    Example:
        >>> list(portions([0, 2, 1], [9, 90, 10], cost=24))
        [[0, 2], [1]]
    """
    widths = [lengths[i] for i in batch]
    padded = len(batch) * widths[-1]
    if not cost or (padded <= CALL_TOKENS and padded - sum(widths) <= cost):
        yield batch
        return
    best, begins = [0], [0]
    for stop, width in enumerate(widths, 1):
        first = max(0, stop - max(1, CALL_TOKENS // max(1, width)))
        total, begin = min((best[i] + cost + (stop - i) * width, i) for i in range(first, stop))
        best.append(total)
        begins.append(begin)
    found: list[list[int]] = []
    stop = len(batch)
    while stop:
        found.append(batch[begins[stop] : stop])
        stop = begins[stop]
    yield from reversed(found)
