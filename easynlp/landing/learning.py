"""The stages that learn: a teacher, the student alone, the teacher's labels, the student taught.

Every training is a plain `run.train`, so an interrupted one goes on from its last checkpoint. The
student alone and the student taught have the same steps, learning rates and looks at dev, so that
what teaching gains is not what more searching gains.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.config import TrainConfig
from easynlp.data.diagnose import example_hash
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.choose import choose
from easynlp.fewshot.phases import copy_run, plain_reading, train_once, write_rows
from easynlp.fewshot.settings import FewShotConfig
from easynlp.fewshot.soft_classify import SoftClassify
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Outcome, Room
from easynlp.pipeline import META, Pipeline, read_meta, save_meta
from easynlp.tasks.base import Example
from easynlp.tasks.labels import sort_labels
from easynlp.tasks.text_classify import ClassifyConfig

__all__ = ["distill", "finetune", "is_run", "label", "read_rows", "teach", "teacher", "within"]

log = logging.getLogger("easynlp")
SOFT = f"{SoftClassify.__module__}:{SoftClassify.__qualname__}"
RUN = "run"
"""Folder, in a stage's own, of the run that came out best on dev."""


def is_run(name: str | None) -> bool:
    """Return whether a teacher is the folder of a finished run."""
    return name is not None and (Path(name) / META).is_file()


def within(path: Path, home: Path) -> str:
    """Return a path as seen from the road's folder, so that the folder can be moved."""
    inside = path.resolve().is_relative_to(home.resolve())
    return str(path.resolve().relative_to(home.resolve()) if inside else path.resolve())


def read_rows(path: Path) -> list[Example]:
    """Read rows the road wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def teacher(options: LandOptions, room: Room) -> Outcome:
    """Have a teacher: learn from the few labels every way there is, or take a finished run."""
    home = room.done["diagnose"].folder
    labels = _labels(read_rows(home / "train.jsonl"))
    if is_run(options.teacher):
        assert options.teacher is not None
        meta = read_meta(options.teacher)
        if set(meta["config"].get("labels", ())) != set(labels):
            raise ModelError(
                f"the teacher {options.teacher} knows the labels "
                f"{', '.join(meta['config'].get('labels', ())) or 'none'}, but the training data "
                f"has {', '.join(labels)}"
            )
        dev = _accuracy(Pipeline.load(options.teacher), read_rows(home / "dev.jsonl"))
        where: dict[str, Any] = {
            "folder": options.teacher,
            "way": "as given",
            "why": "",
            "dev": dev,
        }
        (room.folder / "teacher.json").write_text(json.dumps(where), encoding="utf-8")
        return Outcome(where)
    folder = room.folder / RUN
    choice = choose(
        FewShotConfig(
            train=str(home / "train.jsonl"), dev=str(home / "dev.jsonl"), output=str(folder),
            model=options.teacher or options.student, ways=options.ways, pattern=options.pattern,
            words=options.words, lrs=options.teacher_lrs, steps=options.teacher_steps,
            evaluations=options.evaluations, batch_size=options.batch_size,
            max_length=options.max_length, pooling=options.pooling, precision=options.precision,
            device=options.device, threads=options.threads, seed=options.seed,
            resume=(folder / "fewshot.yaml").is_file(),
        )
    )  # fmt: skip
    plain = [each for each in choice.tries if each.way == "fine_tune" and not each.note]
    best = max(plain, key=lambda each: (each.dev, each.surety), default=None)
    where = {
        "folder": within(folder, room.folder.parent), "way": choice.chosen.way, "why": choice.why,
        "dev": choice.chosen.dev,
        "finetuned": within(folder / best.folder, room.folder.parent) if best else None,
        "tries": [{"way": t.way, "detail": t.detail, "dev": t.dev, "note": t.note}
                  for t in choice.tries],
    }  # fmt: skip
    (room.folder / "teacher.json").write_text(json.dumps(where), encoding="utf-8")
    # Without a teacher this is the student, learned the best way found: a model to beat.
    own = "" if options.teacher else RUN
    return Outcome(where, own, choice.chosen.dev if own else None)


def finetune(options: LandOptions, room: Room) -> Outcome:
    """Train the student on the labels alone: the control, and the model to beat."""
    home = room.done["diagnose"].folder
    labels = _labels(read_rows(home / "train.jsonl"))
    return _search(options, room, "text_classify", home / "train.jsonl", labels)


def label(options: LandOptions, room: Room) -> Outcome:
    """Let the teacher say how probable each label is, of unlabelled texts and the labelled ones.

    A labelled row is taught with the mean of its label and what the teacher says. Texts come in
    the order of a hash, so those that `pool_rows` leaves out are chosen by chance.
    """
    home = room.done["diagnose"].folder
    train = read_rows(home / "train.jsonl")
    pool = read_rows(home / "pool.jsonl") if (home / "pool.jsonl").is_file() else []
    pool = sorted(pool, key=example_hash)[: options.pool_rows]
    model = Pipeline.load(room.folder.parent / room.done["teacher"].facts["folder"])
    labels = list(model.task.config.labels)
    rows = []
    for example, answer in zip(train, model.predict(train), strict=True):
        gold = str(example["label"])
        scores = {name: (answer["scores"][name] + (name == gold)) / 2 for name in labels}
        rows.append({**example, "scores": scores})
    surest = []
    for example, answer in zip(pool, model.stream(pool), strict=True):
        rows.append({**example, "label": answer["label"], "scores": _fit(answer["scores"])})
        surest.append(max(answer["scores"].values()))
    write_rows(room.folder / "rows.jsonl", rows)
    given = Counter(row["label"] for row in rows[len(train) :])
    facts = {
        "labelled": len(train), "pool": len(pool), "given": dict(given.most_common()),
        "mean_confidence": float(np.mean(surest)) if surest else None,
    }  # fmt: skip
    log.info("  %d unlabelled texts labelled: %s", len(pool), dict(given.most_common()))
    return Outcome(facts)


def distill(options: LandOptions, room: Room) -> Outcome:
    """Teach the student what the teacher says of every row."""
    rows = room.done["label"].folder / "rows.jsonl"
    return _search(options, room, SOFT, rows, _labels(read_rows(rows)))


def teach(
    options: LandOptions, task: str, train: Path, dev: Path, labels: Sequence[str], lr: float,
    output: Path,
) -> Pipeline:  # fmt: skip
    """Train the student once; the one place that says how it learns.

    Args:
        options: Of the road.
        task: ``text_classify``, or the task that learns probabilities.
        train: Rows, with ``scores`` for the latter.
        dev: Rows to choose the checkpoint on.
        labels: All labels.
        lr: Peak learning rate.
        output: Run folder.
    """
    every = -(-options.student_steps // options.evaluations)
    config = TrainConfig(
        task=task, train=str(train), dev=str(dev), output=str(output), model=options.student,
        steps=options.student_steps, eval_every=every, batch_size=options.batch_size, lr=lr,
        precision=options.precision, device=options.device, threads=options.threads,
        seed=options.seed, **plain_reading(),
    )  # fmt: skip
    own = ClassifyConfig(
        max_length=options.max_length, pooling=options.pooling, labels=tuple(labels)
    )
    pipeline = train_once(config, own)
    if task != "text_classify":  # what was made is a plain classifier
        save_meta(output, {**read_meta(output), "task": "text_classify"})
    return pipeline


def _search(
    options: LandOptions, room: Room, task: str, train: Path, labels: Sequence[str]
) -> Outcome:
    """Train with each learning rate; keep the best on dev, of equal ones the first."""
    if not options.student_lrs:
        raise ConfigError("--student-lrs names no learning rate")
    dev = room.done["diagnose"].folder / "dev.jsonl"
    tries = []
    for lr in options.student_lrs:
        home = room.folder / "tried" / f"lr-{lr:g}"
        found = teach(options, task, train, dev, labels, lr, home)
        tries.append({"lr": lr, "dev": float(found.meta["scores"]["dev"]["accuracy"])})
        log.info("  lr %g: dev %.4f", lr, tries[-1]["dev"])
    best = max(tries, key=lambda each: each["dev"])
    run = room.folder / RUN
    run.mkdir(exist_ok=True)
    copy_run(room.folder / "tried" / f"lr-{best['lr']:g}", run)
    return Outcome({"tries": tries, "lr": best["lr"]}, RUN, best["dev"])


def _labels(rows: Sequence[Example]) -> tuple[str, ...]:
    return tuple(sort_labels({str(each["label"]) for each in rows}))


def _accuracy(pipeline: Pipeline, rows: Sequence[Example]) -> float:
    return float(pipeline.evaluate(rows)["accuracy"])


def _fit(scores: dict[str, float]) -> dict[str, float]:
    """Return probabilities that sum to one: answers are rounded."""
    total = sum(scores.values())
    return {name: value / total for name, value in scores.items()}
