"""FGM: also be right on embeddings moved a little in the worst direction.

Miyato et al. 2017, "Adversarial Training Methods for Semi-Supervised Text Classification"
(arXiv 1605.07725). With g the gradient of a row's loss by its word embeddings, the row is read
once more with ``epsilon x g / ||g||`` added to them, and the loss of that reading is added.

- The norm is of one row (all its tokens and dimensions), as in the paper. The scripts that made
  FGM popular for Chinese take one norm for the gradient of the whole embedding matrix, so there a
  row's step depends on its neighbours and on how a batch is cut up; here it does not.
- The paper normalizes the embeddings to variance 1 so that the model cannot escape by making them
  large; the layer norm after a BERT's embeddings serves that end.
- g is taken by a pass of its own, with its own dropout, as a gradient by the embeddings alone:
  gradients of parameters, accumulation and DDP know nothing of it. A step costs two more passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from easynlp.errors import ConfigError
from easynlp.models.heads import core
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["fgm"]


def fgm(plan: Plan, *, epsilon: float = 1.0, weight: float = 1.0) -> Plan:
    """Add the task's loss on adversarially perturbed embeddings.

    Args:
        plan: What to change; any task over a model with word embeddings.
        epsilon: Length of the perturbation of a row, as an L2 norm; 1 is the usual choice for
            BERT's embeddings.
        weight: Of the term, beside the plain loss.

    Raises:
        ConfigError: If `epsilon` or `weight` is negative, or the plan has FGM already.

    Example:
        >>> plan = fgm(plan, epsilon=1.0)                             # doctest: +SKIP
    """
    if epsilon < 0 or weight < 0:
        raise ConfigError(f"fgm: epsilon {epsilon:g}, weight {weight:g}; valid: 0 or more")
    if any(term.name == "fgm" for term in plan.terms):
        raise ConfigError("fgm is in the plan already; once is enough")
    task = plan.task

    def compute(run: Pass) -> torch.Tensor:
        embeddings = core(run.model).get_input_embeddings()
        found: list[torch.Tensor] = []

        def isolate(output: torch.Tensor) -> torch.Tensor:
            found.append(output.detach().requires_grad_())
            return found[-1]

        with _changed(embeddings, isolate):
            loss = task.loss(run.again().output, run.batch)
        (gradient,) = torch.autograd.grad(loss, found)
        step = epsilon * _unit(gradient)
        with _changed(embeddings, lambda output: output + step):
            return task.loss(run.again().output, run.batch)

    return replace(plan, terms=(*plan.terms, Term("fgm", compute, weight)))


def _unit(gradient: torch.Tensor) -> torch.Tensor:
    """Scale each row's gradient, shape (rows, tokens, dimensions), to length 1; 0 stays 0."""
    norm = torch.linalg.vector_norm(gradient.float(), dim=(1, 2), keepdim=True)
    return torch.where(norm > 0, gradient / norm.clamp(min=1e-30), 0.0).to(gradient.dtype)


@contextmanager
def _changed(
    module: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Pass a module's output through a function for the duration of the block."""
    handle = module.register_forward_hook(lambda module, args, output: change(output))
    try:
        yield
    finally:
        handle.remove()
