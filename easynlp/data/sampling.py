"""The order of training: which rows make which optimizer step, and how they are cut up.

Everything here is a pure function of (seed, epoch, step), so a resumed run continues with
exactly the rows the uninterrupted one would have seen, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from easynlp.tasks.base import Features

__all__ = ["EncodedRows", "Sampler", "Source", "micro_batches"]

BUCKET_BATCHES = 64
"""Rows of this many batches are sorted by length together: enough that padding nearly
vanishes, few enough that batches stay random."""


class Source(Protocol):
    """Where training features come from."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, shape (rows,)."""

    def features(self, index: int, epoch: int) -> Features:
        """Return one row's features; may differ from epoch to epoch (masking, augmentation)."""


@dataclass(frozen=True)
class EncodedRows:
    """Rows encoded once and kept in memory."""

    rows: Sequence[Features]
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Features]) -> EncodedRows:
        """Wrap encoded rows, reading their lengths."""
        return cls(rows, np.asarray([len(row["input_ids"]) for row in rows], np.int32))

    def features(self, index: int, epoch: int) -> Features:
        """Return row `index`; the epoch makes no difference."""
        return self.rows[index]


@dataclass(frozen=True)
class Sampler:
    """Cut every epoch into optimizer steps of `batch_size` rows of similar length.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of one optimizer step, over all processes and accumulation.
        seed: Seed of the order.
    """

    lengths: np.ndarray
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last one may be smaller."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the steps of an epoch, each an array of row indices sorted by length.

        Example:
            >>> sampler = Sampler(np.array([3, 9, 3, 9]), batch_size=2, seed=0)
            >>> sorted(sorted(step.tolist()) for step in sampler.epoch(0))
            [[0, 2], [1, 3]]
        """
        rng = np.random.default_rng((self.seed, number))
        order = rng.permutation(len(self.lengths))
        span = self.batch_size * BUCKET_BATCHES
        steps: list[np.ndarray] = []
        for start in range(0, len(order), span):
            bucket = order[start : start + span]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            steps += [
                bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)
            ]
        return [steps[i] for i in rng.permutation(len(steps))]


def micro_batches(
    rows: np.ndarray,
    lengths: np.ndarray,
    *,
    max_tokens: int,
    at_least: int = 1,
    rank: int = 0,
    world: int = 1,
) -> list[np.ndarray]:
    """Split the rows of one step into what this process computes at a time.

    Rows are dealt to the processes in turn (sorted by length, so all get similar work), then
    cut so that no micro-batch holds more than `max_tokens` tokens, padding included.

    Args:
        rows: Row indices of the step, sorted by length.
        lengths: Tokens of every row of the source.
        max_tokens: Most padded tokens of a micro-batch; a longer single row goes alone.
        at_least: Cut into at least this many (explicit gradient accumulation).
        rank: This process.
        world: Number of processes.

    Returns:
        Index arrays; empty if there are fewer rows than processes.

    Example:
        >>> micro_batches(np.arange(4), np.array([2, 2, 4, 4]), max_tokens=8)
        [array([0, 1]), array([2, 3])]
    """
    mine = rows[rank::world]
    batches: list[np.ndarray] = []
    for part in np.array_split(mine, min(at_least, max(1, len(mine)))):
        start = 0
        for stop in range(1, len(part) + 1):
            more = part[start : stop + 1]
            if stop == len(part) or len(more) * int(lengths[more].max()) > max_tokens:
                batches.append(part[start:stop])
                start = stop
    return batches
