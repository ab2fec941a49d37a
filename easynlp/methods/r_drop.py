"""R-Drop: two passes with different dropout should say the same.

Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks" (arXiv 2106.14448). With P
and Q the answers of two passes over a batch::

    loss = 1/2 (CE(P) + CE(Q)) + alpha x 1/2 (KL(P || Q) + KL(Q || P))

This is the weighting of the authors' published code: the cross entropies are averaged. The
paper's formula adds them, so its alpha is twice this one. A step costs a second pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn.functional import kl_div

from easynlp.errors import ConfigError
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["r_drop"]


def r_drop(plan: Plan, *, alpha: float = 1.0) -> Plan:
    """Average the task's loss over two passes and add the divergence between them.

    Other terms see the first pass only. Without dropout both passes are the same: the term is 0
    and the loss is the plain one.

    Args:
        plan: What to change; any task.
        alpha: Weight of the divergence, per target as the loss is. The more dropout and the
            fewer labels, the larger; search 0.1 to 5.

    Raises:
        ConfigError: If `alpha` is negative, or the plan lacks the task's loss or has R-Drop.

    Example:
        >>> plan = r_drop(plan, alpha=4.0)                            # doctest: +SKIP
    """
    if alpha < 0:
        raise ConfigError(f"r_drop: alpha is {alpha:g}; valid: 0 or more")
    names = [term.name for term in plan.terms]
    if "loss" not in names or "r_drop" in names:
        raise ConfigError(f"r_drop needs a plan with the task's loss, once; its terms: {names}")
    task, second = plan.task, _SecondPass()

    def mean(compute: Callable[[Pass], torch.Tensor]) -> Callable[[Pass], torch.Tensor]:
        return lambda run: 0.5 * (compute(run) + compute(second.of(run)))

    def divergence(run: Pass) -> torch.Tensor:
        again = second.of(run)
        p = task.log_probs(run.output, run.batch)
        q = task.log_probs(again.output, again.batch)
        return 0.5 * (
            kl_div(p, q, reduction="sum", log_target=True)
            + kl_div(q, p, reduction="sum", log_target=True)
        )

    terms = tuple(
        replace(term, compute=mean(term.compute)) if term.name == "loss" else term
        for term in plan.terms
    )
    return replace(plan, terms=(*terms, Term("r_drop", divergence, alpha)))


class _SecondPass:
    """The second pass over a batch, made once however many terms ask for it."""

    def __init__(self) -> None:
        self._pair: tuple[Pass, Pass] | None = None

    def of(self, run: Pass) -> Pass:
        if self._pair is None or self._pair[0] is not run:
            self._pair = run, run.again()
        return self._pair[1]
