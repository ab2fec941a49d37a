"""Patterns and label words of FewCLUE's tasks, read from ``fewclue_prompts.yaml`` and checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

from easynlp.errors import ConfigError, did_you_mean
from easynlp.tasks.base import Example

__all__ = ["Prompt", "check_prompt", "prompt_of", "prompts", "read_prompts"]

FIELDS = ("text", "text_b")


@dataclass(frozen=True)
class Prompt:
    """A pattern and its label words.

    Attributes:
        name: Whose it is.
        pattern: The text with a hole, e.g. ``{text}。总之很[MASK]。``; empty if there is none.
        words: Labels to one or more words.
        hypothesis: A sentence about the text with ``{label}`` in it; empty if there is none.
        view: Which part of an example ``text`` and ``text_b`` are, where not the text itself; with
            braces in it, a text in which parts are filled in (``{pronoun}指的``).
        candidates: Whether the candidates of a question fill the hole, in place of words.
        extra: Whether it is for a comparison of its own and never taken by default.
    """

    name: str
    pattern: str
    words: Mapping[str, tuple[str, ...]]
    hypothesis: str = ""
    view: Mapping[str, str] = field(default_factory=dict)
    candidates: bool = False
    extra: bool = False

    def options(self) -> dict[str, str]:
        """Return what tasks and methods call the prompt's parts."""
        if self.hypothesis:
            return {"hypothesis": self.hypothesis, "descriptions": self.words_text()}
        if self.candidates:
            return {"candidates": self.pattern}
        return {"pattern": self.pattern, "words": self.words_text()}

    def words_text(self) -> str:
        """Return the words as an option of prompting tasks and methods takes them: JSON."""
        return json.dumps({k: list(v) for k, v in self.words.items()}, ensure_ascii=False)

    def show(self, example: Example) -> Example:
        """Return an example as the pattern names its parts."""
        if not self.view:
            return example
        shown = {
            name: part.format_map(example) if "{" in part else example[part]
            for name, part in self.view.items()
        }
        return {**example, **shown}


@lru_cache
def prompts() -> Mapping[str, Mapping[str, Prompt]]:
    """Return task to name to prompt; the first of a task is its default."""
    text = resources.files("easynlp.benchmarks").joinpath("fewclue_prompts.yaml").read_text("utf-8")
    return read_prompts(text)


def read_prompts(text: str) -> dict[str, dict[str, Prompt]]:
    """Read prompts from YAML and check them.

    Raises:
        ConfigError: If one of them is wrong; see `check_prompt`.
    """
    found: dict[str, dict[str, Prompt]] = {}
    for task, entries in yaml.safe_load(text).items():
        for entry in entries:
            words = {str(k): _words(v) for k, v in entry.get("words", {}).items()}
            made = Prompt(
                entry["name"], entry.get("pattern", ""), words, entry.get("hypothesis", ""),
                entry.get("view", {}), bool(entry.get("candidates")),
            )  # fmt: skip
            for each in _fuzzy(made, entry["triples"]) if "triples" in entry else [made]:
                check_prompt(each, task)
                found.setdefault(task, {})[each.name] = each
    return found


def _fuzzy(prompt: Prompt, triples: Iterable[Iterable[int]]) -> Iterator[Prompt]:
    """Yield a prompt for each word set alone, and for each triple of them (numbers from 1)."""
    sets = range(1, 1 + min(map(len, prompt.words.values())))
    names: list[tuple[str, tuple[int, ...]]] = [(f"set-{n}", (n,)) for n in sets]
    names += [(f"triple-{n}", tuple(triple)) for n, triple in enumerate(triples, 1)]
    for name, numbers in names:
        words = {k: tuple(v[n - 1] for n in numbers) for k, v in prompt.words.items()}
        yield replace(prompt, name=f"{prompt.name}-{name}", words=words, extra=True)


def check_prompt(prompt: Prompt, task: str) -> None:
    """Refuse a prompt that collides, gives the label away, or has no hole.

    Raises:
        ConfigError: If two labels share a word: their rows would be right either way. Or if the
            pattern has no ``[MASK]`` or names something else than the texts, such as the label.
    """
    where = f'prompt "{prompt.name}" of {task}'
    owners: dict[str, str] = {}
    for label, words in prompt.words.items():
        for word in words:
            if owners.setdefault(word, label) != label:
                raise ConfigError(
                    f'{where}: the labels "{owners[word]}" and "{label}" share the word "{word}"; '
                    "answers of one would count for the other. Give each label words of its own"
                )
        if len(set(words)) < len(words) or not all(words):
            raise ConfigError(f'{where}: the words of "{label}" repeat, or one is empty')
    if prompt.hypothesis and "{label}" not in prompt.hypothesis:
        raise ConfigError(f'{where}: the hypothesis "{prompt.hypothesis}" has no {{label}}')
    if not prompt.hypothesis and "[MASK]" not in prompt.pattern:
        raise ConfigError(f'{where}: the pattern "{prompt.pattern}" has no [MASK]')
    for name in re.findall(r"\{([^{}]*)\}", prompt.pattern):
        if name not in FIELDS:
            raise ConfigError(
                f"{where}: the pattern names {{{name}}}; it may name {{text}} and {{text_b}}: the "
                "label and what comes of it are not to be seen"
            )
    shown = {name for part in prompt.view.values()
             for name in (re.findall(r"\{([^{}]*)\}", part) or [part])}  # fmt: skip
    if hidden := {"label", "label_desc", "choice"} & shown:
        raise ConfigError(f"{where}: its view shows {min(hidden)}, which gives the answer away")


def prompt_of(
    task: str,
    name: str = "",
    parts: Sequence[str] = ("pattern",),
    *,
    known_elsewhere: bool = False,
) -> Prompt | None:
    """Return a task's prompt by name, by default its first; None if the task has none.

    Args:
        task: The benchmark's task.
        name: The prompt's.
        parts: What it must have one of: ``pattern``, ``hypothesis`` or ``candidates``; by default
            a prompt with an earlier one comes first.
        known_elsewhere: Return None, too, where only other tasks have a prompt of the name.

    Raises:
        ConfigError: If there is no such prompt.
    """
    known = {
        each: found
        for part in parts
        for each, found in prompts().get(task, {}).items()
        if part in found.options()
    }
    if not name:
        return next((each for each in known.values() if not each.extra), None)
    if name in known:
        return known[name]
    if known_elsewhere and any(name in others for others in prompts().values()):
        return None
    raise ConfigError(
        f'{task} has no prompt "{name}" with a {" or ".join(parts)}.{did_you_mean(name, known)} '
        f"Known: {', '.join(known)}"
    )


def _words(value: Any) -> tuple[str, ...]:
    words: Iterable[Any] = value if isinstance(value, list) else [value]
    return tuple(str(word) for word in words)
