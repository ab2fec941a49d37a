"""What a student asks its teacher, and the teacher's answers in the student's own terms.

An answer is an array of log-probabilities, (targets, classes), as the task's `log_probs` has them
of one row: (1, labels) of a text with one label, (labels, 2) of one that may have several, each a
question answered no or yes. Of a tagger it is (characters, tags): between tokenizers that cut a
text differently, characters are what both have. NaN is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from easynlp.errors import ConfigError
from easynlp.text.spans import tag_names

__all__ = ["FLOOR", "Wanted", "at_tokens", "fold_tags", "on_characters", "order_of"]

FLOOR = -20.0
"""Least log-probability: what is next to impossible stays a number, in half precision too."""
_ROLES = {"B": "B", "S": "B", "U": "B", "I": "I", "M": "I", "E": "I", "L": "I"}
_TAG = re.compile(r"([BIMESUL])[-_](.+)")


@dataclass(frozen=True)
class Wanted:
    """What is asked of a teacher.

    Attributes:
        kind: One ``label`` a text, several ``labels``, or ``tags`` of characters.
        labels: Of the student, in the order of its outputs; of tags the entity types.
        pair: Whether a row is two texts.
    """

    kind: Literal["label", "labels", "tags"]
    labels: tuple[str, ...]
    pair: bool = False

    @classmethod
    def of(cls, task: Any) -> Wanted:
        """Return what a task would like to know.

        Raises:
            ConfigError: If it is no task that can be taught so.
        """
        pair = any(field.name == "text_b" for field in task.fields)
        if task.name == "sequence_labeling":
            return cls("tags", task.config.labels)
        if task.name == "text_classify" and task.config.multi_label:
            return cls("labels", task.config.labels, pair)
        if task.name in ("text_classify", "prompt_classify"):
            return cls("label", task.config.labels, pair)
        raise ConfigError(
            f"a teacher's answers can be learned by text_classify, prompt_classify and "
            f"sequence_labeling, not by {task.name}"
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Targets and classes of a text's answer; of tags, a character's."""
        count = len(self.labels)
        return {"label": (1, count), "labels": (count, 2), "tags": (1, 1 + 2 * count)}[self.kind]


def order_of(
    theirs: Sequence[str], ours: Sequence[str], names: Mapping[str, str], who: str
) -> list[int]:
    """Return where the teacher has each of our labels.

    Args:
        theirs: The teacher's labels, in the order of its outputs.
        ours: The student's.
        names: The teacher's labels to ours, where they are called otherwise.
        who: The teacher's name, for messages.

    Raises:
        ConfigError: If they are not the same labels; it lists both.

    Example:
        >>> order_of(["neg", "好评"], ["好评", "差评"], {"neg": "差评"}, "runs/t")
        [1, 0]
    """
    if unknown := [name for name in names if name not in theirs]:
        raise ConfigError(
            f'--teacher-labels: {who} has no label "{unknown[0]}"; it has: {_some(theirs)}'
        )
    called = [names.get(name, name) for name in theirs]
    if sorted(called) != sorted(ours):
        raise ConfigError(
            f"the labels of {who} are not the student's.\n  teacher: {_some(called)}\n  student: "
            f"{_some(ours)}\n  Say which is which: --teacher-labels "
            f'"{theirs[0]}={ours[0]};..."'
        )
    return [called.index(name) for name in ours]


def fold_tags(
    theirs: Sequence[str], kinds: Sequence[str], names: Mapping[str, str], who: str
) -> np.ndarray:
    """Return the matrix that adds a teacher's tag probabilities up to ours, (their tags, our tags).

    BIO, BIOES, BMES and BILUO are read, as are types without a role: the probability of a token
    being an entity's only one counts as its beginning, of being in its middle or at its end as its
    inside. What adds up are marginals, so nothing is lost but where an entity ends.

    Args:
        theirs: The teacher's tags, in the order of its outputs.
        kinds: The student's entity types.
        names: The teacher's types to ours, where they are called otherwise.
        who: The teacher's name, for messages.

    Raises:
        ConfigError: If they are not the same types; it lists both.

    Example:
        >>> fold_tags(["E-LOC", "B-LOC", "O"], ["LOC"], {}, "t").argmax(1).tolist()
        [2, 1, 0]
    """
    read = []
    for tag in theirs:
        found = _TAG.fullmatch(tag)
        read.append((_ROLES[found[1]], found[2]) if found else ("", tag))
    inside = {kind for role, kind in read if role}
    # A scheme without roles: everything but O is inside an entity of its own name.
    parts = [(role or ("I" if not inside and kind != "O" else ""), kind) for role, kind in read]
    present = list(dict.fromkeys(kind for role, kind in parts if role))
    order_of(present, kinds, names, who)
    ours = tag_names(kinds)
    fold = np.zeros((len(theirs), len(ours)))
    for number, (role, kind) in enumerate(parts):
        fold[number, ours.index(f"{role}-{names.get(kind, kind)}") if role else 0] = 1.0
    return fold


def on_characters(text: str, starts: np.ndarray, ends: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Spread the answers of tokens over the characters they cover.

    The first character of a token has its answer; on the others an entity that begins in the token
    goes on: what was B is I.

    Args:
        text: The text.
        starts: First character of each token, shape (tokens,).
        ends: Character after each token, shape (tokens,).
        logs: BIO log-probabilities of the tokens, (tokens, tags).

    Returns:
        Shape (characters, tags); NaN where no token is.

    Example:
        >>> logs = np.log([[0.1, 0.8, 0.1]])
        >>> np.exp(on_characters("北京。", np.array([0]), np.array([2]), logs)).round(1).tolist()
        [[0.1, 0.8, 0.1], [0.1, 0.0, 0.9], [nan, nan, nan]]
    """
    table = np.full((len(text), logs.shape[1]), np.nan)
    inner = logs.copy()
    inner[:, 2::2] = np.logaddexp(logs[:, 1::2], logs[:, 2::2])
    inner[:, 1::2] = FLOOR
    for token, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        while start < end and text[start].isspace():
            start += 1
        if start < end:
            table[start:end] = inner[token]
            table[start] = logs[token]
    return table


def at_tokens(table: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the answer for each of our tokens: that of its first character.

    Args:
        table: Answers of a text's characters, (characters, tags).
        starts: First character of each token, shape (tokens,).
        ends: Character after each token; a token without characters has no answer.

    Returns:
        Shape (tokens, tags).
    """
    found = np.full((len(starts), table.shape[1]), np.nan, np.float32)
    real = (ends > starts) & (starts < len(table))
    found[real] = table[starts[real]]
    return found


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" … ({len(names)})" if len(names) > most else "")
