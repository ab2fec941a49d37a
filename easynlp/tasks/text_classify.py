"""Text classification: which label, or which labels, does a text (or a pair of texts) have?

Input ``{"text": "房间很干净", "label": "好评"}``, for pairs also ``text_b``, with several labels
``{"text": …, "label": "体育,财经"}`` or a list. Output ``{"label": "好评", "score": 0.93,
"scores": {"好评": 0.93, "差评": 0.07}}``, with several ``{"labels": […], "scores": {…}}``.

With several labels each (text, label) is a question of its own, answered yes or no: one target.
So `count` is rows x labels, and the loss divided by it is the mean BCE everyone reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from easynlp import metrics
from easynlp.errors import DataError
from easynlp.options import Range
from easynlp.tasks.base import Batch, Example, Features, Field, Prediction
from easynlp.tasks.inputs import pad_rows, text_of
from easynlp.tasks.labels import Labels, Pooling, label_of, pooled_head, sort_labels
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["Config", "TextClassify"]

TEXT = Field(
    "text",
    ("text", "sentence", "content", "review", "title", "text_a", "sentence1", "sentence_a",
     "sent1", "query", "question1", "premise", "q1", "文本", "句子", "内容", "评论", "标题"),
)  # fmt: skip
TEXT_B = Field(
    "text_b",
    ("text_b", "sentence2", "sentence_b", "sent2", "text2", "question2", "hypothesis", "q2"),
    required=False,
)
LABEL = Field(
    "label",
    ("label", "labels", "category", "class", "target", "y", "sentiment", "标签", "类别"),
    target=True,
)


@dataclass(frozen=True)
class ClassifyConfig:
    """Options of text classification."""

    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a row, special tokens included; the rest is cut."""
    multi_label: bool = False
    """A text may have several labels, or none."""
    label_separator: str = ","
    """What separates the labels of a text where they are one string (with --multi-label)."""
    threshold: Annotated[float, Range(0, 1)] = 0.5
    """Least probability of a label to be given (with --multi-label)."""
    pooling: Pooling = "auto"
    """What the head reads: the first token, or the mean of all, which sentence encoders such as E5
    are made for; auto: mean if the model says so or has no trained pooler, else the first."""
    labels: tuple[str, ...] = ()
    """All labels, in the order of the model's outputs; learned from the training data."""
    pair: bool | None = None
    """Whether a row is two texts; learned: it is if the training data has `text_b`."""


Config = ClassifyConfig


class TextClassify:
    """Tell which label a text has; see the module's docstring.

    Args:
        config: Options, with `labels` and `pair` known.
        tokenizer: Of the backbone.
    """

    name: ClassVar[str] = "text_classify"
    architecture: ClassVar[str] = "AutoModelForSequenceClassification"
    metric: str = "accuracy"
    fields: tuple[Field, ...] = (TEXT, TEXT_B, LABEL)
    Config: ClassVar[type[ClassifyConfig]] = ClassifyConfig

    def __init__(self, config: ClassifyConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.labels = Labels(config.labels)
        self.temperature = 1.0
        if config.multi_label:
            self.metric = "micro_f1"
        # A task that is made knows whether it wants a second text, and then wants it always.
        self.fields = (
            (TEXT, replace(TEXT_B, required=True), LABEL) if config.pair else (TEXT, LABEL)
        )

    @classmethod
    def prepare(
        cls, config: ClassifyConfig, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> TextClassify:
        """Learn the labels (sorted; numbers by value) and whether rows are pairs.

        Raises:
            DataError: If there are fewer than two labels, or only some rows have a `text_b`.
        """
        if config.multi_label and not config.label_separator:
            raise DataError("--label-separator is empty; give the character between labels")
        pair = _are_pairs(config, examples)
        seen = {label for example in examples for label in _labels_of(example, config)}
        labels = config.labels or sort_labels(seen)
        if len(labels) < 2:
            found = f'only one label, "{labels[0]}"' if labels else "no label"
            raise DataError(
                f"the training data has {found}; telling labels apart takes two or more",
                hint="Is it the right column? Choose it with --label.",
            )
        return cls(replace(config, labels=labels, pair=pair), tokenizer)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> TextClassify:
        """Make the task again from what `saved` returned."""
        return cls(ClassifyConfig(**{**config, "labels": tuple(config["labels"])}), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options, labels included, as plain JSON values."""
        return {**asdict(self.config), "labels": list(self.config.labels)}

    def encode(self, example: Example) -> Features:
        """Tokenize a text or pair, cut to `max_length` (of a pair the longer text first).

        Raises:
            DataError: If a text is missing or no string, or the label is unknown.
        """
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples, faster than one by one; see `encode`."""
        if self.config.pair:
            texts: Any = [(text_of(e, "text"), text_of(e, "text_b")) for e in examples]
        else:
            texts = [text_of(e, "text") for e in examples]
        rows: list[Features] = []
        encoded = self.tokenizer.encode_batch(texts, self.config.max_length)
        for example, item in zip(examples, encoded, strict=True):
            features: Features = {"input_ids": item.ids, "truncated": item.truncated}
            if self.config.pair:
                features["type_ids"] = item.type_ids
            if "label" in example:
                features["target"] = self._target(example)
            rows.append(features)
        return rows

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad and stack; ``target`` is (rows,) int64, or (rows, labels) float32 of 0 and 1."""
        types = [f["type_ids"] for f in features] if self.config.pair else None
        batch = pad_rows([f["input_ids"] for f in features], self.tokenizer.pad_id, types)
        if all("target" in f for f in features):
            targets = [f["target"] for f in features]
            batch["target"] = (
                np.stack(targets) if self.config.multi_label else np.asarray(targets, np.int64)
            )
        return batch

    def count(self, batch: Batch) -> int:
        """Return the number of rows; with several labels, of rows times labels."""
        rows = len(batch["input_ids"])
        return rows * len(self.labels) if self.config.multi_label else rows

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with a classification head; `config` learns which pooling it has.

        Raises:
            ConfigError: If the model has no positions for `max_length` tokens, or cannot pool so.
        """
        kind = "multi_label" if self.config.multi_label else "single_label"
        model, pooling = pooled_head(
            backbone, self.architecture, self.labels, self.config.max_length, self.config.pooling,
            problem_type=f"{kind}_classification",
        )  # fmt: skip
        self.config = replace(self.config, pooling=pooling)
        return model

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return cross entropy summed over rows, or binary cross entropy over rows x labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        logits = output.logits.float()
        if self.config.multi_label:
            return binary_cross_entropy_with_logits(logits, batch["target"], reduction="sum")
        return cross_entropy(logits, batch["target"], reduction="sum")

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities, (rows, labels); with several labels (rows x labels, 2)."""
        import torch
        from torch.nn.functional import logsigmoid

        logits = output.logits.float()
        if self.config.multi_label:
            return torch.stack([logsigmoid(-logits), logsigmoid(logits)], -1).reshape(-1, 2)
        result: torch.Tensor = logits.log_softmax(-1)
        return result

    def label_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return the logits in double precision, (rows, labels)."""
        found: np.ndarray = logits.astype(np.float64)
        return found

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return the label and all probabilities of each row; of equal ones the first wins."""
        names = self.labels.names
        logits = self.label_logits(logits)
        if self.config.multi_label:
            probs = np.round(0.5 * (1 + np.tanh(0.5 * logits)), 6)
            return [
                {
                    "labels": [n for n, p in zip(names, row, strict=True) if p >= least],
                    "scores": dict(zip(names, row, strict=True)),
                }
                for least in (self.config.threshold,)
                for row in probs.tolist()
            ]
        exps = np.exp((logits - logits.max(-1, keepdims=True)) / self.temperature)
        probs = np.round(exps / exps.sum(-1, keepdims=True), 6)
        return [
            {"label": names[i], "score": row[i], "scores": dict(zip(names, row, strict=True))}
            for i, row in zip(logits.argmax(-1).tolist(), probs.tolist(), strict=True)
        ]

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return accuracy and macro F1; with several labels micro and macro F1 and exact match.

        Raises:
            DataError: If an example has no label, or an unknown one.
        """
        if self.config.multi_label:
            gold = [_labels_of(example, self.config) for example in examples]
            for label in {label for row in gold for label in row}:
                self.labels.index_of(label)
            return metrics.multi_label(gold, [p["labels"] for p in predictions])
        answers = [_labels_of(example, self.config)[0] for example in examples]
        for label in set(answers):
            self.labels.index_of(label)
        given = [p["label"] for p in predictions]
        return {
            "accuracy": metrics.accuracy(answers, given),
            "macro_f1": metrics.macro_f1(answers, given),
        }

    def _target(self, example: Example) -> Any:
        numbers = [self.labels.index_of(label) for label in _labels_of(example, self.config)]
        if not self.config.multi_label:
            return numbers[0]
        target = np.zeros(len(self.labels), np.float32)
        target[numbers] = 1.0
        return target


def _are_pairs(config: ClassifyConfig, examples: Sequence[Example]) -> bool:
    """Tell whether rows are pairs: as asked, else as the rows say."""
    if config.pair is False:
        return False
    lacking = [i for i, example in enumerate(examples) if "text_b" not in example]
    if not lacking:
        return bool(examples)
    if config.pair or len(lacking) < len(examples):
        raise DataError(
            f"{len(lacking)} of {len(examples)} rows have no `text_b`, the first is row "
            f"{lacking[0] + 1}; of pairs every row needs both texts",
            hint="Choose its column with --text-b.",
        )
    return False


def _labels_of(example: Example, config: ClassifyConfig) -> list[str]:
    """Return an example's labels: exactly one, unless there may be several.

    Raises:
        DataError: If there is none, or more than one where one is wanted.
    """
    if "label" not in example:
        raise DataError("`label` is missing; every row needs one to train or evaluate")
    value = example["label"]
    if not config.multi_label:
        if isinstance(value, list | tuple | set | frozenset):
            if len(value) != 1:
                raise DataError(
                    f"`label` holds {len(value)} labels: {str(value)[:60]}",
                    hint="For texts with several labels type --multi-label.",
                )
            (value,) = value
        return [label_of(value)]
    if isinstance(value, str):
        value = [part for part in value.split(config.label_separator) if part.strip()]
    elif not isinstance(value, list | tuple | set | frozenset):
        value = [value]
    return list(dict.fromkeys(label_of(item) for item in value))
