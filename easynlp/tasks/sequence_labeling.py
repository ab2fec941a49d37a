"""Sequence labeling: which stretches of a text are entities, and of which type?

Input ``{"text": "张三在北京", "entities": [{"start": 0, "end": 2, "type": "PER"}]}`` (characters,
end exclusive). Output ``{"entities": [{"start": 3, "end": 5, "type": "LOC", "text": "北京",
"score": 0.98}]}`` in characters of the raw text.

Tokens are tagged with softmax in the BIO scheme. BIOES has twice the tags to learn from the same
rows, and where the two were compared widely it was no better (Reimers and Gurevych 2017, "Optimal
Hyperparameters for Deep LSTM-Networks for Sequence Labeling Tasks").

Nothing is cut: a text longer than `max_length` is read in windows that overlap, in training as
in prediction. A feature holds all windows of its text one after another, a batch one row a
window, and every token counts exactly once, in the window where it has more context. To the
model and the runtime that is a batch like any other.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from easynlp import metrics
from easynlp.errors import ConfigError, DataError
from easynlp.options import Range
from easynlp.tasks.base import Batch, Example, Features, Field, Prediction
from easynlp.tasks.inputs import pad_rows, text_of
from easynlp.tasks.labels import Labels, labelled_head, sort_labels
from easynlp.text.characters import Characters
from easynlp.text.spans import align, spans_to_tags, tag_names, tags_to_spans, windows
from easynlp.text.tokenizer import Encoded, Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["Config", "SequenceLabeling"]

log = logging.getLogger("easynlp")

UNCUT = 1 << 30
"""Length asked of the tokenizer: a text is never cut, whatever its length."""
INVISIBLE = "\u200b\u200c\u200d\ufeff"
"""Characters without width that tokenizers drop though they are no spaces."""


@dataclass(frozen=True)
class LabelingConfig:
    """Options of sequence labeling."""

    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a window, special tokens included; longer texts take several windows."""
    overlap: Annotated[int, Range(0)] = 32
    """Tokens two neighbouring windows share."""
    labels: tuple[str, ...] = ()
    """All entity types, in the order of the model's outputs; learned from the training data."""


Config = LabelingConfig


class SequenceLabeling:
    """Find entities in a text; see the module's docstring.

    Args:
        config: Options, with `labels` known.
        tokenizer: Of the backbone.

    Raises:
        ConfigError: If the overlap leaves windows no room.
    """

    name: ClassVar[str] = "sequence_labeling"
    architecture: ClassVar[str] = "AutoModelForTokenClassification"
    metric: ClassVar[str] = "f1"
    fields: ClassVar[tuple[Field, ...]] = (
        Field("text", ("text", "sentence", "content", "文本", "句子", "内容")),
        Field("entities", ("entities", "label", "labels", "spans", "实体"), target=True),
    )
    Config: ClassVar[type[LabelingConfig]] = LabelingConfig

    def __init__(self, config: LabelingConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.labels = Labels(config.labels, "entity type")
        self.tags = tag_names(config.labels)
        self._characters = Characters(tokenizer)
        self._prefix, self._suffix = _special_ids(tokenizer)
        self._room = config.max_length - len(self._prefix) - len(self._suffix)
        if config.overlap >= self._room:
            raise ConfigError(
                f"--overlap {config.overlap} leaves windows of --max-length {config.max_length} "
                f"nothing of their own; valid: 0 to {self._room - 1}"
            )

    @classmethod
    def prepare(
        cls, config: LabelingConfig, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> SequenceLabeling:
        """Learn the entity types (sorted), and warn of entities no tokens can express.

        Raises:
            DataError: If no example has an entity, or entities are malformed.
        """
        kinds = {kind for e in examples for _, _, kind in _entities_of(e, text_of(e, "text"))}
        labels = config.labels or sort_labels(kinds)
        if not kinds:
            raise DataError(
                "the training data has no entities",
                hint='Rows look like {"text": "张三", "entities": '
                '[{"start": 0, "end": 2, "type": "PER"}]}',
            )
        task = cls(replace(config, labels=labels), tokenizer)
        unfit = sum(features["misaligned"] for features in task.encode_batch(examples))
        if unfit:
            total = sum(len(e["entities"]) for e in examples)
            log.warning(
                "%d of %d entities begin or end inside a token or at a space: the model is taught "
                "the tokens they touch and cannot return them exactly", unfit, total,
            )  # fmt: skip
        return task

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> SequenceLabeling:
        """Make the task again from what `saved` returned."""
        return cls(LabelingConfig(**{**config, "labels": tuple(config["labels"])}), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options, entity types included, as plain JSON values."""
        return {**asdict(self.config), "labels": list(self.config.labels)}

    def encode(self, example: Example) -> Features:
        """Tokenize a text into one window or several; see `encode_batch`.

        Raises:
            DataError: If the text is missing or no string, or entities are out of range, overlap,
                are of an unknown type or do not have the text they claim.
        """
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples, Chinese pieces of several characters cut into these.

        Returns:
            For each: ``input_ids`` of all windows after one another, ``windows`` (their lengths),
            ``starts`` and ``ends`` (characters of each token), ``owned`` (0 at special tokens and
            where another window answers), ``truncated`` (never); with entities also ``target``
            (tags) and ``misaligned`` (how many entities no tokens express exactly).
        """
        texts = [text_of(example, "text") for example in examples]
        whole = self.tokenizer.encode_batch(texts, UNCUT, offsets=True)
        encoded = map(self._characters.cut, texts, whole)
        return [self._features(*row) for row in zip(examples, texts, encoded, strict=True)]

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad windows and stack them, a row each; ``windows`` says how many are whose."""
        lengths = np.concatenate([f["windows"] for f in features])
        cuts = np.cumsum(lengths)[:-1]
        ids = np.split(np.concatenate([f["input_ids"] for f in features]), cuts)
        batch = pad_rows(ids, self.tokenizer.pad_id)
        real = np.arange(batch["input_ids"].shape[1]) < lengths[:, None]
        names = ["starts", "ends", "owned"]
        if all("target" in f for f in features):
            names.append("target")
        for name in names:
            batch[name] = np.zeros(real.shape, np.int64)
            batch[name][real] = np.concatenate([f[name] for f in features])
        batch["windows"] = np.array([len(f["windows"]) for f in features], np.int64)
        return batch

    def count(self, batch: Batch) -> int:
        """Return the number of tokens of the texts, each once; special tokens do not count."""
        return int(batch["owned"].sum())

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with a token classification head, an output a tag."""
        return labelled_head(backbone, self.architecture, self.tags, self.config.max_length)

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return cross entropy summed over the tokens `count` counts."""
        from torch.nn.functional import cross_entropy

        owned = batch["owned"].bool()
        return cross_entropy(output.logits[owned].float(), batch["target"][owned], reduction="sum")

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities of the tags, shape (counted tokens, tags)."""
        result: torch.Tensor = output.logits[batch["owned"].bool()].float().log_softmax(-1)
        return result

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return the entities of each text, in order; `score` is the tags' mean probability.

        A tag sequence that is not BIO is read as `tags_to_spans` says; spaces at the ends of
        an entity are left out.
        """
        owned = batch["owned"].astype(bool)
        rows = np.repeat(np.arange(len(examples)), batch["windows"])
        of_token = np.broadcast_to(rows[:, None], owned.shape)[owned]
        scores = logits[owned].astype(np.float64)
        found = tags_to_spans(scores.argmax(-1), of_token)
        entities: list[list[dict[str, Any]]] = [[] for _ in examples]
        if len(found.first):
            top = scores.max(-1)
            probs = 1.0 / np.exp(scores - top[:, None]).sum(-1)
            sums = np.concatenate([[0.0], np.cumsum(probs)])
            means = (sums[found.last + 1] - sums[found.first]) / (found.last + 1 - found.first)
            for row, start, end, kind, mean in zip(
                of_token[found.first].tolist(), batch["starts"][owned][found.first].tolist(),
                batch["ends"][owned][found.last].tolist(), found.kind.tolist(),
                np.round(means, 6).tolist(), strict=True,
            ):  # fmt: skip
                text = examples[row]["text"]
                start, end = _trim(text, start, end)
                if start < end:
                    entities[row].append(
                        {"start": start, "end": end, "type": self.labels[kind],
                         "text": text[start:end], "score": mean}
                    )  # fmt: skip
        return [{"entities": each} for each in entities]

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return strict precision, recall and F1 of entities, and ``f1/TYPE`` of each type.

        Raises:
            DataError: If an example has no entities field, or a malformed or unknown one.
        """
        gold = [_entities_of(example, text_of(example, "text")) for example in examples]
        for kind in {kind for row in gold for _, _, kind in row}:
            self.labels.index_of(kind)
        given = [[(e["start"], e["end"], e["type"]) for e in p["entities"]] for p in predictions]
        return metrics.span_f1(gold, given)

    def _features(self, example: Example, text: str, item: Encoded) -> Features:
        assert item.offsets is not None
        before, after = len(self._prefix), len(self._suffix)
        body = slice(before, len(item.ids) - after)
        starts, ends = item.offsets[body].T
        features: Features = {"truncated": item.truncated}
        columns = {"input_ids": item.ids[body], "starts": starts, "ends": ends}
        if "entities" in example:
            spans = _entities_of(example, text)
            tags, features["misaligned"] = self._tags(text, spans, starts, ends)
            columns["target"] = tags
        cuts = windows(len(starts), self._room, self.config.overlap)
        padding = {"input_ids": (self._prefix, self._suffix)}
        nothing = (np.zeros(before, np.int32), np.zeros(after, np.int32))
        for name, column in columns.items():
            left, right = padding.get(name, nothing)
            features[name] = np.concatenate(
                [part for w in cuts for part in (left, column[w.start : w.stop], right)]
            )
        features["windows"] = np.array([w.stop - w.start + before + after for w in cuts])
        owned = np.zeros(len(features["input_ids"]), bool)
        at = 0
        for w, length in zip(cuts, features["windows"].tolist(), strict=True):
            own = at + before - w.start
            owned[own + w.own_start : own + w.own_stop] = True
            at += length
        features["owned"] = owned
        return features

    def _tags(
        self, text: str, spans: Sequence[metrics.Span], starts: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Return tags of entities, and how many of them tokens do not express exactly.

        A token that two entities touch goes to the first.
        """
        touched = align(starts, ends, np.array([span[:2] for span in spans])).tolist()
        placed: list[tuple[int, int, int]] = []
        unfit = free = 0
        for (start, end, kind), (first, stop) in zip(spans, touched, strict=True):
            first = max(first, free)
            placed.append((first, stop, self.labels.index_of(kind)))
            if first < stop:
                free = stop
            whole = first < stop and _trim(text, int(starts[first]), int(ends[stop - 1]))
            unfit += whole != (start, end)
        return spans_to_tags(len(starts), placed), unfit


def _entities_of(example: Example, text: str) -> list[metrics.Span]:
    """Return an example's entities as (start, end, type), sorted and checked.

    Raises:
        DataError: If the field is missing or an entity is wrong.
    """
    if "entities" not in example:
        raise DataError(
            "`entities` is missing; every row needs it to train or evaluate ([] is none)"
        )
    entities = example["entities"]
    if not isinstance(entities, list | tuple):
        raise DataError(
            f"`entities` is {type(entities).__name__} {str(entities)[:40]}, not a list",
            hint='It looks like [{"start": 0, "end": 2, "type": "PER"}]',
        )
    spans = sorted(_span_of(entity, text) for entity in entities)
    for (start, end, kind), (start2, end2, kind2) in pairwise(spans):
        if start2 < end:
            raise DataError(
                f'entities overlap: {kind} "{text[start:end]}" ({start}-{end}) and '
                f'{kind2} "{text[start2:end2]}" ({start2}-{end2})',
                hint="Keep one of them; nested entities cannot be told by tags of tokens.",
            )
    return spans


def _span_of(entity: Any, text: str) -> metrics.Span:
    if not isinstance(entity, Mapping) or not {"start", "end", "type"} <= entity.keys():
        raise DataError(f"an entity needs start, end and type, found: {str(entity)[:60]}")
    start, end, kind = entity["start"], entity["end"], entity["type"]
    if not isinstance(kind, str) or not kind:
        raise DataError(f"type of an entity is {kind!r}, not a name: {str(entity)[:60]}")
    if not all(isinstance(at, int) and not isinstance(at, bool) for at in (start, end)):
        raise DataError(f"start and end of an entity are whole numbers, found: {str(entity)[:60]}")
    if not 0 <= start < end <= len(text):
        raise DataError(
            f"{kind} {start}-{end} is out of range: the text has {len(text)} characters",
            hint="start counts from 0, end is the character after the last.",
        )
    claimed = entity.get("text", text[start:end])
    if claimed != text[start:end]:
        raise DataError(
            f'{kind} {start}-{end} claims to be "{claimed}", but there the text has '
            f'"{text[start:end]}"',
            hint="Offsets count characters (not bytes) from 0, end exclusive.",
        )
    return start, end, kind


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a span without the spaces at its ends; some tokenizers count them in."""
    while start < end and (text[start].isspace() or text[start] in INVISIBLE):
        start += 1
    while start < end and (text[end - 1].isspace() or text[end - 1] in INVISIBLE):
        end -= 1
    return start, end


def _special_ids(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids a tokenizer puts before and after a text."""
    bare = tokenizer.encode("", max_length=UNCUT).ids
    full = tokenizer.encode("一", max_length=UNCUT).ids
    before = 0
    while before < len(bare) and bare[before] == full[before]:
        before += 1
    # A tokenizer may end a text as it begins one; what stands at the end is the suffix.
    return bare[:before], bare[before:]
