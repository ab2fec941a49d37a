"""Train a WordPiece vocabulary: every common character, and the pieces of everything else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers

from easynlp.errors import DataError

__all__ = ["SPECIAL", "read_vocabulary", "save_vocabulary", "train_vocabulary"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
"""Tokens every vocabulary must have."""


def train_vocabulary(
    texts: Iterable[str], size: int, *, min_frequency: int = 5, extra: Sequence[str] = ()
) -> list[str]:
    """Return a BERT vocabulary of at most `size` tokens, special tokens first.

    Chinese characters are always tokens of their own, as in BERT, so nearly all of the
    vocabulary is its alphabet: three quarters are reserved for single characters by frequency,
    and the rest goes to the pieces of Latin words, numbers and the like.

    Args:
        texts: Raw paragraphs.
        size: Most tokens.
        min_frequency: A piece seen less often is not made.
        extra: More special tokens (sentinels), after the usual ones.

    Example:
        >>> train_vocabulary(["深度学习"] * 9, 12)[:6]
        ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '习']
    """
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=min_frequency, limit_alphabet=size * 3 // 4,
        special_tokens=[*SPECIAL, *extra], show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    vocabulary = backend.get_vocab()
    return sorted(vocabulary, key=lambda token: vocabulary[token])


def read_vocabulary(path: Path) -> list[str]:
    """Return the tokens of a ``vocab.txt``.

    Raises:
        DataError: If the file is missing or not UTF-8, or a special token is not in it.
    """
    if not path.is_file():
        raise DataError("no such vocabulary file", path=str(path))
    try:
        tokens = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"no vocabulary: byte 0x{error.object[error.start]:02x} is not UTF-8", path=str(path),
            line=error.object.count(b"\n", 0, error.start) + 1,
        ) from error  # fmt: skip
    if missing := [token for token in SPECIAL if token not in tokens]:
        raise DataError(f"no vocabulary: {', '.join(missing)} missing", path=str(path))
    return tokens


def save_vocabulary(
    tokens: list[str], folder: Path, *, max_length: int, extra: Sequence[str] = ()
) -> None:
    """Write a BERT tokenizer into a model folder, as transformers lays it out.

    Args:
        tokens: Tokens in the order of their ids.
        folder: An existing folder.
        max_length: Most tokens the model has positions for.
        extra: Tokens that are never cut up, such as sentinels.
    """
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    if extra:
        tokenizer.add_special_tokens({"additional_special_tokens": list(extra)})
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
