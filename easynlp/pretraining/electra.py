"""ELECTRA: a small generator fills holes, the model learns to tell its tokens from true ones.

Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators".
The generator is an encoder of the same depth and a quarter of the width, trained by masked language
modeling; it shares the discriminator's embeddings (tokens, positions, types) and its output layer
is tied to them. Its samples, not its likeliest tokens, replace the hidden ones; no gradient goes
through them. Loss: generator + 50 x discriminator, each a mean over its own targets. Deviation:
samples are drawn by inversion from numbers that belong to the row, so that they do not depend on
how a batch is cut up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import ElectraConfig, ElectraForMaskedLM

from easynlp.errors import ConfigError
from easynlp.models.heads import MaskedPositions, ReplacedTokens
from easynlp.tasks.base import Batch
from easynlp.tasks.replaced_token_detection import ReplacedTokenDetection
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["electra", "sample"]


def electra(plan: Plan, *, size: float = 0.25, weight: float = 50.0) -> Plan:
    """Add a generator to a discriminator; its samples replace the hidden tokens.

    Out of training mode the model judges the tokens it is given, and what is saved of it is the
    discriminator alone.

    Args:
        plan: A `replaced_token_detection` plan over an encoder of the BERT family.
        size: Width of the generator, as a share of the discriminator's.
        weight: Of the discriminator's loss beside the generator's.

    Raises:
        ConfigError: If the plan is of another task, or the sizes make no generator.

    Example:
        >>> plan = electra(plan, size=0.25)                           # doctest: +SKIP
    """
    task, inner = plan.task, plan.model
    if not isinstance(task, ReplacedTokenDetection) or not isinstance(inner, ReplacedTokens):
        raise ConfigError("electra trains replaced_token_detection: pretrain --objective electra")
    if not 0 < size <= 1:
        raise ConfigError(f"electra: size {size:g} is no share of the discriminator's width")
    model = _Pair(inner, size, task.tokenizer.mask_id)

    def generate(run: Pass) -> torch.Tensor:
        logits = run.output["generator_logits"].float()
        return cross_entropy(logits, run.batch["original"], reduction="sum")

    def holes(batch: Batch) -> int:
        return len(batch["original"])

    terms = tuple(replace(t, weight=weight) if t.name == "loss" else t for t in plan.terms)
    return replace(plan, model=model, terms=(*terms, Term("electra", generate, count=holes)))


class _Pair(torch.nn.Module):
    """A discriminator with the generator that feeds it in training."""

    def __init__(self, inner: ReplacedTokens, size: float, mask_id: int) -> None:
        super().__init__()
        self.inner, self.mask_id = inner, mask_id
        self.generator = MaskedPositions(_generator(inner.core, size))

    @property
    def core(self) -> Any:
        """The discriminator: what is saved."""
        return self.inner.core

    def forward(
        self,
        input_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        replaced_positions: torch.Tensor | None = None,
        original: torch.Tensor | None = None,
        chance: torch.Tensor | None = None,
    ) -> Any:
        """Return the discriminator's output, with ``generator_logits`` and in training ``truth``.

        Args:
            input_ids: Shape (rows, tokens); judged as they are out of training.
            masked_positions: Flat positions to judge, shape (positions,).
            attention_mask: Shape (rows, tokens).
            position_ids: Shape (rows, tokens).
            replaced_positions: Flat positions the generator fills, shape (holes,).
            original: True ids there, shape (holes,).
            chance: Numbers in [0, 1) that choose its samples, shape (holes,).
        """
        ids, extra = input_ids, dict[str, torch.Tensor]()
        if replaced_positions is not None and original is not None and chance is not None:
            masked = ids.clone()
            masked.view(-1)[replaced_positions] = self.mask_id
            filled = self.generator(masked, replaced_positions, attention_mask, position_ids)
            extra["generator_logits"] = filled.logits
            if self.training:
                drawn = sample(filled.logits.detach(), chance)
                ids = ids.clone()
                ids.view(-1)[replaced_positions] = drawn
                truth = torch.zeros_like(ids)
                truth.view(-1)[replaced_positions] = (drawn != original).long()
                extra["truth"] = truth.view(-1)[masked_positions]
        output = self.inner(ids, masked_positions, attention_mask, position_ids)
        for name, value in extra.items():
            output[name] = value
        return output


def sample(logits: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    """Draw a token from each row of logits by inverting its distribution function.

    Args:
        logits: Shape (holes, vocabulary).
        chance: Uniform in [0, 1), shape (holes,).

    Example:
        >>> sample(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0.2, 0.7]))
        tensor([0, 1])
    """
    bounds = logits.double().softmax(-1).cumsum(-1)
    found = torch.searchsorted(bounds, chance.double()[:, None] * bounds[:, -1:], right=True)
    return found[:, 0].clamp(max=logits.shape[1] - 1)


def _generator(discriminator: Any, size: float) -> ElectraForMaskedLM:
    """Return a new generator over the discriminator's own embeddings."""
    base = discriminator.base_model
    embeddings = getattr(base, "embeddings", None)
    if embeddings is None or not hasattr(embeddings, "word_embeddings"):
        raise ConfigError("electra needs an encoder of the BERT family")
    settings: Mapping[str, Any] = base.config.to_dict()
    wide = int(settings["hidden_size"])
    head = wide // int(settings["num_attention_heads"])
    heads = max(1, round(wide * size / head))
    vocabulary, width = embeddings.word_embeddings.weight.shape
    config = ElectraConfig(
        vocab_size=vocabulary, embedding_size=width, hidden_size=heads * head,
        num_hidden_layers=settings["num_hidden_layers"], num_attention_heads=heads,
        intermediate_size=max(1, round(settings["intermediate_size"] * heads * head / wide)),
        max_position_embeddings=settings["max_position_embeddings"],
        type_vocab_size=settings["type_vocab_size"], pad_token_id=settings["pad_token_id"],
        hidden_dropout_prob=settings["hidden_dropout_prob"],
        attention_probs_dropout_prob=settings["attention_probs_dropout_prob"],
    )  # fmt: skip
    config._attn_implementation = base.config._attn_implementation
    made: Any = ElectraForMaskedLM(config)
    made.electra.embeddings = embeddings
    made.generator_lm_head.weight = embeddings.word_embeddings.weight
    return made  # type: ignore[no-any-return]
