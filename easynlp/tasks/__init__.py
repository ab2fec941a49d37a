"""The apps: one file and one line here each. `package.module:Name` works as a name too."""

from __future__ import annotations

from typing import Any

from easynlp.registry import resolve

TASKS: dict[str, str] = {
    "text_classify": "easynlp.tasks.text_classify:TextClassify",
    "prompt_classify": "easynlp.fewshot.prompt_classify:PromptClassify",
    "entailment": "easynlp.fewshot.efl:Entailment",
    "sequence_labeling": "easynlp.tasks.sequence_labeling:SequenceLabeling",
    "language_modeling": "easynlp.tasks.language_modeling:LanguageModeling",
    "causal_language_modeling": "easynlp.tasks.causal_language_modeling:CausalLanguageModeling",
    "span_corruption": "easynlp.tasks.span_corruption:SpanCorruption",
    "replaced_token_detection": "easynlp.tasks.replaced_token_detection:ReplacedTokenDetection",
}

RAW_TEXT = frozenset(
    {
        "language_modeling",
        "causal_language_modeling",
        "span_corruption",
        "replaced_token_detection",
    }
)
"""Tasks that learn from raw text, by ``easynlp pretrain``."""

__all__ = ["RAW_TEXT", "TASKS", "find_task"]


def find_task(name: str) -> Any:
    """Return the task class of a name in `TASKS`, or of ``package.module:Name``."""
    return resolve(name, TASKS, kind="task")
