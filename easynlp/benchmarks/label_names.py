"""What FewCLUE's labels are called, for heads that lean towards it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from easynlp.benchmarks.fewclue import FEWCLUE
from easynlp.benchmarks.prompts import prompt_of, prompts
from easynlp.errors import ConfigError
from easynlp.text.label_words import are_words

__all__ = ["NAME_PLACEBO", "NO_NAMES", "Names"]

NAME_PLACEBO = "shuffled-names"
THEMSELVES, ENTAILMENT = "labels", "efl"


@dataclass(frozen=True)
class Names:
    """Options of a head that leans towards names.

    Attributes:
        names: Name of a task's prompt, or ``labels``: the labels themselves where they are words,
            else those of the prompt ``efl``; empty for none.
        placebo: `NAME_PLACEBO`, or empty.

    Raises:
        ConfigError: If there is no such prompt or placebo.
    """

    names: str = ""
    placebo: str = ""

    def __post_init__(self) -> None:
        known = {name for suite in prompts().values() for name in suite} | {THEMSELVES}
        if self.names and self.names not in known:
            raise ConfigError(
                f"names={self.names}: no such prompt. Known: {', '.join(sorted(known))}"
            )
        if self.placebo and (not self.names or self.placebo != NAME_PLACEBO):
            raise ConfigError(
                f'no placebo "{self.placebo}" here. Known: {NAME_PLACEBO}, with names=PROMPT'
            )

    def of(self, task: str, labels: Sequence[str]) -> dict[str, str]:
        """Return what each label of a task is called; nothing for pairs, which no name is like."""
        if not self.names or FEWCLUE[task].paired:
            return {}
        name = self.names
        if name == THEMSELVES:
            if are_words(labels):
                return {label: label for label in labels}
            name = ENTAILMENT
        prompt = prompt_of(task, name, ("hypothesis", "pattern"), known_elsewhere=True)
        if prompt is None or not set(labels) <= set(prompt.words):
            return {}
        frame = prompt.hypothesis or "{label}"
        return {label: frame.replace("{label}", prompt.words[label][0]) for label in labels}

    def identity(self) -> str:
        """Return what decides the names; empty without."""
        if not self.names:
            return ""
        words = repr({task: list(known.values()) for task, known in prompts().items()})
        dealt = f"{self.placebo} in a cycle" if self.placebo else ""
        return f"{self.names} {dealt} {hashlib.sha256(words.encode()).hexdigest()[:16]}"


NO_NAMES = Names()
