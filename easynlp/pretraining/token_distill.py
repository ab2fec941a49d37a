"""Distil what a teacher thinks of every token: hidden states, and relations between tokens.

Teacher and student may cut a text into other tokens: a student's token is given what the teacher
says of the token that holds its first character. The teacher reads the whole text, the student the
text with holes. The teacher runs beside the student, in the loss term; its weights never change.

Sources: hidden states, Sanh et al. 2019 (DistilBERT's cosine loss); relations, Wang et al. 2021
(MiniLMv2): divergence of the softmaxed scaled products of queries with queries, keys with keys and
values with values, in as many relation heads as one likes, so that widths and heads need not
agree. Deviation: rows and columns of a teacher's relation are the student's tokens, by the
alignment above; tokens that are special to either side are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from easynlp.errors import ConfigError
from easynlp.pretraining.teacher import Teacher
from easynlp.tasks.base import Batch, Features
from easynlp.tasks.language_modeling import Config, LanguageModeling
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.plan import Pass, Plan, Term
from easynlp.training.precision import autocast

__all__ = ["TaughtModeling", "align", "hidden_distill", "relation_distill", "relations"]

_PARTS = ("query", "key", "value")
_INNER = "inner"
"""Key of a student's output: its last layer's states in the same pass."""


class TaughtModeling(LanguageModeling):
    """Masked language modeling whose batches also hold the texts as the teacher reads them.

    Features must carry their ``text``. A batch gains ``teacher_ids`` and ``teacher_mask``, shape
    (rows, teacher tokens), and ``aligned``, shape (rows, tokens): the teacher's token for each
    token, -1 where there is none.

    Args:
        config: As for `LanguageModeling`.
        tokenizer: The student's.
        teacher: A frozen encoder.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, teacher: Teacher) -> None:
        super().__init__(config, tokenizer)
        self.teacher = teacher

    def collate(self, features: Sequence[Features]) -> Batch:
        """Stack rows and their teacher's side."""
        batch = super().collate(features)
        texts = [f["text"] for f in features]
        theirs = self.teacher.encode(texts)
        ours = self.tokenizer.encode_batch(texts, self.config.max_length, offsets=True)
        width = max(len(item.ids) for item in theirs)
        shape = (len(texts), width)
        batch["teacher_ids"] = np.full(shape, self.teacher.tokenizer.pad_id, np.int64)
        batch["teacher_mask"] = np.zeros(shape, np.int64)
        batch["aligned"] = np.full(batch["input_ids"].shape, -1, np.int64)
        shift = len(self.teacher.prefix)
        for row, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            assert own.offsets is not None
            assert other.offsets is not None
            batch["teacher_ids"][row, : len(other.ids)] = other.ids
            batch["teacher_mask"][row, : len(other.ids)] = 1
            batch["aligned"][row, : len(own.ids)] = align(own.offsets, other.offsets - shift)
        return batch


def align(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return for each of our tokens the number of their token that holds its first character.

    Args:
        ours: Character offsets (start, end) of our tokens, shape (tokens, 2); empty for special
            tokens.
        theirs: The same of the other tokenizer on the same text.

    Returns:
        Shape (tokens,); -1 where nothing of theirs holds the character.

    Example:
        >>> align(np.array([[0, 0], [0, 1], [1, 2], [2, 4]]), np.array([[0, 2], [2, 4]])).tolist()
        [-1, 0, 0, 1]
    """
    end = int(max(ours.max(initial=0), theirs.max(initial=0)))
    holder = np.full(end + 1, -1, np.int64)
    for number, (start, stop) in enumerate(theirs):
        holder[max(0, start) : max(0, stop)] = number
    return np.where(ours[:, 1] > ours[:, 0], holder[ours[:, 0]], -1)


def hidden_distill(plan: Plan, *, weight: float = 1.0) -> Plan:
    """Add a term that makes each token's last hidden state point where the teacher's does.

    Args:
        plan: A `TaughtModeling` plan (``--teacher`` and ``--rows texts``).
        weight: Of the term, a mean over aligned tokens.

    Raises:
        ConfigError: If the plan has no teacher.

    Example:
        >>> plan = hidden_distill(plan)                               # doctest: +SKIP
    """
    side = _side(plan, "hidden_distill")
    model: Any = plan.model
    model.to_teacher_hidden = torch.nn.Linear(model.core.config.hidden_size, side.teacher.width)

    def compute(run: Pass) -> torch.Tensor:
        hidden, _ = side.teacher_states(run)
        rows, tokens = torch.nonzero(run.batch["aligned"] >= 0, as_tuple=True)
        wanted = hidden[rows, run.batch["aligned"][rows, tokens]]
        given = model.to_teacher_hidden(side.student_hidden(run)[rows, tokens].float())
        loss: torch.Tensor = (1.0 - cosine_similarity(given, wanted)).sum()
        return loss

    term = Term("hidden_distill", compute, weight, count=_aligned)
    return replace(plan, terms=(*plan.terms, term))


def relation_distill(plan: Plan, *, weight: float = 1.0, heads: int = 12) -> Plan:
    """Add a term that makes the last layer's token relations those of the teacher's last layer.

    Args:
        plan: A `TaughtModeling` plan (``--teacher`` and ``--rows texts``).
        weight: Of the term, a mean over aligned tokens of the three relations' sum.
        heads: Relation heads; both widths must be a multiple of them.

    Raises:
        ConfigError: If the plan has no teacher or a width is not a multiple of `heads`.

    Example:
        >>> plan = relation_distill(plan, heads=16)                   # doctest: +SKIP
    """
    side = _side(plan, "relation_distill")
    model: Any = plan.model
    widths = {"student": model.core.config.hidden_size, "teacher": side.teacher.width}
    for name, width in widths.items():
        if width % heads:
            raise ConfigError(
                f"relation_distill: the {name}'s width {width} is not a multiple of heads={heads}; "
                f"valid for both: {', '.join(map(str, _divisors(math.gcd(*widths.values()))))}"
            )

    def compute(run: Pass) -> torch.Tensor:
        _, theirs = side.teacher_states(run)
        ours = side.student_parts(run)
        aligned = run.batch["aligned"]
        valid = aligned >= 0
        at = aligned.clamp(min=0)[..., None]
        total = torch.zeros((), device=aligned.device)
        for name in _PARTS:
            their = torch.gather(theirs[name], 1, at.expand(-1, -1, theirs[name].shape[-1]))
            p = relations(their.float(), valid, heads)
            q = relations(ours[name].float(), valid, heads)
            divergence = (p.exp() * (p - q)).masked_fill(~valid[:, None, None, :], 0.0).sum(-1)
            total = total + (divergence * valid[:, None, :]).sum() / heads
        return total

    term = Term("relation_distill", compute, weight, count=_aligned)
    return replace(plan, terms=(*plan.terms, term))


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def relations(states: torch.Tensor, valid: torch.Tensor, heads: int) -> torch.Tensor:
    """Return log-softmaxed products of a state with itself, shape (rows, heads, tokens, tokens).

    Args:
        states: Shape (rows, tokens, width), width a multiple of `heads`.
        valid: Tokens to relate to, (rows, tokens) bool.
        heads: Parts the width is cut into.
    """
    rows, tokens, width = states.shape
    split = states.view(rows, tokens, heads, width // heads).transpose(1, 2)
    scores = split @ split.transpose(2, 3) / math.sqrt(width // heads)
    return scores.masked_fill(~valid[:, None, None, :], -1e4).log_softmax(-1)


class _Side:
    """Both sides' inner states of a pass, each computed once however many terms ask."""

    def __init__(self, plan: Plan, teacher: Teacher) -> None:
        self.teacher = teacher
        self._taken: dict[str, torch.Tensor] = {}
        self._theirs: dict[str, torch.Tensor] = {}
        self._of: tuple[Any, tuple[torch.Tensor, dict[str, torch.Tensor]]] | None = None
        # Other terms run the model again: what was taken stays with the output of its own pass.
        plan.model.register_forward_hook(self._attach)
        base = plan.model.core.base_model  # type: ignore[union-attr]
        layers = base.encoder.layer  # type: ignore[union-attr]
        _watch(layers[-1], self._taken)  # type: ignore[index,arg-type]
        _watch(teacher.model.encoder.layer[-1], self._theirs)

    def student_hidden(self, run: Pass) -> torch.Tensor:
        hidden: torch.Tensor = run.output[_INNER]["hidden"]
        return hidden.view(*run.batch["input_ids"].shape, -1)

    def student_parts(self, run: Pass) -> dict[str, torch.Tensor]:
        return {name: run.output[_INNER][name] for name in _PARTS}

    def _attach(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        output[_INNER] = dict(self._taken)
        self._taken.clear()

    def teacher_states(self, run: Pass) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the teacher's last hidden states and its last layer's queries, keys, values."""
        if self._of is None or self._of[0] is not run.batch:
            device = run.batch["teacher_ids"].device
            self.teacher.model.to(device)
            with torch.no_grad(), autocast(self.teacher.precision, device):
                hidden = self.teacher.model(
                    input_ids=run.batch["teacher_ids"], attention_mask=run.batch["teacher_mask"]
                )[0].float()
            self._of = run.batch, (hidden, dict(self._theirs))
        return self._of[1]


def _watch(layer: torch.nn.Module, into: dict[str, torch.Tensor]) -> None:
    """Keep what a BERT layer's query, key and value projections and the layer itself return."""

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            into[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for name in _PARTS:
        getattr(layer.attention.self, name).register_forward_hook(keep(name))  # type: ignore[union-attr]
    layer.register_forward_hook(keep("hidden"))


def _side(plan: Plan, method: str) -> _Side:
    task = plan.task
    if not isinstance(task, TaughtModeling):
        raise ConfigError(f"{method} needs a teacher beside the student: give --teacher")
    for who, model in (("student", plan.model.core.base_model), ("teacher", task.teacher.model)):  # type: ignore[union-attr]
        if not hasattr(getattr(model, "encoder", None), "layer"):
            raise ConfigError(f"{method} needs a BERT-shaped {who}")
    # One pair of hooks for all methods of a plan.
    found = getattr(task, "_side", None)
    if found is None:
        found = task._side = _Side(plan, task.teacher)  # type: ignore[attr-defined]
    return found


def _aligned(batch: Batch) -> int:
    return int((batch["aligned"] >= 0).sum())
