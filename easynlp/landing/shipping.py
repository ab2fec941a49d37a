"""The stages that make what is served: smaller, exported, and honest about how sure it is."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.deployment.calibrate import calibrate as calibrate_model
from easynlp.deployment.export import export as export_run
from easynlp.errors import GateError, ModelError
from easynlp.landing.learning import RUN, read_rows, within
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Done, Outcome, Room
from easynlp.pipeline import MODELS, Pipeline

__all__ = ["FINAL", "ROWS", "ROW_OF", "bare", "calibrate", "compress", "export", "model_bytes",
           "parameters", "served_folder"]  # fmt: skip

log = logging.getLogger("easynlp")
ROWS = {
    "large_finetuned": "large, fine-tuned",
    "large_fewshot": "large, few-shot",
    "small_fewshot": "small, few-shot",
    "small_finetuned": "small, fine-tuned",
    "small_distilled": "small, distilled",
    "small_augmented": "small, distilled, with copies",
    "small_compressed": "small, compressed",
}
"""Contenders of the table, in its order."""
ROW_OF = {"teacher": "small_fewshot", "finetune": "small_finetuned",
          "distill": "small_distilled", "augment": "small_augmented",
          "compress": "small_compressed"}  # fmt: skip
"""Stages that make a model that may be served, and the contender it is."""
FINAL = "model"


def compress(options: LandOptions, room: Room) -> Outcome:
    """Make the kept model smaller: int8 weights, judged by accuracy on dev."""
    assert room.kept is not None
    home = room.done["diagnose"].folder
    dev = read_rows(home / "dev.jsonl")
    # The road's own gate is the accuracy on dev; what fails it is dropped by the road, with a word.
    made = export_run(room.kept.folder, int8=True, output=room.folder / FINAL, texts=dev,
                      max_drop=options.max_drop, force=True)  # fmt: skip
    found = float(Pipeline.load(room.folder / FINAL).evaluate(dev)["accuracy"])
    facts = {"of": room.kept.stage, "precision": made.precision, "kind": made.kind,
             "agreement": made.agreement, "texts": made.texts, "bytes": made.bytes,
             "fp32_bytes": made.fp32_bytes, "tried": made.tried}  # fmt: skip
    return Outcome(facts, FINAL, found)


def export(options: LandOptions, room: Room) -> Outcome:
    """Export every contender to ONNX, checked against its run, and lay out the kept model."""
    assert room.kept is not None
    texts = [bare(e) for e in read_rows(room.done["diagnose"].folder / "dev.jsonl")]
    found: dict[str, Any] = {}
    home = room.folder.parent
    for name, folder in _contenders(options, room).items():
        target, count = room.folder / name, parameters(_weights_of(name, folder, room))
        if _is_exported(folder):
            found[name] = {"folder": within(folder, home), "parameters": count, "note": ""}
            continue
        try:
            report = export_run(folder, output=target, texts=texts)
            found[name] = {"folder": within(target, home), "parameters": count, "note": "",
                           "difference": report.difference}  # fmt: skip
        except (GateError, ModelError) as error:  # it is measured all the same, in torch
            said = str(error).splitlines()[0]
            log.warning("%s is measured in torch: %s", ROWS[name], said)
            found[name] = {"folder": within(folder, home), "parameters": count,
                           "note": f"in torch: {said}"}  # fmt: skip
    kept = room.kept.folder
    if not _is_exported(kept):
        name = ROW_OF[room.kept.stage]
        kept = home / found[name]["folder"]
        if not _is_exported(kept):
            raise ModelError(f"the model to serve cannot be exported: {found[name]['note']}")
    shutil.rmtree(room.folder / FINAL, ignore_errors=True)
    shutil.copytree(kept, room.folder / FINAL)
    facts = {"contenders": found, "kept": room.kept.stage, "bytes": model_bytes(kept)}
    return Outcome(facts)


def calibrate(options: LandOptions, room: Room) -> Outcome:
    """Fit a temperature and a threshold to abstain below to the exported model, on dev."""
    dev = room.done["diagnose"].folder / "dev.jsonl"
    folder = room.folder / FINAL
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(room.done["export"].folder / FINAL, folder)
    refused = ""
    try:
        found = calibrate_model(folder, dev, abstain_precision=options.abstain_precision)
    except GateError as error:  # scores can be right where no threshold is sure enough
        refused = str(error).splitlines()[0].removesuffix(" Nothing was written")
        log.warning("%s", refused)
        found = calibrate_model(folder, dev)
    (one,) = found.values()
    return Outcome(one.as_dict() | {"precision": options.abstain_precision, "refused": refused})


def served_folder(done: Mapping[str, Done]) -> Path:
    """Return where the model to serve is: the calibrated one, if there is."""
    return done["calibrate" if "calibrate" in done else "export"].folder / FINAL


def parameters(folder: Path) -> int | None:
    """Return how many numbers a folder's safetensors file holds; None if there is no such file."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    shapes = [about["shape"] for name, about in header.items() if name != "__metadata__"]
    return sum(int(np.prod(shape)) for shape in shapes)


def _contenders(options: LandOptions, room: Room) -> dict[str, Path]:
    """Return the folders of the contenders there are, in the order of the table."""
    found: dict[str, Path] = {}
    if (taught := room.done.get("teacher")) is not None:
        size = "large" if options.teacher else "small"
        if options.teacher and taught.facts.get("finetuned"):
            found["large_finetuned"] = room.folder.parent / taught.facts["finetuned"]
        found[f"{size}_fewshot"] = room.folder.parent / taught.facts["folder"]
    for stage, name in (("finetune", "small_finetuned"), ("distill", "small_distilled"),
                        ("augment", "small_augmented")):  # fmt: skip
        if stage in room.done:
            found[name] = room.done[stage].folder / RUN
    if "compress" in room.done:
        found["small_compressed"] = room.done["compress"].folder / FINAL
    return {name: found[name] for name in ROWS if name in found}


def _weights_of(name: str, folder: Path, room: Room) -> Path:
    """Return the folder with the weights a contender was made of."""
    if name == "small_compressed":
        return room.done[room.done["compress"].facts["of"]].folder / RUN
    return folder


def bare(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example without its answer."""
    return {name: example[name] for name in ("text", "text_b") if name in example}


def _is_exported(folder: Path) -> bool:
    return any((folder / file).is_file() for file in MODELS.values())


def model_bytes(folder: Path) -> int:
    """Return the size of the model file a folder is served from."""
    for name in (*MODELS.values(), "model.safetensors"):
        for home in (folder, folder / "onnx"):
            if (home / name).is_file():
                return (home / name).stat().st_size
    raise ModelError(f"{folder} holds no model")
