"""SetFit: tune sentence vectors by pairs of rows, then fit a linear head on them.

Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts" (arXiv 2209.11055). Two texts
of one label should have cosine 1, two of different labels 0; the loss is the squared error, as in
the authors' code. n rows make n squared pairs, so a handful of labels is plenty of training.
Then logistic regression is fitted on the tuned vectors; here it becomes the model's last layer
(`easynlp.training.head`), so the run is a plain classifier, which exports and serves as any.

Differences from the authors' code: it draws all pairs beforehand, here every row meets new mates
every epoch; its vectors are a sentence encoder's own, here they are what the classifier's last
layer reads, with dropout as the model has it (theirs has none in the head either).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import cosine_similarity

from easynlp.errors import ConfigError
from easynlp.fewshot.mates import ANCHORS, anchor_count, keep_vectors, mated
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["setfit"]


def setfit(
    plan: Plan, *, pairs: int = 1, weight: float = 1.0, classify: bool = False, seed: int = 0
) -> Plan:
    """Train a classifier's vectors on pairs of rows, and its last layer by logistic regression.

    Args:
        plan: What to change; text_classify.
        pairs: Mates of the same label and of other labels each row meets in an epoch, of each
            kind. A step of n rows computes n x (1 + 2 x `pairs`) texts.
        weight: Of the pair term.
        classify: Keep the task's own loss beside the pairs, so that the head is trained and not
            fitted afterwards.
        seed: Of the draw of pairs, beside the run's.

    Raises:
        ConfigError: If an option is out of range, or the plan does not fit.
        ModelError: If the model does not end in a linear layer, one output a label.

    Example:
        >>> plan = setfit(plan, pairs=2)                              # doctest: +SKIP
    """
    if pairs < 1 or weight <= 0:
        raise ConfigError(f"setfit: pairs {pairs}, weight {weight:g}; valid: 1 or more, over 0")
    vectors = keep_vectors(plan.model)
    plan = mated(plan, same=pairs, other=pairs, seed=seed)

    def compute(run: Pass) -> torch.Tensor:
        found = vectors(run)
        if ANCHORS not in run.batch:  # rows without mates: nothing to compare
            return found.sum() * 0.0
        size = 1 + 2 * pairs
        groups = found.view(-1, size, found.shape[-1])
        cosines = cosine_similarity(groups[:, :1], groups[:, 1:], dim=-1)
        wanted = torch.zeros_like(cosines)
        wanted[:, :pairs] = 1.0
        return (cosines - wanted).square().mean(1).sum()

    terms = plan.terms
    if not classify:
        terms = tuple(replace(t, weight=0.0) if t.name == "loss" else t for t in terms)
    return replace(
        plan,
        terms=(*terms, Term("setfit", compute, weight, count=anchor_count)),
        vectors_only=not classify,
    )
