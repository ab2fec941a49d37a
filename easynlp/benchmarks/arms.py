"""Contenders that stand for several: the arms of Fuzzy-PET, and placebo arms beside their methods.

``fuzzy-pet@MODEL`` is PET with each of a task's word sets alone and with each of its triples of
sets (``fuzzy`` in ``fewclue_prompts.yaml``, written down beforehand);
``fuzzy-pet:steps=0@MODEL`` is the same without training. What is compared is how far the scores
spread over the choice of words, and the worst of them: good words cannot be told from bad ones
with a few labels.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from easynlp.benchmarks.label_names import NAME_PLACEBO
from easynlp.benchmarks.names import NESTED, PLACEBO, Name, placebo_of
from easynlp.benchmarks.pool import PLACEBO_LABELS
from easynlp.benchmarks.prompts import prompts
from easynlp.benchmarks.scores import per_split
from easynlp.benchmarks.settings import FEW_ALL, LP_FT, METHOD, PREFIX, ZERO_SHOT
from easynlp.errors import ConfigError
from easynlp.methods import find_method
from easynlp.tasks import TASKS, find_task

__all__ = ["FUZZY", "arms_of", "expand", "fuzzy_spread", "is_fuzzy_arm"]

FUZZY = "fuzzy-pet"
ARM = re.compile(r":prompt=(fuzzy)-(set|triple)-(\d+)(?=[:@]|$)")
FEWER, WORSE = 0.5, 0.05
"""What the triples are to reach: at most this share of the spread, and a worst case this much
better."""
TAUGHT = ("self-training", "committee", "ipet")
HEADS = (PREFIX.rstrip(":"), LP_FT)
"""Contenders whose head may lean towards names or learn on from guesses."""


def expand(names: Sequence[str], *, placebos: bool = False) -> list[str]:
    """Return contenders one by one, each placebo arm behind the contender it is of.

    Args:
        names: As typed.
        placebos: Add all placebo arms there are.

    Raises:
        ConfigError: If a name is wrong.

    Example:
        >>> expand(["method:pet:placebo=shuffled-words", "floor", "method:pet"])
        ['floor', 'method:pet', 'method:pet:placebo=shuffled-words']
        >>> len(expand(["fuzzy-pet:steps=0@tiny-zh"]))
        20
    """
    every: list[str] = []
    for name in names:
        is_fuzzy = Name.parse(name, NESTED).way == FUZZY
        every += _fuzzy_arms(name) if is_fuzzy else [name]
    arms = [name for name in every if placebo_of(name)[0] in every]
    found: list[str] = []
    for name in every:
        if name in arms:
            continue
        own = [arm for arm in arms if placebo_of(arm)[0] == name]
        if placebos and not is_fuzzy_arm(name):
            own += arms_of(name)
        found += [name, *own]
    return list(dict.fromkeys(found))


def arms_of(name: str) -> list[str]:
    """Return all placebo arms of a contender; none of a placebo, a floor or plain fine-tuning.

    Example:
        >>> arms_of("ipet@tiny-zh")
        ['ipet:placebo=random-pseudo-labels@tiny-zh']
        >>> arms_of("zero-shot@tiny-zh"), arms_of("floor")
        (['zero-shot:placebo=shuffled-words@tiny-zh'], [])
    """
    parsed = Name.parse(name, NESTED)
    if PLACEBO in parsed.options:
        return []
    kinds: list[str] = []
    if parsed.way in TAUGHT:
        kinds = [PLACEBO_LABELS]
    elif parsed.way in HEADS:
        kinds = [NAME_PLACEBO] * bool(parsed.options.get("names"))
        kinds += [PLACEBO_LABELS] * (parsed.options.get("pool", "0") != "0")
    elif parsed.way == ZERO_SHOT:
        kinds = ["shuffled-words"]
    elif parsed.way.startswith(METHOD):
        last = _options_of(parsed.way.removeprefix(METHOD).split("+")[-1])
        trained = parsed.options.get("steps") != "0"
        kinds = ["random-labels"] * trained
        kinds += ["shuffled-words"] * ("words" in last or "descriptions" in last)
        kinds += ["random-anchors"] * ("random_anchors" in last)
    head, at, model = name.rpartition("@") if parsed.model else (name, "", "")
    return [f"{head}:{PLACEBO}={kind}{at}{model}" for kind in kinds]


def is_fuzzy_arm(name: str) -> bool:
    """Return whether a contender is one of those `fuzzy-pet` stands for.

    Example:
        >>> is_fuzzy_arm("method:pet:prompt=fuzzy-set-3@tiny-zh"), is_fuzzy_arm("method:pet")
        (True, False)
    """
    return bool(ARM.search(name))


def fuzzy_spread(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return how triples of word sets compare with single sets, for each model and task.

    Args:
        cells: Finished cells; a contender counts by its mean over splits of means over seeds.

    Returns:
        Rows with ``contender`` (the arms' common name), ``task``, for ``single`` and ``triples``
        each ``mean``, ``sd`` (sample, over sets or triples), ``worst``, ``best`` and ``arms``;
        ``ratio`` of the standard deviations, ``worst_gain``, and whether both are ``reached``.
    """
    by: dict[tuple[str, str], dict[str, list[float]]] = {}
    fuzzy = [cell for cell in cells if is_fuzzy_arm(cell["contender"])]
    for (name, task), splits in per_split(fuzzy, lambda cell: float(cell["accuracy"])).items():
        values = [value for split, value in splits.items() if split != FEW_ALL]
        found = ARM.search(name)
        if values and found and task in prompts():
            options = name[: found.start()].removeprefix(METHOD + "pet") + name[found.end() :]
            common = FUZZY + options
            of = by.setdefault((common, task), {"set": [], "triple": []})
            of[found[2]].append(float(np.mean(values)))
    rows: list[dict[str, Any]] = []
    for (name, task), values_of in by.items():
        if min(map(len, values_of.values())) < 2:
            continue  # no spread of one
        single, triples = (_spread(values_of[kind]) for kind in ("set", "triple"))
        ratio = triples["sd"] / single["sd"] if single["sd"] else math.inf
        gain = triples["worst"] - single["worst"]
        rows.append({
            "contender": name, "task": task, "single": single, "triples": triples,
            "ratio": None if math.isinf(ratio) else ratio, "worst_gain": gain,
            "reached": ratio <= FEWER and gain >= WORSE,
        })  # fmt: skip
    return rows


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)),
        "worst": min(values), "best": max(values), "arms": len(values),
    }  # fmt: skip


def _options_of(part: str) -> Collection[str]:
    """Return the options of a method, or of a task that stands alone."""
    if part in TASKS:
        return [each.name for each in fields(find_task(part).Config)]
    return inspect.signature(find_method(part)).parameters


def _fuzzy_arms(name: str) -> list[str]:
    parsed = Name.parse(name)
    if {"prompt", PLACEBO} & set(parsed.options):
        raise ConfigError(f"{name}: the prompts are given, and there is no placebo among them")
    options = "".join(f":{key}={value}" for key, value in parsed.options.items())
    at = f"@{parsed.model}" if parsed.model else ""
    known = {each.name: None for of in prompts().values() for each in of.values() if each.extra}
    return [f"{METHOD}pet:prompt={prompt}{options}{at}" for prompt in known]
