"""Who takes part in ``easynlp bench models``: the floors, and models fine-tuned on a budget.

A contender learns one split (`learn`) from its training rows, may choose among its own
variants on the split's dev rows, and returns a `Learned` that answers texts. It never sees the
test file. A new method is one more entry of `CONTENDERS`, or a model name with methods behind
plus signs (``tiny-zh+r_drop:alpha=4``), or ``probe:`` and a model name: a linear probe
(`easynlp.benchmarks.probe`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from easynlp import metrics
from easynlp.benchmarks.fewclue import Split, check_classes, read_split_file
from easynlp.benchmarks.floors import Floor
from easynlp.benchmarks.settings import PREFIX
from easynlp.registry import resolve
from easynlp.tasks.base import Example, Task

if TYPE_CHECKING:
    import torch

    from easynlp.data.sampling import EncodedRows
    from easynlp.models.backbone import Backbone
    from easynlp.training.plan import Plan

__all__ = ["CONTENDERS", "Budget", "Contender", "FineTuned", "FloorContender", "Learned", "find",
           "weights_identity"]  # fmt: skip

CONTENDERS: dict[str, str] = {
    "majority": "easynlp.benchmarks.floors:MajorityFloor",
    "tfidf-svm": "easynlp.benchmarks.floors:LinearFloor",
}
"""Contenders without a neural model; any other name is a model to fine-tune."""


@dataclass(frozen=True)
class Budget:
    """What every fine-tuned contender may spend on a split: the same for all.

    Attributes:
        lrs: Peak learning rates to try.
        epochs: Passes over the training rows, within the limits on steps.
        min_steps: Fewest optimizer steps of one try: a handful of rows needs many passes.
        max_steps: Most optimizer steps of one try.
        evaluations: Checkpoints of a try among which dev chooses.
        batch_size: Rows of a step.
        max_length: Tokens of a text.
    """

    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    epochs: float = 20
    min_steps: int = 150
    max_steps: int = 900
    evaluations: int = 10
    batch_size: int = 16
    max_length: int = 128

    def steps(self, rows: int) -> int:
        """Return the optimizer steps of one try on this many training rows.

        Example:
            >>> Budget().steps(32), Budget().steps(240)
            (150, 300)
        """
        wanted = round(self.epochs * -(-rows // self.batch_size))
        return min(self.max_steps, max(self.min_steps, wanted))


@dataclass(frozen=True)
class Learned:
    """What a contender learned: how it answers, and what dev said about its choice.

    `variants` gives the answers of all it chose among, where they are reported too.
    """

    predict: Callable[[Sequence[Example]], list[str]]
    dev_accuracy: float
    chosen: Mapping[str, Any] = field(default_factory=dict)
    variants: Callable[[Sequence[Example]], dict[str, list[str]]] | None = None


class Contender(Protocol):
    """Learns a split.

    Attributes:
        name: As typed.
        seeded: Whether the seed makes a difference.
    """

    name: str
    seeded: bool

    def identity(self) -> str:
        """Return what, beside data and seed, decides the result: settings, weights."""

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Learn from ``split.train``, choose on ``split.dev``, tell progress."""


def find(name: str, budget: Budget) -> Contender:
    """Return the contender of a name: an entry of `CONTENDERS`, a probe, a model to fine-tune.

    Args:
        name: E.g. ``tfidf-svm``, ``tiny-zh``, ``random:tiny-zh``, ``runs/x+fgm``,
            ``probe:tiny-zh``.
        budget: What fine-tuning may spend.
    """
    if name in CONTENDERS:
        return FloorContender(name, resolve(name, CONTENDERS, kind="contender"))
    if name.startswith(PREFIX):
        from easynlp.benchmarks.probe import LinearProbe

        return LinearProbe(name, budget)
    return FineTuned(name, budget)


class FloorContender:
    """A classifier without pre-training; nothing is chosen on dev."""

    seeded = False

    def __init__(self, name: str, make: Callable[[], Floor]) -> None:
        self.name, self._make = name, make

    def identity(self) -> str:
        """Return the name: nothing can be set."""
        return self.name

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Fit once on the training rows."""
        train = read_split_file(split.train, split.task)
        check_classes(train, split)
        floor = self._make()
        floor.fit([joined(example) for example in train], [str(each["label"]) for each in train])

        def predict(examples: Sequence[Example]) -> list[str]:
            return floor.predict([joined(example) for example in examples])

        dev = read_split_file(split.dev, split.task)
        return Learned(predict, accuracy(predict(dev), dev))


def joined(example: Example) -> str:
    """Return an example's text, or both of a pair on two lines."""
    pair = example.get("text_b")
    return str(example["text"]) if pair is None else f"{example['text']}\n{pair}"


def accuracy(answers: Sequence[str], examples: Sequence[Example]) -> float:
    """Return the share of examples answered with their label."""
    return metrics.accuracy([str(example["label"]) for example in examples], answers)


def weights_identity(model: str) -> str:
    """Return a hash of a model's weights, or of its shape where they are random."""
    from easynlp.models.backbone import Backbone

    backbone = Backbone.load(model)
    if backbone.folder is None:
        weights = backbone.config.to_json_string().encode()
    else:
        weights = b"".join(
            hashlib.sha256(path.read_bytes()).digest()
            for path in sorted(Path(backbone.folder).glob("*.safetensors"))
        )
    return hashlib.sha256(weights).hexdigest()[:16]


class FineTuned:
    """A model fine-tuned by the one loop; learning rate and checkpoint are chosen on dev.

    The choice is by dev accuracy, and by lower dev loss among equals: 32 dev rows tie often.

    Args:
        name: A model as ``--model`` takes it, then methods behind plus signs.
        budget: What it may spend.
    """

    seeded = True

    def __init__(self, name: str, budget: Budget) -> None:
        self.name, self.budget = name, budget
        self._model, *self._methods = name.split("+")

    def identity(self) -> str:
        """Return the budget, the methods and a hash of the weights or of the shape."""
        return f"{self.budget} {self._methods} {weights_identity(self._model)}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Train once for each learning rate and keep the best checkpoint of all."""
        from easynlp.models.backbone import Backbone
        from easynlp.models.runtime import TorchModel
        from easynlp.pipeline import Pipeline
        from easynlp.training.precision import pick_device, resolve_precision

        device = pick_device()
        precision = resolve_precision("auto", device)
        backbone = Backbone.load(self._model)
        data = self._read(split, backbone)
        best = Best()
        for lr in self.budget.lrs:
            self._try(data, backbone, lr, seed, Where(device, precision), best, say)
        plan = best.restore()
        pipeline = Pipeline(plan.task, TorchModel(plan.model.eval(), precision, device))

        def predict(examples: Sequence[Example]) -> list[str]:
            return [str(prediction["label"]) for prediction in pipeline.predict(examples)]

        return Learned(predict, best.accuracy, best.chosen)

    def _read(self, split: Split, backbone: Backbone) -> SplitData:
        from easynlp.data.sampling import EncodedRows
        from easynlp.tasks import find_task

        train = read_split_file(split.train, split.task)
        check_classes(train, split)
        kind = find_task("text_classify")
        options = kind.Config(max_length=self.budget.max_length)
        task = kind.prepare(options, backbone.tokenizer, train)
        dev = read_split_file(split.dev, split.task)
        return SplitData(task, EncodedRows.of([task.encode(each) for each in train]), dev)

    def _try(
        self, data: SplitData, backbone: Backbone, lr: float, seed: int, where: Where, best: Best,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Train with one learning rate, offering every checkpoint to `best`."""
        import torch

        from easynlp.methods import apply_methods
        from easynlp.training.loop import FitOptions, State, fit
        from easynlp.training.plan import Plan, task_term

        budget, steps = self.budget, self.budget.steps(len(data.train.rows))
        torch.manual_seed(seed)
        plan = Plan(data.task, data.task.build(backbone), (task_term(data.task),))
        plan = apply_methods(plan, self._methods)
        judge = Judge(plan, data.dev, where)
        options = FitOptions(
            steps=steps, batch_size=budget.batch_size, lr=lr, precision=where.precision, seed=seed,
            eval_every=max(1, steps // budget.evaluations),
        )  # fmt: skip
        for event in fit(
            plan, data.train, options, state=State(), device=where.device,
            evaluate=judge.scores,
        ):  # fmt: skip
            if event.scores is not None:
                say(f"lr {lr:g}  step {event.step} of {steps}  dev {event.scores['accuracy']:.3f}")
                best.consider(plan, event.scores, {"lr": lr, "step": event.step, "of": steps})


@dataclass(frozen=True)
class SplitData:
    """A split as a model takes it."""

    task: Task
    train: EncodedRows
    dev: Sequence[Example]


@dataclass(frozen=True)
class Where:
    """Where and in which number format to compute."""

    device: torch.device
    precision: str


class Judge:
    """Scores a plan on dev rows: accuracy, and mean loss to tell equals apart."""

    def __init__(self, plan: Plan, dev: Sequence[Example], where: Where) -> None:
        from easynlp.training.loop import make_forward

        self.plan, self.device = plan, where.device
        self._forward = make_forward(plan.model, where.precision, where.device)
        features = [plan.task.encode(example) for example in dev]
        order = sorted(range(len(dev)), key=lambda i: len(features[i]["input_ids"]))
        self._batches = [
            (plan.task.collate([features[i] for i in rows]), [dev[i] for i in rows])
            for rows in (order[start : start + 32] for start in range(0, len(order), 32))
        ]

    def scores(self) -> dict[str, float]:
        """Return ``accuracy`` and ``loss``; the model must be in eval mode."""
        import torch

        from easynlp.training.loop import to_tensors

        task, loss, right, rows = self.plan.task, 0.0, 0, 0
        for batch, examples in self._batches:
            with torch.inference_mode():
                tensors = to_tensors(batch, self.device)
                output = self._forward(tensors)
                loss += float(task.loss(output, tensors))
            logits = getattr(output, "logits", output).float().cpu().numpy()
            answers = [str(p["label"]) for p in task.decode(logits, batch, examples)]
            right += round(accuracy(answers, examples) * len(examples))
            rows += len(examples)
        return {task.metric: right / rows, "accuracy": right / rows, "loss": loss / rows}


class Best:
    """The best checkpoint so far, over all tries of a contender."""

    def __init__(self) -> None:
        self.accuracy, self.loss = -1.0, float("inf")
        self.chosen: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._state: dict[str, torch.Tensor] = {}

    def consider(self, plan: Plan, scores: Mapping[str, float], chosen: dict[str, Any]) -> None:
        """Keep a copy of the plan's weights if its scores are better."""
        if (scores["accuracy"], -scores["loss"]) <= (self.accuracy, -self.loss):
            return
        self.accuracy, self.loss, self.chosen = scores["accuracy"], scores["loss"], chosen
        self._plan = plan
        self._state = {name: value.clone() for name, value in plan.model.state_dict().items()}

    def restore(self) -> Plan:
        """Return the plan with the best weights in it."""
        assert self._plan is not None, "no checkpoint was considered"
        self._plan.model.load_state_dict(self._state)
        return self._plan
