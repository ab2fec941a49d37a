"""From a few labels and a large model to a small served model, in one call, with the proof.

READ `road` FIRST: the stages in their order, what each needs and hands on. How stages run, are
skipped, taken up again or dropped is `easynlp.landing.stages`' affair; what each does stands in
`easynlp.landing.diagnosis`, `easynlp.landing.learning`, `easynlp.landing.shipping` and
`easynlp.landing.measuring`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_folder, write_json, write_text
from easynlp.config import to_yaml
from easynlp.errors import ConfigError, DataError, ModelError, RunError
from easynlp.fewshot.phases import write_rows
from easynlp.landing import learning, measuring, shipping
from easynlp.landing.diagnosis import diagnose
from easynlp.landing.page import page
from easynlp.landing.report import make_report
from easynlp.landing.settings import LandOptions
from easynlp.landing.stages import Done, Outcome, Room, Stage, check_skip, run_stages
from easynlp.options import pieces
from easynlp.training.folder import check_folder, claim_folder, drop_folder

__all__ = ["Landed", "land", "road"]

log = logging.getLogger("easynlp")
RECIPE = "land"
LEARNED = "*/*/*/"
"""Folders this deep are there as soon as something was learned."""
TEACHING = ("ways", "pattern", "words", "teacher_lrs", "teacher_steps")
STUDYING = ("student_lrs", "student_steps")
TAUGHT = ("alpha", "temperature")
SHARED = ("evaluations", "batch_size", "max_length", "pooling", "precision", "device", "seed")
READING = ("text", "text_b", "label", "encoding", "schema", "header", "format")


@dataclass(frozen=True)
class Landed:
    """Where the road ended.

    Attributes:
        model: Folder of the model to serve; complete in itself, needs no torch.
        page: The report, one HTML file.
        report: The same as plain JSON values, as in ``report.json``.
    """

    model: Path
    page: Path
    report: dict[str, Any]


def land(options: LandOptions) -> Landed:
    """Diagnose the data, teach a small model, compress, export, measure it, and report.

    Args:
        options: Files, teacher, student, budgets.

    Returns:
        The model to serve and the report.

    Raises:
        ConfigError: If options are wrong or the output folder is taken.
        DataError: If a file or row is wrong.
        ModelError: If a model cannot be had, or the student cannot be exported.
        Interrupted: On SIGINT; the same call with `resume` goes on.

    Example:
        >>> land(LandOptions(train="few.jsonl", output="runs/land")).model   # doctest: +SKIP
        PosixPath('runs/land/model')
    """
    folder = Path(options.output)
    inputs = (options.train, options.dev, options.test, options.unlabeled, options.teacher,
              options.student)  # fmt: skip
    claim: dict[str, Any] = {
        "overwrite": options.overwrite, "resume": False, "name": RECIPE,
        "written": to_yaml(options), "inputs": inputs,
    }  # fmt: skip
    stages = road(options)
    check_skip(stages, pieces(options.skip))  # before a folder is made
    if not options.resume:
        check_folder(folder, **claim)
    learning.check(options)
    if options.resume and (folder / f"{RECIPE}.yaml").is_file():
        if options.overwrite:
            raise ConfigError("--overwrite and --resume exclude each other")
        # Other options are no trouble here: a stage runs again if its own have changed.
        write_text(folder / f"{RECIPE}.yaml", to_yaml(options))
    elif options.resume:
        raise ConfigError(f"{folder} holds nothing to go on with ({RECIPE}.yaml is not there)")
    else:
        claim_folder(folder, **claim)
    try:
        gone = run_stages(
            stages, folder, skip=pieces(options.skip), max_drop=options.max_drop, rows=_dev_rows
        )
    except (ConfigError, DataError, ModelError):
        if not options.resume:
            drop_folder(folder, (LEARNED,))
        raise
    if "export" not in gone.done:
        raise RunError("no model came out: every stage that makes one was skipped")
    source, target = shipping.served_folder(gone.done), folder / "model"
    write_folder(target, lambda staged: _copy(source, staged))
    report = make_report(options, gone)
    write_json(folder / "report.json", report)
    write_text(folder / "report.html", page(report))
    return Landed(target, folder / "report.html", report)


def _dev_rows(done: Mapping[str, Done]) -> int:
    return int(done["diagnose"].facts["splits"]["dev"]["kept"]) if "diagnose" in done else 0


def road(options: LandOptions) -> list[Stage]:
    """Return the stages in their order.

    A further stage that makes a better or smaller model of the one kept so far is one entry: with
    `takes_model`, an `Outcome` that has a model and its accuracy on dev, and its place here.
    """

    def stage(
        name: str, about: str, work: Callable[[LandOptions, Room], Outcome],
        outputs: tuple[str, ...], fields: tuple[str, ...] = (), **more: Any,
    ) -> Stage:  # fmt: skip
        chosen = {each: getattr(options, each) for each in fields}
        return Stage(name, about, partial(work, options), outputs, options=chosen, **more)

    splits = ("train", "dev", *(("test",) if options.test else ()))
    files = tuple(f"{s}.jsonl" for s in (*splits, *(("pool",) if options.unlabeled else ())))
    given = learning.is_run(options.teacher)
    weights = (f"{learning.RUN}/model.safetensors", f"{learning.RUN}/easynlp.json")
    model = options.teacher or options.student
    return [
        stage(
            "diagnose", "what is wrong with the data", _diagnose, ("diagnosis.json", *files),
            ("leaks", "seed", "max_length", "student", *READING), vital=True,
            files=tuple(p for p in (options.train, options.dev, options.test, options.unlabeled)
                        if p),
        ),
        stage(
            "teacher",
            f"using {model} as it is" if given else f"few-shot learning of {model}"
            + ("" if options.teacher else " (no --teacher: the student is its own)"),
            learning.teacher, ("teacher.json",) if given else ("teacher.json", *weights),
            () if given else (*TEACHING, *SHARED), needs=("diagnose",), files=(model,),
        ),
        stage(
            "finetune", f"{options.student} from the labels alone", learning.finetune, weights,
            (*STUDYING, *SHARED), needs=("diagnose",), files=(options.student,), better=True,
        ),
        stage(
            "label", "what the teacher says of the texts", learning.label,
            ("pool.jsonl", "given.json"), ("pool_rows", "max_length"),
            needs=("diagnose", "teacher"),
        ),
        stage(
            "distill", f"{options.student} learns what the teacher says", learning.distill,
            weights, (*STUDYING, *TAUGHT, *SHARED), needs=("diagnose", "teacher", "label"),
            files=(options.student,), better=True,
        ),
        stage(
            "augment", "the same, with changed copies of the labelled texts", learning.augment,
            weights, ("student_steps", "augment", "augment_model", *TAUGHT, *SHARED),
            needs=("diagnose", "teacher", "label", "distill"), files=(options.student,),
            gains=True, off="" if options.augment else "no copies are wanted (--augment 0)",
        ),
        stage(
            "compress", "int8 weights, judged on dev", shipping.compress, (shipping.FINAL,),
            ("max_drop",), needs=("diagnose",), uses=("teacher", "finetune", "distill", "augment"),
            takes_model=True,
        ),
        stage(
            "prune", "smaller shapes for the target size, each measured", shipping.prune, ("out",),
            ("target_size", "max_drop", "candidates", "student_steps", "batch_size",
             "precision", "seed"),
            needs=("diagnose",), uses=("teacher", "finetune", "label", "distill", "augment",
                                       "compress"),
            takes_model=True, off="" if options.target_size else "there is no --target-size",
        ),
        stage(
            "export", "ONNX of all contenders, checked against their runs", shipping.export,
            (shipping.FINAL, shipping.CONTENDERS), needs=("diagnose",), takes_model=True,
            vital=True,
            uses=("teacher", "finetune", "distill", "augment", "compress", "prune"),
        ),
        stage(
            "calibrate", "temperature and threshold to abstain below, on dev", shipping.calibrate,
            (shipping.FINAL,), ("abstain_precision",), needs=("diagnose", "export"),
        ),
        stage(
            "score", "answers of all contenders", measuring.score, ("scores.json", "tfidf-svm.npz"),
            needs=("diagnose", "export"), uses=("calibrate",),
        ),
        stage(
            "latency", "one thread, one text and 32 at a time", measuring.latency,
            ("latency.json",), ("timed",), needs=("diagnose", "export", "score"),
        ),
        stage(
            "curve", "what more labels would bring", measuring.curve, ("curve.json",),
            ("max_length", "seed"), needs=("diagnose",), files=(options.student,),
        ),
    ]  # fmt: skip


def _diagnose(options: LandOptions, room: Room) -> Outcome:
    """Look through the data; write the rows that are left, and what was found."""
    from easynlp.fewshot.vectors import Encoder

    def vectors() -> Callable[..., np.ndarray]:
        encoder = Encoder(options.student, options.max_length, options.seed)
        return lambda texts: encoder.vectors(texts)[:, 0]

    found = diagnose(options, vectors)
    for name, part in found.parts.items():
        write_rows(room.folder / f"{name}.jsonl", part.examples)
    write_json(room.folder / "diagnosis.json", found.facts)
    return Outcome(found.facts)


def _copy(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
