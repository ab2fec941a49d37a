"""The tokenizer of a run: trained, given as a vocabulary, or a checkpoint's, whole or cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from easynlp.atomic import write_folder
from easynlp.config import PretrainConfig
from easynlp.models.backbone import Backbone
from easynlp.pretraining.layer_choice import chosen_layers, keep_layers
from easynlp.pretraining.objectives import OBJECTIVES, START
from easynlp.pretraining.vocabulary import read_vocabulary, save_vocabulary, train_vocabulary
from easynlp.pretraining.vocabulary_transfer import (
    count_tokens,
    cut_vocabulary,
    transfer_vocabulary,
)
from easynlp.tasks import find_task
from easynlp.tasks.span_corruption import SENTINELS
from easynlp.text.tokenizer import Tokenizer

__all__ = ["make_tokenizer"]

log = logging.getLogger("easynlp")


def make_tokenizer(
    config: PretrainConfig, folder: Path, texts: Callable[[], Iterable[str]]
) -> Tokenizer:
    """Return the run's tokenizer, made in a folder once.

    With ``init`` it is the checkpoint's. If that is to be cut or swapped, or only some layers are
    to stay, the checkpoint is written anew, into ``<output>/start``.

    Args:
        config: Settled options.
        folder: Where its files go.
        texts: Returns the paragraphs of the corpus.

    Raises:
        DataError: If the vocabulary file is missing or lacks a special token.
        ConfigError: If the checkpoint's vocabulary cannot be cut.
        ModelError: If there is no such checkpoint.
    """
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder)
    extra = SENTINELS if config.objective == "t5" else ()
    if config.init is None:
        if config.vocab is not None:
            tokens = _given(config.vocab, extra)
        else:
            log.info("training a vocabulary of %d tokens", config.vocab_size)
            tokens = train_vocabulary(texts(), config.vocab_size, extra=extra)
        save = partial(save_vocabulary, tokens, max_length=config.max_positions, extra=extra)
        write_folder(folder, save)
        return Tokenizer.load(folder)
    backbone = Backbone.load(config.init)
    if config.vocab is None and not config.cut_vocab and not config.keep_layers:
        write_folder(folder, backbone.save_tokenizer)
        return Tokenizer.load(folder)
    staged = folder.parent / START
    fill: Callable[[Path], None] = backbone.save_tokenizer
    if config.vocab is not None:
        chosen = _given(config.vocab, extra)
        fill = partial(save_vocabulary, chosen, max_length=config.max_positions, extra=extra)
    elif config.cut_vocab:
        log.info("cutting the vocabulary of %s to %d tokens", config.init, config.cut_vocab)
        counts = count_tokens(texts(), backbone.tokenizer)
        smaller = cut_vocabulary(backbone.tokenizer, counts, config.cut_vocab)
        fill = partial(_save_cut, backbone, smaller)

    def start(target: Path) -> None:
        fill(target)
        torch.manual_seed(config.seed)  # a head the checkpoint lacks starts at random
        architecture = find_task(OBJECTIVES[config.objective or "mlm"].task).architecture
        model = backbone.with_head(architecture)
        if config.keep_layers:
            model = keep_layers(model, chosen_layers(config.keep_layers, backbone.config))
        if config.vocab is not None or config.cut_vocab:
            model = transfer_vocabulary(model, backbone.tokenizer, Tokenizer.load(target))
        model.save_pretrained(target)

    write_folder(staged, start)
    write_folder(folder, fill)  # last: it says that all is there
    return Tokenizer.load(folder)


def _given(path: str, extra: Sequence[str]) -> list[str]:
    """Return the tokens of a vocabulary file, sentinels it lacks added."""
    tokens = read_vocabulary(Path(path))
    return tokens + [token for token in extra if token not in tokens]


def _save_cut(backbone: Backbone, smaller: Tokenizer, folder: Path) -> None:
    """Write a cut tokenizer; files of the old vocabulary beside it would contradict it."""
    backbone.save_tokenizer(folder)
    for name in ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "vocab.json",
                 "merges.txt", "added_tokens.json"):  # fmt: skip
        (folder / name).unlink(missing_ok=True)
    smaller.save(folder)
    vocabulary = smaller.backend.get_vocab()
    if any(token.startswith("##") for token in vocabulary):
        lines = sorted(vocabulary, key=lambda token: vocabulary[token])
        (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
