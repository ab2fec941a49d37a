"""A run to ONNX: torch's weights become a file that needs no torch, checked before it is kept."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easynlp.deployment.texts import MOST_TEXTS, read_texts, recorded_examples, spread
from easynlp.errors import ConfigError, DataError, GateError, MissingExtra, ModelError
from easynlp.models.runtime import POSITIONS, OnnxModel, TorchModel
from easynlp.pipeline import MODELS, Pipeline, fingerprint, save_meta
from easynlp.tasks.base import INPUT_NAMES, Example, Task
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import onnx

    from easynlp.deployment.parity import Agreement

__all__ = ["Report", "export"]

OPSET = 20
TOLERANCE = 1e-4
"""Most an fp32 export's logits may differ from the run's."""
AGREEMENT = 0.99
"""Least share of labels an int8 export must have in common with the run."""
LARGEST = 1_900_000_000
"""Bytes of weights that fit one ONNX file."""

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Report:
    """What an export is, and how it compares with the run; saved as ``export.json``.

    Attributes:
        folder: The exported folder: model, tokenizer and ``easynlp.json``, complete in itself.
        file: Name of the model file in it.
        precision: ``fp32`` or ``int8``.
        passed: Whether the check was passed; False only if kept by force.
        bytes: Size of the model file.
        fp32_bytes: Size of the same model in fp32 ONNX.
        difference: Largest difference between fp32 ONNX logits and torch's.
        int8_difference: The same for int8.
        agreement: Share of labels the int8 model has in common with the run.
        labels: Labels compared: of texts, or of the characters found to be in entities.
        texts: Texts they come from.
        seconds: Time it took.
        weights: SHA-256 of the run's weights.
    """

    folder: str
    file: str
    precision: str
    passed: bool
    bytes: int
    fp32_bytes: int
    difference: float
    int8_difference: float | None
    agreement: float | None
    labels: int
    texts: int
    seconds: float
    weights: str


def export(
    run: str | Path,
    *,
    int8: bool = False,
    output: str | Path | None = None,
    texts: str | Path | Sequence[Any] | None = None,
    force: bool = False,
) -> Report:
    """Export a run to ONNX and check it against the run; a failed check writes nothing.

    fp32: logits within 1e-4 on several shapes with padding. int8: labels equal on at least 99 %
    of up to 1000 real texts.

    Args:
        run: Run folder with torch weights.
        int8: Quantize.
        output: Folder to write; by default ``onnx/`` in the run folder. An earlier export there
            is replaced.
        texts: Real texts: a file, or texts, pairs or examples. By default the dev data (else
            the training data) the run was made with, if it is still where it was.
        force: Keep an export that fails its check.

    Raises:
        GateError: If the check fails, or there are no texts for it, and not `force`.
        ModelError: If the run cannot be read or cannot be exported.
        MissingExtra: If torch or onnx is not installed.
        RunError: If the folder cannot be written.

    Example:
        >>> export("runs/x", int8=True).agreement                     # doctest: +SKIP
        0.998
    """
    started = time.perf_counter()
    if not all(importlib.util.find_spec(name) for name in ("torch", "onnx", "onnxscript")):
        raise MissingExtra("exporting", "train")
    from easynlp.atomic import write_folder

    folder = Path(run)
    target = Path(output) if output is not None else folder / "onnx"
    _check_target(target)
    pipeline, tokenizer = Pipeline.load(folder, backend="torch"), Tokenizer.load(folder)
    examples = _examples(pipeline, folder, texts)
    if int8 and not examples and not force:
        raise GateError(
            "int8 must be checked on real texts and the run's own data is not where it was. "
            "Name some with --texts FILE (or keep it unchecked with --force)"
        )
    found: list[Report] = []

    def fill(temporary: Path) -> None:
        made = _fill(temporary, pipeline, tokenizer, examples, int8=int8, force=force)
        report = dataclasses.replace(
            made,
            folder=str(target),
            seconds=round(time.perf_counter() - started, 2),
            weights=fingerprint(folder / "model.safetensors"),
        )
        written = json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=1)
        (temporary / "export.json").write_text(written + "\n", encoding="utf-8")
        found.append(report)

    write_folder(target, fill)
    report = found[0]
    log.info(
        "exported %s: %s, %.1f MB, %.1f s", target, report.precision, report.bytes / 1e6,
        report.seconds,
    )  # fmt: skip
    return report


def _examples(
    pipeline: Pipeline, run: Path, texts: str | Path | Sequence[Any] | None
) -> list[Example]:
    if texts is None:
        return recorded_examples(run, pipeline.task)
    if isinstance(texts, str | Path):
        found = read_texts(str(texts), pipeline.task.fields, columns=pipeline.meta.get("columns"))
    else:
        found = [pipeline.example(item) for item in spread(texts, MOST_TEXTS)]
    if not found:
        raise DataError("there are no texts to check on", path=str(texts))
    return found


def _check_target(target: Path) -> None:
    """Refuse to replace a folder that no export wrote."""
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--output {target} is a file")
    if target.is_dir() and any(target.iterdir()) and not (target / "export.json").is_file():
        raise ConfigError(f"{target} is not empty and was not written by an export; not replaced")


def _fill(
    folder: Path,
    pipeline: Pipeline,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    *,
    int8: bool,
    force: bool,
) -> Report:
    """Write model, tokenizer and description into a folder; return the report on it."""
    from easynlp.deployment.fuse import fuse_attention, select_early
    from easynlp.deployment.parity import agreement, largest_difference, shape_batches

    eager, task = pipeline.model, pipeline.task
    assert isinstance(eager, TorchModel)
    inputs = _input_names(pipeline, examples)
    log.info("tracing the model (%s) ...", ", ".join(inputs))
    plain = folder / MODELS["onnx"]
    longest = int(getattr(task.config, "max_length", 512))
    batches = [*shape_batches(inputs, tokenizer.vocab_size, longest)]

    def differ(path: Path) -> float:
        return largest_difference(eager, OnnxModel(path), batches)

    graph = _trace(eager, inputs)
    graph, difference = _lighter(graph, select_early, plain, differ)
    log.info("fp32 ONNX differs from torch by at most %.1e", difference)
    _gate(
        difference <= TOLERANCE, force,
        f"the fp32 export differs from the run by {difference:.1e} (allowed: {TOLERANCE:g})",
    )  # fmt: skip
    passed, path, found = difference <= TOLERANCE, plain, None
    fp32_bytes = plain.stat().st_size
    if int8:
        from easynlp.deployment.quantize import quantize

        path = folder / MODELS["int8"]
        fused = folder / "fused.onnx"
        graph, _ = _lighter(graph, fuse_attention, fused, differ)
        fused.unlink()
        quantize(graph, path)
        plain.unlink()
        features = pipeline.encode(examples)
        log.info("checking int8 on %d texts ...", len(examples))
        found = agreement(task, eager, OnnxModel(path), features, examples)
        passed = passed and found.share >= AGREEMENT
        _report_agreement(found, force)
    tokenizer.save(folder)
    save_meta(folder, pipeline.meta)
    return Report(
        folder="", file=path.name, precision="int8" if int8 else "fp32", passed=passed,
        bytes=path.stat().st_size, fp32_bytes=fp32_bytes, difference=difference,
        int8_difference=found.largest_difference if found else None,
        agreement=found.share if found and found.labels else None,
        labels=found.labels if found else 0, texts=found.texts if found else 0,
        seconds=0.0, weights="",
    )  # fmt: skip


def _report_agreement(found: Agreement, force: bool) -> None:
    log.info(
        "int8 agrees with the run on %d of %d labels (%.2f %%)",
        found.equal, found.labels, 100 * found.share,
    )  # fmt: skip
    _gate(
        found.share >= AGREEMENT, force,
        f"the int8 export agrees with the run on {found.equal} of {found.labels} labels "
        f"({100 * found.share:.2f} %; at least {100 * AGREEMENT:g} % is wanted). "
        "Export fp32 (without --int8), or keep it all the same with --force",
    )  # fmt: skip


def _gate(passed: bool, force: bool, message: str) -> None:
    if passed:
        return
    if not force:
        raise GateError(message + ". Nothing was written")
    log.warning("kept by --force: %s", message)


def _input_names(pipeline: Pipeline, examples: Sequence[Example]) -> tuple[str, ...]:
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


def _trace(model: TorchModel, inputs: Sequence[str]) -> onnx.ModelProto:
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


def _lighter(
    graph: onnx.ModelProto,
    rewrite: Callable[[onnx.ModelProto], int],
    path: Path,
    differ: Callable[[Path], float],
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
            if difference <= TOLERANCE:
                return changed, difference
            log.warning("%s changes the answers of this model and is left out", rewrite.__name__)
    except Exception as error:  # a graph that cannot be rewritten is exported as it is
        log.warning("%s fails on this model and is left out: %s", rewrite.__name__, error)
    onnx.save(graph, path)
    return graph, differ(path)
