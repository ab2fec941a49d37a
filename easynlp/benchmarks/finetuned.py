"""Models fine-tuned by the one loop on a budget, with everything chosen on dev."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from easynlp.benchmarks.contender import Budget, Learned, weights_identity
from easynlp.benchmarks.encodings import grade
from easynlp.benchmarks.fewclue import Split, read_split_file, read_training
from easynlp.benchmarks.label_names import NO_NAMES, Names
from easynlp.tasks.base import Batch, Example, Features, MakesRows, Prediction, Task
from easynlp.tasks.labels import Pooling

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone
    from easynlp.training.head import LabelNames, Probe
    from easynlp.training.plan import Plan

HEAD_STRENGTH = 0.01
"""Of the regression that fits a head, where a method trains vectors only."""

ROWS, TOKENS = 32, 16_384
"""Most rows, and most tokens, padding included, of a batch of dev rows."""

__all__ = ["Best", "FineTuned", "Judge", "Where"]


class FineTuned:
    """A model fine-tuned by the one loop; learning rate and checkpoint are chosen on dev.

    The choice is by dev accuracy, and by lower dev loss among equals: 32 dev rows tie often.

    Args:
        name: As typed.
        budget: What it may spend.
        model: A model as ``--model`` takes it, then methods behind plus signs; by default the
            name.
        probe: ``first``: start from a fitted head, see `easynlp.training.head.Probe`.
        pooling: Which vector the head reads; the published recipe reads the first token's.
        names: What the fitted head leans towards.

    Attributes:
        carry: Start from the weights the last call of `learn` ended with.
    """

    seeded, unlabelled = True, False

    def __init__(
        self, name: str, budget: Budget, model: str | None = None, probe: str = "no",
        pooling: Pooling = "auto", names: Names = NO_NAMES,
    ) -> None:  # fmt: skip
        self.name, self.budget, self.probe, self.pooling = name, budget, probe, pooling
        self.names = names
        self.model, *methods = (model or name).split("+")
        # Between contenders stands a comma, so between options of a method there a colon.
        self.methods = [
            re.sub(r":(?=[a-z_]+=)", ",", each).replace(",", ":", 1) for each in methods
        ]
        self.carry = False
        self._kept: dict[str, torch.Tensor] | None = None

    def takes(self, task: str) -> bool:
        """Return that it takes every task."""
        return True

    def identity(self) -> str:
        """Return the budget, the methods and a hash of the weights or of the shape."""
        weights = weights_identity(self.model)
        said = f"{self.budget} {self.methods} {self.probe} {self.pooling} {weights}"
        return f"{said} {self.names.identity()}".rstrip()

    def make_task(self, split: Split, backbone: Backbone, train: Sequence[Example]) -> Task:
        """Return the task to train; rows with ``scores`` are learned from as probabilities."""
        from easynlp.fewshot.soft_classify import SoftClassify
        from easynlp.tasks import find_task

        soft = bool(train) and all("scores" in each for each in train)
        kind = SoftClassify if soft else find_task("text_classify")
        options = kind.Config(max_length=self.budget.max_length, pooling=self.pooling)
        task: Task = kind.prepare(options, backbone.tokenizer, train)
        return task

    def change(self, plan: Plan, split: Split, backbone: Backbone) -> Plan:
        """Return the plan with the methods applied."""
        from easynlp.methods import apply_methods

        return apply_methods(plan, self.methods)

    def shown(self, rows: Sequence[Example], split: Split) -> list[Example]:
        """Return rows as the task sees them."""
        return list(rows)

    def lesson(self, split: Split, seed: int) -> list[Example]:
        """Return the rows to learn from: those of ``split.train``, all of them, and `believed`.

        Where believed rows have probabilities, the others have theirs: 1 for their label.
        """
        rows = read_training(split)
        if not split.believed or not all("scores" in each for each in split.believed):
            return rows
        names = split.believed[0]["scores"]
        return [
            {**row, "scores": row.get("scores") or {n: float(n == row["label"]) for n in names}}
            for row in rows
        ]

    def forget(self) -> None:
        """Start from the pre-trained weights again, whatever `carry` says."""
        self._kept = None

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Train once for each learning rate and keep the best checkpoint of all."""
        from easynlp.models.backbone import Backbone
        from easynlp.models.runtime import TorchModel
        from easynlp.pipeline import Pipeline
        from easynlp.training.precision import pick_device, resolve_precision

        device = pick_device()
        precision = resolve_precision("auto", device)
        backbone = Backbone.load(self.model)
        train = self.lesson(split, seed)
        dev = self.shown(read_split_file(split.dev, split.task), split)
        best = Best()
        for lr in self.budget.lrs if self.budget.max_steps else self.budget.lrs[:1]:
            self._try((split, train, dev), backbone, lr, seed, Where(device, precision), best, say)
        plan = best.restore()
        if self.carry:
            self._kept = {name: value.clone() for name, value in plan.model.state_dict().items()}
        pipeline = Pipeline(plan.task, TorchModel(plan.model.eval(), precision, device))
        size = sum(value.numel() for value in plan.model.parameters())
        return Learned(pipeline.predict, best.accuracy, best.chosen, parameters=size)

    def _label_names(self, plan: Plan, split: Split, seed: int) -> LabelNames | None:
        from easynlp.data.sampling import EncodedRows
        from easynlp.training.head import LabelNames

        task: Any = plan.task
        known = self.names.of(split.task, list(task.labels)) if self.names.names else {}
        if not known:
            return None
        rows = [{"text": text, "label": label} for label, text in known.items()]
        encoded = EncodedRows.of([task.encode(row) for row in rows])
        return LabelNames(encoded, seed if self.names.placebo else None)

    def _try(
        self, data: tuple[Split, Sequence[Example], Sequence[Example]], backbone: Backbone,
        lr: float, seed: int, where: Where, best: Best, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Train with one learning rate, offering every checkpoint to `best`."""
        import torch

        from easynlp.data.sampling import EncodedRows
        from easynlp.training.head import Probe
        from easynlp.training.loop import FitOptions, State, fit
        from easynlp.training.plan import Plan, task_term

        split, train, dev = data
        budget, steps = self.budget, self.budget.steps(len(train))
        torch.manual_seed(seed)
        task = self.make_task(split, backbone, train)
        plan = Plan(
            task, task.build(backbone), (task_term(task),), backbone,
            task.training_rows if isinstance(task, MakesRows) else None,
        )  # fmt: skip
        plan = self.change(plan, split, backbone)
        if self._kept is not None:
            plan.model.load_state_dict(self._kept)
        rows = EncodedRows.of([plan.task.encode(each) for each in train])
        plan.model.to(where.device)
        # A method whose head no term trains has it fitted at every checkpoint, as in a run.
        judge = Judge(plan, dev, where)
        probe = Probe(self.probe, HEAD_STRENGTH, plan, rows, judge.scores,
                      self._label_names(plan, split, seed))  # fmt: skip
        probe.before()
        if self.probe == "first":  # the untuned probe is one of those dev chooses among
            best.consider(plan, judge.scores(), {"lr": lr, "step": 0, "of": steps}, probe)
        if not steps:  # zero-shot: as the model stands
            plan.model.eval()
            best.consider(plan, probe.evaluate(), {"step": 0, "of": 0}, probe)
            return
        # A head read in several ways at each checkpoint gets fewer of them: equal looks at dev.
        looks = budget.evaluations // (len(plan.answers.names) if plan.answers else 1)
        options = FitOptions(
            steps=steps, batch_size=budget.batch_size, lr=lr, precision=where.precision, seed=seed,
            eval_every=-(-steps // max(1, looks)),
        )  # fmt: skip
        for event in fit(
            plan, rows, options, state=State(), device=where.device, evaluate=probe.evaluate
        ):
            if event.scores is not None:
                say(f"lr {lr:g}  step {event.step} of {steps}  dev {event.scores['accuracy']:.3f}")
                at = {"lr": lr, "step": event.step, "of": steps}
                best.consider(plan, event.scores, at, probe)


@dataclass(frozen=True)
class Where:
    """Where and in which number format to compute."""

    device: torch.device
    precision: str


class Judge:
    """Scores a plan on dev rows: accuracy, and mean loss to tell equals apart."""

    def __init__(self, plan: Plan, dev: Sequence[Example], where: Where) -> None:
        from easynlp.training.loop import make_forward

        self.plan, self.device, self._dev = plan, where.device, dev
        self._forward = make_forward(plan.model, where.precision, where.device)
        features = [plan.task.encode(example) for example in dev]
        order = sorted(range(len(dev)), key=lambda i: len(features[i]["input_ids"]))
        self._batches = [
            made
            for start in range(0, len(order), ROWS)
            for made in _fitting(plan.task, features, order[start : start + ROWS])
        ]

    def scores(self) -> dict[str, float]:
        """Return ``accuracy`` and ``loss``; the model must be in eval mode."""
        import torch

        from easynlp.training.loop import to_tensors

        task, loss = self.plan.task, 0.0
        found: list[Prediction] = [{}] * len(self._dev)
        for batch, rows in self._batches:
            with torch.inference_mode():
                tensors = to_tensors(batch, self.device)
                output = self._forward(tensors)
                loss += float(task.loss(output, tensors))
            logits = getattr(output, "logits", output).float().cpu().numpy()
            decoded = task.decode(logits, batch, [self._dev[i] for i in rows])
            for i, prediction in zip(rows, decoded, strict=True):
                found[i] = prediction
        right = grade(self._dev, found)
        return {task.metric: right, "accuracy": right, "loss": loss / len(self._dev)}


def _fitting(
    task: Task, features: Sequence[Features], rows: Sequence[int]
) -> Iterator[tuple[Batch, Sequence[int]]]:
    """Yield batches of the rows, each with its rows, halved until none is over the token limit.

    What a task makes of a row may be many rows (label descriptions, words of other lengths), so
    the batch is measured and not its texts.
    """
    batch = task.collate([features[i] for i in rows])
    if len(rows) > 1 and batch["input_ids"].size > TOKENS:
        middle = len(rows) // 2
        yield from _fitting(task, features, rows[:middle])
        yield from _fitting(task, features, rows[middle:])
    else:
        yield batch, rows


class Best:
    """The best checkpoint so far, over all tries of a contender."""

    def __init__(self) -> None:
        self.accuracy, self.loss = -1.0, float("inf")
        self.chosen: dict[str, Any] = {}
        self._plan: Plan | None = None
        self._probe: Probe | None = None
        self._state: dict[str, torch.Tensor] = {}

    def consider(
        self, plan: Plan, scores: Mapping[str, float], chosen: dict[str, Any],
        probe: Probe | None = None,
    ) -> None:  # fmt: skip
        """Keep a copy of the plan's weights if its scores are better."""
        if (scores["accuracy"], -scores["loss"]) <= (self.accuracy, -self.loss):
            return
        self.accuracy, self.loss, self.chosen = scores["accuracy"], scores["loss"], chosen
        self._plan, self._probe = plan, probe
        self._state = {name: value.clone() for name, value in plan.model.state_dict().items()}

    def restore(self) -> Plan:
        """Return the plan with the best weights in it."""
        assert self._plan is not None, "no checkpoint was considered"
        self._plan.model.load_state_dict(self._state)
        if self._probe is not None:
            # A fitted head is read in the way it was best; of equals the probe before training
            # stays, also where a later checkpoint has the lower loss.
            at = int(self.chosen.get("step", 0))
            if self._probe.after(at, self.accuracy) != at:
                self.chosen = {**self.chosen, "step": 0}
        return self._plan
