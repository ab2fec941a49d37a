"""MetaKD: a teacher of all domains that knows what transfers, and students that heed where it does.

Pan et al. 2021, "Meta-KD: A Meta Knowledge Distillation Framework for Language Model Compression
across Domains" (ACL 2021, arXiv 2012.01266), in two stages, each a method of a plain `run.train`:

1. `meta_teacher`: one model learns all domains. A row weighs by its *prototype score* t
   (`easynlp.distillation.domains`), how near it is to the centre of its label in its own domain and
   in the others. A head must tell a *false* domain from the mean of the token vectors: what it
   learns to give up is where a text is from (domain corruption)::

       loss = mean of t x CE(label) + corruption x mean of t x CE(false domain)

2. `meta_distill`: a student of one domain learns the teacher's answers, and its view of a text
   freed of its domain. A row weighs by the teacher's *domain expertise*, more where the row is
   typical and the teacher right::

       loss = mean of w x T^2 KL + transfer x mean of w x |view of student - view of teacher|^2

Deviations from EasyNLP's code, which has these as faults: losses are weighed row by row before they
are added up (there: batch means first, so that a weight is a factor of the whole batch); token
means leave padding and ``[CLS]`` out; the projection to the teacher's width is learned and the
student's; false domains are dealt out over all rows, anew each epoch, as a function of the seed, so
that a step does not depend on how it is cut up. From the paper: weights are divided by their mean,
so that steps are as long as without them; hidden states and attention are not compared here
(`distill_layers` does), and prototypes are of the encoder before it is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from easynlp.data.sampling import Source
from easynlp.distillation.domains import DomainRows, expertise_weights, mean_one
from easynlp.distillation.logits import EXAMPLE, TEACHER, TOLD, distill, texts_of
from easynlp.distillation.losses import hidden_mse, soft_kl
from easynlp.errors import ConfigError, ModelError
from easynlp.models.compact import stored_layer
from easynlp.models.heads import core
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Batch, Example, Features
from easynlp.training.loop import to_tensors
from easynlp.training.plan import Pass, Plan, Term, row_count

__all__ = ["meta_distill", "meta_teacher"]

WEIGHT, VIEW, FALSE, DOMAIN = "weight", "view", "false_domain", "domain"
_HIDDEN, _LAYER, _PROJECTION = "token_states", "domain_view", "view_projection"

Weighting = Literal["typical", "uniform", "shuffled"]


class DomainView(torch.nn.Module):
    """A text as it looks with its domain taken into account, and the guess of a domain from that.

    Args:
        domains: How many there are.
        width: Of the encoder.
    """

    def __init__(self, domains: int, width: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(domains, width)
        self.dense = torch.nn.Linear(width, width)
        self.head = torch.nn.Linear(width, domains)
        torch.nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, means: torch.Tensor, domains: torch.Tensor) -> torch.Tensor:
        """Return ``tanh(dense(domain's vector + mean of tokens))``, shape (rows, width)."""
        found: torch.Tensor = torch.tanh(self.dense(self.embedding(domains) + means))
        return found


def meta_teacher(
    plan: Plan, *, rows: str, corruption: float = 0.5, weighting: Weighting = "typical"
) -> Plan:
    """Learn all domains together, typical rows more; the first stage.

    Args:
        plan: Of text_classify, one label a row.
        rows: File of the training rows' domains and scores, see `DomainRows`.
        corruption: Weight of telling false domains.
        weighting: ``typical``: by prototype scores; ``uniform``; or ``shuffled``, the placebo.

    Raises:
        ConfigError: If an option is wrong, or the plan is another.

    Example:
        >>> plan = meta_teacher(plan, rows="domains.json")            # doctest: +SKIP
    """
    notes = DomainRows.load(rows)
    _check(plan, weighting, corruption)
    inner: Any = core(plan.model)
    width = int(inner.config.hidden_size)
    # Saved with the model: students ask for its views.
    setattr(inner, _LAYER, DomainView(len(notes.names), width))
    _keep_states(plan.model)

    def told(run: Pass) -> torch.Tensor:
        view: DomainView = getattr(inner, _LAYER)
        seen = view(_means(run.output[_HIDDEN], run.batch), run.batch[DOMAIN])
        each = cross_entropy(view.head(seen).float(), run.batch[FALSE], reduction="none")
        return (each * run.batch[WEIGHT]).sum()

    terms = [_weighted(plan, term) for term in plan.terms]
    if corruption:
        terms.append(Term("domain", told, corruption, count=row_count))

    def source(encoded: Source, seed: int) -> Source:
        notes.check(len(encoded.lengths))
        weights = _deal(mean_one(np.array(notes.scores)), weighting, seed)
        return _Noted(encoded, weights, np.array(notes.domains), seed)

    task = _collating(plan.task, (WEIGHT, DOMAIN, FALSE))
    return replace(plan, task=task, terms=tuple(terms), source=source)


def meta_distill(
    plan: Plan,
    *,
    teacher: str,
    rows: str,
    alpha: float = 0.0,
    temperature: float = 2.0,
    transfer: float = 0.5,
    weighting: Weighting = "typical",
    cache: str = "",
) -> Plan:
    """Learn a meta-teacher's answers and views, more where it is an expert; the second stage.

    Args:
        plan: Of text_classify, one label a row; the rows of one domain, or of several.
        teacher: A run that `meta_teacher` trained; with ``transfer=0`` any classifier's.
        rows: File of the training rows' domains and scores, see `DomainRows`.
        alpha: Share of the labels in the loss; the paper's is 0.
        temperature: Both sides' answers are compared at it.
        transfer: Weight of the distance of views.
        weighting: ``typical``: by domain expertise; ``uniform``; or ``shuffled``, the placebo.
        cache: Folder that keeps the teacher's answers.

    Raises:
        ConfigError: If an option is wrong, or the plan is another.
        ModelError: If there is no such teacher, or it has no views.

    Example:
        >>> plan = meta_distill(plan, teacher="runs/meta", rows="books.json")   # doctest: +SKIP
    """
    notes = DomainRows.load(rows)
    _check(plan, weighting, transfer)
    if alpha == 1:
        raise ConfigError("meta_distill: alpha 1 leaves nothing to the teacher; valid: less")
    views = _Views.load(teacher) if transfer else None
    plan = distill(plan, teacher=teacher, alpha=alpha, temperature=temperature, cache=cache)
    base, before = plan.task, plan.source
    assert before is not None

    def soft(run: Pass) -> torch.Tensor:
        ours = base.log_probs(run.output, run.batch)
        each = soft_kl(ours, run.batch[TEACHER], temperature) * run.batch[WEIGHT]
        return (each * run.batch[TOLD]).sum() if TOLD in run.batch else each.sum()

    terms = [
        replace(term, compute=soft) if term.name == "distill" else _weighted(plan, term)
        for term in plan.terms
    ]
    if views is not None:
        terms.append(Term("transfer", _transfer(plan, views.width), transfer, count=row_count))

    def source(encoded: Source, seed: int) -> Source:
        taught = before(encoded, seed)
        notes.check(len(taught.lengths))
        found = [taught.features(i, 0) for i in range(len(taught.lengths))]
        sure = np.exp([item[TEACHER][0, item["target"]] for item in found])
        # Of a row that the teacher has no answer to nothing is known: it counts as the others do.
        sure = np.where(np.isnan(sure), np.nanmean(sure), sure)
        weights = _deal(expertise_weights(np.array(notes.scores), sure), weighting, seed)
        seen = None
        if views is not None:
            device = next(plan.model.parameters()).device
            seen = views.of([item[EXAMPLE] for item in found], notes.domains, device)
        return _Noted(taught, weights, views=seen)

    task = _collating(base, (WEIGHT, VIEW))
    return replace(plan, task=task, terms=tuple(terms), source=source)


class _Views:
    """A meta-teacher's views of texts."""

    def __init__(self, pipeline: Pipeline, view: DomainView) -> None:
        self.pipeline, self.view = pipeline, view
        self.width = view.dense.out_features

    @classmethod
    def load(cls, teacher: str) -> _Views:
        state = stored_layer(Path(teacher), _LAYER) if Path(teacher).is_dir() else {}
        if not state:
            raise ModelError(
                f"{teacher} has no views of domains: train it with meta_teacher, or give transfer=0"
            )
        view = DomainView(*state["embedding.weight"].shape)
        view.load_state_dict(state)
        return cls(Pipeline.load(teacher, backend="torch"), view.eval())

    def of(
        self, examples: Sequence[Example], domains: Sequence[int], device: torch.device
    ) -> np.ndarray:
        """Return the views of texts, shape (texts, width)."""
        model: Any = self.pipeline.model
        network = model.model.to(device).eval()
        view, task = self.view.to(device), self.pipeline.task
        _keep_states(network)
        rows = self.pipeline.encode([texts_of(each) for each in examples])
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
        found = np.zeros((len(rows), self.width), np.float32)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            batch = to_tensors(task.collate([rows[i] for i in part]), device)
            numbers = torch.tensor([domains[i] for i in part], device=device)
            with torch.inference_mode():
                output = network(**{k: v for k, v in batch.items() if k in model.inputs})
                found[part] = view(_means(output[_HIDDEN], batch), numbers).cpu().numpy()
        return found


@dataclass(frozen=True)
class _Noted:
    """Training rows with weights, domains, false domains and a teacher's views."""

    rows: Source
    weights: np.ndarray
    domains: np.ndarray | None = None
    seed: int = 0
    views: np.ndarray | None = None
    deals: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    """The false domains of the epoch that was asked about last."""

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def features(self, index: int, epoch: int) -> Features:
        notes = {WEIGHT: self.weights[index]}
        if self.views is not None:
            notes[VIEW] = self.views[index]
        if self.domains is not None:
            dealt = self.deals.get(epoch)
            if dealt is None:
                self.deals.clear()
                dealt = np.random.default_rng((self.seed, epoch)).permutation(self.domains)
                self.deals[epoch] = dealt
            notes |= {DOMAIN: self.domains[index], FALSE: dealt[index]}
        return {**self.rows.features(index, epoch), **notes}


def _collating(task: Any, names: Sequence[str]) -> Any:
    """Return a copy of a task that stacks these of its rows' notes."""
    made, collate = copy.copy(task), task.collate

    def lay_out(features: Sequence[Features]) -> Batch:
        batch: Batch = collate(features)
        for name in names:
            if all(name in item for item in features):
                kind = np.float32 if name in (WEIGHT, VIEW) else np.int64
                batch[name] = np.stack([np.asarray(item[name], kind) for item in features])
        return batch

    made.collate = lay_out
    return made


def _weighted(plan: Plan, term: Term) -> Term:
    """Return the task's own term with every row's loss times its weight."""
    if term.name != "loss":
        return term
    task = plan.task

    def compute(run: Pass) -> torch.Tensor:
        logs = task.log_probs(run.output, run.batch)
        right = logs.gather(1, run.batch["target"][:, None])[:, 0]
        return -(right * run.batch[WEIGHT]).sum()

    return replace(term, compute=compute)


def _transfer(plan: Plan, width: int) -> Callable[[Pass], torch.Tensor]:
    """Return the term of views; its projection is trained with the model and not saved."""
    inner: Any = core(plan.model)
    setattr(inner, _PROJECTION, torch.nn.Linear(int(inner.config.hidden_size), width))
    names = [f"{_PROJECTION}.{name}" for name in getattr(inner, _PROJECTION).state_dict()]
    inner._keys_to_ignore_on_save = [*(inner._keys_to_ignore_on_save or ()), *names]
    _keep_states(plan.model)

    def compute(run: Pass) -> torch.Tensor:
        means = _means(run.output[_HIDDEN], run.batch)
        seen = torch.tanh(getattr(inner, _PROJECTION)(means))
        return (hidden_mse(seen, run.batch[VIEW]) * run.batch[WEIGHT]).sum()

    return compute


def _keep_states(model: torch.nn.Module) -> None:
    """Let a model's output carry its encoder's last token states."""
    taken: list[torch.Tensor] = []
    encoder: Any = core(model).base_model
    encoder.register_forward_hook(lambda m, a, output: taken.append(output.last_hidden_state))

    def attach(module: torch.nn.Module, args: Any, output: Any) -> None:
        output[_HIDDEN] = taken.pop()
        taken.clear()

    model.register_forward_hook(attach)


def _means(states: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean of each row's token states, padding and the first token left out."""
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).float()
    if mask.shape[1] > 1:
        mask = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, 1:]], 1)
    weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
    return (states.float() * weights[..., None]).sum(1)


def _deal(weights: np.ndarray, weighting: str, seed: int) -> np.ndarray:
    if weighting == "uniform":
        return np.ones_like(weights)
    return np.random.default_rng(seed).permutation(weights) if weighting == "shuffled" else weights


def _check(plan: Plan, weighting: str, weight: float) -> None:
    if weighting not in ("typical", "uniform", "shuffled") or weight < 0:
        raise ConfigError(
            f"weighting {weighting}, weight {weight:g}; valid: typical, uniform or shuffled, and "
            "0 or more"
        )
    if plan.task.name != "text_classify" or getattr(plan.task.config, "multi_label", False):
        raise ConfigError("MetaKD is for text_classify with one label a row")
    if plan.source is not None:
        raise ConfigError("MetaKD comes first among methods that say what a training row is")
