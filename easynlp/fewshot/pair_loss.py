"""The pair-wise cost-sensitive contrastive loss of CP-Tuning, on unit vectors."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

__all__ = ["pair_loss"]


def pair_loss(
    vectors: torch.Tensor,
    targets: torch.Tensor,
    *,
    margin: float = 0.4,
    scale: float = 64.0,
    positive: float = 1.0,
) -> torch.Tensor:
    """Return the loss of one batch: pairs of a label should be alike, others not.

    With s the cosine of a pair i < j, P the pairs of one label, N the rest, m the margin, g the
    scale, sg the stop of gradients and k = `positive`::

        a_p = [1 + m - sg(s_p)]+ / k        a_n = [sg(s_n) + m]+
        loss = softplus(log sum_N exp(g a_n (s_n - m)) + log sum_P exp(-g a_p (s_p - (1 - m))))

    The weights a make pairs that are far from right cost more (Xu et al. 2022, CP-Tuning, arXiv
    2204.00166; with k = 1 it is the circle loss of Sun et al. 2020). Without pairs of both kinds
    the loss is 0 and teaches nothing, so batches must mix labels.

    Args:
        vectors: Of length 1, shape (rows, width).
        targets: Labels, shape (rows,).
        margin: See above.
        scale: See above.
        positive: k, which weighs pairs of one label.

    Example:
        >>> vectors = torch.eye(2)[[0, 0, 1]]
        >>> round(pair_loss(vectors, torch.tensor([0, 0, 1])).item(), 4)  # perfect
        0.0
        >>> round(pair_loss(vectors, torch.tensor([0, 1, 1])).item(), 1)  # two pairs are wrong
        107.5
    """
    cosines = vectors.float() @ vectors.float().T
    first, second = torch.triu_indices(len(vectors), len(vectors), 1, device=vectors.device)
    pairs = cosines[first, second]
    same = targets[first] == targets[second]
    if bool(same.all()) or not bool(same.any()):
        return vectors.float().sum() * 0.0
    alike, unlike = pairs[same], pairs[~same]
    cost_alike = (1 + margin - alike.detach()).clamp(min=0) / positive
    cost_unlike = (unlike.detach() + margin).clamp(min=0)
    return softplus(
        torch.logsumexp(scale * cost_unlike * (unlike - margin), 0)
        + torch.logsumexp(-scale * cost_alike * (alike - (1 - margin)), 0)
    )
