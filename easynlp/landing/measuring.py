"""The stages that measure what is served beside everything it was made from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.benchmarks.floors import LinearFloor, MajorityFloor
from easynlp.benchmarks.machine import machine
from easynlp.errors import DataError
from easynlp.landing.learning import read_rows
from easynlp.landing.parts import text_of
from easynlp.landing.settings import LandOptions
from easynlp.landing.shipping import bare, model_file, served_folder
from easynlp.landing.stages import Outcome, Room
from easynlp.metrics import share_interval
from easynlp.pipeline import Pipeline

__all__ = ["FLOORS", "curve", "latency", "score", "time_in_turns"]

FLOORS = {"majority": "majority label", "tfidf_svm": "TF-IDF + SVM"}
BATCHES = (1, 32)
CURVE = (2, 4, 8, 16)
"""Rows of each label the learning curve is drawn through, before all rows."""
Predict = Callable[[Sequence[Mapping[str, Any]]], list[str]]


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
        table[name] = {**_judge(predict([bare(each) for each in rows]), gold),
                       "bytes": model_file(folder).stat().st_size,
                       "parameters": about["parameters"], "note": about["note"]}  # fmt: skip
    final = Pipeline.load(served_folder(room.done))
    said = [{"label": each["label"], "scores": each["scores"]}
            for each in final.predict([bare(each) for each in rows])]  # fmt: skip
    write_json(room.folder / "scores.json", {"split": split, "table": table, "answers": said})
    return Outcome({"split": split, "rows": len(rows), "table": table})


def latency(options: LandOptions, room: Room) -> Outcome:
    """Time all contenders on real texts, one thread, in turns, so that all meet the same machine.

    The p50 and p99 are over calls of one text, and of 32.
    """
    home = room.done["diagnose"].folder
    split = room.done["score"].facts["split"]
    rows = [bare(each) for each in read_rows(home / f"{split}.jsonl")][: options.timed]
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
    gold = [str(each["label"]) for each in dev]
    encoder = Encoder(options.student, options.max_length, options.seed)
    points: dict[str, list[dict[str, float]]] = {"probe of the student": [], "TF-IDF + LR": []}
    for rows in _parts(train, options.seed):
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


def _parts(train: Sequence[Mapping[str, Any]], seed: int) -> list[list[Mapping[str, Any]]]:
    """Return 2, 4, 8 and 16 rows of each label, the larger parts with the smaller, and all rows."""
    random = np.random.default_rng((seed, 0xC0E))
    labels = [str(each["label"]) for each in train]
    order = [random.permutation([i for i, own in enumerate(labels) if own == name])
             for name in sorted(set(labels))]  # fmt: skip
    fewest = min(map(len, order))
    sizes = [size for size in CURVE if size <= fewest and size * len(order) < len(train)]
    return [*([train[i] for rows in order for i in rows[:size]] for size in sizes), list(train)]


def _backend(about: Mapping[str, Any]) -> Any:
    return "torch" if str(about["note"]).startswith("in torch") else "auto"
