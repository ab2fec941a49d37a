"""Pre-train an encoder from raw text: vocabulary, packed rows, the one loop, a model folder."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from easynlp.atomic import write_folder
from easynlp.config import PretrainConfig, to_yaml
from easynlp.data.sampling import Source
from easynlp.distributed import World, process_group
from easynlp.errors import ConfigError, DataError
from easynlp.methods import apply_methods
from easynlp.models.backbone import Backbone, set_dropout
from easynlp.models.heads import core, start_pooler
from easynlp.models.ngram_bert import set_token_codes
from easynlp.pretraining.architectures import start_positions
from easynlp.pretraining.bag_start import BAG, start_as_bag
from easynlp.pretraining.corpus import find_files
from easynlp.pretraining.material import BY_TOKEN, Material, by_sentence, by_token, prepare
from easynlp.pretraining.objectives import fit_positions, make_task, settle, starting_backbone
from easynlp.pretraining.sentence_distill import start_embeddings, turn_to
from easynlp.pretraining.teacher import check_teacher
from easynlp.pretraining.token_distill import TaughtModeling
from easynlp.pretraining.vocabulary import SPECIAL, read_vocabulary, save_vocabulary
from easynlp.pretraining.vocabulary_transfer import cut_vocabulary
from easynlp.tasks.span_corruption import SENTINELS
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.folder import claim_folder
from easynlp.training.loop import FitOptions, make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from easynlp.training.precision import pick_device, resolve_precision
from easynlp.training.session import Habits, train_to_folder
from easynlp.training.throughput import (
    counted_flops_per_token,
    flops_per_token,
    throughput_of_run,
)

__all__ = ["pretrain", "save_model_folder"]

log = logging.getLogger("easynlp")
FINE_TUNING_DROPOUT = 0.1
"""Written into a finished model's configuration: few labels need it, one epoch of text does not."""


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train a model from raw text, by default BERT by masked language modeling.

    The vocabulary and the packed rows are kept in the run folder, so a run taken up again with
    ``resume`` starts training at once, at the step it was stopped at, to the same weights.

    Args:
        config: Options; see `PretrainConfig`.

    Returns:
        ``<output>/model``: configuration, fp16 weights and tokenizer, which ``--model`` and
        stock transformers load (as fp32).

    Raises:
        ConfigError: If options do not fit each other or the output folder is taken.
        DataError: If the corpus is missing, not UTF-8 or too small.
        Interrupted: After saving, on SIGINT or SIGTERM.
    """
    config = settle(config)
    _check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device, World.from_environment().local_rank)
    output = Path(config.output)
    find_files(config.corpus, config.exclude)  # complain before a folder is made
    for name in (*config.heldout, config.similar_words, config.vocab):
        if name is not None and not Path(name).is_file():
            raise DataError("no such file", path=name)
    if config.teacher is not None:
        check_teacher(Backbone.load(config.teacher))
    _rehearse(config)
    with process_group(device) as world:
        if world.is_main:
            claim_folder(
                output, to_yaml(config), overwrite=config.overwrite, resume=config.resume,
                name="pretrain", inputs=(*config.corpus, *config.heldout, config.vocab, config.init,
                                         config.config_json, config.similar_words,
                                         config.similar_model, config.teacher, config.cache),
            )  # fmt: skip
            material = prepare(config, device)
        world.wait()
        if not world.is_main:
            material = prepare(config, device)  # there already: read, not made
        plan, material = _plan(config, material)
        material = replace(material, config=fit_positions(config, core(plan.model).config))
        most = material.count // 10
        if most < config.heldout_rows:
            log.warning("held out: %d rows, a tenth of the corpus, not %d", most,
                        config.heldout_rows)  # fmt: skip
        kept = np.linspace(
            0, material.count - 1, min(config.heldout_rows, most), dtype=np.int64
        )  # spread over the corpus, so all its genres are scored
        learned = np.setdiff1d(np.arange(material.count), kept)
        task: Any = plan.task
        source, score_rows = (material.source(task, chosen) for chosen in (learned, kept))
        # ELECTRA has two encoders, T5 rows of two lengths: there PyTorch counts.
        predicted = {"mlm": config.mask_rate, "causal": 1.0}.get(config.objective or "mlm")
        flops = (
            flops_per_token(plan.model, source.lengths, predicted=predicted)
            if predicted else counted_flops_per_token(plan, source, device)
        )  # fmt: skip
        if config.embeddings == "bag":
            start_as_bag(
                plan, source, output / BAG, epochs=config.bag_epochs, seed=config.seed,
                device=device, world=world, progress=log.info,
            )  # fmt: skip
        options = _fit_options(config, len(learned), resolve_precision(config.precision, device))
        train_to_folder(
            plan, source, options, output, device=device, world=world,
            habits=Habits(
                config.save_every, config.log_every, config.resume,
                throughput=throughput_of_run(
                    flops, output, device=device, precision=options.precision, world=world
                ),
            ),
            evaluate=lambda: _score(plan, score_rows, options, device),
        )  # fmt: skip
        if world.is_main:
            save_model_folder(plan.model, output / "tokenizer", output / "model")
        world.wait()
    return output / "model"


def save_model_folder(model: torch.nn.Module, tokenizer: Path, folder: Path) -> None:
    """Write an encoder with its language-model head as fp16 safetensors, whole or not at all.

    The configuration says float32, so loaders widen the weights: fp16 arithmetic is some
    hundred times slower on a CPU.

    Args:
        model: A task's model or a transformers model; left as it is.
        tokenizer: Folder of the tokenizer's files, copied beside the weights.
        folder: Where to write.
    """
    inner: Any = core(model)
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()  # tied weights are stored once; loading ties them again
    for name, value in inner.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            value = value.detach().cpu().contiguous()
            weights[name] = value.half() if value.is_floating_point() else value

    def fill(target: Path) -> None:
        inner.save_pretrained(target, state_dict=weights)
        settings = copy.deepcopy(inner.config)
        settings.dtype = torch.float32
        set_dropout(settings, FINE_TUNING_DROPOUT)
        settings.save_pretrained(target)
        for file in tokenizer.iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    write_folder(folder, fill)


def _check(config: PretrainConfig) -> None:
    if config.init is None and config.hidden_size % config.heads:
        raise ConfigError(
            f"--hidden-size {config.hidden_size} is not a multiple of --heads {config.heads}"
        )
    if config.row_length > config.max_positions:
        raise ConfigError(
            f"--row-length {config.row_length} is longer than "
            f"--max-positions {config.max_positions}"
        )
    if config.rows == "packed" and (config.teacher or config.per_file):
        given = "--teacher" if config.teacher else "--per-file"
        raise ConfigError(f"{given} works on texts: add --rows texts")
    if config.embeddings != "random" and not config.teacher:
        raise ConfigError(f"--embeddings {config.embeddings} needs --teacher")
    if config.teacher and not (by_sentence(config) or by_token(config)):
        raise ConfigError(
            "--teacher is asked nothing: add --method sentence_distill, hidden_distill or "
            "relation_distill, or --embeddings teacher or bag"
        )
    if not config.teacher and (by_sentence(config) or by_token(config)):
        raise ConfigError("a student is taught by a teacher: give --teacher and --rows texts")
    if config.cache and config.rows == "packed":
        raise ConfigError("--cache keeps texts and a teacher's vectors: add --rows texts")


def _rehearse(config: PretrainConfig) -> None:
    """Make model and methods without memory: cheap mistakes are told before a folder is made.

    Raises:
        ConfigError: If the shape's options or a method's do not fit.
        DataError: If the vocabulary file is none.
    """
    if config.vocab is not None:
        read_vocabulary(Path(config.vocab))
    if config.cut_vocab and config.init is not None:
        cut_vocabulary(Backbone.load(config.init).tokenizer, Counter(), config.cut_vocab)
    extra = SENTINELS if config.objective == "t5" else ()
    with tempfile.TemporaryDirectory() as folder:
        save_vocabulary([*SPECIAL, *extra], Path(folder), max_length=8, extra=extra)
        tokenizer = Tokenizer.load(folder)
    task = make_task(config, tokenizer)
    backbone = starting_backbone(config, tokenizer)
    with torch.device("meta"):
        plan = Plan(task, task.build(replace(backbone, folder=None)), (task_term(task),))
        apply_methods(plan, [m for m in config.method if m.partition(":")[0] not in BY_TOKEN])


def _plan(config: PretrainConfig, material: Material) -> tuple[Plan, Material]:
    """Return what to train, and the material with the teacher's vectors as wide as the model."""
    tokenizer = material.tokenizer
    lesson = material.lesson
    task = make_task(config, tokenizer)
    if lesson is not None and by_token(config):
        task = TaughtModeling(task.config, tokenizer, lesson.teacher)
    torch.manual_seed(config.seed)
    model = task.build(starting_backbone(config, tokenizer))
    if config.init is None:
        start_positions(core(model))
        if core(model).config.model_type == "ngram_bert":
            set_token_codes(core(model), tokenizer.tokens(), task.special)
    if lesson is not None:
        lesson = lesson.fitted(core(model).config.hidden_size)
        material = replace(material, lesson=lesson)
    if lesson is not None and lesson.axes is not None and config.embeddings == "teacher":
        start_embeddings(core(model).base_model, tokenizer, lesson.teacher, lesson.axes)
    plan = apply_methods(Plan(task, model, (task_term(task),)), config.method)
    if config.init is not None:
        start_pooler(core(model).base_model, Backbone.load(config.init).folder)
        if lesson is not None and lesson.axes is not None:
            turn_to(lesson.axes, getattr(plan.model, "to_teacher", None))
    return plan, material


def _fit_options(config: PretrainConfig, rows: int, precision: str) -> FitOptions:
    per_epoch = -(-rows // config.batch_size)
    return FitOptions(
        steps=config.steps or max(1, round(config.epochs * per_epoch)),
        batch_size=config.batch_size, batch_tokens=config.batch_size * config.row_length,
        accumulate=config.accumulate,
        activation_checkpointing=config.activation_checkpointing, optimizer=config.optimizer,
        lr=config.lr, weight_decay=config.weight_decay,
        beta2=config.beta2, schedule=config.schedule, warmup=config.warmup,
        max_grad_norm=config.max_grad_norm, precision=precision, eval_every=config.eval_every,
        seed=config.seed,
    )  # fmt: skip


@torch.no_grad()
def _score(plan: Plan, rows: Source, options: FitOptions, device: torch.device) -> dict[str, float]:
    """Return the task's accuracy and every term's loss on kept rows, masked as in epoch 0."""
    forward = make_forward(plan.model, options.precision, device)
    right = holes = 0.0
    losses = np.zeros(len(plan.terms))
    targets = np.zeros(len(plan.terms))
    for start in range(0, len(rows.lengths), options.batch_size):
        chosen = range(start, min(start + options.batch_size, len(rows.lengths)))
        collated = plan.task.collate([rows.features(i, 0) for i in chosen])
        batch = to_tensors(collated, device)
        run = Pass(forward, plan.model, batch, forward(batch))
        right += float((run.output.logits.argmax(-1) == batch["target"]).sum())
        holes += len(batch["target"])
        with torch.enable_grad():  # a term may take gradients of its own (fgm)
            losses += [float(term.compute(run).detach()) for term in plan.terms]
        targets += plan.counts(collated)
    names = (term.name for term in plan.terms)
    means = (losses / np.maximum(targets, 1.0)).tolist()
    return {plan.task.metric: right / max(1.0, holes), **dict(zip(names, means, strict=True))}
