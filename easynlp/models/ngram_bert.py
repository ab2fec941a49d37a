"""BERT that sees character bigrams, and whose first token starts as the bag of the others.

A Chinese word is mostly two characters, and a small encoder spends its few layers finding that
out. Here a hashed table gives every pair of neighbouring tokens a vector of its own, added to both
(hashed n-grams: Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification"; n-gram
vectors inside an encoder: Diao et al. 2020, "ZEN"). The sum of a row's vectors, its length evened
out, is added to the first token: so ``[CLS]`` is a bag of words before the first layer, and the
layers need only mend it. Neither costs a matrix product.

Everything else is transformers' BERT: same names of weights, same heads. Special tokens take no
part in bigrams and bags. Rows given as ``inputs_embeds`` have neither, as there are no tokens.

This file imports nothing of easynlp: transformers copies it beside saved weights, so that without
easynlp they load with ``trust_remote_code=True``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import transformers
from huggingface_hub.dataclasses import strict
from torch.nn.functional import pad
from transformers import (
    AutoConfig,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from transformers.models.bert.modeling_bert import BertEmbeddings

__all__ = ["NgramBertConfig", "NgramBertModel", "NgramEmbeddings", "set_token_codes", "token_code"]

_MULTIPLIER = 40_503
_CODES = 1 << 20
_GAIN = 5.0
"""The bag outweighs the other parts of the first token's embedding by this much at the start."""
_SPECIAL = 5
"""Tokens a vocabulary of `pretrain` begins with: ``[PAD] [UNK] [CLS] [SEP] [MASK]``."""
_HEADS = {
    "AutoModel": "NgramBertModel",
    "AutoModelForMaskedLM": "NgramBertForMaskedLM",
    "AutoModelForSequenceClassification": "NgramBertForSequenceClassification",
    "AutoModelForTokenClassification": "NgramBertForTokenClassification",
}


@strict
class NgramBertConfig(BertConfig):  # type: ignore[no-untyped-call]
    """BERT's configuration and the number of bigram vectors; a prime number hashes best."""

    model_type = "ngram_bert"
    ngram_buckets: int = 20_479

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration, with where its code is for every head and not only one."""
        found: dict[str, Any] = super().to_dict()
        home = __name__.rpartition(".")[2]
        names = {"AutoConfig": type(self).__name__, **_HEADS}
        return {**found, "auto_map": {auto: f"{home}.{name}" for auto, name in names.items()}}


class NgramEmbeddings(BertEmbeddings):
    """BERT's embeddings, with hashed bigrams added and the bag of the row on its first token.

    Attributes:
        ngram_embeddings: One vector a bucket, shape (buckets, width).
        bag_gain: How much of the bag the first token gets, shape (width,).
        token_codes: What a token is hashed by, shape (vocabulary,) int64; 0: special, takes no
            part. Kept with the weights, so a vocabulary may be cut or changed.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[no-untyped-call]
        self.buckets = int(config.ngram_buckets)
        self.ngram_embeddings = torch.nn.Embedding(self.buckets, config.hidden_size)
        start = _GAIN * config.initializer_range
        self.bag_gain = torch.nn.Parameter(torch.full((config.hidden_size,), start))
        self.token_codes: torch.Tensor
        self.register_buffer("token_codes", _default_codes(config.vocab_size))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        past_key_values_length: int = 0,
    ) -> torch.Tensor:
        """Return embeddings, shape (rows, tokens, width); see BERT's."""
        if input_ids is not None and inputs_embeds is None:
            content, bag = self.content_and_bag(input_ids)
            size = torch.rsqrt(bag.float().square().mean(-1, keepdim=True) + 1e-12)
            first = (bag * size).to(content) * self.bag_gain
            tokens = input_ids.shape[1]
            inputs_embeds = content + pad(first[:, None], (0, 0, 0, tokens - 1))
        mine: Any = super()
        found: torch.Tensor = mine.forward(
            None, token_type_ids, position_ids, inputs_embeds, past_key_values_length
        )
        return found

    def content_and_bag(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each token's vector with its bigrams, (rows, tokens, width), and their sum.

        The sum, (rows, width), is over all but special tokens: zero for a row of those alone.
        """
        codes = self.token_codes[input_ids]
        left, right = codes[:, :-1], codes[:, 1:]
        hashed = (left * _MULTIPLIER + right) % self.buckets
        whole = ((left > 0) & (right > 0))[..., None]
        pairs = self.ngram_embeddings(hashed) * whole
        content = self.word_embeddings(input_ids)
        content = content + pad(pairs, (0, 0, 1, 0)) + pad(pairs, (0, 0, 0, 1))
        return content, (content * (codes > 0)[..., None]).sum(1)


class _WithNgrams:
    """Puts `NgramEmbeddings` where a BERT model has its own."""

    config_class: ClassVar[Any] = NgramBertConfig
    config: Any

    def __init__(self, config: Any, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)  # type: ignore[call-arg]
        self.base_model.embeddings = NgramEmbeddings(config)  # type: ignore[attr-defined]
        self.post_init()  # type: ignore[attr-defined]

    def resize_token_embeddings(self, *args: Any, **options: Any) -> Any:
        """Change the number of tokens; new ones take no part in bigrams and bags."""
        table = super().resize_token_embeddings(*args, **options)  # type: ignore[misc]
        inner: Any = self.base_model.embeddings  # type: ignore[attr-defined]
        count = table.num_embeddings
        kept = inner.token_codes[:count]
        inner.token_codes = pad(kept, (0, count - len(kept)))
        return table

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if isinstance(module, NgramEmbeddings):
            from transformers import initialization

            initialization.copy_(module.token_codes, _default_codes(len(module.token_codes)))
            initialization.constant_(module.bag_gain, _GAIN * self.config.initializer_range)


class NgramBertModel(_WithNgrams, BertModel):  # type: ignore[no-untyped-call]
    """The encoder."""


class NgramBertForMaskedLM(_WithNgrams, BertForMaskedLM):  # type: ignore[no-untyped-call]
    """With BERT's masked-LM head."""


class NgramBertForSequenceClassification(_WithNgrams, BertForSequenceClassification):  # type: ignore[no-untyped-call]
    """With BERT's head for texts."""


class NgramBertForTokenClassification(_WithNgrams, BertForTokenClassification):  # type: ignore[no-untyped-call]
    """With BERT's head for tokens."""


def set_token_codes(model: Any, names: Sequence[str], special: Any) -> None:
    """Hash tokens by what they are, so that their bigrams outlive a change of vocabulary.

    Args:
        model: A model of this architecture; changed in place.
        names: What each token is, in the order of ids.
        special: Ids that take no part in bigrams and bags.
    """
    table = model.base_model.embeddings.token_codes
    codes = torch.tensor([token_code(name) for name in names])
    codes[torch.as_tensor(special, dtype=torch.long)] = 0
    table.copy_(codes)


def token_code(name: str) -> int:
    """Return the number a token is hashed by, never 0.

    Example:
        >>> token_code("好") == token_code("好") != token_code("坏")
        True
    """
    return 1 + zlib.crc32(name.encode()) % (_CODES - 1)


def _default_codes(count: int) -> torch.Tensor:
    codes = torch.arange(count)
    codes[:_SPECIAL] = 0
    return codes


AutoConfig.register("ngram_bert", NgramBertConfig)
NgramBertConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
for _auto, _name in _HEADS.items():
    getattr(transformers, _auto).register(NgramBertConfig, globals()[_name])
    globals()[_name].register_for_auto_class(_auto)
