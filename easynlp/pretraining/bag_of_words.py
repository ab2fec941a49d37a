"""Teach the first token to sum up its row: predict the row's words from the pooled vector.

Masked language modeling alone never asks anything of ``[CLS]`` or of the pooler, yet these are
what stock classification heads read. Here the pooled vector must name the distinct tokens of
its row (a bag of words), through a projection that is thrown away afterwards. Source: bag-of-words
prediction of Ma et al. 2022 ("A Contrastive Pre-training Approach to Discriminative Autoencoder
for Dense Retrieval"); here with the tied input embeddings as the output layer and without their
contrastive part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from easynlp.errors import ConfigError
from easynlp.models.heads import add_pooler
from easynlp.training.plan import Pass, Plan, Term, row_count

__all__ = ["bag_of_words", "with_pooler"]


class _Recall(torch.nn.Module):
    """Pooled vector to a score for every token of the vocabulary."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.project = torch.nn.Linear(hidden, hidden)
        self.norm = torch.nn.LayerNorm(hidden)
        self.bias = torch.nn.Parameter(torch.zeros(vocabulary))

    def forward(self, pooled: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.norm(self.project(pooled)) @ embeddings.T + self.bias
        return scores


def bag_of_words(plan: Plan, *, weight: float = 0.3) -> Plan:
    """Add a pooler to the encoder and a term that makes it name the words of its row.

    Args:
        plan: A `language_modeling` plan whose encoder is a BERT (has a ``pooler`` slot).
        weight: Of the term; its mean over rows counts beside the mean over hidden tokens.

    Raises:
        ConfigError: If the encoder has no pooler slot.
    """
    base = with_pooler(plan, "bag_of_words")
    task: Any = plan.task
    special = torch.from_numpy(task.special)
    model: Any = plan.model
    model.recall = _Recall(base.config.hidden_size, base.config.vocab_size)

    def compute(run: Pass) -> torch.Tensor:
        embeddings = base.get_input_embeddings().weight
        scores = model.recall(run.output["pooler_output"].float(), embeddings)
        ids = original_ids(run.batch)
        bag = torch.zeros_like(scores).scatter_(1, ids, 1.0)
        bag[:, special.to(bag.device)] = 0.0
        bag = bag / bag.sum(1, keepdim=True).clamp(min=1.0)
        rows = -(bag * scores.log_softmax(-1)).sum(1)
        loss: torch.Tensor = rows.sum()
        return loss

    term = Term("bag_of_words", compute, weight, count=row_count)
    return replace(plan, terms=(*plan.terms, term))


def with_pooler(plan: Plan, method: str) -> Any:
    """Return the BERT encoder of a language-modeling plan, given a pooler if it has none.

    Raises:
        ConfigError: If the encoder has no pooler slot.
    """
    base = getattr(getattr(plan.model, "core", None), "base_model", None)
    if base is None or not add_pooler(base):
        raise ConfigError(f"{method} needs language_modeling over a BERT encoder")
    return base


def original_ids(batch: Any) -> torch.Tensor:
    """Return the ids of a batch with its holes filled in again, shape (rows, tokens)."""
    ids: torch.Tensor = batch["input_ids"].clone()
    ids.view(-1)[batch["masked_positions"]] = batch["target"]
    return ids
