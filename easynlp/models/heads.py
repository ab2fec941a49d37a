"""Heads that stock transformers lacks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

__all__ = ["MaskedPositions", "core"]


class MaskedPositions(torch.nn.Module):
    """Any masked-LM model, its vocabulary projection computed at chosen positions only.

    The encoder's output is gathered before the head sees it, by a hook, so every architecture
    with an encoder and a head works unchanged.

    Args:
        model: A transformers ``...ForMaskedLM``.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.core = model
        self._positions: torch.Tensor | None = None
        self._pooled: torch.Tensor | None = None
        model.base_model.register_forward_hook(self._gather)

    def forward(
        self,
        input_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> Any:
        """Return an output whose logits have shape (positions, vocabulary).

        Args:
            input_ids: Shape (rows, tokens).
            masked_positions: Flat positions into rows x tokens, shape (positions,).
            attention_mask: Shape (rows, tokens); None where nothing is padded.
            position_ids: Shape (rows, tokens); None counts from 0.
        """
        self._positions = masked_positions
        extra = {} if position_ids is None else {"position_ids": position_ids}
        output = self.core(input_ids=input_ids, attention_mask=attention_mask, **extra)
        output.logits = output.logits[0]
        output["pooler_output"] = self._pooled
        self._positions = self._pooled = None
        return output

    def _gather(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if self._positions is not None:
            hidden = output.last_hidden_state
            self._pooled = getattr(output, "pooler_output", None)
            flat = hidden.reshape(-1, hidden.shape[-1])
            output.last_hidden_state = flat[self._positions].unsqueeze(0)
        return output


def core(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a task's model: what a run folder holds."""
    found: Any = getattr(model, "core", model)
    return found  # type: ignore[no-any-return]
