"""From a shape to a trained run folder: cut, recover, save; interrupted, go on."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from easynlp.atomic import write_text
from easynlp.compression.candidates import Shape
from easynlp.compression.cap import with_contrast
from easynlp.compression.importance import measure_importance
from easynlp.compression.material import Material
from easynlp.compression.prune import Cut, make_cut, save_pruned
from easynlp.compression.qat import qat
from easynlp.compression.recover import Guide, with_guide
from easynlp.config import TrainConfig, parse_method, to_yaml
from easynlp.data.sampling import EncodedRows
from easynlp.distributed import World
from easynlp.errors import ConfigError, EasyNLPError
from easynlp.methods import apply_methods, find_method
from easynlp.models.backbone import Backbone
from easynlp.models.dropout import DROPOUTS
from easynlp.models.heads import core
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import META, Pipeline, make_meta, save_meta
from easynlp.tasks.base import Task
from easynlp.training.folder import save_weights
from easynlp.training.loop import FitOptions
from easynlp.training.plan import Plan, task_term
from easynlp.training.precision import pick_device, resolve_precision
from easynlp.training.session import Habits, train_to_folder

__all__ = ["build", "build_rounded", "first_cut", "is_whole"]

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class _Student:
    """A cut model before it is trained: what it is and what it knows of the run."""

    task: Task
    backbone: Backbone
    model: torch.nn.Module
    cut: Cut


def is_whole(material: Material, shape: Shape) -> bool:
    """Return whether nothing is cut: the candidate is the run itself."""
    return shape == Shape(1.0, material.layers, False)


def build(material: Material, shape: Shape, folder: Path) -> Path:
    """Return the run folder of a shape, made now, before, or the run's own if nothing is cut.

    Args:
        material: The run and its data.
        shape: What to cut.
        folder: To write, or to go on in.

    Raises:
        ConfigError: If the shape is not possible.
        Interrupted: After saving, on SIGINT or SIGTERM.
    """
    if is_whole(material, shape):
        return material.run
    if (folder / META).is_file():
        return folder
    rounds = material.config.rounds if shape.width < 1 else 1
    snapshots: list[Guide] = []
    before: tuple[Task, torch.nn.Module] = (material.task, material.model)
    first: Cut | None = None
    reached = 1.0
    for number in range(1, rounds + 1):
        last = number == rounds
        step = folder if last else folder / f"round-{number}"
        width = 1 - (1 - shape.width) * number / rounds
        if (step / META).is_file():
            done = Pipeline.load(step, backend="torch")
            assert isinstance(done.model, TorchModel)
            cut = _cut(material, shape, before, width / reached, first is None)
            student = _Student(done.task, Backbone.load(str(step)), done.model.model, cut)
        else:
            student = _start(material, shape, before, width / reached, first is None, step)
            log.info("%s: recovering, round %d of %d", shape.name, number, rounds)
            _train(material, student, first or student.cut, snapshots, step)
        first = first or student.cut
        reached, before = width, (student.task, student.model)
        snapshots.append(Guide(student.model, None, range(shape.depth)))
    for part in folder.glob("round-*"):
        shutil.rmtree(part)
    return folder


def build_rounded(material: Material, home: Path, cut: Cut | None, folder: Path) -> Path:
    """Return a run folder trained on from another with int8's rounding in the forward pass.

    Args:
        material: The run and its data.
        home: The run folder to go on from.
        cut: What it is of the uncompressed run; None: all.
        folder: To write, or to go on in.
    """
    if (folder / META).is_file():
        return folder
    backbone = Backbone.load(str(home)).with_dropout(material.config.dropout)
    task = type(material.task).restore(material.task.saved(), backbone.tokenizer)
    layers = tuple(range(int(backbone.config.num_hidden_layers)))
    whole = cut or Cut(layers, (), ())
    student = _Student(task, backbone, task.build(backbone), whole)
    log.info("%s: training with int8's rounding", home.name)
    _train(material, student, whole, [], folder, rounded=True)
    return folder


def first_cut(material: Material, shape: Shape) -> Cut:
    """Return which layers and tokens a shape keeps of the run."""
    return _cut(material, shape, (material.task, material.model), shape.width, True)


def _cut(
    material: Material,
    shape: Shape,
    before: tuple[Task, torch.nn.Module],
    width: float,
    first: bool,
) -> Cut:
    """Return the next cut; tokens and layers go with the first one."""
    task, model = before
    if first:
        importance = material.importance
    else:
        rows = EncodedRows.of(task.encode_batch(material.splits["train"]))
        importance = measure_importance(
            task, model, rows, most=material.config.importance_rows, seed=material.config.seed
        )
    cut_words = first and shape.vocab
    return make_cut(
        core(model).config,
        importance,
        width=width,
        depth=shape.depth if first else None,
        tokens=material.vocabulary.kept if cut_words else None,
        positions=getattr(task.config, "max_length", None) if cut_words else None,
    )


def _start(
    material: Material,
    shape: Shape,
    before: tuple[Task, torch.nn.Module],
    width: float,
    first: bool,
    folder: Path,
) -> _Student:
    """Write the cut model, read it back with its task's head: what follows is what is on disk."""
    cut = _cut(material, shape, before, width, first)
    task, model = before
    tokenizer = material.vocabulary.tokenizer if first and shape.vocab else task.tokenizer
    save_pruned(model, cut, tokenizer, folder / "start")
    backbone = Backbone.load(str(folder / "start")).with_dropout(material.config.dropout)
    made = type(task).restore(task.saved(), tokenizer)
    return _Student(made, backbone, made.build(backbone), cut)


def _train(
    material: Material,
    student: _Student,
    first: Cut,
    snapshots: list[Guide],
    folder: Path,
    *,
    rounded: bool = False,
) -> None:
    """Train a student into a run folder, the run beside it."""
    config, task = material.config, student.task
    device = pick_device("auto", 0)
    precision = resolve_precision(config.precision, device)
    torch.manual_seed(config.seed)
    guide = Guide(material.model, first.tokens, first.layers, precision)
    plan = Plan(task, student.model, (task_term(task),), student.backbone)
    plan = with_guide(
        plan, guide, labels=config.weight_labels, soft=config.weight_soft,
        hidden=config.weight_hidden, temperature=config.temperature,
    )  # fmt: skip
    plan = _with_methods(material, plan, guide, first, snapshots)
    if rounded:
        plan = qat(plan)
    features = task.encode_batch(material.lessons)
    source, per_epoch = EncodedRows.of(features), -(-len(features) // config.batch_size)
    dev = material.splits["dev"]
    dev_features = task.encode_batch([{**row} for row in dev])
    pipeline = Pipeline(task, TorchModel(plan.model, "fp32", device))
    plan.model.to(device)

    def score() -> Mapping[str, float]:
        return task.score(pipeline.infer(dev_features, dev), dev)

    folder.mkdir(parents=True, exist_ok=True)
    options = FitOptions(
        steps=config.steps or max(1, round(config.epochs * per_epoch)),
        batch_size=config.batch_size, lr=config.lr / (4 if rounded else 1), precision=precision,
        eval_every=per_epoch, seed=config.seed,
    )  # fmt: skip
    state = train_to_folder(
        plan, source, options, folder, device=device, world=World(),
        habits=Habits(resume=(folder / "checkpoints" / "last.json").is_file(), show=False),
        evaluate=score,
    )  # fmt: skip
    scores = score()
    log.info("dev %s %.4f", task.metric, scores[task.metric])
    for name in DROPOUTS:  # who trains it on wants the dropout the run had
        if (rate := getattr(material.model_config, name, None)) is not None:
            setattr(core(plan.model).config, name, rate)
    save_weights(folder, plan.model.cpu(), replace(student.backbone, tokenizer=task.tokenizer))
    _write_recipe(material, folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    shutil.rmtree(folder / "start", ignore_errors=True)
    about = make_meta(
        task, base_model=str(material.run), columns=material.pipeline.meta.get("columns", {}),
        scores={"dev": scores}, best_step=state.best_step or state.step,
    )  # fmt: skip
    save_meta(folder, about)


def _with_methods(
    material: Material, plan: Plan, guide: Guide, first: Cut, snapshots: list[Guide]
) -> Plan:
    """Apply ``--method``; contrastive pruning is told of the models it compares with."""
    for spec in material.config.method:
        name, options = parse_method(spec, find_method)
        if name != "cap":
            plan = apply_methods(plan, [spec])
            continue
        found = [_pretrained(material, first, options.pop("pretrained", "")), *snapshots, guide]
        plan = with_contrast(plan, [each for each in found if each is not None], **options)
    return plan


def _pretrained(material: Material, first: Cut, name: str) -> Guide | None:
    """Return the model the run was trained from, if it is there and has the run's tokens."""
    name = name or str(material.pipeline.meta.get("base_model", ""))
    try:
        backbone = Backbone.load(name)
        if backbone.tokenizer.fingerprint() != material.task.tokenizer.fingerprint():
            raise ConfigError("it has other tokens than the run")
        model: Any = backbone.with_head("AutoModel")
    except EasyNLPError as error:
        log.warning("cap goes without the pre-trained model %s: %s", name or "(not named)", error)
        return None
    return Guide(model, first.tokens, range(int(backbone.config.num_hidden_layers)))


def _write_recipe(material: Material, folder: Path) -> None:
    """Write ``train.yaml``: what data the run was trained on, and how, for export and others."""
    config = material.config
    recipe = TrainConfig(
        task=str(material.pipeline.meta["task"]), train=material.sources["train"],
        dev=material.sources["dev"], model=str(material.run), output=str(folder),
        method=config.method, epochs=config.epochs, steps=config.steps,
        batch_size=config.batch_size, lr=config.lr, dropout=config.dropout, seed=config.seed,
        **{name: getattr(config, name) for name in ("text", "text_b", "label", "entities",
                                                    "encoding", "schema", "header", "format")},
    )  # fmt: skip
    write_text(folder / "train.yaml", to_yaml(recipe, material.task.config))
