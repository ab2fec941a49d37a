"""Options of ``easynlp compress``: flat dataclasses, importable without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from easynlp.config import ONCE, Count, DataOptions, NotNegative, Positive, Precision, Share, Steps
from easynlp.errors import ConfigError
from easynlp.options import Range

__all__ = ["CompressConfig", "parse_size"]

_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9,
          "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}  # fmt: skip


def parse_size(text: str) -> int:
    """Return the bytes a size says; MB is a million, MiB 1,048,576.

    Raises:
        ConfigError: If it says none.

    Example:
        >>> parse_size("4MB"), parse_size("1.5 MiB"), parse_size("800000")
        (4000000, 1572864, 800000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].upper() not in _UNITS or not float(found[1]):
        raise ConfigError(f'"{text}" is no size; write e.g. --target-size 4MB or 800KB')
    return int(float(found[1]) * _UNITS[found[2].upper()])


@dataclass(frozen=True, kw_only=True)
class CompressConfig(DataOptions):
    """Options of ``easynlp compress``."""

    run: str
    """Run folder to compress; it stays as it is."""
    output: str | None = None
    """Folder of the compressed run, with candidates/ in it; by default RUN-small."""
    train: str | None = None
    """Training data to recover on; by default what the run was trained on."""
    dev: str | None = None
    """Data candidates are compared on; by default the run's."""
    test: str | None = None
    """Data to score the chosen candidate and the run on at the end; chooses nothing."""
    unlabeled: str | None = None
    """Unlabelled texts to recover on as well; the run answers them."""
    overwrite: bool = field(default=False, metadata=ONCE)
    """Delete what is in the output folder first."""
    resume: bool = field(default=False, metadata=ONCE)
    """Go on where it was stopped; candidates that were measured are not made again."""

    target_size: str | None = None
    """Most bytes of all files that are served, e.g. 4MB: model, tokenizer and description."""
    max_drop: NotNegative = 0.5
    """Most points that dev may lose, of 100."""
    candidates: Count = 6
    """Most shapes to try with --target-size: the largest that fit."""
    width: tuple[Annotated[float, Range(0, 1, above=True)], ...] = ()
    """Share of the heads and feed-forward neurons of every layer to keep; several are tried."""
    depth: tuple[Count, ...] = ()
    """Layers to keep; several are tried."""
    vocab: bool = False
    """Keep only the tokens that training and unlabelled texts use, and common characters; and
    only the positions that --max-length needs."""
    vocab_size: Steps = 0
    """With --vocab: most tokens to keep; 0: all that are used, and the fallback, within about a
    third of --target-size."""
    fallback: Steps = 1000
    """With --vocab: characters to keep that the texts do not hold, the most common first."""
    int8: bool = False
    """Quantize to int8; without --target-size fp32 is measured beside it."""
    static: bool = False
    """Try int8 with activations' scales fixed beforehand (QDQ), too."""
    calibration: Count = 128
    """With --static: training rows that the scales are taken from."""
    qat: Literal["auto", "always", "never"] = "auto"
    """Train on with int8's rounding; auto: where int8 loses over half of --max-drop."""
    method: tuple[str, ...] = ()
    """A method to recover with, e.g. cap:weight=0.3 (contrastive pruning) or r_drop."""
    rounds: Count = 1
    """Steps in which a width is reached; each is recovered from before the next."""

    epochs: Positive = 5.0
    """Passes over the rows to recover on, labelled and not, of each round."""
    steps: Steps = 0
    """Optimizer steps of each round; 0: as many as the epochs make."""
    batch_size: Count = 32
    """Rows of one optimizer step."""
    lr: Positive = 2e-4
    """Peak learning rate."""
    weight_labels: NotNegative = 0.5
    """Weight of the labels in what is learned."""
    weight_soft: NotNegative = 1.0
    """Weight of the uncompressed run's softened answers."""
    weight_hidden: NotNegative = 0.1
    """Weight of the uncompressed run's hidden states."""
    temperature: Positive = 2.0
    """Of the softened answers."""
    dropout: Share = 0.0
    """Dropout while recovering; a teacher's answers need little."""
    importance_rows: Count = 1024
    """Most training rows that heads and neurons are ranked on."""
    timed: Count = 200
    """Most dev texts that are timed."""
    precision: Precision = "auto"
    """Number format of training; auto takes bf16 where the hardware multiplies it natively."""
    threads: Steps = 0
    """CPU threads of training; 0: as torch decides. Candidates are timed on one."""
    seed: Steps = 42
    """Same seed, data and machine: same weights."""

    def __post_init__(self) -> None:
        if self.target_size is not None:
            parse_size(self.target_size)
        explicit = bool(self.width or self.depth or self.vocab or self.int8 or self.static)
        if self.target_size is None and not explicit:
            raise ConfigError(
                "say what to reach or what to do: --target-size 4MB, or e.g. --width 0.75 "
                "--depth 4 --vocab --int8"
            )
        if (self.vocab_size or self.fallback != 1000) and not (self.vocab or self.target_size):
            raise ConfigError("--vocab-size and --fallback go with --vocab")

    @property
    def budget(self) -> int | None:
        """The wanted size in bytes."""
        return parse_size(self.target_size) if self.target_size is not None else None
