"""Pre-train an encoder from raw text: vocabulary, packed rows, the one loop, a model folder."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig

from easynlp.atomic import write_folder
from easynlp.config import PretrainConfig, to_yaml
from easynlp.distributed import World, process_group
from easynlp.errors import ConfigError, DataError
from easynlp.methods import apply_methods
from easynlp.models.backbone import Backbone
from easynlp.models.heads import core
from easynlp.pretraining.corpus import Heldout, documents, find_files
from easynlp.pretraining.rows import MaskedRows, PackStats, pack
from easynlp.pretraining.vocabulary import SPECIAL, save_vocabulary, train_vocabulary
from easynlp.tasks.language_modeling import Config, LanguageModeling
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.folder import claim_folder
from easynlp.training.loop import FitOptions, make_forward, to_tensors
from easynlp.training.plan import Plan, task_term
from easynlp.training.precision import pick_device, resolve_precision
from easynlp.training.session import Habits, train_to_folder

__all__ = ["pretrain", "save_model_folder"]

log = logging.getLogger("easynlp")
FINE_TUNING_DROPOUT = 0.1
"""Written into a finished model's configuration: few labels need it, one epoch of text does not."""


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train a BERT encoder by masked language modeling; return its model folder.

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
    _check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device, World.from_environment().local_rank)
    output = Path(config.output)
    files = find_files(config.corpus, config.exclude)
    with process_group(device) as world:
        if world.is_main:
            claim_folder(
                output, to_yaml(config), overwrite=config.overwrite, resume=config.resume,
                name="pretrain", inputs=(*config.corpus, *config.heldout, config.vocab),
            )  # fmt: skip
            _prepare(config, files, output)
        world.wait()
        tokenizer, stats = _prepare(config, files, output)  # there already: read, not made
        plan = _plan(config, tokenizer)
        kept = np.linspace(
            0, stats.rows - 1, min(config.heldout_rows, stats.rows // 10), dtype=np.int64
        )  # spread over the corpus, so all its genres are scored
        learned = np.setdiff1d(np.arange(stats.rows), kept)
        source, score_rows = (_rows(config, output, plan, chosen) for chosen in (learned, kept))
        options = _fit_options(config, len(learned), resolve_precision(config.precision, device))
        train_to_folder(
            plan, source, options, output, device=device, world=world,
            habits=Habits(config.save_every, config.log_every, config.resume),
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
            weights[name] = value.detach().cpu().half().contiguous()

    def fill(target: Path) -> None:
        inner.save_pretrained(target, state_dict=weights)
        settings = copy.deepcopy(inner.config)
        settings.dtype = torch.float32
        settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = FINE_TUNING_DROPOUT
        settings.save_pretrained(target)
        for file in tokenizer.iterdir():
            (target / file.name).write_bytes(file.read_bytes())

    write_folder(folder, fill)


def _check(config: PretrainConfig) -> None:
    if config.hidden_size % config.heads:
        raise ConfigError(
            f"--hidden-size {config.hidden_size} is not a multiple of --heads {config.heads}"
        )
    if config.row_length > config.max_positions:
        raise ConfigError(
            f"--row-length {config.row_length} is longer than "
            f"--max-positions {config.max_positions}"
        )


def _prepare(
    config: PretrainConfig, files: list[Path], output: Path
) -> tuple[Tokenizer, PackStats]:
    """Make the run's vocabulary and packed rows, or read them if they are there."""
    tokenizer = _vocabulary(config, files, output)
    stats = pack(
        files, tokenizer, output / "rows", row_length=config.row_length,
        heldout=_heldout(config), progress=log.info,
    )  # fmt: skip
    log.info("vocabulary: %d tokens; corpus: %s", tokenizer.vocab_size, stats)
    return tokenizer, stats


def _heldout(config: PretrainConfig) -> Heldout | None:
    if not config.heldout:
        return None
    texts: list[str] = []
    for name in config.heldout:
        try:
            texts += Path(name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"cannot read held-out texts: {error.strerror}", path=name) from error
    return Heldout(texts)


def _vocabulary(config: PretrainConfig, files: list[Path], output: Path) -> Tokenizer:
    """Return the run's tokenizer, trained or taken over into ``<output>/tokenizer`` once."""
    folder = output / "tokenizer"
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder)
    if config.vocab is not None:
        given = Path(config.vocab)
        if not given.is_file():
            raise DataError("no such vocabulary file", path=config.vocab)
        tokens = given.read_text(encoding="utf-8").rstrip("\n").split("\n")
        if missing := [token for token in SPECIAL if token not in tokens]:
            raise DataError(f"no vocabulary: {', '.join(missing)} missing", path=config.vocab)
    else:
        log.info("training a vocabulary of %d tokens", config.vocab_size)
        tokens = train_vocabulary(_paragraphs(files), config.vocab_size)
    write_folder(
        folder, lambda target: save_vocabulary(tokens, target, max_length=config.max_positions)
    )
    return Tokenizer.load(folder)


def _paragraphs(files: list[Path]) -> Iterator[str]:
    for file in files:
        for document in documents(file):
            yield from document


def _plan(config: PretrainConfig, tokenizer: Tokenizer) -> Plan:
    shape = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=config.hidden_size,
        num_hidden_layers=config.layers, num_attention_heads=config.heads,
        intermediate_size=config.ffn, max_position_embeddings=config.max_positions,
        pad_token_id=tokenizer.pad_id, hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
    )  # fmt: skip
    task = LanguageModeling(
        Config(max_length=config.row_length, mask_rate=config.mask_rate), tokenizer
    )
    torch.manual_seed(config.seed)
    model = task.build(Backbone("new", shape, tokenizer))
    _start_positions(core(model))
    return apply_methods(Plan(task, model, (task_term(task),)), config.method)


@torch.no_grad()
def _start_positions(model: Any) -> None:
    """Start the position vectors as sinusoids, at the scale of the other embeddings.

    Random ones must each be learned before attention can find a neighbour; sinusoids (Vaswani et
    al. 2017) say from the first step how far apart two tokens are. They are trained on from there.
    """
    table = model.base_model.embeddings.position_embeddings.weight
    count, width = table.shape
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    table *= model.config.initializer_range * math.sqrt(2.0)


def _fit_options(config: PretrainConfig, rows: int, precision: str) -> FitOptions:
    per_epoch = -(-rows // config.batch_size)
    return FitOptions(
        steps=config.steps or max(1, round(config.epochs * per_epoch)),
        batch_size=config.batch_size, batch_tokens=config.batch_size * config.row_length,
        accumulate=config.accumulate, lr=config.lr, weight_decay=config.weight_decay,
        beta2=config.beta2, schedule=config.schedule, warmup=config.warmup,
        max_grad_norm=config.max_grad_norm, precision=precision, eval_every=config.eval_every,
        seed=config.seed,
    )  # fmt: skip


def _rows(config: PretrainConfig, output: Path, plan: Plan, rows: np.ndarray) -> MaskedRows:
    task = plan.task
    assert isinstance(task, LanguageModeling)
    return MaskedRows(
        output / "rows", task, row_length=config.row_length, max_positions=config.max_positions,
        seed=config.seed, rows=rows,
    )  # fmt: skip


@torch.no_grad()
def _score(
    plan: Plan, rows: MaskedRows, options: FitOptions, device: torch.device
) -> dict[str, float]:
    """Return masked accuracy and loss on kept rows, whose masks are always those of epoch 0."""
    forward = make_forward(plan.model, options.precision, device)
    right = loss = holes = 0.0
    for start in range(0, len(rows.lengths), options.batch_size):
        chosen = range(start, min(start + options.batch_size, len(rows.lengths)))
        batch = to_tensors(plan.task.collate([rows.features(i, 0) for i in chosen]), device)
        output = forward(batch)
        right += float((output.logits.argmax(-1) == batch["target"]).sum())
        loss += float(plan.task.loss(output, batch))
        holes += len(batch["target"])
    return {"masked_accuracy": right / max(1.0, holes), "loss": loss / max(1.0, holes)}
