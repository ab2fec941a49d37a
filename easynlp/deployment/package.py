"""What an exported folder is put into: nothing, a Triton model repository, a Docker context."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from easynlp.tasks.base import Task

__all__ = ["Format", "check_format", "pack", "plain_name"]

Format = Literal["onnx", "triton", "docker"]


def check_format(format: Format, task: Task) -> None:
    """Refuse a task that a format cannot have, before it costs anything.

    Raises:
        ConfigError: If the task does not suit the format.
    """
    if format == "triton":
        from easynlp.deployment.triton import check_task

        check_task(task)


def pack(format: Format, folder: Path, name: str) -> None:
    """Make of a folder that holds an export, in ``model/``, what a format wants.

    Args:
        format: See `Format`; an ``onnx`` export is left as it is.
        folder: Changed.
        name: What the model is called where it is served.

    Raises:
        ConfigError: If the task does not suit the format.
    """
    if format == "triton":
        from easynlp.deployment.triton import write_repository

        write_repository(folder, plain_name(name))
    elif format == "docker":
        from easynlp.deployment.docker import write_context

        write_context(folder, plain_name(name))


def plain_name(name: str) -> str:
    """Return a name that is safe in a path, an address and a configuration.

    Example:
        >>> plain_name("酒店 v2")
        'v2'
        >>> plain_name("酒店")
        'model'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"
