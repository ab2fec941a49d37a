"""Learning rate as a pure function of the step: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from collections.abc import Callable

from easynlp.errors import ConfigError, did_you_mean

__all__ = ["SCHEDULES", "factor"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
    "constant": lambda done: 1.0,
}
"""Shape of the decay over the part of training after warm-up, from 0 to 1 done."""


def factor(name: str, step: int, *, steps: int, warmup: float) -> float:
    """Return what the peak learning rate is multiplied by at a step.

    Args:
        name: A key of `SCHEDULES`.
        step: Steps done so far, from 0.
        steps: All steps of the run.
        warmup: Share of the steps spent rising linearly from 0.

    Example:
        >>> [round(factor("linear", s, steps=4, warmup=0.5), 2) for s in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if name not in SCHEDULES:
        raise ConfigError(
            f'unknown schedule "{name}".{did_you_mean(name, SCHEDULES)} '
            f"Known: {', '.join(SCHEDULES)}"
        )
    rising = round(steps * warmup)
    if step < rising:
        return (step + 1) / rising
    return SCHEDULES[name]((step - rising) / max(1, steps - rising))
