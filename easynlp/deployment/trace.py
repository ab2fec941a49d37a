"""A torch model to an ONNX graph, and rewrites of it that must not change its answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from easynlp.errors import DataError, ModelError
from easynlp.models.runtime import POSITIONS, TorchModel
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import INPUT_NAMES, Example, Task

if TYPE_CHECKING:
    import onnx

__all__ = ["TOLERANCE", "input_names", "lighter", "trace"]

OPSET = 20
TOLERANCE = 1e-4
"""Most an fp32 export's logits may differ from the run's."""
LARGEST = 1_900_000_000
"""Bytes of weights that fit one ONNX file."""

log = logging.getLogger("easynlp")


def input_names(pipeline: Pipeline, examples: Sequence[Example]) -> tuple[str, ...]:
    """Return the inputs to give the exported model: those the task makes and the model takes."""
    sample = [*examples[:1]] or [_sample(pipeline.task)]
    batch = pipeline.task.collate(pipeline.encode(sample))
    model = pipeline.model
    assert isinstance(model, TorchModel)
    known = (*INPUT_NAMES, POSITIONS)
    others = set(batch) & set(model.inputs) - set(known)
    if others:
        raise ModelError(
            f"{pipeline.task.name} cannot be exported: its model takes {', '.join(sorted(others))}"
        )
    return tuple(
        name
        for name in known
        if name in model.inputs and (name in batch or name == "attention_mask")
    )


def _sample(task: Task) -> Example:
    """Return a made-up example that a task can encode."""
    names = [field.name for field in task.fields if not field.target]
    needed = [field.name for field in task.fields if not field.target and field.required]
    for fields in (names, needed):
        example = dict.fromkeys(fields, "今天天气很好")
        try:
            task.encode(example)
            return example
        except DataError:
            continue
    raise ModelError(f"{task.name} cannot encode a made-up text; name real ones with --texts")


def trace(model: TorchModel, inputs: Sequence[str]) -> onnx.ModelProto:
    """Return the ONNX graph of a model, batch and sequence of any size."""
    import torch

    from easynlp.deployment.quantize import quiet

    size = sum(p.numel() * p.element_size() for p in model.model.parameters())
    if size > LARGEST:
        raise ModelError(f"{size / 1e9:.1f} GB of weights do not fit an ONNX file (2 GB)")
    sample = {name: torch.ones(2, 16, dtype=torch.int64) for name in inputs}
    sizes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    if "token_type_ids" in sample:
        sample["token_type_ids"] = torch.zeros(2, 16, dtype=torch.int64)
    if POSITIONS in sample:
        sample[POSITIONS], sizes[POSITIONS] = torch.arange(3), {0: "positions"}

    class Logits(torch.nn.Module):
        """The model, returning logits and nothing beside them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model.model

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            output = self.model(**dict(zip(sample, arrays, strict=True)))
            found: torch.Tensor = getattr(output, "logits", output)
            return found

    try:
        with quiet():
            program = torch.onnx.export(
                Logits().eval(), tuple(sample.values()), input_names=list(sample),
                output_names=["logits"], opset_version=OPSET, dynamo=True, verbose=False,
                dynamic_shapes=(tuple(sizes.values()),),
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds
        raise ModelError(f"the model cannot be exported to ONNX: {error}") from error
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    # The exporter's shape notes contradict those the quantizer infers, which then fails.
    del graph.graph.value_info[:]
    return graph


def lighter(
    graph: onnx.ModelProto,
    rewrite: Callable[[onnx.ModelProto], int],
    path: Path,
    differ: Callable[[Path], float],
    tolerance: float = TOLERANCE,
) -> tuple[onnx.ModelProto, float]:
    """Save a graph, rewritten if its answers stay the run's; return it and how far they are off.

    A rewrite recognises patterns of graphs, and models are many: one that goes wrong must cost
    speed and nothing else.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    try:
        if rewrite(changed):
            onnx.save(changed, path)
            difference = differ(path)
            if difference <= tolerance:
                return changed, difference
            log.warning("%s changes the answers of this model and is left out", rewrite.__name__)
    except Exception as error:  # a graph that cannot be rewritten is exported as it is
        log.warning("%s fails on this model and is left out: %s", rewrite.__name__, error)
    onnx.save(graph, path)
    return graph, differ(path)
