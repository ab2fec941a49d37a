"""Few-shot methods as contenders: ``method:NAME``, with each task's pattern and label words.

``method:NAME:OPTION=VALUE:…@MODEL`` trains on the budget of fine-tuning, the same for every
method. ``NAME`` is a task (an entry of TASKS, such as one that fills masks), a training method
(an entry of METHODS), or both: ``TASK+METHOD``. A task or method with options ``pattern`` and
``words``, or ``hypothesis`` and ``descriptions``, gets those of `easynlp.benchmarks.prompts`; on
CHID, PET ranks the candidates themselves (`easynlp.benchmarks.idiom_cloze`). Options of ours:

- ``prompt=NAME``: another than the task's first pattern;
- ``steps=N``: that many optimizer steps; 0 is zero-shot, and ``zero-shot@MODEL`` short for
  ``method:pet:steps=0@MODEL``;
- ``batch=N``: training rows of a step, where mates of them that a method adds would make its steps
  dearer than fine-tuning's: CP-Tuning's ``batch=5`` is 15 texts a step;
- ``placebo=random-labels``: the labels of the training rows are shuffled. What is above chance
  then is what the model brings without training, and the choice among checkpoints on dev;
- ``placebo=shuffled-words``: label words change places. What a method gains over it is what the
  words mean;
- another ``placebo=…`` is the method's own: an option of that name that is on or off
  (``random-anchors`` turns on ``random_anchors``), or a value of its option ``placebo``.

Other options are those of the last method named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from easynlp.benchmarks.contender import Budget, Learned
from easynlp.benchmarks.fewclue import Split
from easynlp.benchmarks.finetuned import FineTuned
from easynlp.benchmarks.idiom_cloze import ClozeConfig, IdiomCloze
from easynlp.benchmarks.names import PLACEBO, Name, typed
from easynlp.benchmarks.prompts import Prompt, prompt_of, prompts
from easynlp.benchmarks.settings import METHOD, ZERO_SHOT
from easynlp.config import Count, Steps, parse_method
from easynlp.errors import ConfigError
from easynlp.methods import METHODS, find_method
from easynlp.tasks import TASKS, find_task
from easynlp.tasks.base import Example, Prediction, Task
from easynlp.text.label_words import read_option

if TYPE_CHECKING:
    from easynlp.models.backbone import Backbone
    from easynlp.training.plan import Plan

__all__ = ["PLACEBOS", "MethodTuned", "find_method_contender", "shuffled_labels", "shuffled_words"]

PLACEBOS = ("random-labels", "shuffled-words")
"""Placebo arms that any method has."""
CLOZES = (("text_classify", ("pet",)), ("prompt_classify", ()), ("prompt_classify", ("pet",)))
"""Tasks with methods that can rank the candidates of a question as a cloze."""


def find_method_contender(name: str, budget: Budget, model: str) -> MethodTuned:
    """Return the contender of ``method:NAME:OPTION=VALUE:…@MODEL``.

    Args:
        name: As typed.
        budget: What it may spend.
        model: The model, if the name has none.

    Raises:
        ConfigError: If there is no such task, method or option.
    """
    parsed = Name.parse(name)
    options = dict(parsed.options)
    way = parsed.way.removeprefix(METHOD)
    if parsed.way == ZERO_SHOT:
        way, options["steps"] = "pet", "0"
    if ":" in way and "." not in way:
        raise ConfigError(
            f'{name}: "{way.partition(":")[2]}" is no OPTION=VALUE. Methods: {", ".join(METHODS)}'
        )
    return MethodTuned(name, budget, parsed.model or model, way.split("+"), options)


class MethodTuned(FineTuned):
    """A few-shot method on one model; see the module's docstring.

    Args:
        name: As typed.
        budget: What it may spend.
        model: As ``--model`` takes it.
        parts: A task, methods, or a task and methods.
        options: Options as typed.

    Raises:
        ConfigError: If a part or option is unknown.
    """

    def __init__(
        self, name: str, budget: Budget, model: str, parts: Sequence[str], options: dict[str, str]
    ) -> None:
        ours = typed({k: options.pop(k) for k in ("steps", "batch") if k in options}, _Ours, name)
        if "steps" in ours:
            budget = dataclasses.replace(budget, min_steps=ours["steps"], max_steps=ours["steps"])
        if "batch" in ours:
            budget = dataclasses.replace(budget, batch_size=ours["batch"])
        super().__init__(name, budget, model)
        self.model, self.methods = model, []
        self.task_name = parts[0] if parts[0] in TASKS else "text_classify"
        self.parts = tuple(part for part in parts if part != self.task_name)
        for part in self.parts:
            find_method(part)
        self.prompt_name = options.pop("prompt", "")
        self.placebo = options.pop(PLACEBO, "")
        if self.placebo and self.placebo not in PLACEBOS:
            options |= self._own_placebo(name)
            self.placebo = ""
        if options and not self.parts:
            raise ConfigError(
                f"{name}: no option {', '.join(options)}; a task alone takes prompt, steps, "
                "batch and placebo"
            )
        self.methods = [
            part + (":" + ",".join(f"{k}={v}" for k, v in options.items()) if last else "")
            for part, last in zip(self.parts, _is_last(self.parts, bool(options)), strict=True)
        ]
        for spec in self.methods:
            parse_method(spec, find_method)  # an option that is none ends the call before any cell
        self._seed = 0

    def _own_placebo(self, name: str) -> dict[str, str]:
        """Return the placebo as an option of the last method.

        Raises:
            ConfigError: If it has none of the name.
        """
        known = inspect.signature(find_method(self.parts[-1])).parameters if self.parts else {}
        flag = self.placebo.replace("-", "_")
        if flag in known:
            return {flag: "true"}
        if PLACEBO in known:
            return {PLACEBO: self.placebo}
        raise ConfigError(f'{name}: no placebo "{self.placebo}" here. Known: {", ".join(PLACEBOS)}')

    def takes(self, task: str) -> bool:
        """Return whether there is the part of a prompt it needs for the task."""
        parts = self._wants()
        return (
            not parts or prompt_of(task, self.prompt_name, parts, known_elsewhere=True) is not None
        )

    def identity(self) -> str:
        """Return the budget, the methods, the weights, all prompts and files named in options."""
        words = repr({task: list(known.values()) for task, known in prompts().items()})
        said = hashlib.sha256(words.encode()).hexdigest()[:16] if self._wants() else ""
        own = f"{super().identity()} {self.task_name} {self.prompt_name} {self.placebo} {said}"
        return f"{own}{self._files()}"

    def _files(self) -> str:
        """Return the text of the files that options name (``pattern=@FILE``); empty without."""
        given = (v for spec in self.methods for v in parse_method(spec, find_method)[1].values())
        files = (each for each in given if isinstance(each, str) and each.startswith("@"))
        return "".join(f" {read_option(each, self.name)}" for each in files)

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Learn like fine-tuning; also report the prompt."""
        self._seed = seed
        learned = super().learn(split, seed, say)
        prompt = self._prompt(split.task)
        if prompt is None:
            return learned

        def predict(examples: Sequence[Example]) -> Sequence[Prediction]:
            return learned.predict([prompt.show(each) for each in examples])

        said = {"prompt": prompt.name, **prompt.options()}
        chosen = {**learned.chosen, **said}
        return dataclasses.replace(learned, predict=predict, chosen=chosen)

    def make_task(self, split: Split, backbone: Backbone, train: Sequence[Example]) -> Task:
        """Return the task with the prompt among its options."""
        prompt = self._prompt(split.task)
        if prompt is not None and prompt.candidates:
            cloze = ClozeConfig(
                prompt.pattern, self.budget.max_length, int(self.placebo == "shuffled-words")
            )
            return IdiomCloze(cloze, backbone.tokenizer)
        kind = find_task(self.task_name)
        known = {each.name for each in dataclasses.fields(kind.Config)}
        given = {"max_length": self.budget.max_length, **self._prompt_options(split.task)}
        config = kind.Config(**{key: value for key, value in given.items() if key in known})
        task: Task = kind.prepare(config, backbone.tokenizer, train)
        return task

    def change(self, plan: Plan, split: Split, backbone: Backbone) -> Plan:
        """Return the plan with the methods applied, each with the prompt if it takes one."""
        if isinstance(plan.task, IdiomCloze):
            return plan  # it is PET already
        for spec in self.methods:
            name, options = parse_method(spec, find_method)
            function = find_method(name)
            known = inspect.signature(function).parameters
            given = {k: v for k, v in self._prompt_options(split.task).items() if k in known}
            plan = function(plan, **{**given, **options})
        return plan

    def lesson(self, split: Split, seed: int) -> list[Example]:
        """Return the rows to learn from as the pattern sees them; a placebo shuffles labels."""
        rows: list[Example] = [
            {k: v for k, v in row.items() if k != "scores"} for row in super().lesson(split, seed)
        ]
        if self.placebo == "random-labels":
            rows = shuffled_labels(rows, seed)
        prompt = self._prompt(split.task)
        if prompt is not None and prompt.candidates:
            rows = [row for row in rows if str(row["label"]) == "1"]  # a question once
        return self.shown(rows, split)

    def shown(self, rows: Sequence[Example], split: Split) -> list[Example]:
        """Return rows as the task's pattern names their parts."""
        prompt = self._prompt(split.task)
        return [prompt.show(each) for each in rows] if prompt else list(rows)

    def _prompt(self, task: str) -> Prompt | None:
        parts = self._wants()
        if not parts:
            return None
        prompt = prompt_of(task, self.prompt_name, parts)
        if prompt is not None and not prompt.candidates and self.placebo == "shuffled-words":
            return dataclasses.replace(prompt, words=shuffled_words(prompt.words, self._seed))
        return prompt

    def _prompt_options(self, task: str) -> dict[str, str]:
        prompt = self._prompt(task)
        return prompt.options() if prompt else {}

    def _wants(self) -> tuple[str, ...]:
        """Return which parts of a prompt the task or a method takes, the first first."""
        known = {each.name for each in dataclasses.fields(find_task(self.task_name).Config)}
        for part in self.parts:
            known |= set(inspect.signature(find_method(part)).parameters)
        alone = (self.task_name, self.parts) in CLOZES
        found = (part for part in ("pattern", "hypothesis") if part in known)
        return (*(("candidates",) if alone else ()), *list(found)[:1])


@dataclasses.dataclass(frozen=True)
class _Ours:
    steps: Steps = 0
    batch: Count = 16


def shuffled_labels(rows: Sequence[Example], seed: int) -> list[Example]:
    """Return rows whose labels have changed places at random.

    Example:
        >>> rows = [{"text": str(i), "label": str(i % 2)} for i in range(6)]
        >>> sorted(each["label"] for each in shuffled_labels(rows, 1))
        ['0', '0', '0', '1', '1', '1']
    """
    labels = [each["label"] for each in rows]
    random.Random(seed).shuffle(labels)
    return [{**each, "label": label} for each, label in zip(rows, labels, strict=True)]


def shuffled_words(
    words: dict[str, tuple[str, ...]] | Any, seed: int
) -> dict[str, tuple[str, ...]]:
    """Return words that have changed places so that no label keeps its own.

    Example:
        >>> shuffled_words({"好评": ("好",), "差评": ("差",)}, 13)
        {'好评': ('差',), '差评': ('好',)}
    """
    labels = list(words)
    random.Random(seed).shuffle(labels)
    following = dict(zip(labels, [*labels[1:], labels[0]], strict=True))  # one cycle through all
    return {label: words[following[label]] for label in words}


def _is_last(parts: Sequence[str], wanted: bool) -> list[bool]:
    return [wanted and number == len(parts) - 1 for number in range(len(parts))]
