"""Online distillation: a teacher, an assistant and students of several sizes learn in one pass.

Of the ERNIE 3.0 Titan paper, section 5 (Wang et al. 2021, arXiv 2112.12731), which has no published
code. In every step the teacher learns as it would alone; an assistant, nearer to it in size, learns
from what the teacher says of the same batch, and every student from what the assistant says: one
pass of the large models serves all students, and their aim moves smoothly. No gradient goes from a
learner to whom it learns from. Each learner's loss is::

    alpha x its own loss on the labels + (1 - alpha) x T^2 KL(source || learner)
    + relations x divergence of relations among tokens (MiniLMv2)

Auxiliary layer distillation: where the relations of a student's last layer are compared, nothing
that layer makes of them is trained by it. So an extra layer is put on top for them and thrown away
afterwards; as only its queries, keys and values are asked for, only these are built.

Deviations: the paper pre-trains, with attention maps alone; here labels are learned as well, and
relations take the maps' place, for which neither heads nor widths need agree. ``assistant=""`` is
the ablation: students learn from the teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from easynlp.distillation.losses import relation_kl, soft_kl
from easynlp.distillation.members import ASSISTANT, TEACHER, find_member, learners, task_for
from easynlp.errors import ConfigError
from easynlp.models.heads import core
from easynlp.tasks.base import Batch
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["COHORT", "PLACEBO", "Cohort", "online_distill"]

COHORT = "cohort"
"""Where a run folder's weights hold the others."""
PLACEBO = "shuffled-source"
_EXTRA, _SAID, _STATES = "cohort_extra", "said", "states"
_PARTS = ("query", "key", "value")


class Cohort(torch.nn.Module):
    """A teacher and those who learn beside it, run on a batch together.

    The others' weights are kept within the teacher's, and are saved and resumed with them.

    Args:
        teacher: A model with the task's head, of BERT's shape inside.
        members: Those who learn, by name; the same.
        extra: Whether each has a layer on top to compare relations of.
        frozen: Whether the teacher does not learn; it has no dropout then.
    """

    def __init__(
        self, teacher: torch.nn.Module, members: Mapping[str, torch.nn.Module], extra: bool,
        frozen: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.teacher, self.names, self.extra = teacher, tuple(members), extra
        self.frozen = frozen
        inner: Any = core(teacher)
        setattr(inner, COHORT, torch.nn.ModuleDict(dict(members)))
        above = {}
        for name, model in members.items():
            width = _encoder(model, name).config.hidden_size
            above[name] = torch.nn.ModuleDict({p: torch.nn.Linear(width, width) for p in _PARTS})
        if extra:
            setattr(inner, _EXTRA, torch.nn.ModuleDict(above))
        self._taken: dict[str, dict[str, torch.Tensor]] = {}
        for name in (TEACHER, *self.names):
            self._watch(name)

    @property
    def core(self) -> Any:
        """The teacher's transformers model, the others within it: what a run folder holds."""
        return core(self.teacher)

    @property
    def config(self) -> Any:
        """The teacher's configuration."""
        return self.core.config

    def train(self, mode: bool = True) -> Cohort:
        """Set the mode of all, but of a teacher that is frozen."""
        super().train(mode)
        for name in (TEACHER, *self.names) if self.frozen else ():  # the others are within it
            self.member(name).train(mode and name != TEACHER)
        return self

    def member(self, name: str) -> torch.nn.Module:
        """Return the teacher or one of those who learn."""
        found: Any = self.teacher if name == TEACHER else getattr(self.core, COHORT)[name]
        return found  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> Any:
        """Return the teacher's output with what all said; asked for answers, the students' mean.

        ``said`` holds every member's output, ``states`` the queries, keys and values to compare:
        of the last layer for those who are learned from, of the extra one for those who learn.
        """
        given = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given = {name: value for name, value in given.items() if value is not None}
        said: dict[str, Any] = {}
        states: dict[str, dict[str, torch.Tensor]] = {}
        for name in (TEACHER, *self.names):
            said[name] = self.member(name)(input_ids=input_ids, **given)
            states[name] = dict(self._taken[name])
            self._taken[name].clear()
        output = type(said[TEACHER])(**said[TEACHER])
        if not self.training:
            students = [name for name in self.names if name != ASSISTANT]
            logs = [said[name].logits.float().log_softmax(-1) for name in students]
            output.logits = torch.stack(logs).mean(0)
        output[_SAID], output[_STATES] = said, states
        return output

    def learned(self, name: str, states: Mapping[str, Mapping[str, torch.Tensor]]) -> Any:
        """Return the queries, keys and values in which a member learns, by their names."""
        if not self.extra:
            return states[name]
        layer = getattr(self.core, _EXTRA)[name]
        return {part: layer[part](states[name]["hidden"]) for part in _PARTS}

    def _watch(self, name: str) -> None:
        """Keep a member's last states and what its last layer's attention is made of."""
        taken = self._taken.setdefault(name, {})
        last = _encoder(self.member(name), name).encoder.layer[-1]

        def keep(what: str) -> Callable[..., None]:
            def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
                taken[what] = output[0] if isinstance(output, tuple) else output

            return hook

        last.register_forward_hook(keep("hidden"))
        for part in _PARTS:
            getattr(last.attention.self, part).register_forward_hook(keep(part))


@dataclass(frozen=True)
class _Lesson:
    """Who learns from whom, as loss terms."""

    cohort: Cohort
    task: Any
    heads: int
    temperature: float
    turn: int

    def labels(self, name: str) -> Callable[[Pass], torch.Tensor]:
        def compute(run: Pass) -> torch.Tensor:
            found: torch.Tensor = self.task.loss(run.output[_SAID][name], run.batch)
            return found

        return compute

    def answers(self, name: str, source: str) -> Callable[[Pass], torch.Tensor]:
        def compute(run: Pass) -> torch.Tensor:
            said = run.output[_SAID]
            ours, theirs = (self.task.log_probs(said[each], run.batch) for each in (name, source))
            # Of tags each token is a row here: half way round is another text's.
            turned = theirs.roll(len(theirs) // 2 if self.turn else 0, 0)
            return soft_kl(ours, turned, self.temperature).sum()

        return compute

    def relations(self, name: str, source: str) -> Callable[[Pass], torch.Tensor]:
        def compute(run: Pass) -> torch.Tensor:
            states = run.output[_STATES]
            ours = self.cohort.learned(name, states)
            shape = run.batch["input_ids"].shape
            valid = run.batch.get("attention_mask", torch.ones_like(run.batch["input_ids"])) > 0
            found = [
                relation_kl(
                    ours[part].view(*shape, -1),
                    states[source][part].view(*shape, -1).roll(self.turn, 0), valid, self.heads,
                ).sum()
                for part in _PARTS
            ]  # fmt: skip
            return torch.stack(found).sum()

        return compute


def online_distill(
    plan: Plan,
    *,
    students: str,
    assistant: str = "",
    alpha: float = 0.5,
    temperature: float = 2.0,
    relations: float = 0.1,
    extra: bool = True,
    heads: int = 0,
    frozen: bool = False,
    placebo: str = "",
) -> Plan:
    """Let students learn beside the plan's model, all in one pass; comes first among methods.

    Args:
        plan: Of text_classify or sequence_labeling; its model, of BERT's shape, is the teacher.
        students: Models, or shapes such as ``2x128`` (layers x width, random weights), with ``+``
            between them; all with the teacher's tokenizer.
        assistant: The same, of one; empty: students learn from the teacher itself.
        alpha: Share of the labels in a learner's loss.
        temperature: Answers are compared at it.
        relations: Weight of the relations' divergence, a mean over tokens. Small learners with
            random weights lose themselves in it where it outweighs the labels.
        extra: Compare relations in a layer that is thrown away afterwards.
        heads: Relation heads; 0: the number nearest to 12 that divides all widths.
        frozen: The teacher does not learn; for one that has learned before.
        placebo: ``shuffled-source``: learners get what was said of another row of the batch.

    Raises:
        ConfigError: If an option is wrong, or sides cannot be compared.
        ModelError: If there is no such model.

    Example:
        >>> plan = online_distill(plan, students="2x128+4x256", assistant="6x384")  # doctest: +SKIP
    """
    if not 0 <= alpha <= 1 or temperature <= 0 or relations < 0:
        raise ConfigError(
            f"online_distill: alpha {alpha:g}, temperature {temperature:g}, relations "
            f"{relations:g}; valid: 0 to 1, more than 0, 0 or more"
        )
    if placebo not in ("", PLACEBO):
        raise ConfigError(f'online_distill: no placebo "{placebo}". Known: {PLACEBO}')
    if plan.backbone is None or [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError("online_distill builds on the task's own model, so it comes first")
    specs = learners(students, assistant)
    members = {}
    for name, spec in specs.items():
        member = find_member(spec, plan.backbone)
        members[name] = task_for(plan.task, member).build(member)
    teacher = plan.model.requires_grad_(not frozen)
    cohort = Cohort(teacher, members, extra and relations > 0, frozen)
    widths = [_encoder(cohort.member(n), n).config.hidden_size for n in (TEACHER, *specs)]
    shared = math.gcd(*widths)
    if heads and shared % heads:
        raise ConfigError(f"online_distill: heads={heads} must divide all widths: {widths}")
    heads = heads or min(
        (n for n in range(1, shared + 1) if shared % n == 0), key=lambda n: abs(n - 12)
    )
    lesson = _Lesson(cohort, plan.task, heads, temperature, 1 if placebo else 0)
    terms = [replace(plan.terms[0], compute=lesson.labels(TEACHER))]
    for name in specs:
        source = ASSISTANT if assistant and name != ASSISTANT else TEACHER
        terms.append(Term(f"{name}_labels", lesson.labels(name), alpha))
        terms.append(Term(f"{name}_answers", lesson.answers(name, source), 1 - alpha))
        if relations:
            compute = lesson.relations(name, source)
            terms.append(Term(f"{name}_relations", compute, relations, count=_tokens))
    return replace(plan, model=cohort, terms=tuple(terms))


def _encoder(model: torch.nn.Module, name: str) -> Any:
    found: Any = core(model).base_model
    if not hasattr(getattr(found, "encoder", None), "layer"):
        raise ConfigError(f"online_distill needs models of BERT's shape; the {name} is none")
    return found


def _tokens(batch: Batch) -> int:
    mask = batch.get("attention_mask")
    return int(batch["input_ids"].size if mask is None else mask.sum())
