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
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from easynlp.atomic import write_json
from easynlp.config import TrainConfig
from easynlp.distillation.losses import relation_kl, soft_kl
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.phases import train_once
from easynlp.models.backbone import Backbone
from easynlp.models.compact import stored_layer
from easynlp.models.heads import core
from easynlp.pipeline import META, Pipeline, make_meta, save_meta
from easynlp.tasks.base import Batch
from easynlp.training.folder import save_weights
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["Cohort", "find_member", "online_distill", "split_cohort", "train_cohort"]

TEACHER, ASSISTANT = "teacher", "assistant"
_COHORT, _EXTRA, _SAID, _STATES = "cohort", "cohort_extra", "said", "states"
_PARTS = ("query", "key", "value")
_SHAPE = re.compile(r"(\d+)x(\d+)")


class Cohort(torch.nn.Module):
    """A teacher and those who learn beside it, run on a batch together.

    The others' weights are kept within the teacher's, and are saved and resumed with them.

    Args:
        teacher: A model with the task's head, of BERT's shape inside.
        members: Those who learn, by name; the same.
        extra: Whether each has a layer on top to compare relations of.
    """

    def __init__(
        self, teacher: torch.nn.Module, members: Mapping[str, torch.nn.Module], extra: bool
    ) -> None:
        super().__init__()
        self.teacher, self.names, self.extra = teacher, tuple(members), extra
        inner: Any = core(teacher)
        setattr(inner, _COHORT, torch.nn.ModuleDict(dict(members)))
        above = {}
        for name, model in members.items():
            width = _encoder(model, name).config.hidden_size
            parts = {part: torch.nn.Linear(width, width) for part in _PARTS}
            above[name] = torch.nn.ModuleDict(parts)
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

    def member(self, name: str) -> torch.nn.Module:
        """Return the teacher or one of those who learn."""
        found: Any = self.teacher if name == TEACHER else getattr(self.core, _COHORT)[name]
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

    def labels(self, name: str) -> Callable[[Pass], torch.Tensor]:
        def compute(run: Pass) -> torch.Tensor:
            found: torch.Tensor = self.task.loss(run.output[_SAID][name], run.batch)
            return found

        return compute

    def answers(self, name: str, source: str) -> Callable[[Pass], torch.Tensor]:
        def compute(run: Pass) -> torch.Tensor:
            said = run.output[_SAID]
            ours, theirs = (self.task.log_probs(said[each], run.batch) for each in (name, source))
            return soft_kl(ours, theirs, self.temperature).sum()

        return compute

    def relations(self, name: str, source: str) -> Callable[[Pass], torch.Tensor]:
        def compute(run: Pass) -> torch.Tensor:
            states = run.output[_STATES]
            ours = self.cohort.learned(name, states)
            shape = run.batch["input_ids"].shape
            valid = run.batch.get("attention_mask", torch.ones_like(run.batch["input_ids"])) > 0
            found = [
                relation_kl(
                    ours[part].view(*shape, -1), states[source][part].view(*shape, -1), valid,
                    self.heads,
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
    if plan.backbone is None or [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError("online_distill builds on the task's own model, so it comes first")
    specs = _specs(students, assistant)
    members = {}
    for name, spec in specs.items():
        member = find_member(spec, plan.backbone)
        members[name] = _task_for(plan.task, member).build(member)
    teacher = plan.model.requires_grad_(not frozen)
    cohort = Cohort(teacher, members, extra and relations > 0)
    widths = [_encoder(cohort.member(n), n).config.hidden_size for n in (TEACHER, *specs)]
    shared = math.gcd(*widths)
    if heads and shared % heads:
        raise ConfigError(f"online_distill: heads={heads} must divide all widths: {widths}")
    heads = heads or min(
        (n for n in range(1, shared + 1) if shared % n == 0), key=lambda n: abs(n - 12)
    )
    lesson = _Lesson(cohort, plan.task, heads, temperature)
    terms = [replace(plan.terms[0], compute=lesson.labels(TEACHER))]
    for name in specs:
        source = ASSISTANT if assistant and name != ASSISTANT else TEACHER
        terms.append(Term(f"{name}_labels", lesson.labels(name), alpha))
        terms.append(Term(f"{name}_answers", lesson.answers(name, source), 1 - alpha))
        if relations:
            compute = lesson.relations(name, source)
            terms.append(Term(f"{name}_relations", compute, relations, count=_tokens))
    return replace(plan, model=cohort, terms=tuple(terms))


def find_member(spec: str, teacher: Backbone) -> Backbone:
    """Return a model by name, or one of a shape with random weights and the teacher's tokenizer.

    Args:
        spec: A name as ``--model`` takes it, or ``LAYERSxWIDTH``.
        teacher: Whose tokenizer, and of whose kind a shape is.

    Raises:
        ConfigError: If the tokenizers differ, or the width cannot be cut into heads.
        ModelError: If there is no such model.
    """
    if (shape := _SHAPE.fullmatch(spec)) is None:
        found = Backbone.load(spec)
        if found.tokenizer.fingerprint() != teacher.tokenizer.fingerprint():
            raise ConfigError(f"{spec} has another tokenizer than its teacher, {teacher.name}")
        return found
    layers, width = map(int, shape.groups())
    size = next((n for n in (64, 32, 16, 8) if width % n == 0 and n <= width), 0)
    if not layers or not size:
        raise ConfigError(f"{spec}: layers x width wanted, the width a multiple of 8")
    config = type(teacher.config)(
        **{
            **{k: v for k, v in teacher.config.to_dict().items() if k in _KEPT},
            "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // size,
            "intermediate_size": 4 * width,
        }
    )  # fmt: skip
    return Backbone(spec, config, teacher.tokenizer, None, teacher.home)


_KEPT = ("vocab_size", "pad_token_id", "max_position_embeddings", "type_vocab_size", "hidden_act",
         "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps",
         "ngram_buckets")  # fmt: skip


def train_cohort(
    config: TrainConfig, task_config: Any = None, *, students: Sequence[str], **options: Any
) -> dict[str, Pipeline]:
    """Train a teacher and its students in one run; leave each as a run of its own.

    Args:
        config: Of the run; `model` is the teacher. `output` gets ``cohort/`` (the teacher's run,
            the others within) and a run folder for each of the others: ``assistant``, ``student0``.
        task_config: Options of the task.
        students: Models or shapes, see `online_distill`.
        **options: Its further options.

    Returns:
        The runs by name, ``teacher`` among them.

    Raises:
        ConfigError: If options are wrong.
        ModelError: If a model cannot be had.

    Example:
        >>> runs = train_cohort(config, students=["2x128", "4x256"], assistant="6x384")
        ...                                                           # doctest: +SKIP
        >>> runs["student0"].predict(["房间很干净"])                  # doctest: +SKIP
        [{'label': '好评', 'score': 0.93, 'scores': {'好评': 0.93, '差评': 0.07}}]
    """
    given = {"students": "+".join(students), **options}
    written = ",".join(f"{key}={value}" for key, value in given.items() if value != "")
    method = f"{online_distill.__module__}:{online_distill.__qualname__}:{written}"
    home = Path(config.output)
    cohort = home / _COHORT
    train_once(replace(config, output=str(cohort), method=(method, *config.method)), task_config)
    specs = _specs(given["students"], str(options.get(ASSISTANT, "")))
    folders = split_cohort(cohort, home, specs, Backbone.load(config.model))
    write_json(home / "online.json", {name: str(path) for name, path in folders.items()})
    return {name: Pipeline.load(path, backend="torch") for name, path in folders.items()}


def split_cohort(
    cohort: Path, home: Path, specs: Mapping[str, str], teacher: Backbone
) -> dict[str, Path]:
    """Write each member of a trained cohort as a run folder; the extra layers are left behind.

    Args:
        cohort: The cohort's run.
        home: Where the runs are written, each under its name.
        specs: Names to models or shapes.
        teacher: What the teacher was made from.

    Raises:
        ModelError: If the run holds no such member.
    """
    pipeline = Pipeline.load(cohort, backend="torch")
    found = {TEACHER: cohort}
    for name, spec in specs.items():
        target = found[name] = home / name
        if (target / META).is_file():
            continue
        member = find_member(spec, teacher)
        task = _task_for(pipeline.task, member)
        model = task.build(member)
        state = stored_layer(cohort, f"{_COHORT}.{name}")
        if state.keys() != model.state_dict().keys():
            raise ModelError(f"{cohort} holds no member {name} of the shape of {spec}")
        model.load_state_dict(state)
        target.mkdir(parents=True, exist_ok=True)
        (target / "checkpoints").mkdir(exist_ok=True)
        save_weights(target, model, replace(member, tokenizer=task.tokenizer))
        shutil.copyfile(cohort / "train.yaml", target / "train.yaml")  # names the data to check on
        save_meta(target, make_meta(task, base_model=spec, columns=pipeline.meta.get("columns")))
    return found


def _specs(students: str, assistant: str) -> dict[str, str]:
    given = [each.strip() for each in students.split("+") if each.strip()]
    if not given:
        raise ConfigError("online_distill needs students, such as students=2x128+4x256")
    first = {ASSISTANT: assistant.strip()} if assistant.strip() else {}
    return first | {f"student{number}": spec for number, spec in enumerate(given)}


def _task_for(task: Any, member: Backbone) -> Any:
    """Return the task with options of its own: building a model settles how it pools."""
    return type(task).restore({**task.saved(), **_auto(task)}, member.tokenizer)


def _auto(task: Any) -> dict[str, str]:
    return {"pooling": "auto"} if hasattr(task.config, "pooling") else {}


def _encoder(model: torch.nn.Module, name: str) -> Any:
    found: Any = core(model).base_model
    if not hasattr(getattr(found, "encoder", None), "layer"):
        raise ConfigError(f"online_distill needs models of BERT's shape; the {name} is none")
    return found


def _tokens(batch: Batch) -> int:
    mask = batch.get("attention_mask")
    return int(batch["input_ids"].size if mask is None else mask.sum())
