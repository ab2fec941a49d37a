"""Classification by filling a hole: which label's word would the language model write there?

Input and predictions are those of text_classify. ``--pattern "{text}。总之很[MASK]。"`` says how a
text becomes a sentence with a hole (`easynlp.fewshot.template`), ``--words "好评=好;差评=差"``
which words stand for which label (`easynlp.fewshot.verbalizer`). No layer is added to the model:
it answers before any training (zero-shot), and learns from a handful of labels.

Two losses, by name:

- ``restricted``: cross entropy over the label words only, as in Schick & Schütze 2021 (PET, arXiv
  2001.07676). With several word sets (Fuzzy-PET) every row is a row of each set, so it is the
  mean over sets; with different numbers of words a label it is that of the labels' summed scores.
- ``vocabulary``: cross entropy over the whole vocabulary at every mask, averaged over the masks of
  a word and the words of the label: plain masked language modeling, which is what EasyNLP's code
  does.

Words of different lengths: an example is a row for each distinct length, with as many masks, all
in one batch. All rows show the same part of the text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.fewshot.one_label import AnswersAsClassifier
from easynlp.fewshot.template import Template, TemplateEncoder, add_soft_tokens
from easynlp.fewshot.verbalizer import (
    Reader,
    Scoring,
    WordScore,
    label_log_probs,
    logsumexp,
)
from easynlp.options import Range
from easynlp.tasks.base import Batch, Example, Features, Field
from easynlp.tasks.inputs import pad_rows, text_of
from easynlp.tasks.labels import check_length, label_of
from easynlp.tasks.text_classify import LABEL, TEXT, TEXT_B, ClassifyConfig, TextClassify
from easynlp.text.label_words import Verbalizer
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from easynlp.models.backbone import Backbone

__all__ = ["Config", "PromptClassify"]

log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class PromptConfig:
    """Options of classification by prompts."""

    pattern: str = ""
    """The text with a hole, e.g. "{text}。总之很[MASK]。"; @FILE reads it from a file."""
    words: str = ""
    """Words of each label, e.g. "好评=好,不错;差评=差,糟", or @FILE; by default the labels' own
    names."""
    scoring: Scoring = "candidates"
    """How several words a label count: candidates or sum (add their probabilities), sets (a vote of
    the first words, the second words …)."""
    word_score: WordScore = "sum"
    """How a word's tokens count: sum or mean of their log-probabilities; mean does not favour short
    words where lengths differ."""
    loss: Literal["restricted", "vocabulary"] = "restricted"
    """Cross entropy over the label words (PET) or the whole vocabulary (EasyNLP)."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a row; the text is cut, never the pattern."""
    labels: tuple[str, ...] = ()
    """All labels, in the order of the model's outputs; learned from the training data."""


Config = PromptConfig


class PromptClassify(AnswersAsClassifier):
    """Tell which label a text has by what stands in the hole; see the module's docstring.

    Args:
        config: Options, with `labels` known.
        tokenizer: Of the backbone; a pattern with soft tokens makes a copy that knows them.

    Raises:
        ConfigError: If the pattern or the words are wrong, or do not go together.

    Attributes:
        template: The pattern, read.
        verbalizer: The words, read.
        reader: The words as tokens.
        soft_ids: Ids of the pattern's soft tokens.
    """

    name: ClassVar[str] = "prompt_classify"
    architecture: ClassVar[str] = "AutoModelForMaskedLM"
    metric: ClassVar[str] = "accuracy"
    fields: tuple[Field, ...] = (TEXT, TEXT_B, LABEL)
    Config: ClassVar[type[PromptConfig]] = PromptConfig

    def __init__(self, config: PromptConfig, tokenizer: Tokenizer) -> None:
        self.template = Template.parse(config.pattern)
        self.verbalizer = Verbalizer.parse(config.words, config.labels)
        # The files these may have come from are not needed again.
        self.config = replace(config, pattern=str(self.template), words=str(self.verbalizer))
        self.tokenizer = add_soft_tokens(tokenizer, self.template.softs)
        self.reader = Reader.of(self.verbalizer, tokenizer, tight=self.template.tight)
        self._check_lengths()
        self._encoder = TemplateEncoder(
            self.template, self.tokenizer, self.reader.lengths[-1], config.max_length
        )
        self.soft_ids = self._encoder.soft_ids
        self._vocabulary = min(self.soft_ids) if self.soft_ids else None
        pair = "text_b" in self.template.fields
        self._classify = TextClassify(
            ClassifyConfig(labels=config.labels, pair=pair), self.tokenizer
        )
        self.labels, self.fields = self._classify.labels, self._classify.fields
        self._tensors: dict[Any, Reader] = {}

    @classmethod
    def prepare(
        cls, config: PromptConfig, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> PromptClassify:
        """Learn the labels (sorted; numbers by value), unless the options name them.

        Raises:
            DataError: If there are fewer than two labels.
            ConfigError: If the pattern or the words are wrong.
        """
        pair = "text_b" in Template.parse(config.pattern).fields
        plain = ClassifyConfig(labels=config.labels, pair=pair)
        known = TextClassify.prepare(plain, tokenizer, examples).config
        if not pair and examples and all("text_b" in each for each in examples):
            log.warning("the rows are pairs, and the pattern shows {text} only: {text_b} is unseen")
        return cls(replace(config, labels=known.labels), tokenizer)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> PromptClassify:
        """Make the task again from what `saved` returned."""
        return cls(PromptConfig(**{**config, "labels": tuple(config["labels"])}), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options, labels and words included, as plain JSON values."""
        return {**asdict(self.config), "labels": list(self.config.labels)}

    def encode(self, example: Example) -> Features:
        """Fill the pattern and tokenize it; see `encode_batch`.

        Raises:
            DataError: If a text is missing or no string, or the label is unknown.
        """
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples.

        Returns:
            For each: ``input_ids`` with the masks of the longest word, ``holes`` (where they are),
            ``truncated``; with a label also ``target``.
        """
        texts = [{name: text_of(e, name) for name in self.template.fields} for e in examples]
        rows: list[Features] = []
        for example, item in zip(examples, self._encoder.encode_batch(texts), strict=True):
            features: Features = {
                "input_ids": item.ids, "holes": item.holes, "truncated": item.truncated
            }  # fmt: skip
            if "label" in example:
                features["target"] = self._target(example["label"])
            rows.append(features)
        return rows

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad and stack: of each example a row for every length of a word.

        ``masked_positions`` are flat places in rows x tokens, ``target`` is (examples,) int64.
        """
        rows, holes = [], []
        for item in features:
            ids, places = item["input_ids"], item["holes"]
            for length in self.reader.lengths:
                rows.append(np.delete(ids, places[length:]))
                holes.append(places[:length])
        batch = pad_rows(rows, self.tokenizer.pad_id)
        width = batch["input_ids"].shape[1]
        batch["masked_positions"] = np.concatenate(
            [number * width + places for number, places in enumerate(holes)]
        ).astype(np.int64)
        if all("target" in item for item in features):
            batch["target"] = np.array([item["target"] for item in features], np.int64)
        return batch

    def count(self, batch: Batch) -> int:
        """Return the number of examples."""
        return len(batch["input_ids"]) // len(self.reader.lengths)

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with its masked-LM head, which answers at the masks only.

        Raises:
            ModelError: If the weights hold no masked-LM head: a random one answers at random.
            ConfigError: If the model has no positions for `max_length` tokens.
        """
        from easynlp.models.heads import MaskedPositions

        return MaskedPositions(self.language_model(backbone))

    def language_model(self, backbone: Backbone) -> PreTrainedModel:
        """Return the masked-LM model as transformers has it, with room for the soft tokens.

        Raises:
            ModelError: See `build`.
            ConfigError: See `build`.
        """
        check_length(backbone, self.config.max_length)
        model, gaps = backbone.with_head_and_gaps(self.architecture)
        if gaps and backbone.folder is not None:
            raise ModelError(
                f"{backbone.name} has no masked-LM head of its own ({len(gaps)} parameters are "
                f"missing: {', '.join(gaps[:3])}), and prompts need one. Look for a model that "
                "has: easynlp models, and easynlp models check MODEL"
            )
        names = dict(enumerate(self.labels))
        model.config.id2label, model.config.label2id = names, {n: i for i, n in names.items()}
        ids = 1 + max(self.soft_ids, default=0)
        table: Any = model.get_input_embeddings()
        if ids > table.num_embeddings:
            model.resize_token_embeddings(ids, mean_resizing=False)
        return model

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss summed over examples; see the module's docstring."""
        scores, reader = self._scores(output.logits)
        gold = batch["target"]
        rows = range(len(gold))
        if self.config.loss == "vocabulary":
            per_word = scores if self.config.word_score == "mean" else scores / reader.size
            there = (reader.penalty == 0)[gold]
            own = per_word[:, reader.word][rows, gold]
            result: torch.Tensor = -(own * there).sum(-1).div(there.sum(-1)).sum()
        elif self.verbalizer.sets:
            by_set = scores[:, reader.word].log_softmax(1)
            result = -by_set[rows, gold].mean(-1).sum()
        else:
            result = -self._label_log_probs(output.logits)[rows, gold].sum()
        return result

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities of the labels, (examples, labels)."""
        return self._label_log_probs(output.logits)

    def label_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return the labels' log-probabilities, (texts, labels)."""
        reader = self.reader
        scores = reader.word_scores(logits[:, : self._vocabulary].astype(np.float64), logsumexp)
        if self.config.word_score == "mean":
            scores = scores / reader.size
        found: np.ndarray = label_log_probs(scores, reader, self.config.scoring, logsumexp)
        return found

    def _target(self, value: Any) -> int:
        if isinstance(value, list | tuple) and len(value) == 1:
            (value,) = value
        if isinstance(value, list | tuple | set | frozenset):
            raise DataError(f"`label` holds {len(value)} labels; a prompt tells one")
        return self.labels.index_of(label_of(value))

    def _scores(self, logits: torch.Tensor) -> tuple[torch.Tensor, Reader]:
        """Return the words' scores, and the reader with tensors on the logits' device."""
        import torch

        reader = self._tensors.get(logits.device)
        if reader is None:

            def convert(array: np.ndarray) -> torch.Tensor:
                kind = torch.int64 if array.dtype == np.int64 else torch.float32
                return torch.as_tensor(array, dtype=kind, device=logits.device)

            reader = self._tensors[logits.device] = self.reader.map(convert)
        ordinary = logits[:, : self._vocabulary].float()
        scores = reader.word_scores(ordinary, torch.logsumexp)
        if self.config.word_score == "mean":
            scores = scores / reader.size
        return scores, reader

    def _label_log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        import torch

        scores, reader = self._scores(logits)
        found: torch.Tensor = label_log_probs(scores, reader, self.config.scoring, torch.logsumexp)
        return found

    def _check_lengths(self) -> None:
        """Refuse words that do not fit the pattern's masks, or sets that are none."""
        masks, lengths = self.template.masks, self.reader.lengths
        if masks > 1 and lengths != (masks,):
            flat = [word for words in self.verbalizer.words for word in words]
            sizes = self.reader.size.astype(int).tolist()
            odd = next(i for i, size in enumerate(sizes) if size != masks)
            raise ConfigError(
                f'the pattern has {masks} times [MASK], and the label word "{flat[odd]}" has '
                f"{sizes[odd]} tokens: write one [MASK], which makes room for words of any length"
            )
        if self.config.scoring == "sets" and not self.verbalizer.sets:
            raise ConfigError(
                "scoring sets needs as many words for every label: the first words of all labels "
                "are a set, the second ones, and so on. Type --scoring candidates, or even them out"
            )
