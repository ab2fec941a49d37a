"""The model of contrastive prompts: a language model read at its mask, beside stored vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from easynlp.errors import ModelError
from easynlp.fewshot import auxiliary
from easynlp.fewshot.mates import ANCHORS, anchor_count
from easynlp.fewshot.pair_loss import pair_loss
from easynlp.models.compact import stored_layer
from easynlp.models.heads import first_position, mean_of_tokens
from easynlp.training.plan import Pass, Term

__all__ = ["MaskVectors", "contrast_term", "language_term"]


class MaskVectors(torch.nn.Module):
    """A masked-LM model that answers with the cosines of its mask's vector and stored vectors.

    Args:
        model: A transformers ``...ForMaskedLM``; gets a linear layer ``answers``, which is saved
            with it and never trained by gradients.
        outputs: Stored vectors.
        vector: ``hidden``, the last layer's, ``transform``, the MLM head's first layer's, or
            ``mean``, the mean of all tokens' of the last layer.

    Raises:
        ModelError: If the transform layer is wanted and the model is not built as BERT is.
    """

    def __init__(
        self, model: PreTrainedModel, outputs: int, vector: Literal["hidden", "transform", "mean"]
    ) -> None:
        super().__init__()
        self.core, self._first = model, first_position(model.config)
        self._transform = _transform_of(model) if vector == "transform" else (lambda x: x)
        self._pooled = vector == "mean"
        self._width = int(model.config.hidden_size)
        self.resize_answers(outputs)

    @property
    def answers(self) -> torch.nn.Linear:
        """The stored vectors, as a linear layer."""
        found: Any = self.core.answers
        return found  # type: ignore[no-any-return]

    def resize_answers(self, outputs: int) -> None:
        """Make room for so many vectors, all 0."""
        layer = torch.nn.Linear(self._width, outputs)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        device = next(self.core.parameters()).device
        self.core.answers = layer.requires_grad_(False).to(device)

    def read_answers(self, folder: Path | None) -> None:
        """Take the stored vectors out of a run's weights, if they are there."""
        state = stored_layer(folder, "answers")
        if state and state["weight"].shape[1] == self._width:
            self.resize_answers(len(state["weight"]))
            self.answers.load_state_dict(state)

    def forward(
        self,
        input_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        hidden_positions: torch.Tensor | None = None,
    ) -> Any:
        """Return ``logits`` (rows, outputs) and ``vectors`` (rows, width) of length 1.

        Args:
            input_ids: Shape (rows, tokens).
            masked_positions: Flat place of each row's mask, shape (rows,).
            attention_mask: Shape (rows, tokens); None where nothing is padded.
            hidden_positions: Flat places whose words are asked for; then ``logits`` is (places,
                vocabulary), and there are no vectors.
        """
        body: Any = self.core.base_model
        output = body(input_ids=input_ids, attention_mask=attention_mask)
        flat = output.last_hidden_state.reshape(-1, output.last_hidden_state.shape[-1])
        if hidden_positions is not None:
            head: Any = self.core
            decode = getattr(head, "cls", None) or getattr(head, "lm_head", None)
            if decode is None:
                raise ModelError("the auxiliary term needs a model built as BERT or RoBERTa: mlm=0")
            return SimpleNamespace(logits=decode(flat[hidden_positions]))
        if self._pooled:
            read = mean_of_tokens(output.last_hidden_state, attention_mask)
        else:
            read = self._transform(flat[masked_positions])
        vectors = normalize(read, dim=-1)
        return Answer(self.answers(vectors), vectors)


class Answer:
    """What `MaskVectors` returns; plain attributes."""

    def __init__(self, logits: torch.Tensor, vectors: torch.Tensor) -> None:
        self.logits, self.vectors = logits, vectors


def _transform_of(model: Any) -> Any:
    try:
        return model.cls.predictions.transform
    except AttributeError as error:
        raise ModelError(
            f"{type(model).__name__} has no cls.predictions.transform, which variant=easynlp "
            "reads; variant=paper reads the last layer of any encoder"
        ) from error


def contrast_term(options: Mapping[str, float], *, pool: str) -> Term:
    """Return the pair loss over all rows of a micro-batch, or over each row and its mates."""

    def compute(run: Pass) -> torch.Tensor:
        vectors, targets = run.output.vectors, run.batch["target"]
        groups = run.batch.get(ANCHORS)
        if pool == "batch" or groups is None:
            # One number a micro-batch; times its rows, since the loop divides by all rows.
            rows = len(targets) if groups is None else int(groups[-1]) + 1
            return pair_loss(vectors, targets, **options) * rows
        size = len(targets) // (int(groups[-1]) + 1)
        parts = zip(torch.split(vectors, size), torch.split(targets, size), strict=True)
        return torch.stack([pair_loss(v, t, **options) for v, t in parts]).sum()

    return Term("loss", compute, count=anchor_count)


def language_term(task: Any, weight: float, rate: float) -> Term:
    """Return the auxiliary term; see `easynlp.fewshot.auxiliary`."""

    def ask(places: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"masked_positions": places[:0], "hidden_positions": places}

    return auxiliary.language_term(task, weight, rate, ask)
