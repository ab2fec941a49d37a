"""Plan, Term and Method: how algorithms meet the one training loop.

A `Plan` is what the loop runs. A `Term` is a summand of the loss. A method is a function
``Plan -> Plan``: it wraps the task, changes the model or adds terms, and never the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from easynlp.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from easynlp.data.sampling import Source
    from easynlp.models.backbone import Backbone
    from easynlp.tasks.base import Batch, Task

__all__ = ["Answers", "Method", "Pass", "Plan", "Term", "row_count", "task_term"]


@dataclass
class Pass:
    """One forward pass over a micro-batch, as terms see it.

    Attributes:
        forward: Runs the model (through its DDP wrapper and autocast) on a batch. A term that
            needs a pass of its own calls this; nothing in the loop knows.
        model: The bare module, to hook or read.
        batch: Tensors on the device.
        output: What the model returned for `batch`.
    """

    forward: Callable[[Mapping[str, torch.Tensor]], Any]
    model: torch.nn.Module
    batch: Mapping[str, torch.Tensor]
    output: Any

    def again(self) -> Pass:
        """Return a second pass over the same batch (fresh dropout)."""
        return replace(self, output=self.forward(self.batch))


@dataclass(frozen=True)
class Term:
    """A summand of the loss: ``compute(pass) -> loss summed over the batch's targets``.

    The loop divides by the number of targets of the whole accumulation group over all
    processes, multiplies by `weight` and sums the terms, so terms never average.
    """

    name: str
    compute: Callable[[Pass], torch.Tensor]
    weight: float = 1.0
    count: Callable[[Batch], int] | None = None
    """Targets of this term in a batch, where they are not the task's (rows instead of tokens)."""


class Answers(Protocol):
    """A head made from the training rows' vectors, which may be read in several ways.

    Attributes:
        names: The ways, the one to take without dev first.
    """

    names: Sequence[str]

    def prepare(self, source: Source) -> None:
        """Take the shape the training rows ask for; before weights are read from a checkpoint."""

    def fit(self, source: Source, device: torch.device, strength: float) -> None:
        """Make the head anew from what the encoder says of the training rows."""

    def use(self, name: str) -> None:
        """Read the head this way from now on."""


@dataclass(frozen=True)
class Plan:
    """What the loop runs: a task, the model with the task's head, and the loss terms."""

    task: Task
    model: torch.nn.Module
    terms: tuple[Term, ...] = field(default=())
    backbone: Backbone | None = field(default=None, repr=False)
    """What `model` was built from, for methods that build it anew with another head."""
    source: Callable[[Source, int], Source] | None = field(default=None, repr=False)
    """What a method makes of the training rows and the run's seed: rows with mates, other negatives
    an epoch."""
    vectors_only: bool = False
    """No term trains the head: a run fits it to what the encoder says, as ``--probe after``."""
    answers: Answers | None = field(default=None, repr=False)
    """How a head that is no linear layer over the labels is fitted."""

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"the plan has the term {min(twice)} twice; apply a method once")

    def counts(self, batch: Batch) -> list[int]:
        """Return the number of targets each term has in a batch."""
        shared = self.task.count(batch)
        return [term.count(batch) if term.count else shared for term in self.terms]

    def total(
        self, run: Pass, targets: Sequence[float] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted sum of all terms on a pass, and each term alone (detached).

        Args:
            run: The forward pass.
            targets: What each term is divided by in the sum; without it, nothing is.
        """
        losses = {term.name: term.compute(run) for term in self.terms}
        by = targets or [1.0] * len(self.terms)
        total = sum(
            term.weight / max(count, 1.0) * losses[term.name]
            for term, count in zip(self.terms, by, strict=True)
        )
        return total, {name: loss.detach() for name, loss in losses.items()}  # type: ignore[return-value]


Method = Callable[..., Plan]
"""``method(plan, **options) -> Plan``; entries of a METHODS table."""


def row_count(batch: Batch) -> int:
    """Return the rows of a batch: the targets of a term that is a mean over rows."""
    return len(batch["input_ids"])


def task_term(task: Task) -> Term:
    """Make the term every plan starts with: the task's own loss."""
    return Term("loss", lambda run: task.loss(run.output, run.batch))
