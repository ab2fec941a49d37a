"""What a pre-training run reads: vocabulary, rows or texts, a teacher's vectors; made once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from easynlp.config import PretrainConfig, parse_method
from easynlp.data.sampling import Source
from easynlp.methods import find_method
from easynlp.pretraining.corpus import Heldout, documents, find_files
from easynlp.pretraining.rows import MaskedRows, pack
from easynlp.pretraining.segments import SegmentRows, Segments, encode_segments, write_segments
from easynlp.pretraining.sentence_distill import Axes
from easynlp.pretraining.similar_words import FILE, write_similar_words
from easynlp.pretraining.teacher import Teacher, teach
from easynlp.pretraining.tokenizers import make_tokenizer
from easynlp.tasks.language_modeling import LanguageModeling
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.precision import resolve_precision

__all__ = ["Lesson", "Material", "by_sentence", "by_token", "prepare"]

BY_TOKEN = ("hidden_distill", "relation_distill")
log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Lesson:
    """A teacher, the texts, and its vectors of them if they are used; then also on their axes."""

    teacher: Teacher
    texts: Segments
    raw: np.ndarray | None = None
    axes: Axes | None = None
    vectors: np.ndarray | None = None

    def fitted(self, width: int) -> Lesson:
        """Return the lesson with its vectors on as many principal axes as the student is wide."""
        if self.raw is None:
            return self
        axes = Axes.of(self.raw, width)
        return replace(self, axes=axes, vectors=axes.targets(self.raw))


@dataclass(frozen=True)
class Material:
    """What `prepare` made.

    Attributes:
        count: Rows or texts.
        lesson: What the teacher has to say, if there is one.
    """

    config: PretrainConfig
    tokenizer: Tokenizer
    count: int
    lesson: Lesson | None = None

    def source(self, task: LanguageModeling, rows: np.ndarray) -> Source:
        """Return the given rows as a training source, their words hidden by `task`."""
        config = self.config
        if config.rows == "texts":
            return SegmentRows(
                Path(config.output) / "tokens", task, seed=config.seed, rows=rows,
                vectors=self.lesson.vectors if self.lesson else None,
                texts=self.lesson.texts if self.lesson and by_token(config) else None,
                slack=config.max_positions - config.row_length,
            )  # fmt: skip
        return MaskedRows(
            Path(config.output) / "rows", task, row_length=config.row_length,
            max_positions=config.max_positions, seed=config.seed, rows=rows,
        )  # fmt: skip


def prepare(config: PretrainConfig, device: torch.device) -> Material:
    """Make the run's vocabulary, rows and teacher's vectors, or read them if they are there.

    Raises:
        DataError: If the corpus is missing, not UTF-8 or too small.
        ModelError: If there is no such teacher.
    """
    output = Path(config.output)
    files = find_files(config.corpus, config.exclude)
    tokenizer = _vocabulary(config, files, output)
    log.info("vocabulary: %d tokens", tokenizer.vocab_size)
    heldout = Heldout.read(config.heldout) if config.heldout else None
    if config.rows == "packed":
        stats = pack(
            files, tokenizer, output / "rows", row_length=config.row_length,
            heldout=heldout, progress=log.info, workers=config.workers,
        )  # fmt: skip
        log.info("corpus: %s", ", ".join(f"{n:,} {k}" for k, n in vars(stats).items()))
        _similar_words(config, output / "rows" / "rows.bin", tokenizer, device)
        return Material(config, tokenizer, stats.rows)
    made = Path(config.cache) if config.cache else output
    texts = write_segments(
        files, made / "texts", longest=config.row_length - 2, per_file=config.per_file,
        heldout=heldout, seed=config.seed, progress=log.info,
    )  # fmt: skip
    encode_segments(texts, tokenizer, output / "tokens", config.row_length)
    log.info("corpus: %d texts", len(texts))
    _similar_words(config, output / "tokens" / "tokens.bin", tokenizer, device)
    lesson = _lesson(config, texts, made / "teacher", device) if config.teacher else None
    return Material(config, tokenizer, len(texts), lesson)


def _lesson(config: PretrainConfig, texts: Segments, folder: Path, device: torch.device) -> Lesson:
    assert config.teacher is not None
    teacher = Teacher(
        config.teacher, pooling=config.teacher_pooling, prefix=config.teacher_prefix,
        max_length=config.row_length, device=device,
        precision=resolve_precision(config.precision, device),
    )  # fmt: skip
    if not by_sentence(config):
        return Lesson(teacher, texts)
    vectors = teach(teacher, texts, folder, key=texts.fingerprint(), progress=log.info)
    return Lesson(teacher, texts, vectors)


def by_token(config: PretrainConfig) -> bool:
    """Return whether a method asks the teacher about every token."""
    return bool(_methods(config) & set(BY_TOKEN))


def by_sentence(config: PretrainConfig) -> bool:
    """Return whether the teacher's sentence vectors are used."""
    return config.embeddings != "random" or "sentence_distill" in _methods(config)


def _methods(config: PretrainConfig) -> set[str]:
    """Return the methods' bare names, however they were written."""
    return {parse_method(spec, find_method)[0].rpartition(":")[2] for spec in config.method}


def _similar_words(
    config: PretrainConfig, tokens: Path, tokenizer: Tokenizer, device: torch.device
) -> None:
    if config.masking == "similar" and config.similar_words is None:
        path = Path(config.output) / FILE
        write_similar_words(tokens, tokenizer, path, model=config.similar_model, device=device)


def _vocabulary(config: PretrainConfig, files: list[Path], output: Path) -> Tokenizer:
    """Return the run's tokenizer, trained or taken over into ``<output>/tokenizer`` once."""
    return make_tokenizer(config, output / "tokenizer", lambda: _paragraphs(files))


def _paragraphs(files: list[Path]) -> Iterator[str]:
    for file in files:
        for document in documents(file):
            yield from document
