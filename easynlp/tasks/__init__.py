"""The apps: one file and one line here each. `package.module:Name` works as a name too."""

from __future__ import annotations

from typing import Any

from easynlp.registry import resolve

TASKS: dict[str, str] = {
    "text_classify": "easynlp.tasks.text_classify:TextClassify",
    "sequence_labeling": "easynlp.tasks.sequence_labeling:SequenceLabeling",
    "language_modeling": "easynlp.tasks.language_modeling:LanguageModeling",
}

__all__ = ["TASKS", "find_task"]


def find_task(name: str) -> Any:
    """Return the task class of a name in `TASKS`, or of ``package.module:Name``."""
    return resolve(name, TASKS, kind="task")
