"""Rows of several domains: how typical each is, and how much to heed a teacher on it.

Pan et al. 2021, "Meta-KD: A Meta Knowledge Distillation Framework for Language Model Compression
across Domains" (ACL 2021, arXiv 2012.01266); what is made of the numbers is
`easynlp.distillation.meta_kd`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from easynlp.atomic import write_json
from easynlp.errors import ConfigError

__all__ = ["DomainRows", "expertise_weights", "mean_one", "prototype_scores"]


@dataclass(frozen=True)
class DomainRows:
    """What is known of training rows beside themselves, in the order of their file.

    Attributes:
        names: All domains.
        domains: Number of each row's.
        scores: Prototype score of each row.
    """

    names: tuple[str, ...]
    domains: tuple[int, ...]
    scores: tuple[float, ...]

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        write_json(path, vars(self))

    @classmethod
    def load(cls, path: str | Path) -> DomainRows:
        """Read what `save` wrote.

        Raises:
            ConfigError: If the file is not there or is something else.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(*(tuple(found[name]) for name in ("names", "domains", "scores")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} does not say which domain rows are of: {error}") from error

    def check(self, rows: int) -> None:
        """Refuse notes that are of other rows.

        Raises:
            ConfigError: If they are not as many.
        """
        if not len(self.domains) == len(self.scores) == rows:
            raise ConfigError(
                f"domains of {len(self.domains)} rows were given, and there are {rows} rows"
            )


def prototype_scores(
    vectors: np.ndarray, labels: Sequence[str], domains: Sequence[int], own: float = 0.5
) -> np.ndarray:
    """Return how typical each row is, of its label in its own domain and in the others.

    ``own x cos(row, centre of its label and domain) + (1 - own) x the mean over other domains of
    cos(row, centre of its label there)``.

    Args:
        vectors: Of the rows, shape (rows, width).
        labels: Of the rows.
        domains: Number of each row's domain.
        own: Share of its own domain; a label that no other domain has has its own only.

    Returns:
        Shape (rows,), from -1 to 1.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> prototype_scores(vectors, ["a", "a", "a"], [0, 0, 1]).tolist()
        [0.5, 0.5, 0.5]
    """
    names, numbers = np.array(labels), np.array(domains)
    unit = _unit(np.asarray(vectors, np.float64))
    found = np.zeros(len(unit))
    for label in np.unique(names):
        of_label = names == label
        there = np.unique(numbers[of_label])
        rows = np.flatnonzero(of_label)
        centres = np.stack([vectors[of_label & (numbers == d)].mean(0) for d in there])
        near = unit[rows] @ _unit(centres).T
        mine = numbers[rows, None] == there
        at_home = near[mine]
        if len(there) == 1:
            found[rows] = at_home
        else:
            away = (near.sum(1) - at_home) / (len(there) - 1)
            found[rows] = own * at_home + (1 - own) * away
    return found


def expertise_weights(scores: np.ndarray, sureness: np.ndarray) -> np.ndarray:
    """Return how much a student should heed its teacher on each row; their mean is 1.

    ``(1 + t) / (exp((1 - p)^2) + 1)``: a half of 1 + t where the teacher is right and sure.

    Args:
        scores: Prototype scores t, shape (rows,).
        sureness: The teacher's probability p of the right label, shape (rows,).

    Example:
        >>> expertise_weights(np.array([0.5, 0.5]), np.array([1.0, 0.0])).round(2).tolist()
        [1.3, 0.7]
    """
    raw = (1 + np.asarray(scores)) / (np.exp((1 - np.asarray(sureness)) ** 2) + 1)
    return mean_one(raw)


def mean_one(weights: np.ndarray) -> np.ndarray:
    """Return weights divided by their mean."""
    found: np.ndarray = weights / weights.mean()
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found
