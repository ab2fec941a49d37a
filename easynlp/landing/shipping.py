"""The stages that make what is served: smaller, exported, and honest about how sure it is."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easynlp.atomic import write_json
from easynlp.benchmarks.machine import parameters, served_bytes
from easynlp.compression.candidates import Candidate
from easynlp.compression.compress import compress as compress_run
from easynlp.compression.settings import CompressConfig, parse_size
from easynlp.deployment.calibrate import calibrate as calibrate_model
from easynlp.deployment.export import export as export_run
from easynlp.errors import GateError, ModelError
from easynlp.landing.learning import RUN, read_rows, within
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Done, Outcome, Room
from easynlp.pipeline import MODELS, Pipeline, fingerprint

__all__ = ["CONTENDERS", "FINAL", "ROWS", "ROW_OF", "bare", "calibrate", "compress", "export",
           "model_file", "prune", "served_folder"]  # fmt: skip

log = logging.getLogger("easynlp")
ROWS = {
    "large_finetuned": "large, fine-tuned",
    "large_fewshot": "large, few-shot",
    "small_fewshot": "small, few-shot",
    "small_finetuned": "small, fine-tuned",
    "small_distilled": "small, distilled",
    "small_augmented": "small, distilled, with copies",
    "small_compressed": "small, compressed",
    "small_pruned": "small, pruned and compressed",
}
"""Contenders of the table, in its order."""
ROW_OF = {"teacher": "small_fewshot", "finetune": "small_finetuned",
          "distill": "small_distilled", "augment": "small_augmented",
          "compress": "small_compressed", "prune": "small_pruned"}  # fmt: skip
"""Stages that make a model that may be served, and the contender it is."""
FINAL = "model"
PRUNED = f"out/{FINAL}"
"""Folder, in the stage ``prune``, of the candidate that was chosen, if one was."""
CONTENDERS = "contenders.json"
SLACK = 2_000
"""Bytes of the target size kept for what is written into the description later."""


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
             "fp32_bytes": made.fp32_bytes, "tried": made.tried,
             "served_bytes": served_bytes(room.folder / FINAL),
             "fp32_dev": room.kept.dev}  # fmt: skip
    return Outcome(facts, FINAL, found)


def prune(options: LandOptions, room: Room) -> Outcome:
    """Prune and cut the vocabulary for the target size where int8 alone is not enough."""
    assert room.kept is not None
    assert options.target_size is not None
    target, out = parse_size(options.target_size), room.folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    done = room.done
    of = done["compress"].facts["of"] if room.kept.stage == "compress" else room.kept.stage
    size = served_bytes(room.kept.folder) if room.kept.stage == "compress" else None
    facts: dict[str, Any] = {"of": of, "candidates": [], "note": ""}
    if size is not None and size <= target:
        facts["note"] = f"int8 has {size / 1e6:.2f} MB, within {options.target_size} already"
        write_json(out / "candidates.json", facts)
        return Outcome(facts)
    home, work = done["diagnose"].folder, room.folder / "work"
    pool = done["label"].folder / "pool.jsonl" if "label" in done else None
    try:
        found = compress_run(
            CompressConfig(
                run=str(done[of].folder / RUN), output=str(work), train=str(home / "train.jsonl"),
                dev=str(home / "dev.jsonl"), target_size=str(max(1, target - SLACK)),
                unlabeled=str(pool) if pool and done["label"].facts["pool"] else None,
                max_drop=options.max_drop, candidates=options.candidates,
                steps=options.student_steps, batch_size=options.batch_size,
                precision=options.precision, threads=options.threads, seed=options.seed,
                resume=(work / "compress.yaml").is_file(),
            )
        )  # fmt: skip
    except ModelError as error:  # e.g. no shape of a BERT: int8 is what there is, then
        facts["note"] = str(error).splitlines()[0]
        write_json(out / "candidates.json", facts)
        return Outcome(facts)
    facts["why"] = found.why
    facts["candidates"] = [_about(row, found.front, found.chosen)
                           for row in (found.baseline, *found.candidates)]  # fmt: skip
    best = next((row for row in found.candidates if row.name == found.chosen), None)
    write_json(out / "candidates.json", facts)
    if best is None:
        return Outcome(facts | {"note": found.why})
    shutil.copytree(best.export, room.folder / PRUNED)
    return Outcome(facts | {"parameters": best.parameters}, PRUNED, best.score)


def _about(row: Candidate, front: Sequence[str], chosen: str | None) -> dict[str, Any]:
    names = ("name", "bytes", "parameters", "low", "high", "p50_ms", "p99_ms", "memory_mb")
    return {name: getattr(row, name) for name in names} | {
        "dev": row.score, "front": row.name in front, "chosen": row.name == chosen,
    }  # fmt: skip


def export(options: LandOptions, room: Room) -> Outcome:
    """Export every contender to ONNX, checked against its run, and lay out the kept model."""
    assert room.kept is not None
    texts = [bare(e) for e in read_rows(room.done["diagnose"].folder / "dev.jsonl")]
    found: dict[str, Any] = {}
    home = room.folder.parent
    for name, folder in _contenders(options, room).items():
        target, count = room.folder / name, _count(name, folder, room)
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
    # What is scored and timed again follows from this file, also where the served model is as ever.
    hashes = {name: fingerprint(model_file(home / each["folder"])) for name, each in found.items()}
    write_json(room.folder / CONTENDERS, {"contenders": found, "sha256": hashes})
    facts = {"contenders": found, "kept": room.kept.stage}
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
    if "prune" in room.done and room.done["prune"].model:
        found["small_pruned"] = room.done["prune"].folder / PRUNED
    return {name: found[name] for name in ROWS if name in found}


def _count(name: str, folder: Path, room: Room) -> int | None:
    """Return how many parameters a contender has; None where no file holds them."""
    if name == "small_pruned":
        return int(room.done["prune"].facts["parameters"])
    if name == "small_compressed":
        folder = room.done[room.done["compress"].facts["of"]].folder / RUN
    return parameters(folder) if (folder / "model.safetensors").is_file() else None


def bare(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example without its answer."""
    return {name: example[name] for name in ("text", "text_b") if name in example}


def _is_exported(folder: Path) -> bool:
    return any((folder / file).is_file() for file in MODELS.values())


def model_file(folder: Path) -> Path:
    """Return the model file a folder is served from."""
    for name in (*MODELS.values(), "model.safetensors"):
        for home in (folder, folder / "onnx"):
            if (home / name).is_file():
                return home / name
    raise ModelError(f"{folder} holds no model")
