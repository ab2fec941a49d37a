"""Students without attention: TextCNN, BiLSTM and a bag of hashed n-grams.

Small models that a large one teaches, or that serve where microseconds count; the first two also
have a head for tokens. Padding never changes an answer, whatever the rows beside it.

This file imports nothing of easynlp: transformers copies it beside saved weights, so that without
easynlp they load with ``trust_remote_code=True``.

Sources: Kim 2014, "Convolutional Neural Networks for Sentence Classification"; Graves and
Schmidhuber 2005 (BiLSTM); Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification".
Deviation from Kim: one channel, zeros beyond a text's ends, token vectors that start random.
"""

# mypy: disable-error-code="no-untyped-call"
# (the constructors and hooks of transformers, of which half of this file is made)

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
import transformers
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

__all__ = ["BiLstmConfig", "BiLstmModel", "HashedNgramConfig", "HashedNgramModel",
           "LightConfig", "TextCnnConfig", "TextCnnModel"]  # fmt: skip


class LightConfig(PretrainedConfig):
    """What the three share: where the code is, for every head they have."""

    heads: ClassVar[dict[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration, with where its code is for every head and not only one."""
        found: dict[str, Any] = super().to_dict()
        home = __name__.rpartition(".")[2]
        names = {"AutoConfig": type(self).__name__, **self.heads}
        return {**found, "auto_map": {auto: f"{home}.{name}" for auto, name in names.items()}}


@strict
class TextCnnConfig(LightConfig):
    """Sizes of a TextCNN: token vectors, and filters of each of the kernel sizes."""

    model_type = "text_cnn"
    heads: ClassVar[dict[str, str]] = {
        "AutoModel": "TextCnnModel",
        "AutoModelForSequenceClassification": "TextCnnForSequenceClassification",
        "AutoModelForTokenClassification": "TextCnnForTokenClassification",
    }
    vocab_size: int = 9000
    pad_token_id: int | None = 0
    embedding_size: int = 128
    filters: int = 128
    kernel_sizes: list[int] | tuple[int, ...] = (2, 3, 4)
    hidden_dropout_prob: float = 0.3
    initializer_range: float = 0.1

    @property
    def hidden_size(self) -> int:
        """Width of the vectors the encoder gives."""
        return self.filters * len(self.kernel_sizes)


@strict
class BiLstmConfig(LightConfig):
    """Sizes of a BiLSTM: token vectors, units of one direction, layers of both directions.

    ``text_pooling`` is what stands for a text: ``max`` over its tokens, or ``last``, where each
    direction ends.
    """

    model_type = "bilstm"
    heads: ClassVar[dict[str, str]] = {
        "AutoModel": "BiLstmModel",
        "AutoModelForSequenceClassification": "BiLstmForSequenceClassification",
        "AutoModelForTokenClassification": "BiLstmForTokenClassification",
    }
    vocab_size: int = 9000
    pad_token_id: int | None = 0
    embedding_size: int = 128
    units: int = 128
    num_hidden_layers: int = 1
    text_pooling: str = "max"
    hidden_dropout_prob: float = 0.3
    initializer_range: float = 0.1

    @property
    def hidden_size(self) -> int:
        """Width of the vectors the encoder gives."""
        return 2 * self.units


@strict
class HashedNgramConfig(LightConfig):
    """Sizes of a bag of hashed n-grams: buckets and one more (id 0 is padding), their vectors."""

    model_type = "hashed_ngram"
    heads: ClassVar[dict[str, str]] = {
        "AutoModel": "HashedNgramModel",
        "AutoModelForSequenceClassification": "HashedNgramForSequenceClassification",
    }
    vocab_size: int = 65_522
    pad_token_id: int | None = 0
    embedding_size: int = 32
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.1

    @property
    def hidden_size(self) -> int:
        """Width of the vectors the encoder gives."""
        return self.embedding_size


class _Light(PreTrainedModel):
    """What the models share: no attention, and plain initial weights."""

    config: Any
    base_model_prefix = "encoder"
    _supports_sdpa = True  # there is no attention that could be of another kind

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        if isinstance(module, torch.nn.Embedding):
            initialization.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, torch.nn.Linear | torch.nn.Conv1d | torch.nn.LSTM):
            for name, value in module.named_parameters():
                start = initialization.zeros_ if "bias" in name else initialization.xavier_uniform_
                start(value)
        elif isinstance(module, TokenVectors):
            initialization.normal_(module.second_text, std=self.config.initializer_range)


class TokenVectors(torch.nn.Module):
    """Token vectors, zero at padding; those of a second text are moved by a vector of their own."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.word_embeddings = torch.nn.Embedding(config.vocab_size, config.embedding_size)
        self.second_text = torch.nn.Parameter(torch.zeros(config.embedding_size))
        self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, input_ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """Return vectors, shape (rows, tokens, width)."""
        found = self.word_embeddings(input_ids)
        if type_ids is not None:
            found = found + type_ids[..., None] * self.second_text
        result: torch.Tensor = self.dropout(found) * mask
        return result


class _Encoder(_Light, ABC):
    """A body: token vectors of a text, and one vector that stands for it."""

    _input_embed_layer = "word_embeddings"

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPooling:
        """Return token vectors (rows, tokens, width) and one a row, (rows, width).

        Args:
            input_ids: Shape (rows, tokens).
            attention_mask: Shape (rows, tokens), 0 at padding, which is behind all tokens; None
                where nothing is padded.
            token_type_ids: Shape (rows, tokens), 1 in a second text; None: one text.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden, pooled = self.encode(input_ids, mask, token_type_ids)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)  # type: ignore[arg-type]

    @abstractmethod
    def encode(
        self, input_ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `forward` does, of a mask that is there; each model has its own."""


class TextCnnModel(_Encoder):
    """Convolutions of several widths over token vectors, the largest of each filter."""

    config_class = TextCnnConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = TokenVectors(config)
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv1d(config.embedding_size, config.filters, size)
            for size in config.kernel_sizes
        )
        self.post_init()

    def encode(
        self, input_ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each token's filters, and the largest of each over the text."""
        real = mask[..., None].float()
        columns = self.embeddings(input_ids, real, type_ids).transpose(1, 2)
        found = []
        for layer in self.convolutions:
            size: int = layer.kernel_size[0]  # type: ignore[index,assignment]
            # As many outputs as tokens: a window begins (size - 1) // 2 tokens before its own.
            before = (size - 1) // 2
            around = torch.nn.functional.pad(columns, (before, size - 1 - before))
            found.append(torch.relu(layer(around)))
        hidden = torch.cat(found, 1).transpose(1, 2) * real
        return hidden, hidden.amax(1)  # none is below 0, so those of padding are never chosen


class _BothWays(torch.nn.Module):
    """One LSTM from the left and one from the right end of each row.

    The second reads rows turned around within their own length, so padding is behind the text
    for both and needs no packing, which ONNX has no word for.
    """

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.rightward = torch.nn.LSTM(width, units, batch_first=True)
        self.leftward = torch.nn.LSTM(width, units, batch_first=True)

    def forward(self, vectors: torch.Tensor, turned: torch.Tensor) -> torch.Tensor:
        """Return both directions' states, shape (rows, tokens, 2 x units).

        Args:
            vectors: Shape (rows, tokens, width).
            turned: Each place's mirror image in its row, padding's its own; (rows, tokens).
        """
        right = _run(self.rightward, vectors)
        mirror = turned[..., None].expand(-1, -1, vectors.shape[-1])
        left = _run(self.leftward, vectors.gather(1, mirror))
        mirror = turned[..., None].expand(-1, -1, left.shape[-1])
        return torch.cat([right, left.gather(1, mirror)], -1)


def _run(layer: Any, vectors: torch.Tensor) -> torch.Tensor:
    """Return an LSTM's states, (rows, tokens, units).

    Tracing would unroll it to the sample's tokens; so there the ONNX operator is named, whose gates
    are in another order than torch's.
    """
    if not torch.onnx.is_in_onnx_export():
        return layer(vectors)[0]  # type: ignore[no-any-return]

    def gates(value: torch.Tensor) -> torch.Tensor:
        i, f, c, o = value.chunk(4)
        return torch.cat([i, o, f, c])

    units, (rows, tokens) = layer.hidden_size, vectors.shape[:2]
    weights = [gates(layer.weight_ih_l0), gates(layer.weight_hh_l0)]
    bias = torch.cat([gates(layer.bias_ih_l0), gates(layer.bias_hh_l0)])
    states = torch.onnx.ops.symbolic(
        "LSTM", [vectors.transpose(0, 1), *(w[None] for w in weights), bias[None]],
        {"hidden_size": units}, dtype=vectors.dtype, shape=(tokens, 1, rows, units), version=14,
    )  # fmt: skip
    return states[:, 0].transpose(0, 1)


class BiLstmModel(_Encoder):
    """LSTMs in both directions over token vectors."""

    config_class = BiLstmConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = TokenVectors(config)
        widths = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layer = torch.nn.ModuleList(_BothWays(width, config.units) for width in widths)
        self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
        self.post_init()

    def encode(
        self, input_ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each token's states, and their largest or their last over the text."""
        real = mask[..., None].float()
        hidden = self.embeddings(input_ids, real, type_ids)
        lengths = mask.sum(1, keepdim=True)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        turned = torch.where(places < lengths, lengths - 1 - places, places)
        for number, layer in enumerate(self.layer):
            hidden = layer(self.dropout(hidden) if number else hidden, turned)
        hidden = hidden * real
        if self.config.text_pooling == "max":
            return hidden, (hidden - 2 * (1 - real)).amax(1)  # a state is above -1
        end = (lengths - 1)[..., None].expand(-1, -1, self.config.units)
        right, left = hidden.split(self.config.units, -1)
        return hidden, torch.cat([right.gather(1, end)[:, 0], left[:, 0]], -1)


class HashedNgramModel(_Encoder):
    """The mean of the vectors of a text's n-grams, whose ids are made by hashing."""

    config_class = HashedNgramConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = torch.nn.Module()
        table = torch.nn.Embedding(config.vocab_size, config.embedding_size)
        self.embeddings.word_embeddings = table
        self.post_init()

    def encode(
        self, input_ids: torch.Tensor, mask: torch.Tensor, type_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each n-gram's vector, and their mean; a second text has n-grams of its own."""
        real = mask[..., None].float()
        hidden = self.get_input_embeddings()(input_ids) * real
        return hidden, hidden.sum(1) / real.sum(1)


class _Headed(_Light):
    """A linear layer over the vector of a text, or over that of each of its tokens."""

    encoder_class: ClassVar[type[_Encoder]]
    output_class: ClassVar[type[Any]]
    reads: ClassVar[str]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = self.encoder_class(config)
        self.dropout = torch.nn.Dropout(config.hidden_dropout_prob)
        self.classifier = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Return an output whose logits are (rows, labels), of tokens (rows, tokens, labels).

        The arguments are the encoder's. ``hidden_states`` are the tokens' vectors.
        """
        found = self.encoder(input_ids, attention_mask, token_type_ids)
        logits = self.classifier(self.dropout(found[self.reads]))
        return self.output_class(logits=logits, hidden_states=(found.last_hidden_state,))


class _Texts(_Headed):
    output_class, reads = SequenceClassifierOutput, "pooler_output"


class _Tokens(_Headed):
    output_class, reads = TokenClassifierOutput, "last_hidden_state"


class TextCnnForSequenceClassification(_Texts):
    """TextCNN with a head for texts."""

    config_class, encoder_class = TextCnnConfig, TextCnnModel


class TextCnnForTokenClassification(_Tokens):
    """TextCNN with a head for tokens."""

    config_class, encoder_class = TextCnnConfig, TextCnnModel


class BiLstmForSequenceClassification(_Texts):
    """BiLSTM with a head for texts."""

    config_class, encoder_class = BiLstmConfig, BiLstmModel


class BiLstmForTokenClassification(_Tokens):
    """BiLSTM with a head for tokens."""

    config_class, encoder_class = BiLstmConfig, BiLstmModel


class HashedNgramForSequenceClassification(_Texts):
    """Hashed n-grams with a head for texts."""

    config_class, encoder_class = HashedNgramConfig, HashedNgramModel


for _config in (TextCnnConfig, BiLstmConfig, HashedNgramConfig):
    AutoConfig.register(_config.model_type, _config)
    _config.register_for_auto_class()
    for _auto, _name in _config.heads.items():
        getattr(transformers, _auto).register(_config, globals()[_name])
        globals()[_name].register_for_auto_class(_auto)
