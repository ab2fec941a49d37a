"""Who learns in online distillation: models by name, or by shape."""

from __future__ import annotations

import re
from typing import Any

from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone

__all__ = ["ASSISTANT", "TEACHER", "find_member", "learners", "task_for"]

TEACHER, ASSISTANT = "teacher", "assistant"
_SHAPE = re.compile(r"(\d+)x(\d+)")
_KEPT = ("vocab_size", "pad_token_id", "max_position_embeddings", "type_vocab_size", "hidden_act",
         "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps",
         "ngram_buckets")  # fmt: skip


def learners(students: str, assistant: str) -> dict[str, str]:
    """Return names to models or shapes: the assistant, if there is one, and ``student0`` and on.

    Args:
        students: With ``+`` between them.
        assistant: May be empty.

    Raises:
        ConfigError: If there is no student.

    Example:
        >>> learners("2x128+4x256", "6x384")
        {'assistant': '6x384', 'student0': '2x128', 'student1': '4x256'}
    """
    given = [each.strip() for each in students.split("+") if each.strip()]
    if not given:
        raise ConfigError("online_distill needs students, such as students=2x128+4x256")
    first = {ASSISTANT: assistant.strip()} if assistant.strip() else {}
    return first | {f"student{number}": spec for number, spec in enumerate(given)}


def find_member(spec: str, teacher: Backbone) -> Backbone:
    """Return a model by name, or one of a shape with random weights and the teacher's tokenizer.

    Args:
        spec: A name as ``--model`` takes it, or ``LAYERSxWIDTH``.
        teacher: Whose tokenizer, and of whose kind a shape is.

    Raises:
        ConfigError: If the tokenizers differ, or the width cannot be cut into heads.
        ModelError: If there is no such model.
    """
    if (shape := _SHAPE.fullmatch(spec)) is None:
        found = Backbone.load(spec)
        if found.tokenizer.fingerprint() != teacher.tokenizer.fingerprint():
            raise ConfigError(f"{spec} has another tokenizer than its teacher, {teacher.name}")
        return found
    layers, width = map(int, shape.groups())
    size = next((n for n in (64, 32, 16, 8) if width % n == 0 and n <= width), 0)
    if not layers or not size:
        raise ConfigError(f"{spec}: layers x width wanted, the width a multiple of 8")
    config = type(teacher.config)(
        **{
            **{k: v for k, v in teacher.config.to_dict().items() if k in _KEPT},
            "num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // size,
            "intermediate_size": 4 * width,
        }
    )  # fmt: skip
    return Backbone(spec, config, teacher.tokenizer, None, teacher.home)


def task_for(task: Any, member: Backbone) -> Any:
    """Return the task with options of its own: building a model settles how it pools."""
    auto = {"pooling": "auto"} if hasattr(task.config, "pooling") else {}
    return type(task).restore({**task.saved(), **auto}, member.tokenizer)
