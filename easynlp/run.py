"""READ THIS FIRST: how a run goes. Config -> data -> plan -> fit -> score -> save.

Every verb of the command line is a function here that reads like a recipe; each step is one
call into the room that does it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from easynlp import dataset
from easynlp.config import TrainConfig, to_yaml
from easynlp.data.sampling import EncodedRows
from easynlp.distributed import World, process_group
from easynlp.errors import ConfigError
from easynlp.methods import apply_methods
from easynlp.models.backbone import Backbone
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.tasks import find_task
from easynlp.tasks.base import MakesRows
from easynlp.text.label_words import Verbalizer, are_words
from easynlp.training.depth import freeze
from easynlp.training.folder import check_folder, claim_folder, save_weights
from easynlp.training.head import LabelNames, Probe
from easynlp.training.loop import FitOptions
from easynlp.training.memory import checkpoint_activations
from easynlp.training.plan import Plan, task_term
from easynlp.training.precision import pick_device, resolve_precision
from easynlp.training.session import Habits, train_to_folder

__all__ = ["train"]

log = logging.getLogger("easynlp")
FEW_ROWS = 64
"""A label, on average: with more, what it is called adds nothing that the rows do not say."""


def train(config: TrainConfig, task_config: Any = None) -> Pipeline:
    """Fine-tune a model on labelled data; return the best checkpoint, ready to predict.

    Args:
        config: Options of the run; see `TrainConfig`.
        task_config: Options of the task, an instance of its ``Config``; None takes the defaults.

    Returns:
        The saved run, as `easynlp.load` would return it.

    Raises:
        ConfigError: If options are wrong or the output folder is taken.
        DataError: If a file or row is wrong, with its place.
        ModelError: If the model cannot be had.
        Interrupted: After saving, on SIGINT or SIGTERM.
    """
    task_type = find_task(config.task)
    task_config = task_config if task_config is not None else task_type.Config()
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device, World.from_environment().local_rank)
    precision = resolve_precision(config.precision, device)
    folder = Path(config.output)
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": "train",
        "written": to_yaml(config, task_config),
        "inputs": (config.model, config.train, config.dev, config.test),
    }  # fmt: skip
    check_folder(folder, **claim)
    if config.resume:
        dataset.check_fingerprints(config, folder)

    backbone = Backbone.load(config.model)
    if config.dropout is not None:
        backbone = backbone.with_dropout(config.dropout)
    data = dataset.read(config, task_type, task_config, backbone.tokenizer)
    torch.manual_seed(config.seed)
    plan = Plan(
        data.task, data.task.build(backbone), (task_term(data.task),), backbone,
        data.task.training_rows if isinstance(data.task, MakesRows) else None,
    )  # fmt: skip
    plan = apply_methods(plan, config.method)
    freeze(plan.model, config.freeze_layers, embeddings=config.freeze_embeddings)
    if config.activation_checkpointing:
        checkpoint_activations(plan.model)  # models that cannot are told before a folder is made
    features = dataset.encode(plan.task, data)
    rows = EncodedRows.of(features["train"])
    pipeline = Pipeline(plan.task, TorchModel(plan.model, "fp32", device))

    def score(split: str) -> Mapping[str, float]:
        examples = data.examples(split)
        return plan.task.score(pipeline.infer(features[split], examples), examples)

    has_dev = "dev" in features
    plan.model.to(device)
    probe = Probe(config.probe, config.probe_strength, plan, rows,
                  (lambda: score("dev")) if has_dev else None,
                  label_names(config, plan.task, len(rows.rows)))  # fmt: skip

    with process_group(device) as world:
        if world.is_main:
            claim_folder(folder, **claim)
            dataset.write_fingerprints(config, data, folder)
        world.wait()
        probe.before()
        state = train_to_folder(
            plan, rows, fit_options(config, len(rows.rows), precision), folder,
            device=device, world=world,
            habits=Habits(config.save_every, config.log_every, config.resume),
            evaluate=probe.evaluate if has_dev else None,
        )  # fmt: skip
        best = probe.after(state.best_step or state.step, state.best_score)
        scores = {split: score(split) for split in features if split != "train"}
        for split, found in scores.items():
            log.info("%s: %s", split, "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
        if world.is_main:
            about = make_meta(
                plan.task, base_model=config.model, columns=data.columns, scores=scores,
                best_step=best,
            )  # fmt: skip
            save_weights(folder, plan.model, replace(backbone, tokenizer=plan.task.tokenizer))
            save_meta(folder, about)
        world.wait()
    return Pipeline.load(folder, backend="torch")


def label_names(config: TrainConfig, task: Any, rows: int) -> LabelNames | None:
    """Return what a task's labels are called, for a fitted head; None if nothing is said of it.

    Raises:
        ConfigError: If the task has no labels to call, or a label has no name.
    """
    written, labels = config.label_names, list(getattr(task, "labels", ()))
    single = [each.name for each in task.fields] == ["text", "label"]
    single = single and not getattr(task.config, "multi_label", False)
    if written == "auto":
        few = rows <= FEW_ROWS * len(labels)
        fits = config.probe != "no" and single and few and are_words(labels)
        written = "labels" if fits else "no"
    if written in ("", "no") or config.probe == "no":
        return None
    if not labels or not single:
        raise ConfigError(
            f"--label-names is for texts with one label each, and this {task.name} is not of that "
            "kind; leave it out"
        )
    known = Verbalizer.parse("" if written == "labels" else written, labels)
    named = [{"text": "，".join(words), "label": label}
             for label, words in zip(known.labels, known.words, strict=True)]  # fmt: skip
    return LabelNames(EncodedRows.of([task.encode(row) for row in named]))


def fit_options(config: TrainConfig, rows: int, precision: str) -> FitOptions:
    """Turn a run's options into the loop's: epochs become steps."""
    per_epoch = -(-rows // config.batch_size)
    steps = config.steps or max(1, round(config.epochs * per_epoch))
    return FitOptions(
        steps=0 if config.probe == "only" else steps,
        batch_size=config.batch_size, batch_tokens=config.batch_tokens,
        accumulate=config.accumulate,
        activation_checkpointing=config.activation_checkpointing, optimizer=config.optimizer,
        lr=config.lr, weight_decay=config.weight_decay,
        schedule=config.schedule, warmup=config.warmup, max_grad_norm=config.max_grad_norm,
        precision=precision, eval_every=config.eval_every or per_epoch, patience=config.patience,
        seed=config.seed, layer_decay=config.layer_decay,
    )  # fmt: skip
