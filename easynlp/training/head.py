"""Fit a model's last layer in closed form on what it reads: a linear probe inside the model.

Fine-tuning a pre-trained model from a random head bends its features before the head knows
anything; with few labels it then ends below a linear probe. Kumar et al. 2022, "Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution" (arXiv 2202.10054): fit the head
first, then tune everything from there (LP-FT). Here the probe is logistic regression on the
centred and scaled vectors that the last linear layer reads with dropout off (BERT's pooled
vector; what comes out of RoBERTa's dense layer; with ``--pooling mean`` the mean of all tokens);
centring and scaling are folded into the layer's weights, so the model stays what it was. Where
it is known what the labels are called, the head leans towards that: see
`easynlp.training.label_prior`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from easynlp.data.sampling import Source, micro_batches
from easynlp.errors import ConfigError, ModelError
from easynlp.models.heads import MeanPooled
from easynlp.tasks.base import Task
from easynlp.training.label_prior import lean
from easynlp.training.regression import regress

if TYPE_CHECKING:
    from easynlp.training.plan import Plan

__all__ = ["LabelNames", "Probe", "fit_head", "last_layer", "read_rows", "read_vectors"]

TOKENS = 16_384
log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class LabelNames:
    """What the labels are called, for a head to lean towards.

    Attributes:
        source: A row for each label: its description as the task encodes a text, and the label.
        shuffle: A placebo: the seed with which descriptions are dealt out to other labels.
    """

    source: Source
    shuffle: int | None = None


class Probe:
    """When a run fits its head: ``no``, ``first``, ``after`` or ``only``, see `fit_head`.

    Args:
        when: ``first``: before training, and the untuned probe stays the answer if no checkpoint
            is better on dev. ``after``: at every evaluation and at the end. ``only``: there is no
            training. A plan whose head no term trains turns ``no`` into ``after``.
        strength: See `fit_head`.
        plan: Its model is on its device.
        source: Training rows.
        score: Scores on dev as the model stands; None without dev.
        names: What the labels are called, where a head is fitted to labels; None leaves the rows
            alone to speak.

    Raises:
        ConfigError: If it is to be first and no term trains the head.
    """

    def __init__(
        self,
        when: str,
        strength: float,
        plan: Plan,
        source: Source,
        score: Callable[[], Mapping[str, float]] | None,
        names: LabelNames | None = None,
    ) -> None:
        if plan.vectors_only and when == "first":
            raise ConfigError(
                "--probe first trains on from a fitted head, and this --method trains no head: it "
                "is fitted to the tuned encoder at the end. Leave --probe out"
            )
        self.when = "after" if plan.vectors_only and when == "no" else when
        self.strength, self.plan, self.source, self.score = strength, plan, source, score
        self.names = names
        self._first: tuple[float, dict[str, torch.Tensor]] | None = None

    def before(self) -> None:
        """Fit the head before training, if it is the time, and remember how good that is."""
        if self.plan.answers is not None:
            self.plan.answers.prepare(self.source)
        if self.when not in ("first", "only"):
            return
        scores = self._fit()
        if self.when == "first" and scores is not None:
            found = scores[self.plan.task.metric]
            log.info("probe before training: dev %.4f", found)
            weights = {k: v.clone() for k, v in self.plan.model.state_dict().items()}
            self._first = found, weights

    def evaluate(self) -> Mapping[str, float]:
        """Score on dev; a head that is fitted to the trained encoder is fitted first."""
        assert self.score is not None
        found = self._fit() if self.when == "after" else self.score()
        assert found is not None
        return found

    def after(self, best_step: int, best_score: float) -> int:
        """Leave the model as it should be saved; return the step it is of, 0 for the probe."""
        if self.when == "after":
            self._fit()
        if self._first is not None and self._first[0] >= best_score:
            log.info("no checkpoint is better on dev than the probe before training: it stays")
            self.plan.model.load_state_dict(self._first[1])
            return 0
        return best_step

    def _fit(self) -> Mapping[str, float] | None:
        """Fit the head, in the way that is best on dev if there are several; return its scores."""
        plan, answers = self.plan, self.plan.answers
        device = next(plan.model.parameters()).device
        if answers is None:
            fit_head(plan.task, plan.model, self.source, device, self.strength, self.names)
        else:
            answers.fit(self.source, device, self.strength)
        plan.model.eval()
        if self.score is None or answers is None or len(answers.names) == 1:
            return self.score() if self.score is not None else None
        found: dict[str, Mapping[str, float]] = {}
        for name in answers.names:
            answers.use(name)
            found[name] = self.score()
        best = max(answers.names, key=lambda name: found[name][plan.task.metric])
        answers.use(best)
        return found[best]


def fit_head(
    task: Task, model: torch.nn.Module, source: Source, device: torch.device, strength: float,
    names: LabelNames | None = None,
) -> None:  # fmt: skip
    """Set the last layer's weights to those of a logistic regression on the training rows.

    Args:
        task: Collates; its batches hold ``target``, one label a row or 0 and 1 for each label.
        model: Ends in a linear layer with an output a label; the rest stays as it is.
        source: Training rows.
        device: Where the model is.
        strength: Inverse of the L2 penalty on scaled features (scikit-learn's C).
        names: What the labels are called.

    Raises:
        MissingExtra: If scikit-learn is not installed.
        ModelError: If the model does not end in such a layer.
        ConfigError: If there are names, and rows with several labels.

    Example:
        >>> fit_head(plan.task, plan.model, source, device, strength=0.01)    # doctest: +SKIP
    """
    vectors, targets = read_vectors(task, model, source, device)
    layer = last_layer(model)
    several = targets.ndim == 2
    if names is None:
        weight, bias = regress(vectors, targets, layer.out_features, strength, several=several)
    else:
        if several:
            raise ConfigError("--label-names is for one label a text")
        known, owners = read_vectors(task, model, names.source, device)
        weight, bias, share = lean(
            vectors, targets, layer.out_features, strength, known[np.argsort(owners)],
            shuffle=names.shuffle,
        )  # fmt: skip
        log.info("label names: weight %g, by cross-validation on the training rows", share)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))


def read_vectors(
    task: Task, model: torch.nn.Module, source: Source, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the last layer reads of every row, shape (rows, width), and the targets.

    Raises:
        ModelError: If the model does not end in a linear layer, or rows have no single target.
    """
    layer = last_layer(model)
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))

    def read(output: Any, batch: Any) -> torch.Tensor:
        logits = output.logits
        if logits.dim() != 2 or len(batch.get("target", ())) != len(logits):
            raise ModelError(f"{task.name} has no single target a row to fit a head to")
        if len(seen) != 1 or seen[0].shape[:-1] != logits.shape[:-1]:
            raise ModelError("the model does not end in a linear layer that gives its logits")
        return seen.pop()

    try:
        return read_rows(task, model, source, device, read)
    finally:
        handle.remove()


def read_rows(
    task: Task,
    model: torch.nn.Module,
    source: Source,
    device: torch.device,
    read: Callable[[Any, Any], torch.Tensor],
) -> tuple[np.ndarray, np.ndarray]:
    """Return what is read of every training row's output, dropout off, and the targets.

    Args:
        task: Collates; its batches hold ``target``.
        model: Left in the mode it was in.
        source: Training rows.
        device: Where the model is.
        read: Takes an output and its batch; returns a value a row, shape (rows, …).
    """
    from easynlp.training.loop import make_forward, to_tensors

    rows = np.argsort(source.lengths, kind="stable")
    forward = make_forward(model, "fp32", device)
    was_training = model.training
    values: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    try:
        model.eval()
        for part in micro_batches(rows, source.lengths, max_tokens=TOKENS, at_least=1):
            batch = task.collate([source.features(int(i), 0) for i in part])
            with torch.inference_mode():
                found = read(forward(to_tensors(batch, device)), batch)
            values.append(found.float().cpu().numpy())
            targets.append(batch["target"])
    finally:
        model.train(was_training)
    order = np.argsort(rows, kind="stable")
    return np.concatenate(values)[order], np.concatenate(targets)[order]


def last_layer(model: torch.nn.Module) -> torch.nn.Linear:
    """Return the linear layer whose outputs are the model's logits, one a label.

    Raises:
        ModelError: If there is none.
    """
    if isinstance(model, MeanPooled):
        return model.classifier
    inner: Any = getattr(model, "core", model)
    labels = getattr(getattr(inner, "config", None), "num_labels", None)
    body = {id(module) for module in getattr(inner, "base_model", inner).modules()}
    found = [
        module
        for module in inner.modules()
        if isinstance(module, torch.nn.Linear)
        and id(module) not in body
        and module.out_features == labels
        and module.bias is not None
    ]
    if not found:
        raise ModelError(
            f"{type(inner).__name__} does not end in a linear layer, one output a label"
        )
    return found[-1]
