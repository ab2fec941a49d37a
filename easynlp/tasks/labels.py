"""The labels of an app: their order, looking one up, and the head that has one output each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from easynlp.data.values import canonical_label
from easynlp.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from easynlp.models.backbone import Backbone

__all__ = [
    "Labels",
    "Pooling",
    "check_length",
    "label_of",
    "labelled_head",
    "pooled_head",
    "sort_labels",
]

Pooling = Literal["auto", "first", "mean"]
"""How a text's tokens become the vector a classifier reads; see `pooled_head`."""

SHOWN = 20
"""Labels listed in a message before it says how many more there are."""


class Labels(Sequence[str]):
    """The labels a task knows, in the order of the model's outputs.

    Args:
        names: Distinct labels.
        noun: What they are, for messages.

    Example:
        >>> Labels(["差评", "好评"]).index_of("好评")
        1
    """

    def __init__(self, names: Iterable[str], noun: str = "label") -> None:
        self.names, self.noun = tuple(names), noun
        twice = [name for i, name in enumerate(self.names) if name in self.names[:i]]
        if twice:
            raise ConfigError(f'the {noun} "{twice[0]}" is named twice')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        return self.names[index]

    def index_of(self, name: str) -> int:
        """Return a label's number.

        Raises:
            DataError: If it is unknown; lists those known.
        """
        found = self._numbers.get(name)
        if found is None:
            known = ", ".join(self.names[:SHOWN])
            more = f" … ({len(self)})" if len(self) > SHOWN else ""
            raise DataError(
                f'unknown {self.noun} "{name}".{did_you_mean(name, self.names)} '
                f"The training data has: {known}{more}",
                hint=f"Correct the row, or add rows of this {self.noun} to the training data.",
            )
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}


def label_of(value: Any) -> str:
    """Return a label in canonical form, as `easynlp.data.values` writes it: 1 is ``"1"``.

    Raises:
        DataError: If the value is no label.
    """
    try:
        return canonical_label(value)
    except ValueError as error:
        raise DataError(f"`label` {error}") from error


def sort_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct labels in an order that depends on nothing else: numbers by value.

    Example:
        >>> sort_labels(["10", "9", "-1", "9"])
        ('-1', '9', '10')
        >>> sort_labels(["b", "10", "9"])
        ('10', '9', 'b')
    """
    distinct = sorted(set(names))
    try:
        numbers = {name: float(name) for name in distinct}
    except ValueError:
        return tuple(distinct)
    if not all(map(math.isfinite, numbers.values())):
        return tuple(distinct)
    return tuple(sorted(distinct, key=lambda name: (numbers[name], name)))


def labelled_head(
    backbone: Backbone, architecture: str, labels: Sequence[str], max_length: int, **config: Any
) -> PreTrainedModel:
    """Return the backbone with one output a label, which carries the labels' real names.

    Args:
        backbone: The pre-trained encoder.
        architecture: A transformers auto class.
        labels: Names of the outputs, in order.
        max_length: Most tokens a row of the task will have.
        **config: Further configuration values.

    Raises:
        ConfigError: If the encoder has no positions for so many tokens.
    """
    check_length(backbone, max_length)
    return backbone.with_head(architecture, **_names(labels), **config)


def pooled_head(
    backbone: Backbone,
    architecture: str,
    labels: Sequence[str],
    max_length: int,
    pooling: Pooling,
    **config: Any,
) -> tuple[torch.nn.Module, Pooling]:
    """Return a classifier of texts, and how it makes a text's vector.

    ``first`` is the model as stock transformers has it: for an encoder the first token through a
    dense layer. ``mean`` is a linear layer over the mean of all tokens that are not padding.
    ``auto`` takes ``mean`` where the model says so, as sentence-transformers writes it, and where
    the weights lack the pooler that ``first`` would read; random weights lack nothing.

    Args:
        backbone: The pre-trained encoder.
        architecture: A transformers auto class; of ``first``.
        labels: Names of the outputs, in order.
        max_length: Most tokens a row of the task will have.
        pooling: See above.
        **config: Further configuration values.

    Raises:
        ConfigError: If the encoder has no positions for so many tokens, or ``mean`` is asked of an
            encoder-decoder.
    """
    from easynlp.models.backbone import lacks_pooler
    from easynlp.models.heads import MeanPooled

    if pooling == "auto" and (said := backbone.sentence_pooling()) is not None:
        pooling = "mean" if said == "mean" else "first"
    check_length(backbone, max_length)
    if pooling != "mean":
        model, gaps = backbone.with_head_and_gaps(architecture, **_names(labels), **config)
        if pooling == "first" or backbone.folder is None or not lacks_pooler(gaps):
            return model, "first"
    if getattr(backbone.config, "is_encoder_decoder", False):
        raise ConfigError(
            f"--pooling mean: {backbone.name} is an encoder-decoder; type --pooling first"
        )
    pooled = MeanPooled(backbone.with_head("AutoModel", **_names(labels), **config))
    pooled.read_classifier(backbone.folder)
    return pooled, "mean"


def check_length(backbone: Backbone, max_length: int) -> None:
    """Refuse rows longer than an encoder has positions for.

    Raises:
        ConfigError: If the encoder has no positions for so many tokens.
    """
    positions = getattr(backbone.config, "max_position_embeddings", None) or math.inf
    if backbone.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2  # their positions begin after the padding's
    if max_length > positions:
        raise ConfigError(
            f"--max-length {max_length}: {backbone.name} reads at most {positions} tokens"
        )


def _names(labels: Sequence[str]) -> dict[str, Any]:
    """Return the configuration values of a head with these outputs."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {name: i for i, name in enumerate(labels)},
    }
