"""What a student is compared with its teacher by: functions of tensors, nothing more.

Each returns a value per target (row, question or token), so that a term can weigh targets before it
sums them: a mean first and a weight after would make every weight a factor of the whole batch.

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531);
Ba and Caruana 2014, "Do Deep Nets Really Need to be Deep?" (squared error of logits); Jiao et al.
2020, TinyBERT (arXiv 1909.10351); Wang et al. 2021, MiniLMv2 (arXiv 2012.15828).
"""

from __future__ import annotations

import torch
from torch.nn.functional import kl_div

from easynlp.errors import ConfigError
from easynlp.pretraining.token_distill import relations

__all__ = [
    "attention_mse",
    "hidden_mse",
    "layer_map",
    "logit_mse",
    "relation_kl",
    "soft_kl",
]


def soft_kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the divergence of softened answers times the temperature squared, per target.

    ``T^2 KL(softmax(teacher / T) || softmax(student / T))``: the square keeps the gradient's size
    when T changes. Logits or log-probabilities will do: a constant added to a target's changes
    nothing.

    Args:
        student: Shape (targets, classes).
        teacher: The same; no gradient reaches it.
        temperature: Higher is softer.

    Returns:
        Shape (targets,), 0 where both say the same.

    Example:
        >>> answers = torch.tensor([[2.0, 0.0]])
        >>> soft_kl(answers + 5, answers, temperature=4).round(decimals=5).tolist()
        [0.0]
    """
    p = (teacher.detach().float() / temperature).log_softmax(-1)
    q = (student.float() / temperature).log_softmax(-1)
    return kl_div(q, p, reduction="none", log_target=True).sum(-1) * temperature**2


def logit_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of centred logits, per target.

    Logits are compared less their mean over the classes: a softmax does not see that constant, and
    a teacher may be known by its log-probabilities alone. That is the deviation from the source.

    Args:
        student: Shape (targets, classes).
        teacher: The same; no gradient reaches it.

    Returns:
        Shape (targets,).

    Example:
        >>> logit_mse(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 0.0]])).tolist()
        [1.0]
    """
    ours, theirs = student.float(), teacher.detach().float()
    ours = ours - ours.mean(-1, keepdim=True)
    theirs = theirs - theirs.mean(-1, keepdim=True)
    return (ours - theirs).square().mean(-1)


def hidden_mse(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of hidden states, per token.

    Args:
        student: States already projected to the teacher's width, shape (..., width).
        teacher: The same; no gradient reaches it.

    Returns:
        Shape (...).

    Example:
        >>> hidden_mse(torch.ones(2, 3, 4), torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3])
    """
    return (student.float() - teacher.detach().float()).square().mean(-1)


def attention_mse(
    student: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor
) -> torch.Tensor:
    """Return the squared difference of two layers' attention, a mean over heads, per token.

    TinyBERT compares scores before the softmax; models hand out probabilities, and those are
    compared here, summed over the keys: of a mean, which is what the paper's code takes, little
    would be left in a long text.

    Args:
        student: Attention probabilities, shape (rows, heads, queries, keys).
        teacher: The same; no gradient reaches it.
        valid: Which tokens are real, (rows, tokens) bool; others count neither as keys nor as
            queries.

    Returns:
        Shape (rows, tokens), 0 at tokens that are not real.

    Raises:
        ConfigError: If the heads are not as many.
    """
    _check_heads(student, teacher)
    apart = (student.float() - teacher.detach().float()).square() * valid[:, None, None, :]
    return apart.sum(-1).mean(1) * valid


def relation_kl(
    student: torch.Tensor, teacher: torch.Tensor, valid: torch.Tensor, heads: int
) -> torch.Tensor:
    """Return the divergence of two layers' relations among tokens (MiniLMv2), per token.

    Relations are softmaxed scaled products of a text's states (queries, keys or values) with
    themselves in `heads` parts; widths and attention heads need not agree.

    Args:
        student: States, shape (rows, tokens, width).
        teacher: States of the same tokens in the same order; another width will do.
        valid: Which tokens both sides have, (rows, tokens) bool.
        heads: Relation heads; both widths are multiples of it.

    Returns:
        A mean over heads, shape (rows, tokens), 0 at tokens that are not real.

    Raises:
        ConfigError: If a width is not a multiple of `heads`.

    Example:
        >>> states = torch.randn(1, 3, 8)
        >>> relation_kl(states, states, torch.ones(1, 3, dtype=torch.bool), 2).sum().item()
        0.0
    """
    for who, width in (("student", student.shape[-1]), ("teacher", teacher.shape[-1])):
        if width % heads:
            raise ConfigError(
                f"the {who}'s width {width} is not a multiple of heads={heads}; give another"
            )
    q = relations(student.float(), valid, heads)
    p = relations(teacher.detach().float(), valid, heads)
    return kl_div(q, p, reduction="none", log_target=True).sum(-1).mean(1) * valid


def layer_map(spec: str, student: int, teacher: int) -> list[tuple[int, int]]:
    """Return which layer of the student learns from which of the teacher's, as pairs from 0.

    Args:
        spec: ``uniform`` (the last of each of the teacher's equal parts, TinyBERT's), ``last``
            (only the last ones), ``top``, ``bottom``, or pairs such as ``0:2,1:5``.
        student: Layers of the student.
        teacher: Layers of the teacher.

    Raises:
        ConfigError: If the spec is none of these or names a layer that is not there.

    Example:
        >>> layer_map("uniform", 4, 12)
        [(0, 2), (1, 5), (2, 8), (3, 11)]
        >>> layer_map("0:11", 4, 12)
        [(0, 11)]
    """
    if spec == "uniform":
        return [(i, max(0, round((i + 1) * teacher / student) - 1)) for i in range(student)]
    if spec == "last":
        return [(student - 1, teacher - 1)]
    if spec in ("top", "bottom") and student <= teacher:
        return [(i, i + (teacher - student) * (spec == "top")) for i in range(student)]
    found = []
    for part in spec.split(","):
        ours, colon, theirs = part.strip().partition(":")
        if not (colon and ours.isdecimal() and theirs.isdecimal()) or not (
            int(ours) < student and int(theirs) < teacher
        ):
            raise ConfigError(
                f'layers "{spec}": uniform, last, top, bottom or pairs such as 0:2,1:5 wanted, of '
                f"layers 0 to {student - 1} of the student, 0 to {teacher - 1} of the teacher"
            )
        found.append((int(ours), int(theirs)))
    return found


def _check_heads(student: torch.Tensor, teacher: torch.Tensor) -> None:
    if student.shape != teacher.shape:
        raise ConfigError(
            f"attention of shape {tuple(student.shape)} (rows, heads, queries, keys) cannot be "
            f"compared with {tuple(teacher.shape)}: the heads must be as many; compare relations"
        )
