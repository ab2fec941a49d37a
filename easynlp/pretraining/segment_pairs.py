"""Two segments a row: are they in order (SOP), does the second follow the first (NSP)?

Rows become ``[CLS] A [SEP] B [SEP]`` with token type ids 0 and 1. Sentence-order prediction (Lan
et al. 2020, ALBERT): A and B follow each other, or are swapped. Next-sentence prediction (Devlin
et al. 2019, BERT): B follows A, or is the beginning of a row of another document. Half of each.
The answer is read from the pooled first token; label 0 is the true order, as in transformers. The
pooler stays in the saved model, the layer that reads it is thrown away.

Rows here are packed, so a segment is a stretch of running text that ends at a sentence's end where
the row has one near its middle, else at a word's; a row without two words in a row of one document
has no answer and counts for nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from easynlp.errors import ConfigError
from easynlp.models.heads import MaskedPositions, add_pooler
from easynlp.tasks.base import Batch, Example, Features
from easynlp.tasks.language_modeling import LanguageModeling, token_words
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["SegmentPairs", "nsp", "sop"]

Row = tuple[np.ndarray, np.ndarray]
"""Ids and word numbers of a row."""
ENDS = "。！？!?；;…"


def sop(plan: Plan, *, weight: float = 1.0) -> Plan:
    """Add sentence-order prediction to masked language modeling.

    Args:
        plan: A `language_modeling` plan over an encoder with a pooler and two token types.
        weight: Of the term, a mean over rows, beside the mean over hidden tokens.

    Raises:
        ConfigError: If the plan is of another task or the encoder does not fit.

    Example:
        >>> plan = sop(plan)                                          # doctest: +SKIP
    """
    return _with_pairs(plan, "sop", weight)


def nsp(plan: Plan, *, weight: float = 1.0) -> Plan:
    """Add next-sentence prediction to masked language modeling.

    Args:
        plan: A `language_modeling` plan over an encoder with a pooler and two token types.
        weight: Of the term, a mean over rows, beside the mean over hidden tokens.

    Raises:
        ConfigError: If the plan is of another task or the encoder does not fit.

    Example:
        >>> plan = nsp(plan)                                          # doctest: +SKIP
    """
    return _with_pairs(plan, "nsp", weight)


def _with_pairs(plan: Plan, kind: Literal["sop", "nsp"], weight: float) -> Plan:
    model: Any = plan.model
    if type(plan.task) is not LanguageModeling or not isinstance(model, MaskedPositions):
        raise ConfigError(f"{kind} goes with masked language modeling, and with one of sop and nsp")
    base: Any = model.core.base_model
    if getattr(base.config, "type_vocab_size", 0) < 2:
        raise ConfigError(
            f"{kind} needs two token types and this encoder has not: write "
            '{"type_vocab_size": 2} into a file and give it as --config-json'
        )
    if not add_pooler(base):
        raise ConfigError(f"{kind} needs an encoder with a pooler: bert, roberta or albert")
    head = torch.nn.Linear(base.config.hidden_size, 2)
    model.pair_head = head  # a submodule, so it is trained and in checkpoints

    def compute(run: Pass) -> torch.Tensor:
        scores = head(run.output["pooler_output"].float())
        return cross_entropy(scores, run.batch["pair"], ignore_index=-1, reduction="sum")

    def rows(batch: Batch) -> int:
        return int((batch["pair"] >= 0).sum())

    task = SegmentPairs(plan.task, kind)
    terms = (*plan.terms, Term(kind, compute, weight, count=rows))
    return replace(plan, task=task, terms=terms)


class SegmentPairs(LanguageModeling):
    """Masked language modeling over rows of two segments.

    Args:
        task: Hides the words.
        kind: ``sop`` or ``nsp``.
    """

    def __init__(self, task: LanguageModeling, kind: Literal["sop", "nsp"]) -> None:
        super().__init__(task.config, task.tokenizer)
        self.kind = kind
        self._sep = _id(task.tokenizer, "[SEP]", "</s>")
        vocabulary: Mapping[str, int] = task.tokenizer.backend.get_vocab()
        self._ends = np.array([vocabulary[c] for c in ENDS if c in vocabulary])

    def pair(
        self,
        ids: np.ndarray,
        words: np.ndarray,
        rng: np.random.Generator,
        other: Callable[[np.random.Generator], Row | None],
    ) -> Features:
        """Return features of one row, arranged as two segments, with words hidden.

        Args:
            ids: Token ids with a special token at each end, shape (tokens,).
            words: Word number of each token, -1 for special tokens.
            rng: Source of all randomness.
            other: Returns a row of another document, or None if there is none.
        """
        inner, numbers = ids[1:-1], words[1:-1]
        if len(ids) + 1 > self.config.max_length:  # room for the [SEP] between the segments
            inner, numbers = inner[:-1], numbers[:-1]
        cut = _cut(inner, numbers, self._ends, rng)
        if cut is None:
            return {**self.hide(ids, words, rng), "types": np.zeros(len(ids), int), "pair": -1}
        first, second = (inner[:cut], numbers[:cut]), (inner[cut:], numbers[cut:])
        label = int(rng.random() < 0.5)
        if label and self.kind == "sop":
            first, second = second, first
        elif label:
            found = other(rng)
            if found is None:
                label = 0
            else:
                far, far_words = found[0][1:-1], found[1][1:-1]
                second = far[: len(inner) - cut], np.where(far_words < 0, -1, far_words + len(ids))
                second = second[0], second[1][: len(second[0])]
        edge, sep = np.array([-1]), np.array([self._sep])
        arranged = np.concatenate([ids[:1], first[0], sep, second[0], ids[-1:]]).astype(np.int32)
        new_words = np.concatenate([edge, first[1], edge, second[1], edge])
        types = np.zeros(len(arranged), np.int64)
        types[len(first[0]) + 2 :] = 1
        return {**self.hide(arranged, new_words, rng), "types": types, "pair": label}

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples as two segments each; a false second is of the next example."""
        texts = [example["text"] for example in examples]
        encoded = self.tokenizer.encode_batch(texts, self.config.max_length, True)
        rows: list[Row] = []
        for text, item in zip(texts, encoded, strict=True):
            assert item.offsets is not None
            rows.append((item.ids, token_words(text, item.ids, item.offsets, self.special)))
        found = []
        for number, (item, (ids, words)) in enumerate(zip(encoded, rows, strict=True)):
            rng = np.random.default_rng(zlib.crc32(ids.tobytes()))
            beside = rows[(number + 1) % len(rows)] if len(rows) > 1 else None
            features = self.pair(ids, words, rng, lambda _, row=beside: row)  # type: ignore[misc]
            found.append({**features, "truncated": item.truncated})
        return found

    def collate(self, features: Sequence[Features]) -> Batch:
        """Stack rows, with token type ids and the pairs' labels; -1 where there is none."""
        batch = super().collate(features)
        types = np.zeros_like(batch["input_ids"])
        for row, item in enumerate(features):
            types[row, : len(item["types"])] = item["types"]
        batch["token_type_ids"] = types
        batch["pair"] = np.array([f["pair"] for f in features], np.int64)
        return batch


def _cut(
    ids: np.ndarray, words: np.ndarray, ends: np.ndarray, rng: np.random.Generator
) -> int | None:
    """Return where to cut a row in two: inside its longest stretch without special tokens."""
    edges = np.concatenate([[-1], np.flatnonzero(words < 0), [len(words)]])
    longest = int(np.argmax(np.diff(edges)))
    low, high = int(edges[longest]) + 1, int(edges[longest + 1])
    places = np.arange(low + 1, high)
    places = places[words[places] != words[places - 1]]
    if not len(places):
        return None
    quarter = (high - low) // 4
    middle = places[(places >= low + quarter) & (places <= high - quarter)]
    middle = middle if len(middle) else places
    behind_ends = middle[np.isin(ids[middle - 1], ends)]
    choice = behind_ends if len(behind_ends) else middle
    return int(choice[rng.integers(len(choice))])


def _id(tokenizer: Tokenizer, *names: str) -> int:
    for name in names:
        if (found := tokenizer.id_of(name)) is not None:
            return found
    raise ConfigError(f"the tokenizer has none of {', '.join(names)} to part two segments with")
