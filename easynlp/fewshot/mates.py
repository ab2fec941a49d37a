"""Training rows in company: of the same label and of others, drawn anew every epoch.

Losses on pairs need both kinds in every micro-batch, however rows are sorted by length and cut
up. So a row brings its own: `mated` makes of each row a group, the row and its mates, which are
computed together and never separated. Who the mates are depends on (seed, epoch, row) alone:
a resumed run, and one on several processes, sees the same pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from easynlp.data.sampling import Source
from easynlp.errors import ConfigError
from easynlp.tasks.base import Batch, Features
from easynlp.training.head import last_layer
from easynlp.training.plan import Pass, Plan

__all__ = ["ANCHORS", "Mates", "anchor_count", "keep_vectors", "mated"]

ANCHORS = "anchors"
"""Key of a batch of groups: the group each row is of, (rows,); the first row of a number is the
row the group was made for."""


@dataclass(frozen=True)
class Mates:
    """A source whose rows bring mates.

    Rows that may have several labels are of the same label if all their labels are the same.

    Args:
        source: Rows with one ``target`` each.
        same: Mates of the same label; a label's only row is its own mate, with other dropout.
        other: Mates of other labels, of all other labels with equal chances.
        seed: Of the draw.
    """

    source: Source
    same: int = 1
    other: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        rows = range(len(self.source.lengths))
        answers = [np.asarray(self.source.features(i, 0)["target"]).tobytes() for i in rows]
        numbers = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
        targets = np.array([numbers[answer] for answer in answers])
        by_label = {int(t): np.flatnonzero(targets == t) for t in np.unique(targets)}
        if len(by_label) < 2:
            raise ConfigError("pairs of different labels need training rows of two or more labels")
        object.__setattr__(self, "_targets", targets)
        object.__setattr__(self, "_by_label", by_label)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, its mates counted as long as itself."""
        found: np.ndarray = self.source.lengths * (1 + self.same + self.other)
        return found

    def mates(self, index: int, epoch: int) -> list[int]:
        """Return the numbers of a row's mates, those of the same label first."""
        by_label: dict[int, np.ndarray] = getattr(self, "_by_label")  # noqa: B009
        targets: np.ndarray = getattr(self, "_targets")  # noqa: B009
        rng = np.random.default_rng((self.seed, epoch, index))
        label = int(targets[index])
        own = by_label[label][by_label[label] != index]
        own = own if len(own) else by_label[label]
        labels = [other for other in by_label if other != label]
        return [int(rng.choice(own)) for _ in range(self.same)] + [
            int(rng.choice(by_label[labels[rng.integers(len(labels))]])) for _ in range(self.other)
        ]

    def features(self, index: int, epoch: int) -> Features:
        """Return a row's features with those of its mates as ``mates``."""
        others = [self.source.features(i, epoch) for i in self.mates(index, epoch)]
        return {**self.source.features(index, epoch), "mates": others}


def mated(plan: Plan, *, same: int = 1, other: int = 1, seed: int = 0) -> Plan:
    """Give every training row of a plan mates; rows to predict stay alone.

    The task keeps its type, so the run is saved as what it is; only its `collate` and `count` learn
    to lay groups out: a batch of n groups has n x (1 + same + other) rows and `ANCHORS`.

    Args:
        plan: Its task has one target a row; a loss of the task is over mates too.
        same: See `Mates`.
        other: See `Mates`.
        seed: Added to the run's; see `Mates`.

    Raises:
        ConfigError: If there is no mate to draw, or the plan has mates already.
    """
    if same < 0 or other < 0 or not same + other:
        raise ConfigError(f"{same} mates of a label and {other} of others; valid: 1 or more in all")
    if plan.source is not None:
        raise ConfigError("only one method may give rows mates or choose what a row is")
    task: Any = copy.copy(plan.task)
    task.collate = _in_groups(plan.task.collate)
    return replace(
        plan, task=task, source=lambda source, run: Mates(source, same, other, seed + run)
    )


def _in_groups(collate: Callable[[Sequence[Features]], Batch]) -> Callable[..., Batch]:
    def lay_out(features: Sequence[Features]) -> Batch:
        if not any("mates" in item for item in features):
            return collate(features)
        rows: list[Features] = []
        groups: list[int] = []
        for number, item in enumerate(features):
            rows += [{k: v for k, v in item.items() if k != "mates"}, *item["mates"]]
            groups += [number] * (1 + len(item["mates"]))
        return {**collate(rows), ANCHORS: np.array(groups, np.int64)}

    return lay_out


def anchor_count(batch: Batch) -> int:
    """Return the groups of a batch: the targets of a term that is a mean over groups."""
    return int(batch[ANCHORS][-1]) + 1 if ANCHORS in batch else len(batch["input_ids"])


def keep_vectors(model: torch.nn.Module) -> Callable[[Pass], torch.Tensor]:
    """Make a classifier's passes remember the vectors its last layer reads; return how to ask.

    Returns:
        ``pass -> vectors``, shape (rows, width), in fp32, with their gradients.

    Raises:
        ModelError: If the model does not end in a linear layer, one output a label.
    """
    seen: list[torch.Tensor] = []

    def remember(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen[:] = [args[0]]

    def hand_over(module: torch.nn.Module, args: Any, output: Any) -> Any:
        output["vectors"] = seen.pop()
        return output

    last_layer(model).register_forward_pre_hook(remember)
    model.register_forward_hook(hand_over)
    return lambda run: run.output["vectors"].float()  # type: ignore[no-any-return]
