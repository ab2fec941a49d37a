"""The tokenizer of a corpus, and its text as packed rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from easynlp.atomic import write_folder
from easynlp.pretraining.corpora.settings import CorpusConfig
from easynlp.pretraining.corpus import documents
from easynlp.pretraining.packing import pack
from easynlp.pretraining.vocabulary import read_vocabulary, save_vocabulary, train_vocabulary
from easynlp.text.tokenizer import Tokenizer

__all__ = ["tokenize"]

SAMPLE = 100_000_000
"""Characters a vocabulary is trained on at most, spread evenly: more changes few tokens, and
the trainer keeps every word it sees in memory."""
MAX_LENGTH = 512
"""Tokens stock transformers will take the tokenizer to be meant for."""


def tokenize(
    config: CorpusConfig, output: Path, characters: int, progress: Callable[[str], None]
) -> dict[str, Any] | None:
    """Tokenize the text of a corpus into ``tokens``; return counts, None if not asked to.

    Args:
        config: Names the tokenizer.
        output: The corpus, its text complete.
        characters: Of the text.
        progress: Called with lines of text.

    Raises:
        DataError: If the vocabulary cannot be read or the text does not fill a row.
        ModelError: If there is no such model.
    """
    if not config.tokenize:
        return None
    files = sorted((output / "text").iterdir())
    folder = output / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        _make_tokenizer(config, folder, files, characters, progress)
    tokenizer = Tokenizer.load(folder)
    stats = pack(
        files, tokenizer, output / "tokens", row_length=config.row_length, progress=progress,
        workers=config.workers,
    )  # fmt: skip
    made = {"fingerprint": tokenizer.fingerprint(), "vocab_size": tokenizer.vocab_size}
    return asdict(stats) | {"row_length": config.row_length, "tokenizer": made}


def _make_tokenizer(
    config: CorpusConfig,
    folder: Path,
    files: Sequence[Path],
    characters: int,
    progress: Callable[[str], None],
) -> None:
    if config.model is not None:
        from easynlp.models.backbone import Backbone

        backbone = Backbone.load(config.model)
        write_folder(folder, lambda target: _copy(backbone, target))
        return
    if config.vocab is not None:
        tokens = read_vocabulary(Path(config.vocab))
    else:
        progress(f"training a vocabulary of {config.vocab_size:,} tokens")
        tokens = train_vocabulary(_sample(files, -(-characters // SAMPLE)), config.vocab_size)
    write_folder(folder, lambda target: save_vocabulary(tokens, target, max_length=MAX_LENGTH))


def _copy(backbone: Any, target: Path) -> None:
    backbone.save_tokenizer(target)
    vocabulary = backbone.tokenizer.backend.get_vocab()
    if not (target / "vocab.txt").is_file():
        tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
        (target / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")


def _sample(files: Sequence[Path], every: int) -> Iterator[str]:
    """Yield the paragraphs of one in `every` documents."""
    number = 0
    for file in files:
        for document in documents(file):
            if number % every == 0:
                yield from document
            number += 1
