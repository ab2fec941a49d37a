"""Attention for training in bf16 on a CPU: two matrix products and a softmax between them.

PyTorch's fused attention has no fast backward pass for bf16 on CPUs: for rows of 128 tokens
it takes three to five times as long as the plain form, and a quarter of a whole training step.
Everywhere else (fp32, a GPU, prediction, long rows, causal models) it stays in use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import dropout as drop
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["attend", "attend_plainly", "quicken_attention"]

NAME = "easynlp"
LONGEST = 512
"""Most tokens for the plain form, which keeps all (tokens x tokens) weights until the backward
pass; measured faster up to here."""


def quicken_attention(model: torch.nn.Module) -> int:
    """Let the encoders in a model use `attend` where they use fused attention now.

    Nothing that is saved changes, and prediction computes as before.

    Args:
        model: A transformers model, or a module around some.

    Returns:
        The number of models changed; one with another kind of attention stays as it is.
    """
    changed = 0
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config._attn_implementation == "sdpa":
            module.set_attn_implementation(NAME)
            changed += module.config._attn_implementation == NAME
    return changed


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' ``sdpa`` does: plainly where that is faster, else fused.

    Args:
        module: The layer, asked whether it is causal.
        query: Shape (rows, heads, tokens, head size).
        key: Shape (rows, heads, tokens, head size).
        value: Shape (rows, heads, tokens, head size).
        attention_mask: True where a token may be seen, shape (rows, 1, tokens, tokens) or
            broadcast to it; None where all may.
        dropout: Share of attention weights to drop.
        scaling: Factor of the products; by default one over the root of the head size.
        is_causal: Hide later tokens; by default what the layer says.
        kwargs: What else transformers passes to attention functions.

    Returns:
        Shape (rows, tokens, heads, head size), and None for the weights.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    plain = (
        query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and torch.is_grad_enabled()
        and query.shape == key.shape == value.shape
        and query.shape[2] <= LONGEST
        and (attention_mask.dtype == torch.bool if attention_mask is not None else not causal)
        and all(kwargs.get(name) is None for name in ("position_bias", "cache", "softcap"))
    )
    if not plain:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling,
            is_causal=is_causal, **kwargs,
        )  # fmt: skip
    return attend_plainly(query, key, value, attention_mask, dropout, scaling), None


def attend_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> torch.Tensor:
    """Attend by matrix products in the inputs' own format; see `attend`.

    Example:
        >>> one = torch.ones(1, 2, 3, 4)
        >>> attend_plainly(one, one, one).shape
        torch.Size([1, 3, 2, 4])
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Autocast would widen the scores: softmax computes in fp32 inside, whatever it reads.
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.matmul(query * scaling, key.transpose(2, 3))
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = drop(torch.softmax(scores, dim=-1), dropout)
        return torch.matmul(weights, value).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
