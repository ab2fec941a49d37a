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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.config import TrainConfig
from easynlp.data.diagnose import example_hash
from easynlp.data.lines import check_file
from easynlp.distillation.answers import Wanted
from easynlp.distillation.cache import ask
from easynlp.distillation.logits import texts_of
from easynlp.distillation.run import distill as learn
from easynlp.distillation.settings import DistillConfig, DistillOptions
from easynlp.distillation.teachers import find_teacher
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.choose import check_ways, choose
from easynlp.fewshot.phases import copy_run, plain_reading, train_once, write_rows
from easynlp.fewshot.settings import FewShotConfig
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Outcome, Room
from easynlp.models.backbone import Backbone
from easynlp.options import pieces
from easynlp.pipeline import META, Pipeline, fingerprint, read_meta
from easynlp.tasks.base import Example
from easynlp.tasks.labels import sort_labels
from easynlp.tasks.text_classify import ClassifyConfig
from easynlp.training.precision import pick_device

__all__ = [
    "augment",
    "distill",
    "finetune",
    "is_run",
    "label",
    "read_rows",
    "teach",
    "teacher",
    "within",
]

log = logging.getLogger("easynlp")
RUN = "run"
"""Folder, in a stage's own, of the run that came out best on dev."""
ANSWERS = "answers"
"""Folder, in the stage ``label``, of what the teacher said."""


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
        # Its weights are what labels; an int8 export in the folder would be another model.
        has_weights = (Path(options.teacher) / "config.json").is_file()
        loaded = Pipeline.load(options.teacher, backend="torch" if has_weights else "auto")
        where: dict[str, Any] = {
            "folder": within(Path(options.teacher), room.folder.parent), "way": "as given",
            "why": "",
            "dev": _accuracy(loaded, read_rows(home / "dev.jsonl")),
            # Part of what is handed on: another run of the same name and score labels anew.
            "sha256": {
                path.name: fingerprint(path) for path in sorted(Path(options.teacher).iterdir())
                if path.suffix in (".safetensors", ".onnx", ".json")
            },
        }  # fmt: skip
        (room.folder / "teacher.json").write_text(json.dumps(where), encoding="utf-8")
        return Outcome(where)
    folder = room.folder / RUN
    choice = choose(
        replace(
            _few_shot(options), train=str(home / "train.jsonl"), dev=str(home / "dev.jsonl"),
            output=str(folder), resume=(folder / "fewshot.yaml").is_file(),
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


def check(options: LandOptions) -> None:
    """Refuse files, models and ways to learn that are not there, before anything is made.

    Raises:
        ConfigError: If a way is unknown.
        DataError: If a file is missing or empty.
        ModelError: If the student, the teacher or what augments cannot be had.
    """
    for path in (options.train, options.dev, options.test, options.unlabeled):
        if path is not None:
            check_file(path)
    Backbone.load(options.student)  # looks at the folder, reads no weights yet
    if options.augment and options.augment_model and "augment" not in pieces(options.skip):
        Backbone.load(options.augment_model)
    if not is_run(options.teacher):
        Backbone.load(options.teacher or options.student)
        check_ways(_few_shot(options))


def _few_shot(options: LandOptions) -> FewShotConfig:
    """Return how the teacher learns; where from and where to is the caller's to say."""
    return FewShotConfig(
        train=options.train, dev=options.dev or options.train, output=options.output,
        model=options.teacher or options.student, ways=options.ways, pattern=options.pattern,
        words=options.words, lrs=options.teacher_lrs, steps=options.teacher_steps,
        evaluations=options.evaluations, batch_size=options.batch_size,
        max_length=options.max_length, pooling=options.pooling, precision=options.precision,
        device=options.device, threads=options.threads, seed=options.seed,
    )  # fmt: skip


def finetune(options: LandOptions, room: Room) -> Outcome:
    """Train the student on the labels alone: the control, and the model to beat."""
    return _search(options, room, options.student_lrs)


def label(options: LandOptions, room: Room) -> Outcome:
    """Let the teacher say how probable each label is, of the labelled texts and unlabelled ones.

    Texts come in the order of a hash, so those that `pool_rows` leaves out are chosen by chance.
    Answers are kept in ``answers/``, where every training that learns them finds them.
    """
    home = room.done["diagnose"].folder
    train = read_rows(home / "train.jsonl")
    pool = read_rows(home / "pool.jsonl") if (home / "pool.jsonl").is_file() else []
    pool = sorted(pool, key=example_hash)[: options.pool_rows]
    pair = any(example.get("text_b") for example in train)
    wanted = Wanted("label", _labels(train), pair)
    member = find_teacher(
        str(_teacher(room)), wanted, names={}, max_length=options.max_length, precision="fp32",
        device=pick_device(options.device),
    )  # fmt: skip
    texts = [texts_of(each) for each in (*train, *pool)]
    answers = ask(member, texts, room.folder / ANSWERS)
    write_rows(room.folder / "pool.jsonl", texts[len(train) :])
    sure = [np.asarray(answers[i][0], np.float64) for i in range(len(train), len(texts))]
    given = Counter(wanted.labels[int(each.argmax())] for each in sure)
    facts = {
        "labelled": len(train), "pool": len(pool), "given": dict(given.most_common()),
        "mean_confidence": float(np.mean([np.exp(each.max()) for each in sure])) if sure else None,
        "fingerprint": member.fingerprint,
    }  # fmt: skip
    log.info("  %d unlabelled texts labelled: %s", len(pool), dict(given.most_common()))
    write_json(room.folder / "given.json", facts)
    return Outcome(facts)


def distill(options: LandOptions, room: Room) -> Outcome:
    """Teach the student what the teacher says of every row."""
    return _search(options, room, options.student_lrs, taught=True)


def augment(options: LandOptions, room: Room) -> Outcome:
    """Teach the student once more, with changed copies, at the learning rate that was best."""
    lr = float(room.done["distill"].facts["lr"])
    return _search(options, room, (lr,), taught=True, copies=options.augment)


def teach(
    options: LandOptions, train: Path, dev: Path, labels: Sequence[str], lr: float, output: Path,
    by: DistillOptions | None = None,
) -> Pipeline:  # fmt: skip
    """Train the student once; the one place that says how it learns.

    Args:
        options: Of the road.
        train: Labelled rows.
        dev: Rows to choose the checkpoint on.
        labels: All labels.
        lr: Peak learning rate.
        output: Run folder.
        by: Who teaches, on which further texts; None: the labels alone.
    """
    given: dict[str, Any] = {
        "train": str(train), "dev": str(dev), "output": str(output),
        "steps": options.student_steps, "batch_size": options.batch_size, "lr": lr,
        "eval_every": -(-options.student_steps // options.evaluations),
        "precision": options.precision, "device": options.device, "threads": options.threads,
        "seed": options.seed, **plain_reading(),
    }  # fmt: skip
    own = ClassifyConfig(
        max_length=options.max_length, pooling=options.pooling, labels=tuple(labels)
    )
    if by is None:
        config = TrainConfig(task="text_classify", model=options.student, **given)
        return train_once(config, own)
    if (output / META).is_file():
        return Pipeline.load(output, backend="torch")
    resume = (output / "distill.yaml").is_file()
    return learn(DistillConfig(student=options.student, resume=resume, **given), by, None, own)


def _search(
    options: LandOptions, room: Room, lrs: Sequence[float], *, taught: bool = False, copies: int = 0
) -> Outcome:
    """Train with each learning rate; keep the best on dev, of equal ones the first."""
    if not lrs:
        raise ConfigError("--student-lrs names no learning rate")
    home = room.done["diagnose"].folder
    train, dev = home / "train.jsonl", home / "dev.jsonl"
    labels = _labels(read_rows(train))
    by = None
    if taught:
        given = room.done["label"]
        pool = given.folder / "pool.jsonl"
        by = DistillOptions(
            teacher=(str(_teacher(room)),), teacher_length=options.max_length,
            unlabeled=str(pool) if given.facts["pool"] else None, alpha=options.alpha,
            temperature=options.temperature, cache=str(given.folder / ANSWERS), augment=copies,
            augment_model=options.augment_model,
        )  # fmt: skip
    tries = []
    for lr in lrs:
        found = teach(options, train, dev, labels, lr, room.folder / "tried" / f"lr-{lr:g}", by)
        tries.append({"lr": lr, "dev": float(found.meta["scores"]["dev"]["accuracy"])})
        log.info("  lr %g: dev %.4f", lr, tries[-1]["dev"])
    best = max(tries, key=lambda each: each["dev"])
    chosen, run = room.folder / "tried" / f"lr-{best['lr']:g}", room.folder / RUN
    run.mkdir(exist_ok=True)
    copy_run(chosen, run)
    facts: dict[str, Any] = {"tries": tries, "lr": best["lr"]}
    if taught:
        facts["copies"] = json.loads((chosen / "distill.json").read_text("utf-8"))["augmented"]
    return Outcome(facts, RUN, best["dev"])


def _teacher(room: Room) -> Path:
    """Return the folder of the teacher's run."""
    return room.folder.parent / str(room.done["teacher"].facts["folder"])


def _labels(rows: Sequence[Example]) -> tuple[str, ...]:
    return tuple(sort_labels({str(each["label"]) for each in rows}))


def _accuracy(pipeline: Pipeline, rows: Sequence[Example]) -> float:
    return float(pipeline.evaluate(rows)["accuracy"])
