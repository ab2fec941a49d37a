"""Who takes part in a benchmark: floors, models fine-tuned on a budget, few-shot methods.

A contender learns one split (`learn`) from its training rows, may choose among its own
variants on the split's dev rows, and returns a `Learned` that answers texts. It never sees the
test file: while it learns the file is closed (`easynlp.benchmarks.seal`), and the rows it is
given to answer have no labels. Names:

- an entry of `FLOORS`, such as ``tfidf-svm``; ``floor`` is the one that suits the task;
- ``finetune@MODEL``: fine-tuned properly, on a budget that is the same for every method;
  ``finetune-published@MODEL``: with FewCLUE's published recipe. ``MODEL`` alone is
  ``finetune@MODEL``, and methods may stand behind plus signs (``tiny-zh+r_drop:alpha=4``);
- ``lp-ft@MODEL``: the same budget, from a head fitted as a linear probe, which stays the answer if
  no checkpoint is better on dev. With ``names=PROMPT`` the head leans towards the vectors of that
  prompt's label words (`easynlp.training.label_prior`; ``placebo=shuffled-names`` deals the words
  out to other labels), with ``steps=0`` the fitted head is all there is;
- ``method:NAME@MODEL``: a few-shot method, ``zero-shot@MODEL`` a prompt without training
  (`easynlp.benchmarks.few_shot`);
- ``probe:MODEL``: a linear probe (`easynlp.benchmarks.probe`); ``knn@MODEL``, ``centroid@MODEL``:
  neighbours and centroids of the same vectors (`easynlp.benchmarks.vectors`);
- ``self-training@MODEL``, ``committee@MODEL`` (`easynlp.benchmarks.taught`) and ``ipet@MODEL``
  (`easynlp.benchmarks.generations`): over the task's unlabelled text;
- ``vote:members=WAY+WAY``: several answer together (`easynlp.benchmarks.vote`);
- ``package.module:Name``: your own, called with its name and the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from easynlp.benchmarks.contender import Budget, Contender, Learned
from easynlp.benchmarks.encodings import grade
from easynlp.benchmarks.fewclue import FEWCLUE, Split, read_split_file, read_training
from easynlp.benchmarks.label_names import Names
from easynlp.benchmarks.names import NESTED, Name, typed
from easynlp.benchmarks.settings import (
    FINETUNE,
    FLOOR,
    LP_FT,
    METHOD,
    PREFIX,
    PUBLISHED,
    ZERO_SHOT,
    is_floor,
)
from easynlp.benchmarks.task_floors import ExampleFloor
from easynlp.config import Steps
from easynlp.errors import ConfigError
from easynlp.registry import resolve

__all__ = ["FLOORS", "FLOOR_OF", "PUBLISHED_BUDGET", "FloorContender", "find"]

_HERE = "easynlp.benchmarks.task_floors:"
PARTS = ("name", "seeded", "unlabelled", "takes", "identity", "learn")
"""What a contender of one's own must have."""
FLOORS: dict[str, str] = {
    "chance": _HERE + "chance",
    "majority": _HERE + "majority",
    "tfidf-svm": _HERE + "tfidf_svm",
    "tfidf-cnb": _HERE + "complement_nb",
    "hypothesis-svm": _HERE + "hypothesis_only",
    "overlap": _HERE + "overlap_regression",
    "keyword-rule": _HERE + "keyword_rule",
    "keywords": _HERE + "keyword_regression",
    "positions": _HERE + "position_regression",
    "lsa": _HERE + "lsa",
    "nb-em": _HERE + "nb_em",
    "self-trained": _HERE + "self_trained",
}
"""Contenders without a neural model."""
_PAIRS = ("ocnli", "bustm", "csl", "chid")
ONLY: dict[str, tuple[str, ...]] = {
    "overlap": _PAIRS, "hypothesis-svm": _PAIRS, "keyword-rule": ("csl",), "keywords": ("csl",),
    "positions": ("cluewsc",), "lsa": ("eprstmt",),
    "nb-em": ("eprstmt", "tnews"), "self-trained": ("eprstmt", "tnews"),
}  # fmt: skip
"""Tasks a floor is for, where it is not for all."""
UNLABELLED = ("lsa", "nb-em", "self-trained")
"""Floors that learn from unlabelled text too."""
FLOOR_OF: dict[str, str] = {
    "eprstmt": "tfidf-svm", "csldcp": "tfidf-svm", "tnews": "tfidf-svm", "iflytek": "tfidf-svm",
    "ocnli": "overlap", "bustm": "overlap", "csl": "keyword-rule", "cluewsc": "positions",
    "chid": "majority",
}  # fmt: skip
"""What ``floor`` stands for on each task: fixed by the kind of task, not by the scores. On CHID it
is chance without the noise: the same candidate always, right once in seven."""


OVER_TEXT: dict[str, str] = {
    "knn": "easynlp.benchmarks.vectors:Nearest",
    "centroid": "easynlp.benchmarks.vectors:Nearest",
    "self-training": "easynlp.benchmarks.taught:Taught",
    "committee": "easynlp.benchmarks.taught:Taught",
    "ipet": "easynlp.benchmarks.generations:Generations",
    "vote": "easynlp.benchmarks.vote:Vote",
}
"""Contenders with options of their own, over vectors or unlabelled text."""
PUBLISHED_BUDGET = Budget(
    lrs=(2e-5,), epochs=3, min_steps=1, max_steps=10**9, evaluations=0, batch_size=32
)
"""FewCLUE's own fine-tuning script: 3 epochs of batches of 32 at 2e-5, which is three optimizer
steps on a task of 32 rows; the last epoch counts."""


def find(name: str, budget: Budget, model: str = "tiny-zh") -> Contender:
    """Return the contender of a name; see the module's docstring.

    Args:
        name: E.g. ``tfidf-svm``, ``finetune``, ``method:pet@tiny-zh``, ``random:tiny-zh``,
            ``runs/x+fgm``, ``probe:tiny-zh``.
        budget: What fine-tuning and methods may spend.
        model: The model of names without one.

    Raises:
        ConfigError: If there is no such method.
    """
    if is_floor(name):
        return FloorContender(name)
    if name.startswith(PREFIX):
        from easynlp.benchmarks.probe import LinearProbe

        return LinearProbe(name, budget, model)
    from easynlp.benchmarks.finetuned import FineTuned

    if name.startswith((METHOD, ZERO_SHOT)):
        from easynlp.benchmarks.few_shot import find_method_contender

        return find_method_contender(name, budget, model)
    kind, _, given = name.partition("@")
    way = Name.parse(name, NESTED).way
    if way in OVER_TEXT:
        made: Any = resolve(way, OVER_TEXT, kind="contender")(name, budget, model)
        found: Contender = made
        return found
    if kind == PUBLISHED:
        return FineTuned(name, PUBLISHED_BUDGET, given or model, pooling="first")
    if kind == FINETUNE:
        return FineTuned(name, budget, given or model)
    start = Name.parse(kind)
    if start.way == LP_FT:
        said = typed(start.options, _StartOptions, name)
        if (steps := said.pop("steps", None)) is not None:
            budget = replace(budget, min_steps=steps, max_steps=steps)
        names = Names(**said)
        return FineTuned(name, budget, given or model, probe="first", names=names)
    module, _, attribute = name.partition(":")
    if attribute.isidentifier() and "." in module and "/" not in module:
        made = resolve(name, {}, kind="contender")(name, budget)
        missing = [part for part in PARTS if not hasattr(made, part)]
        if missing:
            raise ConfigError(f"{name} is no contender: it has no {', '.join(missing)}")
        own: Contender = made
        return own
    return FineTuned(name, budget)


@dataclass(frozen=True)
class _StartOptions(Names):
    """Options of ``lp-ft``."""

    steps: Steps = 0


class FloorContender:
    """A classifier without pre-training; nothing is chosen on dev.

    Args:
        name: Key of `FLOORS`, or ``floor`` for that of `FLOOR_OF`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.seeded = name in ("chance", "lsa")
        self.unlabelled = name in UNLABELLED

    def takes(self, task: str) -> bool:
        """Return whether it is made for a task."""
        return task in ONLY.get(self.name, FEWCLUE)

    def identity(self) -> str:
        """Return the name: nothing can be set."""
        return f"{self.name} {FLOOR_OF if self.name == FLOOR else ''}"

    def learn(self, split: Split, seed: int, say: Callable[[str], None]) -> Learned:
        """Fit once on the training rows."""
        train = read_training(split)
        name = FLOOR_OF[split.task] if self.name == FLOOR else self.name
        floor: ExampleFloor = resolve(name, FLOORS, kind="floor")()
        floor.fit(train, split.unlabelled, seed)
        dev = read_split_file(split.dev, split.task)
        chosen = {"floor": name} if self.name == FLOOR else {}
        return Learned(
            floor.predict, grade(dev, floor.predict(dev)), chosen, parameters=floor.parameters
        )
