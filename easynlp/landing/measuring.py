"""The stages that make what is served and measure it beside everything it was made from."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.benchmarks.floors import LinearFloor, MajorityFloor
from easynlp.benchmarks.statistics import share_interval
from easynlp.benchmarks.timing import machine
from easynlp.deployment.export import export as export_run
from easynlp.errors import DataError, GateError, ModelError
from easynlp.landing.learning import RUN, read_rows, within
from easynlp.landing.parts import text_of
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Outcome, Room
from easynlp.pipeline import MODELS, Pipeline

__all__ = [
    "FLOORS",
    "ROWS",
    "ROW_OF",
    "compress",
    "curve",
    "export",
    "latency",
    "parameters",
    "score",
]

log = logging.getLogger("easynlp")
ROWS = {
    "large_finetuned": "large, fine-tuned",
    "large_fewshot": "large, few-shot",
    "small_fewshot": "small, few-shot",
    "small_finetuned": "small, fine-tuned",
    "small_distilled": "small, distilled",
    "small_compressed": "small, compressed",
}
"""Contenders of the table, in its order."""
ROW_OF = {"teacher": "small_fewshot", "finetune": "small_finetuned",
          "distill": "small_distilled", "compress": "small_compressed"}  # fmt: skip
"""Stages that make a model that may be served, and the contender it is."""
FLOORS = {"majority": "majority label", "tfidf_svm": "TF-IDF + SVM"}
FINAL = "model"
BATCHES = (1, 32)
CURVE = (0.125, 0.25, 0.5, 1.0)
"""Shares of the labels the learning curve is drawn through."""
Predict = Callable[[Sequence[Mapping[str, Any]]], list[str]]


def compress(options: LandOptions, room: Room) -> Outcome:
    """Make the kept model smaller: int8 weights, judged by accuracy on dev."""
    assert room.kept is not None
    home = room.done["diagnose"].folder
    dev = read_rows(home / "dev.jsonl")
    # The road's own gate is the accuracy on dev, so agreement is reported and does not decide.
    made = export_run(room.kept.folder, int8=True, output=room.folder / FINAL,
                      texts=[_bare(each) for each in dev], force=True)  # fmt: skip
    found = float(Pipeline.load(room.folder / FINAL).evaluate(dev)["accuracy"])
    facts = {"of": room.kept.stage, "precision": made.precision, "agreement": made.agreement,
             "texts": made.texts, "bytes": made.bytes, "fp32_bytes": made.fp32_bytes}  # fmt: skip
    return Outcome(facts, FINAL, found)


def export(options: LandOptions, room: Room) -> Outcome:
    """Export every contender to ONNX, checked against its run, and lay out the kept model."""
    assert room.kept is not None
    texts = [_bare(e) for e in read_rows(room.done["diagnose"].folder / "dev.jsonl")]
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
    facts = {"contenders": found, "kept": room.kept.stage, "bytes": _model_bytes(kept)}
    return Outcome(facts)


def score(options: LandOptions, room: Room) -> Outcome:
    """Let every contender and both floors answer the test rows (dev rows if there are none)."""
    home = room.done["diagnose"].folder
    split = "test" if (home / "test.jsonl").is_file() else "dev"
    rows, train = read_rows(home / f"{split}.jsonl"), read_rows(home / "train.jsonl")
    gold = [str(each["label"]) for each in rows]
    table: dict[str, Any] = {}
    for name, (predict, size, count) in _floors(train, room.folder).items():
        table[name] = {**_judge(predict(rows), gold), "bytes": size, "parameters": count}
    exported = room.done["export"].facts["contenders"]
    for name, about in exported.items():
        folder = room.folder.parent / about["folder"]
        predict = _labels_of(Pipeline.load(folder, backend=_backend(about)))
        table[name] = {**_judge(predict([_bare(each) for each in rows]), gold),
                       "bytes": _model_bytes(folder), "parameters": about["parameters"],
                       "note": about["note"]}  # fmt: skip
    final = Pipeline.load(room.done["export"].folder / FINAL)
    said = [{"label": each["label"], "scores": each["scores"]}
            for each in final.predict([_bare(each) for each in rows])]  # fmt: skip
    write_json(room.folder / "scores.json", {"split": split, "table": table, "answers": said})
    return Outcome({"split": split, "rows": len(rows), "table": table})


def latency(options: LandOptions, room: Room) -> Outcome:
    """Time all contenders on real texts, one thread, in turns, so that all meet the same machine.

    The p50 and p99 are over calls of one text, and of 32.
    """
    home = room.done["diagnose"].folder
    split = room.done["score"].facts["split"]
    rows = [_bare(each) for each in read_rows(home / f"{split}.jsonl")][: options.timed]
    sides: dict[str, Predict] = {}
    folder = room.done["score"].folder
    linear = LinearFloor.load(folder / "tfidf-svm.npz")
    sides["tfidf_svm"] = lambda batch: linear.predict([text_of(each) for each in batch])
    for name, about in room.done["export"].facts["contenders"].items():
        pipeline = Pipeline.load(room.folder.parent / about["folder"], backend=_backend(about))
        sides[name] = _labels_of(pipeline)
    found: Any = {name: {str(size): value for size, value in sizes.items()}
             for name, sizes in time_in_turns(sides, rows).items()}  # fmt: skip
    about = {"texts": len(rows), "machine": machine(1), "times": found}
    write_json(room.folder / "latency.json", about)
    return Outcome(about)


def curve(options: LandOptions, room: Room) -> Outcome:
    """Say what more labels would bring: dev accuracy of cheap learners on parts of the labels."""
    from easynlp.fewshot.baselines import SelfTrainedLinear, VectorClassifier
    from easynlp.fewshot.vectors import Encoder

    home = room.done["diagnose"].folder
    train, dev = read_rows(home / "train.jsonl"), read_rows(home / "dev.jsonl")
    order = _spread(train, options.seed)
    gold = [str(each["label"]) for each in dev]
    encoder = Encoder(options.student, options.max_length, options.seed)
    points: dict[str, list[dict[str, float]]] = {"probe of the student": [], "TF-IDF + LR": []}
    for share in CURVE:
        rows = [train[i] for i in order[: max(2, round(share * len(train)))]]
        if len({str(each["label"]) for each in rows}) < len({str(e["label"]) for e in train}):
            continue
        texts, labels = [text_of(e) for e in rows], [str(e["label"]) for e in rows]
        for name, model in (
            ("TF-IDF + LR", SelfTrainedLinear(rounds=0)),
            ("probe of the student", VectorClassifier(lambda t: encoder.vectors(t)[:, 0])),
        ):
            answers = model.fit(texts, labels).predict([text_of(each) for each in dev])
            points[name].append({"labels": len(rows), "dev": _judge(answers, gold)["accuracy"]})
    write_json(room.folder / "curve.json", points)
    return Outcome({"points": points})


def time_in_turns(
    sides: Mapping[str, Predict], rows: Sequence[Mapping[str, Any]], *, rounds: int = 5,
    limit_s: float = 60.0,
) -> dict[str, dict[int, dict[str, float]]]:  # fmt: skip
    """Time functions from rows to answers, by turns, in calls of one row and of 32.

    Args:
        sides: The functions, by name.
        rows: Real ones; of fewer than 32 a batch repeats some.
        rounds: Turns of each; a turn is a share of all rows.
        limit_s: Start no further turn of a batch size after this many seconds.

    Returns:
        For each name and batch size ``p50_ms``, ``p99_ms`` and ``calls``.
    """
    times: dict[str, dict[int, list[float]]] = {n: {b: [] for b in BATCHES} for n in sides}
    for predict in sides.values():  # the first calls of anything are slow
        for row in rows[:8]:
            predict([row])
        predict((list(rows) * 32)[:32])
    for size in BATCHES:
        repeated = list(rows) * -(-size // len(rows))
        batches = [repeated[i : i + size] for i in range(0, len(repeated) - size + 1, size)]
        if size > 1:  # enough calls for a percentile, on different rows
            batches = batches * -(-4 * rounds // len(batches))
        began = time.perf_counter()
        for turn in range(rounds):
            for name, predict in sides.items():
                for batch in batches[turn::rounds]:
                    started = time.perf_counter()
                    predict(batch)
                    times[name][size].append(1000 * (time.perf_counter() - started))
            if time.perf_counter() - began > limit_s:
                break
    return {
        name: {
            size: {"p50_ms": float(np.percentile(spent, 50)),
                   "p99_ms": float(np.percentile(spent, 99)), "calls": len(spent)}
            for size, spent in sizes.items()
        }
        for name, sizes in times.items()
    }  # fmt: skip


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
    for stage, name in (("finetune", "small_finetuned"), ("distill", "small_distilled")):
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


def _floors(
    train: Sequence[Mapping[str, Any]], folder: Path
) -> dict[str, tuple[Predict, int | None, int | None]]:
    """Return both floors, fitted: how they predict, their bytes and their parameters."""
    texts, labels = [text_of(each) for each in train], [str(each["label"]) for each in train]
    majority, linear = MajorityFloor(), LinearFloor()
    majority.fit(texts, labels)
    linear.fit(texts, labels)
    size = linear.save(folder / "tfidf-svm.npz")
    return {
        "majority": (lambda rows: majority.predict([""] * len(rows)), None, None),
        "tfidf_svm": (
            lambda rows: linear.predict([text_of(each) for each in rows]),
            size,
            linear.parameters,
        ),
    }


def _labels_of(pipeline: Pipeline) -> Predict:
    def predict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        return [str(each["label"]) for each in pipeline.predict(list(rows))]

    return predict


def _judge(answers: Sequence[str], gold: Sequence[str]) -> dict[str, Any]:
    """Return accuracy with its 95 % Wilson interval."""
    if len(answers) != len(gold) or not gold:
        raise DataError("there is nothing to score on")
    right = sum(a == g for a, g in zip(answers, gold, strict=True))
    low, high = share_interval(right, len(gold))
    return {"accuracy": right / len(gold), "low": low, "high": high, "right": right}


def _spread(train: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
    """Return an order of the rows in which every beginning has each label's share of rows."""
    random = np.random.default_rng((seed, 0xC0E))
    labels = [str(each["label"]) for each in train]
    keyed = []
    for name in sorted(set(labels)):
        rows = random.permutation([i for i, own in enumerate(labels) if own == name])
        keyed += [((k + 0.5) / len(rows), int(i)) for k, i in enumerate(rows)]
    return [i for _, i in sorted(keyed)]


def _bare(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return an example without its answer."""
    return {name: example[name] for name in ("text", "text_b") if name in example}


def _is_exported(folder: Path) -> bool:
    return any((folder / file).is_file() for file in MODELS.values())


def _backend(about: Mapping[str, Any]) -> Any:
    return "torch" if str(about["note"]).startswith("in torch") else "auto"


def _model_bytes(folder: Path) -> int:
    """Return the size of the model file a folder is served from."""
    for name in (*MODELS.values(), "model.safetensors"):
        for home in (folder, folder / "onnx"):
            if (home / name).is_file():
                return (home / name).stat().st_size
    raise ModelError(f"{folder} holds no model")
