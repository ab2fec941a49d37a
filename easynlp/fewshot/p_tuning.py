"""P-tuning: soft tokens in a prompt, made by a small network while they are learned.

Liu et al. 2021, "GPT Understands, Too" (arXiv 2103.10385). The pattern holds soft tokens, written
``[PRO]`` (EasyNLP's ``<pseudo>``); their vectors are ``MLP([forward LSTM; backward LSTM])`` over
learned inputs, so that neighbours know of each other and learning is easier than for free vectors.

- ``encoder=lstm`` is the paper's: 2 LSTM layers in both directions, 2 linear layers with a ReLU.
  ``encoder=none`` learns the vectors freely, which is all EasyNLP's code does.
- With ``freeze`` the language model stays as it is and only the soft tokens learn; it wants a
  higher learning rate (1e-3 to 1e-2). Otherwise all learn, as in the paper's few-shot experiments.

Where a model is evaluated or saved, the vectors are written into its table of embeddings, where
the tokenizer has the tokens ``<pseudo-0>`` and on: what is scored is what is saved, a plain masked
language model. The network itself is not kept (checkpoints to resume from have it).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from easynlp.errors import ConfigError
from easynlp.fewshot.pet import prompt_config, prompt_plan
from easynlp.fewshot.prompt_classify import PromptClassify
from easynlp.fewshot.template import Template
from easynlp.fewshot.verbalizer import Scoring, WordScore
from easynlp.models.heads import MaskedPositions
from easynlp.training.plan import Plan

__all__ = ["MixedEncoder", "PromptEncoder", "SoftPrompts", "p_tuning"]

Kind = Literal["lstm", "mlp", "none"]


def p_tuning(
    plan: Plan,
    *,
    pattern: str = "",
    words: str = "",
    tokens: int = 4,
    encoder: Kind = "lstm",
    freeze: bool = False,
    loss: Literal["restricted", "vocabulary"] | None = None,
    scoring: Scoring | None = None,
    word_score: WordScore | None = None,
) -> Plan:
    """Make a plan of text_classify or prompt_classify one with learned soft tokens in its prompt.

    Args:
        plan: What to change; no method may have come before it.
        pattern: The text with a hole and soft tokens, ``[PRO]*2{text}[PRO][MASK]``, or ``@FILE``.
        words: Words of each label, or ``@FILE``; by default the labels' names.
        tokens: Soft tokens put before a pattern that has none.
        encoder: What makes their vectors: ``lstm``, ``mlp``, or ``none``: they are free.
        freeze: Train the soft tokens only.
        loss: See `easynlp.fewshot.pet.pet`.
        scoring: See `easynlp.fewshot.pet.pet`.
        word_score: See `easynlp.fewshot.pet.pet`.

    Raises:
        ConfigError: If the plan is of another task or other methods came first, or an option,
            pattern or word is wrong.

    Example:
        >>> plan = p_tuning(plan, pattern="{text}[PRO]*2[MASK]", words="好评=好;差评=差",
        ...                 freeze=True)                              # doctest: +SKIP
    """
    if tokens < 1:
        raise ConfigError(f"p_tuning: tokens is {tokens}; valid: 1 or more")
    if encoder not in ("lstm", "mlp", "none"):
        raise ConfigError(f'p_tuning: encoder "{encoder}" is none of lstm, mlp, none')
    template = Template.parse(pattern or prompt_config("p_tuning", plan).pattern)
    if not template.softs:
        template = template.with_soft(tokens)
    options = {"pattern": str(template), "words": words, "loss": loss, "scoring": scoring,
               "word_score": word_score}  # fmt: skip

    def wrap(task: PromptClassify, model: PreTrainedModel) -> SoftPrompts:
        return SoftPrompts(model, task.soft_ids, encoder, freeze=freeze)

    return prompt_plan("p_tuning", plan, {k: v for k, v in options.items() if v}, wrap)


class PromptEncoder(torch.nn.Module):
    """Makes the vectors of soft tokens.

    Args:
        start: What the inputs begin as, shape (tokens, width); the vectors themselves where
            there is no network.
        kind: See `p_tuning`.
    """

    def __init__(self, start: torch.Tensor, kind: Kind = "lstm") -> None:
        super().__init__()
        width = start.shape[1]
        self.inputs = torch.nn.Parameter(start.detach().clone())
        self.lstm: torch.nn.LSTM | None = None
        self.mlp: torch.nn.Module | None = None
        if kind == "lstm":
            self.lstm = torch.nn.LSTM(
                width, width // 2, num_layers=2, bidirectional=True, batch_first=True
            )
        if kind != "none":
            between = 2 * (width // 2) if kind == "lstm" else width
            self.mlp = torch.nn.Sequential(
                torch.nn.Linear(between, width), torch.nn.ReLU(), torch.nn.Linear(width, width)
            )

    def forward(self) -> torch.Tensor:
        """Return the vectors, shape (tokens, width)."""
        found: torch.Tensor = self.inputs
        if self.lstm is not None:
            found = self.lstm(found[None])[0][0]
        return found if self.mlp is None else self.mlp(found)  # type: ignore[no-any-return]


class MixedEncoder(torch.nn.Module):
    """Makes the soft tokens of several sets: of each set's own encoder and one for all.

    Args:
        start: What the inputs begin as, shape (sets, tokens, width).
        kind: See `p_tuning`.
        share: Of a set's own encoder in its vectors.
        unseen: The first set's vectors are the universal encoder's alone.
    """

    def __init__(self, start: torch.Tensor, kind: Kind, share: float, *, unseen: bool) -> None:
        super().__init__()
        self.share, self.unseen = share, unseen
        self.universal = PromptEncoder(start.mean(0), kind)
        self.own = torch.nn.ModuleList(PromptEncoder(each, kind) for each in start[int(unseen) :])

    def forward(self) -> torch.Tensor:
        """Return the vectors of all sets, shape (sets x tokens, width)."""
        universal = self.universal()
        found = [universal] if self.unseen else []
        found += [self.share * each() + (1 - self.share) * universal for each in self.own]
        return torch.cat(found)


class SoftPrompts(MaskedPositions):
    """A masked-LM model whose soft tokens get their vectors from a network while it trains.

    In evaluation mode it is the plain model, with the vectors in its table of embeddings.

    Args:
        model: A transformers ``...ForMaskedLM`` whose table has rows for the soft tokens.
        soft_ids: Their ids.
        kind: See `p_tuning`.
        freeze: Train the network only.
        encoder: Makes the vectors in place of a `PromptEncoder` of that kind.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        soft_ids: list[int],
        kind: Kind = "lstm",
        *,
        freeze: bool,
        encoder: torch.nn.Module | None = None,
    ) -> None:
        super().__init__(model)
        table: Any = model.get_input_embeddings()
        self.register_buffer("_soft_ids", torch.tensor(soft_ids), persistent=False)
        self.encoder = encoder or PromptEncoder(table.weight[soft_ids].float(), kind)
        model.requires_grad_(not freeze)
        table.register_forward_hook(self._embed)

    def train(self, mode: bool = True) -> SoftPrompts:
        """Switch between training and evaluation; for the latter, write the vectors down."""
        super().train(mode)
        if not mode:
            table: Any = self.core.get_input_embeddings()
            with torch.no_grad():
                table.weight[self._soft_ids] = self.encoder().to(table.weight.dtype)
        return self

    def _embed(self, table: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return output
        ids, soft = args[0], self._soft_ids
        vectors = self.encoder().to(output.dtype)
        is_soft = ids[..., None] == soft  # (rows, tokens, soft tokens)
        chosen = vectors[is_soft.to(torch.uint8).argmax(-1)]
        return torch.where(is_soft.any(-1, keepdim=True), chosen, output)
