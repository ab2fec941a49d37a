"""Heads that stock transformers lacks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from easynlp.models.compact import stored_layer, stored_state

__all__ = ["DecoderPositions", "MaskedPositions", "MeanPooled", "ReplacedTokens", "add_pooler",
           "core", "first_position", "mean_of_tokens", "pass_through", "start_pooler"]  # fmt: skip


class MaskedPositions(torch.nn.Module):
    """Any masked-LM model, its vocabulary projection computed at chosen positions only.

    The encoder's output is gathered before the head sees it, by a hook, so every architecture
    with an encoder and a head works unchanged.

    Args:
        model: A transformers ``...ForMaskedLM`` or ``...ForCausalLM``.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.core = model
        self._positions: torch.Tensor | None = None
        self._pooled: torch.Tensor | None = None
        self._first = first_position(model.config)
        self._options = {"use_cache": False} if model.can_generate() else {}
        self._body(model).register_forward_hook(self._gather)

    @staticmethod
    def _body(model: Any) -> torch.nn.Module:
        """Return the module whose output the head reads."""
        body: torch.nn.Module = model.base_model
        return body

    def forward(
        self,
        input_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> Any:
        """Return an output whose logits have shape (positions, vocabulary).

        Args:
            input_ids: Shape (rows, tokens).
            masked_positions: Flat positions into rows x tokens, shape (positions,).
            attention_mask: Shape (rows, tokens); None where nothing is padded.
            position_ids: Shape (rows, tokens), from 0; None counts from 0.
            token_type_ids: Shape (rows, tokens); None is all 0.
        """
        self._positions = masked_positions
        extra: dict[str, Any] = dict(self._options)
        if position_ids is not None:
            extra["position_ids"] = position_ids + self._first
        if token_type_ids is not None:
            extra["token_type_ids"] = token_type_ids
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


class ReplacedTokens(MaskedPositions):
    """A discriminator: logits (kept, replaced) at chosen positions, shape (positions, 2).

    Args:
        model: ``ElectraForPreTraining``, whose one logit stands against 0, or a token classifier
            of two labels.
    """

    def forward(
        self,
        input_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> Any:
        """Return an output as `MaskedPositions` does."""
        output = super().forward(
            input_ids, masked_positions, attention_mask, position_ids, token_type_ids
        )
        if output.logits.dim() == 1:
            output.logits = torch.stack([torch.zeros_like(output.logits), output.logits], -1)
        return output


class DecoderPositions(MaskedPositions):
    """An encoder-decoder, its vocabulary projection computed at chosen decoder positions only.

    Args:
        model: A transformers model with an encoder, a decoder and a language-model head.
    """

    @staticmethod
    def _body(model: Any) -> torch.nn.Module:
        body: torch.nn.Module = model.get_decoder()
        return body

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        decoder_input_ids: torch.Tensor,
        masked_positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> Any:
        """Return an output whose logits have shape (positions, vocabulary).

        Padding of the decoder needs no mask: it is behind all that is looked at.

        Args:
            input_ids: Shape (rows, tokens).
            decoder_input_ids: Shape (rows, decoder tokens).
            masked_positions: Flat positions into rows x decoder tokens, shape (positions,).
            attention_mask: Of the encoder, shape (rows, tokens).
        """
        self._positions = masked_positions
        output = self.core(
            input_ids=input_ids, decoder_input_ids=decoder_input_ids,
            attention_mask=attention_mask, **self._options,
        )  # fmt: skip
        output.logits = output.logits[0]
        self._positions = self._pooled = None
        return output


class MeanPooled(torch.nn.Module):
    """A classifier over the mean of the last layer's vectors: one linear layer, nothing between.

    Stock transformers puts a dense layer and tanh between the first token and the classifier; an
    encoder made for mean vectors (the E5 family, most of sentence-transformers) has none that is
    trained. A linear probe of mean vectors is such a model exactly.

    Args:
        encoder: A transformers encoder without head, whose configuration says ``num_labels``; it
            loses its pooler, and gets the layer ``mean_classifier``, which is saved with it.
    """

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        inner: Any = encoder
        if hasattr(inner, "pooler"):
            inner.pooler = None
        config = inner.config
        layer = torch.nn.Linear(config.hidden_size, config.num_labels)
        torch.nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
        torch.nn.init.zeros_(layer.bias)
        inner.mean_classifier = layer
        rate = getattr(config, "classifier_dropout", None)
        if rate is None:
            rate = getattr(config, "hidden_dropout_prob", getattr(config, "dropout", None))
        self.core = encoder
        self.dropout = torch.nn.Dropout(float(rate or 0.0))
        self._types = "token_type_ids" in inspect.signature(encoder.forward).parameters

    @property
    def config(self) -> Any:
        """The encoder's configuration, with the labels' names."""
        return self.core.config

    @property
    def classifier(self) -> torch.nn.Linear:
        """The layer whose outputs are the logits."""
        found: Any = self.core.mean_classifier
        return found  # type: ignore[no-any-return]

    def read_classifier(self, folder: Path | None) -> None:
        """Take the layer out of a run's weights, if one of as many labels is there."""
        state = stored_layer(folder, "mean_classifier")
        if state and state["weight"].shape == self.classifier.weight.shape:
            self.classifier.load_state_dict(state)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return an output whose ``logits`` are (rows, labels).

        Args:
            input_ids: Shape (rows, tokens).
            attention_mask: Shape (rows, tokens), 0 at padding; None where nothing is padded.
            token_type_ids: Shape (rows, tokens); an encoder without segments does not see them.
        """
        extra = {"token_type_ids": token_type_ids} if self._types else {}
        output = self.core(input_ids=input_ids, attention_mask=attention_mask, **extra)
        mean = mean_of_tokens(output.last_hidden_state, attention_mask)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(mean)))  # type: ignore[arg-type]


def mean_of_tokens(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of each row's vectors, padding left out, in fp32; shape (rows, width).

    Args:
        hidden: Shape (rows, tokens, width).
        mask: Shape (rows, tokens), 0 at padding; None where nothing is padded.

    Example:
        >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> mean_of_tokens(hidden, torch.tensor([[1, 1, 0]])).tolist()
        [[2.0]]
    """
    if mask is None:
        return hidden.float().mean(1)
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1)


def add_pooler(base: Any) -> bool:
    """Give an encoder the pooler its architecture has, if it lacks one; say whether it can.

    Args:
        base: The encoder inside a transformers model; a masked-LM model leaves its pooler out.
    """
    if not hasattr(base, "pooler"):
        return False
    if base.pooler is None:
        if base.config.model_type == "albert":
            width = base.config.hidden_size
            base.pooler, base.pooler_activation = torch.nn.Linear(width, width), torch.nn.Tanh()
        else:
            from transformers.models.bert.modeling_bert import BertPooler

            base.pooler = BertPooler(base.config)  # type: ignore[no-untyped-call]
    return True


@torch.no_grad()
def start_pooler(base: Any, folder: Path | None) -> None:
    """Start a pooler that was just added: as the checkpoint has it, else as the identity.

    Masked-LM models leave the pooler out, so loading one loses what the checkpoint's had learned.

    Args:
        base: The encoder; without a pooler nothing is done.
        folder: Of the checkpoint, plain or compact.
    """
    dense: Any = getattr(getattr(base, "pooler", None), "dense", None)
    if dense is None:
        return
    stored = stored_state(folder, "pooler.dense.") if folder is not None else {}
    for name, value in dense.state_dict().items():
        held = [v for k, v in stored.items() if k.endswith(f"pooler.dense.{name}")]
        if not held or held[0].shape != value.shape:
            pass_through(dense)
            return
        value.copy_(held[0])


@torch.no_grad()
def pass_through(layer: Any, size: float = 0.5) -> None:
    """Make a linear layer the identity times `size`; anything else is left as it is.

    A half, because a pooler's tanh is nearly linear up to there.
    """
    if isinstance(layer, torch.nn.Linear):
        torch.nn.init.eye_(layer.weight).mul_(size)
        torch.nn.init.zeros_(layer.bias)


def first_position(config: Any) -> int:
    """Return the position id of a row's first token: RoBERTa's begin behind the padding's."""
    offset = config.model_type in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")
    return int(config.pad_token_id) + 1 if offset else 0


def core(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a task's model: what a run folder holds."""
    found: Any = getattr(model, "core", model)
    return found  # type: ignore[no-any-return]
