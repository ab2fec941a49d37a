"""The training loop, all of it: `fit` is a generator of Events.

It knows no file, no task by name and no method. One optimizer step is: one forward a
micro-batch, each of the plan's terms divided by its number of targets of the whole step (over
accumulation and processes), their weighted sum, one clip, one update of the weights.

Nothing random survives a step: dropout is reseeded from (seed, step, rank) and the order of
rows from (seed, epoch), so resuming needs weights, optimizer moments and a step number.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from easynlp.data.sampling import Sampler, Source, micro_batches
from easynlp.distributed import World, all_sum, no_sync, wrap
from easynlp.errors import RunError
from easynlp.training.memory import checkpoint_activations
from easynlp.training.optim import make_optimizer
from easynlp.training.plan import Pass, Plan
from easynlp.training.precision import autocast
from easynlp.training.schedule import factor

__all__ = ["Event", "FitOptions", "State", "fit", "make_forward", "to_tensors"]


@dataclass(frozen=True)
class FitOptions:
    """How to train. Sizes are of the optimizer step, whatever the processes and accumulation."""

    steps: int
    batch_size: int = 32
    batch_tokens: int = 16384
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 5e-5
    weight_decay: float = 0.01
    beta2: float = 0.999
    schedule: str = "linear"
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    precision: str = "fp32"
    activation_checkpointing: bool = False
    eval_every: int = 0
    patience: int = 0
    seed: int = 42
    layer_decay: float = 1.0


@dataclass
class State:
    """Where training stands. With the model's weights, all that exact resumption needs."""

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    bad_evals: int = 0
    tokens: int = 0
    optimizer: torch.optim.Optimizer | None = field(default=None, repr=False)
    pending: Mapping[str, torch.Tensor] | None = field(default=None, repr=False)
    """Optimizer tensors read from a checkpoint, until `fit` has an optimizer to hold them."""


@dataclass(frozen=True)
class Event:
    """What happened at a step; yielded after it is complete and may be saved.

    Attributes:
        losses: Each term's loss, a mean over the step's targets.
        scores: What `evaluate` returned, if this was an evaluation step.
        is_best: The scores are the best so far.
        stop: Early stopping ends the run with this event.
        seconds: What the step took, data included, evaluation not.
    """

    step: int
    steps: int
    epoch: float
    losses: Mapping[str, float]
    lr: float
    grad_norm: float
    tokens_per_second: float
    scores: Mapping[str, float] | None = None
    is_best: bool = False
    stop: bool = False
    seconds: float = 0.0


def fit(
    plan: Plan,
    source: Source,
    options: FitOptions,
    *,
    state: State,
    device: torch.device,
    world: World | None = None,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
) -> Iterator[Event]:
    """Train a plan; yield an Event after every optimizer step.

    The caller decides what to do with events (save, report) and ends training early by
    closing the generator; `state` and ``plan.model`` may be saved whenever it holds an event.

    Args:
        plan: Task, model and terms. The model is moved to `device` and trained in place.
        source: Training rows.
        options: Sizes and rates.
        state: Fresh, or read from a checkpoint: then training goes on exactly there.
        device: Where to compute.
        world: This process among its peers.
        evaluate: Returns scores on dev; called every ``eval_every`` steps and at the end.

    Raises:
        ConfigError: If there is no such optimizer.
        ModelError: If activation checkpointing is asked of a model without it.
        RunError: If the loss is not finite.
    """
    world = world or World()
    model = plan.model.to(device)
    source = plan.source(source, options.seed) if plan.source else source
    if options.activation_checkpointing:
        checkpoint_activations(model)
    wrapped = wrap(model, world)
    forward = make_forward(wrapped, options.precision, device)
    state.optimizer = make_optimizer(
        options.optimizer, model, lr=options.lr, weight_decay=options.weight_decay,
        betas=(0.9, options.beta2), layer_decay=options.layer_decay,
    )  # fmt: skip
    if state.pending is not None:
        restore_optimizer(state.optimizer, state.pending)
        state.pending = None
    sampler = Sampler(source.lengths, options.batch_size, options.seed)
    per_epoch = sampler.steps_per_epoch
    order: list[np.ndarray] = []
    order_of = -1
    while state.step < options.steps and not _out_of_patience(state, options):
        epoch, position = divmod(state.step, per_epoch)
        if epoch != order_of:
            order, order_of = sampler.epoch(epoch), epoch
        started = time.perf_counter()
        lr = options.lr * factor(
            options.schedule, state.step, steps=options.steps, warmup=options.warmup
        )
        for group in state.optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
        torch.manual_seed(_step_seed(options.seed, state.step, world.rank))
        model.train()
        losses, tokens, norm = _step(
            plan, wrapped, forward, source, order[position], epoch, options, state.optimizer,
            device, world,
        )  # fmt: skip
        state.step += 1
        state.tokens += tokens
        seconds = time.perf_counter() - started
        scores: Mapping[str, float] | None = None
        is_best = stop = False
        if evaluate is not None and _is_eval_step(state.step, options):
            model.eval()
            scores = evaluate()
            is_best, stop = _judge(scores[plan.task.metric], state, options)
        yield Event(
            state.step, options.steps, state.step / per_epoch, losses, lr, norm,
            tokens / seconds, scores, is_best, stop, seconds,
        )  # fmt: skip


def _step(
    plan: Plan,
    wrapped: torch.nn.Module,
    forward: Callable[[Mapping[str, torch.Tensor]], Any],
    source: Source,
    rows: np.ndarray,
    epoch: int,
    options: FitOptions,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    world: World,
) -> tuple[dict[str, float], int, float]:
    """Run one optimizer step; return mean losses, real tokens seen and the gradient norm."""
    parts = micro_batches(
        rows, source.lengths, max_tokens=options.batch_tokens, at_least=options.accumulate,
        rank=world.rank, world=world.size,
    )  # fmt: skip
    idle = not parts  # fewer rows than processes: take part in the exchange with a loss of zero
    parts = parts or [rows[:1]]
    batches = [plan.task.collate([source.features(int(i), epoch) for i in part]) for part in parts]
    counts = torch.tensor(
        [*np.sum([plan.counts(batch) for batch in batches], axis=0),
         sum(int(source.lengths[part].sum()) for part in parts)],
        dtype=torch.float64, device=device,
    )  # fmt: skip
    *targets, tokens = all_sum(counts * (not idle), world).tolist()
    optimizer.zero_grad(set_to_none=True)
    sums = torch.zeros(len(plan.terms), device=device)
    for number, batch in enumerate(batches):
        with no_sync(wrapped, last=number == len(batches) - 1):
            tensors = to_tensors(batch, device)
            run = Pass(forward, plan.model, tensors, forward(tensors))
            total, losses = plan.total(run, targets)
            # DDP averages gradients over processes; the loss is a mean over all targets.
            (total * (0.0 if idle else world.size)).backward()  # type: ignore[no-untyped-call]
            if not idle:
                sums += torch.stack([losses[term.name].float() for term in plan.terms])
    norm = torch.nn.utils.clip_grad_norm_(
        plan.model.parameters(), options.max_grad_norm or math.inf
    )
    means = [
        loss / max(count, 1.0)
        for loss, count in zip(all_sum(sums, world).tolist(), targets, strict=True)
    ]
    losses_by_name = dict(zip((term.name for term in plan.terms), means, strict=True))
    # Before the update: one NaN would spoil every weight, and the checkpoint with them.
    _check_finite({**losses_by_name, "gradient": float(norm)})
    optimizer.step()
    return losses_by_name, int(tokens), float(norm)


def make_forward(
    model: torch.nn.Module, precision: str, device: torch.device
) -> Callable[[Mapping[str, torch.Tensor]], Any]:
    """Return ``batch -> output``: passes the model what its ``forward`` names, under autocast."""
    bare = getattr(model, "module", model)
    accepted = frozenset(inspect.signature(bare.forward).parameters)

    def forward(batch: Mapping[str, torch.Tensor]) -> Any:
        with autocast(precision, device):
            return model(**{name: value for name, value in batch.items() if name in accepted})

    return forward


def to_tensors(batch: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """Return a batch's arrays as tensors on a device."""
    return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put moments read from a checkpoint (``index.name`` keys) into an optimizer."""
    saved = optimizer.state_dict()
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        moments.setdefault(int(index), {})[name] = value
    saved["state"] = moments
    optimizer.load_state_dict(saved)


def _is_eval_step(step: int, options: FitOptions) -> bool:
    return step == options.steps or bool(options.eval_every and step % options.eval_every == 0)


def _judge(score: float, state: State, options: FitOptions) -> tuple[bool, bool]:
    """Update the best score; return (is best, stop now)."""
    if score > state.best_score:
        state.best_score, state.best_step, state.bad_evals = score, state.step, 0
        return True, False
    state.bad_evals += 1
    return False, _out_of_patience(state, options)


def _out_of_patience(state: State, options: FitOptions) -> bool:
    return bool(options.patience and state.bad_evals >= options.patience)


def _step_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


def _check_finite(values: Mapping[str, float]) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise RunError(
            f"{', '.join(bad)} not finite; the step was not taken, so a checkpoint saved before "
            "is sound: try a lower --lr, or --precision fp32"
        )
