"""Small models by name: ``text_cnn``, ``bilstm`` and ``hashed_ngram``, with sizes in the name.

They start from random weights, so nothing is fetched: ``bilstm:units=64,layers=2`` says it all.
An entry of `STUDENTS` is a dataclass of sizes that makes a configuration and a tokenizer. Needs
no torch until one is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from easynlp.errors import ModelError, did_you_mean
from easynlp.options import Range, convert, hints

if TYPE_CHECKING:
    from easynlp.models.light import LightConfig
    from easynlp.text.tokenizer import Tokenizer

__all__ = ["STUDENTS", "BiLstm", "HashedNgram", "Student", "TextCnn", "read_student"]

Size = Annotated[int, Range(1)]
Rate = Annotated[float, Range(0, 0.9)]


class Student(Protocol):
    """Sizes of a small model."""

    def make(self) -> tuple[LightConfig, Tokenizer]:
        """Return the transformers configuration of these sizes, and the tokenizer.

        Raises:
            ModelError: If a size is wrong, or the tokenizer's model cannot be had.
        """


@dataclass(frozen=True)
class TextCnn:
    """Sizes of ``text_cnn``."""

    width: Size = 128
    """Of the token vectors."""
    filters: Size = 128
    """Of each kernel size."""
    kernels: str = "2+3+4"
    """Tokens that a filter looks at."""
    dropout: Rate = 0.3
    tokenizer: str = "tiny-zh"
    """Model whose tokenizer to read with."""

    def make(self) -> tuple[LightConfig, Tokenizer]:
        """Return the configuration and the tokenizer; see `Student`."""
        from easynlp.models.light import TextCnnConfig

        try:
            sizes = [int(part) for part in self.kernels.split("+")]
        except ValueError:
            sizes = []
        if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ModelError(f'text_cnn, kernels: "{self.kernels}"; valid: numbers such as 2+3+4')
        tokenizer = _tokenizer_of(self.tokenizer)
        config = TextCnnConfig(
            vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id,
            embedding_size=self.width, filters=self.filters, kernel_sizes=sizes,
            hidden_dropout_prob=self.dropout,
        )  # fmt: skip
        return config, tokenizer


@dataclass(frozen=True)
class BiLstm:
    """Sizes of ``bilstm``."""

    width: Size = 128
    """Of the token vectors."""
    units: Size = 128
    """Of one direction."""
    layers: Annotated[int, Range(1, 8)] = 1
    pooling: Literal["max", "last"] = "max"
    """What stands for a text: the largest of each unit, or where each direction ends."""
    dropout: Rate = 0.3
    tokenizer: str = "tiny-zh"
    """Model whose tokenizer to read with."""

    def make(self) -> tuple[LightConfig, Tokenizer]:
        """Return the configuration and the tokenizer; see `Student`."""
        from easynlp.models.light import BiLstmConfig

        tokenizer = _tokenizer_of(self.tokenizer)
        config = BiLstmConfig(
            vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id,
            embedding_size=self.width, units=self.units, num_hidden_layers=self.layers,
            text_pooling=self.pooling, hidden_dropout_prob=self.dropout,
        )  # fmt: skip
        return config, tokenizer


@dataclass(frozen=True)
class HashedNgram:
    """Sizes of ``hashed_ngram``."""

    buckets: Annotated[int, Range(2)] = 65_521
    """Vectors that all n-grams share; a prime number hashes best."""
    orders: Annotated[int, Range(1, 8)] = 4
    """Characters of the longest n-gram."""
    width: Size = 32
    """Of an n-gram's vector."""
    dropout: Rate = 0.0

    def make(self) -> tuple[LightConfig, Tokenizer]:
        """Return the configuration and the tokenizer; see `Student`."""
        from easynlp.models.light import HashedNgramConfig
        from easynlp.text.hashed_ngrams import HashedNgrams

        tokenizer = HashedNgrams(self.buckets, self.orders)
        config = HashedNgramConfig(
            vocab_size=tokenizer.vocab_size, embedding_size=self.width,
            hidden_dropout_prob=self.dropout,
        )  # fmt: skip
        return config, tokenizer


STUDENTS: dict[str, type[TextCnn] | type[BiLstm] | type[HashedNgram]] = {
    "text_cnn": TextCnn,
    "bilstm": BiLstm,
    "hashed_ngram": HashedNgram,
}


def read_student(name: str) -> Student | None:
    """Return the sizes that a name stands for, or None if it is no student's.

    Args:
        name: ``bilstm``, or with sizes ``bilstm:units=64,layers=2``.

    Raises:
        ModelError: If there is no such size, or it is out of range.

    Example:
        >>> read_student("bilstm:units=64")
        BiLstm(width=128, units=64, layers=1, pooling='max', dropout=0.3, tokenizer='tiny-zh')
        >>> read_student("tiny-zh") is None
        True
    """
    head, colon, rest = name.partition(":")
    kind = STUDENTS.get(head)
    if kind is None:
        return None
    types: dict[str, object] = hints(kind)  # type: ignore[arg-type]
    chosen: dict[str, object] = {}
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in types or key in chosen:
            problem = f'"{part}" is not size=value' if not equals else f'there is no size "{key}"'
            problem = f"{key} is given twice" if key in chosen else problem
            raise ModelError(
                f"--model {name}: {problem}.{did_you_mean(key, types)} "
                f"Sizes of {head}: {', '.join(types)}"
            )
        try:
            chosen[key] = convert(value, types[key])
        except ValueError as error:
            raise ModelError(f"--model {name}: {key}: {error}") from error
    return kind(**chosen)  # type: ignore[arg-type]


def _tokenizer_of(name: str) -> Tokenizer:
    """Return the tokenizer of another model, whose weights are not looked at."""
    from easynlp.models.backbone import Backbone

    return Backbone.load(f"random:{name}").tokenizer
