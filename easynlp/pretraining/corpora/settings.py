"""Options of ``easynlp corpus build``; docstrings are the help of their flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from easynlp.config import ONCE, Count, Share
from easynlp.errors import ConfigError
from easynlp.options import Range

__all__ = ["CorpusConfig"]

Limit = Annotated[int, Range(0)]


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """Options of ``easynlp corpus build``."""

    sources: tuple[str, ...]
    """Files, or folders of them: .txt (a paragraph a line, blank lines between documents) and
    .jsonl (a document a row), each also .gz and .zst."""
    output: str
    """Folder of the corpus: text, tokens, tokenizer, and the report corpus.json."""
    text: str | None = None
    """Column of .jsonl files that holds the text (guessed from the usual names)."""
    exclude: tuple[str, ...] = ()
    """Names of source files to leave out, without suffix."""
    heldout: tuple[str, ...] = ()
    """Files the corpus must not show: a line of a .txt, every string in a row of other formats.
    A paragraph that shares 30 characters in a row with one of them is left out."""
    workers: Count = 2
    """Processes; the result does not depend on how many."""
    overwrite: bool = field(default=False, metadata=ONCE)
    """Delete what is in the output folder first."""
    resume: bool = field(default=False, metadata=ONCE)
    """Go on after the last finished shard."""
    shard_characters: Annotated[int, Range(1000)] = 2_000_000
    """Characters of a shard, the unit of work that is resumed at and given to a process."""

    nfkc: bool = False
    """Write compatibility characters plainly (full-width letters, ㎡), by Unicode's NFKC."""
    language: Literal["zh", "any"] = "zh"
    """zh leaves out paragraphs that are not Chinese; any takes all."""
    min_chinese: Share = 0.3
    """With --language zh: least share of Chinese characters among letters and digits."""
    min_paragraph: Limit = 2
    """Fewest characters of a paragraph."""
    max_paragraph: Count = 20_000
    """Most characters of a paragraph; more is seldom prose."""
    min_document: Limit = 8
    """Fewest characters of a document."""
    max_symbols: Share = 0.5
    """Most of a paragraph's characters that are neither letters, digits nor spaces."""
    max_repeats: Share = 0.4
    """Most of a paragraph's stretches of 8 characters that stood in it before."""
    max_repeated_lines: Share = 0.5
    """Most of a document's paragraphs that stood in it before."""
    boilerplate: Limit = 60
    """Paragraphs up to this many characters that speak of copyright, menus, log-ins and the
    like are left out; 0: never."""

    duplicates: Literal["near", "exact", "keep"] = "near"
    """exact leaves out documents and paragraphs seen before; near also documents much like one
    before; keep leaves out none."""
    min_duplicate: Count = 16
    """Shorter paragraphs may stand in several documents."""
    similarity: Annotated[float, Range(0.5, 1)] = 0.8
    """Share of common stretches of 5 characters (Jaccard) from which documents are near."""

    tokenize: bool = True
    """Also tokenize, into rows easynlp pretrain reads as they are."""
    model: str | None = None
    """Tokenize as this model does: tiny-zh, a local folder, or a hub id."""
    vocab: str | None = None
    """Tokenize with this vocab.txt."""
    vocab_size: Annotated[int, Range(100)] = 8000
    """Entries of the vocabulary to train, where neither --model nor --vocab is given."""
    row_length: Annotated[int, Range(8)] = 128
    """Tokens of a packed row."""

    def __post_init__(self) -> None:
        if self.model is not None and self.vocab is not None:
            raise ConfigError("--model and --vocab exclude each other: both name a vocabulary")
        if self.min_paragraph > self.max_paragraph:
            raise ConfigError(
                f"--min-paragraph {self.min_paragraph} is more than "
                f"--max-paragraph {self.max_paragraph}"
            )
