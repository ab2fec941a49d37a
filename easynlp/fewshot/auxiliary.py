"""Masked language modeling beside a prompt's own loss: the model goes on being a language model."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from easynlp.fewshot.mates import ANCHORS
from easynlp.tasks.base import Batch
from easynlp.tasks.language_modeling import special_ids
from easynlp.training.plan import Pass, Term

__all__ = ["hidden_words", "language_term"]


def language_term(
    task: Any,
    weight: float,
    rate: float,
    ask: Callable[[torch.Tensor], dict[str, torch.Tensor]],
) -> Term:
    """Return the auxiliary term: guess hidden words of the rows themselves, not of their mates.

    It costs a second pass, over the rows that have a word to hide.

    Args:
        task: Its `tokenizer` and `soft_ids` say what is never hidden.
        weight: Of the term.
        rate: Share of a row's words to hide.
        ask: Takes flat places in the pass's rows x tokens; returns what else its batch holds, so
            that the output's ``logits`` are the vocabulary's at these places.
    """
    fixed = np.concatenate([special_ids(task.tokenizer), np.array(task.soft_ids, np.int64)])
    mask_id = task.tokenizer.mask_id

    def chosen(ids: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        if groups is None:
            return hidden_words(ids, fixed, rate)
        own = np.flatnonzero(np.diff(groups, prepend=-1))
        flat = hidden_words(ids[own], fixed, rate)
        places: np.ndarray = own[flat // ids.shape[1]] * ids.shape[1] + flat % ids.shape[1]
        return places

    def compute(run: Pass) -> torch.Tensor:
        ids = run.batch["input_ids"]
        groups = run.batch.get(ANCHORS)
        places = chosen(ids.cpu().numpy(), None if groups is None else groups.cpu().numpy())
        if not len(places):  # rows of nothing but specials: their loss is nought, with a gradient
            nought: torch.Tensor = run.output.logits.sum() * 0.0
            return nought
        width = ids.shape[1]
        positions = torch.as_tensor(places, device=ids.device)
        own = torch.unique(positions // width)
        hidden = ids.reshape(-1).index_fill(0, positions, mask_id).view_as(ids)[own]
        row = torch.searchsorted(own, positions // width)
        batch = {"input_ids": hidden, **ask(row * width + positions % width)}
        if "attention_mask" in run.batch:
            batch["attention_mask"] = run.batch["attention_mask"][own]
        output = run.forward(batch)
        return cross_entropy(output.logits.float(), ids.reshape(-1)[positions], reduction="sum")

    def count(batch: Batch) -> int:
        return len(chosen(batch["input_ids"], batch.get(ANCHORS)))

    return Term("mlm", compute, weight, count)


def hidden_words(ids: np.ndarray, fixed: np.ndarray, rate: float) -> np.ndarray:
    """Return flat places of the tokens to hide, at least one of every row that has any.

    The draw is a function of the step's seed and the row: the rows a step is cut up into make no
    difference, and every step hides others.

    Args:
        ids: Shape (rows, tokens).
        fixed: Ids that are never hidden.
        rate: Share of the rest to hide.
    """
    seed = torch.initial_seed()
    places = []
    for number, row in enumerate(ids):
        ordinary = np.flatnonzero(~np.isin(row, fixed))
        if not len(ordinary):
            continue
        rng = np.random.default_rng((seed, zlib.crc32(row[ordinary].tobytes())))
        size = max(1, round(rate * len(ordinary)))
        places.append(number * ids.shape[1] + np.sort(rng.permutation(ordinary)[:size]))
    return np.concatenate(places) if places else np.zeros(0, np.int64)
