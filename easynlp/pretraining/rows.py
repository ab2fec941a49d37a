"""Full rows of tokens on disk (see `easynlp.pretraining.packing`), and the masks drawn on them.

Masks are drawn anew at every read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from easynlp.pretraining.packing import CONTINUES, PackStats, clean, frame_ids, pack
from easynlp.tasks.base import Features
from easynlp.tasks.language_modeling import LanguageModeling

__all__ = ["CONTINUES", "MaskedRows", "PackStats", "clean", "frame_ids", "pack"]


class MaskedRows:
    """Packed rows as a training source: masks are a function of (seed, epoch, row).

    Args:
        folder: Where `pack` wrote.
        task: Hides the words.
        row_length: Tokens of a row.
        max_positions: Positions the model has. Half of the rows start at a random position, so
            that all of them are trained although rows are shorter (SHAPE, Kiyono et al. 2021).
        seed: Seed of masks and shifts.
        rows: Use only these row numbers.
    """

    def __init__(
        self,
        folder: Path,
        task: LanguageModeling,
        *,
        row_length: int,
        max_positions: int,
        seed: int,
        rows: np.ndarray | None = None,
    ) -> None:
        self.data = np.memmap(folder / "rows.bin", np.uint32, "r").reshape(-1, row_length)
        self.rows = np.arange(len(self.data)) if rows is None else rows
        self.task, self.seed = task, seed
        self.slack = max(0, max_positions - row_length)
        self.lengths = np.full(len(self.rows), row_length, np.int32)
        self._documents: np.ndarray | None = None

    def features(self, index: int, epoch: int) -> Features:
        """Return row `index` with the masks of `epoch`."""
        number = int(self.rows[index])
        rng = np.random.default_rng((self.seed, epoch, number))
        ids, words = self._row(number)
        pair = getattr(self.task, "pair", None)  # sop and nsp make two segments of a row
        if pair is None:
            features = self.task.hide(ids, words, rng)
        else:
            features = pair(ids, words, rng, lambda draw: self._elsewhere(number, draw))
        if self.slack:
            features["shift"] = int(rng.integers(self.slack + 1)) if rng.random() < 0.5 else 0
        return features

    def _row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row's ids and word numbers, -1 at special tokens."""
        row = np.asarray(self.data[number])
        ids = (row & ~CONTINUES).astype(np.int32)
        words = np.cumsum((row & CONTINUES) == 0).astype(np.int32)
        words[np.isin(ids, self.task.special)] = -1
        return ids, words

    def _elsewhere(
        self, number: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return a random row of other documents than a row's, None if none is found."""
        if self._documents is None:
            _, ends = frame_ids(self.task.tokenizer)
            inside = [
                ((self.data[i : i + 4096, 1:-1] & ~CONTINUES) == ends).sum(1)
                for i in range(0, len(self.data), 4096)
            ]
            # Documents that have ended before each row.
            self._documents = np.concatenate([[0], np.cumsum(np.concatenate(inside))])
        first, last = self._documents[number], self._documents[number + 1]
        for _ in range(20):
            chosen = int(self.rows[int(rng.integers(len(self.rows)))])
            if self._documents[chosen] > last or self._documents[chosen + 1] < first:
                return self._row(chosen)
        return None
