"""Learn a teacher's answers: the labels of rows that have one, and what the teacher says of all.

Hinton et al. 2015 (arXiv 1503.02531), over labelled, unlabelled and augmented rows together::

    loss = alpha x mean over labelled rows of CE(label)
         + (1 - alpha) x mean over all rows of T^2 KL(teacher at T || student at T)

`alpha` is the labels' share; where it is 1 the plan is left as it is, and trains as without a
teacher. (EasyNLP's alpha is the teacher's share.) Each mean is over its own targets, as of every
term, so a handful of labelled rows keeps its share beside thousands without labels.

Both sides are compared through the task's `log_probs`, so single labels, several labels, pairs,
prompts and tags of tokens are one case. Only training rows have a teacher: what is evaluated or
predicted never meets it.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from easynlp.config import DataOptions
from easynlp.data.sampling import EncodedRows, Source
from easynlp.dataset import read_all
from easynlp.distillation.answers import Wanted, at_tokens
from easynlp.distillation.cache import Ensemble, Shuffled, ask, calibrated
from easynlp.distillation.losses import logit_mse, soft_kl
from easynlp.distillation.teachers import find_teacher, read_names
from easynlp.errors import ConfigError, DataError
from easynlp.tasks.base import Batch, Example, Features, Task
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["Answering", "distill", "keep_examples", "learn_from", "texts_of"]

log = logging.getLogger("easynlp")
EXAMPLE, TEACHER = "example", "teacher"
TOLD, LABELLED = "told", "labelled"
"""In a batch: of each target, whether the teacher has an answer, and whether the row has a label;
left out where all have."""

Answering = Callable[[Sequence[Example]], Sequence[np.ndarray]]
"""Examples to answers, see `easynlp.distillation.answers`."""


def distill(
    plan: Plan,
    *,
    teacher: str,
    alpha: float = 0.2,
    temperature: float = 2.0,
    loss: Literal["kl", "mse"] = "kl",
    unlabeled: str = "",
    teacher_labels: str = "",
    teacher_length: int = 512,
    precision: Literal["fp32", "bf16"] = "fp32",
    vote: Literal["mean", "calibrated"] = "mean",
    dev: str = "",
    cache: str = "",
    dtype: Literal["fp16", "fp32"] = "fp16",
    placebo: bool = False,
) -> Plan:
    """Learn what a teacher, or several, say of the training rows and of texts without labels.

    Args:
        plan: Of text_classify, prompt_classify or sequence_labeling.
        teacher: A run folder, a Hugging Face classifier or ``llm:FILE``; several with commas.
        alpha: Share of the labels in the loss; 1 leaves the plan as it is.
        temperature: Both sides' answers are compared at it.
        loss: ``kl`` or ``mse`` of the centred logits.
        unlabeled: A file of further texts; its columns are guessed.
        teacher_labels: ``theirs=ours;theirs=ours`` where labels are called otherwise.
        teacher_length: Most tokens a Hugging Face teacher reads of a text.
        precision: Of the teacher.
        vote: How several teachers are one.
        dev: Labelled file a calibrated vote is fitted on.
        cache: Folder that keeps the answers; by default they are kept in memory.
        dtype: Number format of kept answers.
        placebo: Deal the answers out among the rows by chance.

    Raises:
        ConfigError: If an option is out of range, the labels are not the teacher's, or the task
            cannot be taught.
        ModelError: If there is no such teacher.

    Example:
        >>> plan = distill(plan, teacher="runs/large", unlabeled="pool.jsonl")   # doctest: +SKIP
    """
    wanted = Wanted.of(plan.task)
    names = read_names(teacher_labels)
    members = [
        find_teacher(spec.strip(), wanted, names=names, max_length=teacher_length,
                     precision=precision)
        for spec in teacher.split(",") if spec.strip()
    ]  # fmt: skip
    if not members:
        raise ConfigError("distill needs a teacher: write distill:teacher=runs/large")
    if vote == "calibrated" and not dev:
        raise ConfigError("a calibrated vote is fitted on dev: write dev=FILE, or vote=mean")
    folder = Path(cache) if cache else None
    fields = plan.task.fields
    judged = read_all(dev, fields, DataOptions()) if vote == "calibrated" else []

    def answer(examples: Sequence[Example]) -> Sequence[np.ndarray]:
        device = next(plan.model.parameters()).device
        given, on_dev = [], []
        for member in members:
            if hasattr(member, "device"):
                member.device = device
            given.append(ask(member, examples, folder, dtype))
            if judged:
                on_dev.append(ask(member, judged, folder, dtype))
            vars(member).pop("pipeline", None)  # its weights are not needed again
        how = None
        if judged:
            how = calibrated(given, on_dev, [str(each["label"]) for each in judged], wanted)
        return given[0] if len(given) == 1 and how is None else Ensemble(given, how)

    more = read_all(unlabeled, fields, DataOptions(), with_targets=False) if unlabeled else []
    return learn_from(
        plan, answer, alpha=alpha, temperature=temperature, loss=loss, more=more, placebo=placebo
    )


def learn_from(
    plan: Plan,
    answer: Answering,
    *,
    alpha: float = 0.2,
    temperature: float = 2.0,
    loss: Literal["kl", "mse"] = "kl",
    more: Sequence[Example] = (),
    placebo: bool = False,
) -> Plan:
    """Learn answers that a function gives; what `distill` does once it has a teacher.

    Args:
        plan: See `distill`.
        answer: Examples to answers; called once, on the training rows and `more` together.
        alpha: See `distill`.
        temperature: See `distill`.
        loss: See `distill`.
        more: Further texts; targets they may have are not looked at.
        placebo: See `distill`.

    Raises:
        ConfigError: If an option is out of range, or the plan cannot be taught.
    """
    if not 0 <= alpha <= 1 or temperature <= 0:
        raise ConfigError(
            f"distill: alpha {alpha:g}, temperature {temperature:g}; valid: alpha from 0 to 1, "
            "temperature more than 0"
        )
    wanted = Wanted.of(plan.task)
    if "loss" not in (terms := [term.name for term in plan.terms]) or "distill" in terms:
        raise ConfigError(f"distill needs a plan with the task's loss, once; its terms: {terms}")
    if plan.source is not None:
        raise ConfigError("distill cannot follow a method that says what a training row is")
    if alpha == 1:
        return plan
    if more and getattr(plan.task.config, "loss", "") == "vocabulary":
        raise ConfigError("rows without labels need the prompt's loss=restricted")
    base, task = plan.task, keep_examples(plan.task)
    task.collate = _with_answers(base.collate)

    def source(rows: Source, seed: int) -> Source:
        extra = task.encode_batch([texts_of(each) for each in more])
        features = [*(rows.features(i, 0) for i in range(len(rows.lengths))), *extra]
        found = answer([each[EXAMPLE] for each in features])
        return _taught(features, Shuffled(found, seed) if placebo else found, wanted)

    def soft(run: Pass) -> torch.Tensor:
        ours, theirs = base.log_probs(run.output, run.batch), run.batch[TEACHER]
        each = soft_kl(ours, theirs, temperature) if loss == "kl" else logit_mse(ours, theirs)
        return (each * run.batch[TOLD]).sum() if TOLD in run.batch else each.sum()

    def told(batch: Batch) -> int:
        return int(batch[TOLD].sum()) if TOLD in batch else base.count(batch)

    plain = tuple(
        _of_labelled(term, base, alpha) if term.name == "loss" else term for term in plan.terms
    )
    soft_term = Term("distill", soft, 1 - alpha, count=told)
    return replace(plan, task=task, terms=(*plain, soft_term), source=source)


def keep_examples(task: Task) -> Any:
    """Return a copy of a task whose features hold their examples, to ask a teacher about.

    The copy is of the same type, so a run is saved as what it is.
    """
    made: Any = copy.copy(task)

    def encode_batch(examples: Sequence[Example]) -> list[Features]:
        rows = task.encode_batch(examples)
        return [{**row, EXAMPLE: each} for row, each in zip(rows, examples, strict=True)]

    made.encode_batch = encode_batch
    made.encode = lambda example: encode_batch([example])[0]
    return made


def texts_of(example: Example) -> dict[str, Any]:
    """Return an example's texts alone."""
    return {name: example[name] for name in ("text", "text_b") if name in example}


@dataclass(frozen=True)
class _TaughtRows:
    """Training rows, each with what the teacher says of its targets."""

    rows: EncodedRows
    answers: Sequence[np.ndarray]
    places: Sequence[int]
    """Number of each row's answer."""
    wanted: Wanted

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def features(self, index: int, epoch: int) -> Features:
        row = self.rows.rows[index]
        answer = np.asarray(self.answers[self.places[index]], np.float32)
        if self.wanted.kind == "tags":
            owned = row["owned"].astype(bool)
            answer = at_tokens(answer, row["starts"][owned], row["ends"][owned])
        return {**row, TEACHER: answer}


def _taught(
    features: Sequence[Features], answers: Sequence[np.ndarray], wanted: Wanted
) -> _TaughtRows:
    """Put rows and answers together; rows with neither answer nor label are left out.

    Raises:
        DataError: If the teacher answers nothing.
    """
    if len(answers) != len(features):
        raise DataError(f"{len(answers)} answers were given for {len(features)} texts")
    targets, classes = wanted.shape
    silent, kept = 0, []
    for number, (row, answer) in enumerate(zip(features, answers, strict=True)):
        wide = answer.shape[-1] == classes and (wanted.kind == "tags" or len(answer) == targets)
        if not wide:
            raise DataError(f"an answer has shape {answer.shape}, not ({targets}, {classes})")
        unanswered = not np.isfinite(answer).any()
        silent += unanswered
        if not unanswered or "target" in row:
            kept.append(number)
    if silent == len(features):
        raise DataError(f"the teacher answers none of {silent} texts")
    if silent:
        log.warning("the teacher has no answer for %d of %d texts; %d without a label are left out",
                    silent, len(features), len(features) - len(kept))  # fmt: skip
    return _TaughtRows(EncodedRows.of([features[i] for i in kept]), answers, kept, wanted)


def _with_answers(collate: Callable[[Sequence[Features]], Batch]) -> Callable[..., Batch]:
    """Return a collate that adds the teacher's answers, and copes with rows without labels."""

    def lay_out(features: Sequence[Features]) -> Batch:
        if not all(TEACHER in item for item in features):
            return collate(features)
        has = ["target" in item for item in features]
        filled = features
        if any(has) and not all(has):
            like = next(item["target"] for item in features if "target" in item)
            filled = [
                item if "target" in item else {**item, "target": _nothing(like, item)}
                for item in features
            ]
        batch = collate(filled)
        sizes = [len(item[TEACHER]) for item in features]
        answers = np.concatenate([item[TEACHER] for item in features])
        told = np.isfinite(answers).all(-1)
        batch[TEACHER] = np.where(told[:, None], answers, 0.0).astype(np.float32)
        if not told.all():
            batch[TOLD] = told.astype(np.int64)
        if not all(has):
            batch[LABELLED] = np.repeat(np.array(has, np.int64), sizes)
        return batch

    return lay_out


def _nothing(like: Any, row: Features) -> Any:
    """Return a target that will not be looked at, for a row that has none."""
    if np.ndim(like) == 0:
        return 0
    return np.zeros(len(row["input_ids"]) if "owned" in row else len(like), np.asarray(like).dtype)


def _of_labelled(term: Term, task: Task, alpha: float) -> Term:
    """Return the task's own term, over the rows that have labels."""

    def compute(run: Pass) -> torch.Tensor:
        if LABELLED not in run.batch:
            return term.compute(run)
        logs = task.log_probs(run.output, run.batch)
        if "target" not in run.batch:
            return logs.sum() * 0.0
        target = run.batch["target"]
        target = target[run.batch["owned"].bool()] if "owned" in run.batch else target
        right = logs.gather(1, target.reshape(-1, 1).long())[:, 0]
        return -(right * run.batch[LABELLED]).sum()

    def count(batch: Batch) -> int:
        if LABELLED in batch:
            return int(batch[LABELLED].sum())
        return term.count(batch) if term.count else task.count(batch)

    return replace(term, compute=compute, count=count, weight=term.weight * alpha)
