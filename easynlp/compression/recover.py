"""Give a cut model back what it lost: the model it was cut from teaches it.

The teacher reads the student's own tokens, under its own ids: the two see the same text position
by position, whatever the vocabulary lost, so answers and hidden states are compared one to one for
every task. The teacher runs beside the student, in the terms of the loss; its weights never
change. What is compared: the answers, softened (Hinton et al. 2015), and the states of every layer
that was kept with those of the same layer before (Hou et al. 2020, DynaBERT, whose weights, 1 and
0.1, are the defaults). Deviations from DynaBERT: the labels keep a share, and padding has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from easynlp.compression.importance import encoder_layers
from easynlp.distillation.losses import hidden_mse, soft_kl
from easynlp.models.heads import core
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Batch, Example
from easynlp.training.loop import make_forward
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["Guide", "States", "answered", "token_count", "watch_layers", "with_guide"]


class States:
    """The hidden states of a model's last pass: embeddings first, then every layer's.

    Args:
        model: A task's model, BERT-shaped; gets hooks.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        base: Any = core(model).base_model
        self._last: list[torch.Tensor] = []
        base.embeddings.register_forward_hook(self._begin)
        for layer in encoder_layers(model):
            layer.register_forward_hook(self._add)
        model.register_forward_hook(self._hand_over)

    def _begin(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        self._last = [output]

    def _add(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        self._last.append(output[0] if isinstance(output, tuple) else output)

    def _hand_over(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        # On the output, so that a second pass of another term does not change the first one's.
        output.layer_states, self._last = self._last, []


def watch_layers(model: torch.nn.Module) -> None:
    """Make a model's outputs carry ``layer_states``: see `States`; once is enough."""
    if not getattr(model, "_layers_watched", False):
        States(model)
        model._layers_watched = True  # type: ignore[assignment]


class Guide:
    """A frozen model that says what it would have said of the same tokens.

    Args:
        model: The uncompressed model, with the same head.
        ids: Its id of each of the student's tokens, (student's vocabulary,); None: the same ids.
        layers: Which of its layers the student kept.
        precision: ``bf16`` or ``fp32``.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        ids: Sequence[int] | None,
        layers: Sequence[int],
        precision: str = "fp32",
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.layers, self.precision = tuple(layers), precision
        self._ids = torch.tensor(ids) if ids is not None else None
        self._forward: Callable[[Mapping[str, torch.Tensor]], Any] | None = None
        self._pair: tuple[Pass, Any] | None = None
        watch_layers(self.model)

    def output(self, run: Pass) -> Any:
        """Return the teacher's output on a pass's batch, made once however many terms ask."""
        if self._pair is None or self._pair[0] is not run:
            ids = run.batch["input_ids"]
            if self._forward is None:
                self.model.to(ids.device)
                self._forward = make_forward(self.model, self.precision, ids.device)
            mine = ids if self._ids is None else self._ids.to(ids.device)[ids]
            with torch.no_grad():
                self._pair = run, self._forward({**run.batch, "input_ids": mine})
        return self._pair[1]

    def states(self, run: Pass) -> list[torch.Tensor]:
        """Return its embeddings and the states of the layers the student kept."""
        everything = self.output(run).layer_states
        return [everything[0], *(everything[layer + 1] for layer in self.layers)]


def with_guide(
    plan: Plan,
    guide: Guide,
    *,
    labels: float = 0.5,
    soft: float = 1.0,
    hidden: float = 0.1,
    temperature: float = 2.0,
) -> Plan:
    """Add the terms by which the uncompressed model teaches the cut one.

    Args:
        plan: The student's: its model has the teacher's width.
        guide: The teacher.
        labels: Weight of the task's own loss.
        soft: Weight of the divergence of softened answers, per target.
        hidden: Weight of the squared difference of hidden states, per token, a mean over layers.
        temperature: Of the answers.

    Example:
        >>> plan = with_guide(plan, Guide(teacher, None, (0, 2, 3)))  # doctest: +SKIP
    """
    task = plan.task
    watch_layers(plan.model)

    def answers(run: Pass) -> torch.Tensor:
        theirs = task.log_probs(guide.output(run), run.batch)
        return soft_kl(task.log_probs(run.output, run.batch), theirs, temperature).sum()

    def states(run: Pass) -> torch.Tensor:
        real = run.batch.get("attention_mask")
        pairs = list(zip(run.output.layer_states, guide.states(run), strict=True))
        apart = torch.stack([hidden_mse(ours, theirs) for ours, theirs in pairs]).mean(0)
        return apart.sum() if real is None else (apart * real).sum()

    terms = tuple(replace(t, weight=t.weight * labels) if t.name == "loss" else t
                  for t in plan.terms if labels or t.name != "loss")  # fmt: skip
    added = [Term("soft", answers, soft)] if soft else []
    if hidden:
        added.append(Term("hidden", states, hidden, count=token_count))
    return replace(plan, terms=(*terms, *added))


def token_count(batch: Batch) -> int:
    """Return the tokens of a batch that are not padding."""
    mask = batch.get("attention_mask")
    return int(mask.sum()) if mask is not None else int(np.prod(batch["input_ids"].shape))


def answered(pipeline: Pipeline, examples: Sequence[Example]) -> list[Example]:
    """Return unlabelled examples with what a run answers as their targets.

    Args:
        pipeline: The uncompressed run; its task's predictions must hold a target under its field's
            name, or as a list under its plural.
        examples: Texts.
    """
    targets = [field.name for field in pipeline.task.fields if field.target]
    found: list[Example] = []
    for example, said in zip(examples, pipeline.predict(examples), strict=True):
        given = {name: said.get(name, said.get(f"{name}s")) for name in targets}
        found.append(
            {**pipeline.example(example), **{k: v for k, v in given.items() if v is not None}}
        )
    return found
