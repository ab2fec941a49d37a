"""``easynlp.json``: which task a folder holds, with which options and labels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from easynlp.atomic import write_json
from easynlp.errors import ModelError
from easynlp.extras import versions
from easynlp.tasks import TASKS, find_task
from easynlp.tasks.base import Task

__all__ = ["META", "fingerprint", "make_meta", "read_meta", "save_meta"]

FORMAT = 1
META = "easynlp.json"


def make_meta(task: Task, **about: Any) -> dict[str, Any]:
    """Return what ``easynlp.json`` says of a task.

    Args:
        task: The trained task.
        **about: More to remember: ``columns``, ``base_model``, ``dev`` …
    """
    name = task.name
    if name not in TASKS or find_task(name) is not type(task):
        name = f"{type(task).__module__}:{type(task).__qualname__}"
    config = dataclasses.asdict(task.config)
    return {"format": FORMAT, "task": name, "config": config, **about, "versions": versions()}


def save_meta(folder: str | Path, meta: Mapping[str, Any]) -> None:
    """Write ``easynlp.json`` into a folder."""
    write_json(Path(folder) / META, meta)


def read_meta(folder: str | Path) -> dict[str, Any]:
    """Read ``easynlp.json`` of a folder.

    Raises:
        ModelError: If the folder or the file is missing, damaged, or of a newer easynlp.
    """
    path = Path(folder) / META
    if not path.parent.is_dir():
        raise ModelError(f"there is no folder {folder}")
    if not path.is_file():
        raise ModelError(f"{folder} is not a run: it has no {META}")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(meta, dict) or not {"format", "task", "config"} <= meta.keys():
        raise ModelError(f"{path} does not describe a run (format, task and config are wanted)")
    if meta["format"] != FORMAT:
        raise ModelError(
            f"{path} has format {meta['format']!r}; this easynlp reads format {FORMAT}. "
            "Install the version that wrote it: " + json.dumps(meta.get("versions", {}))
        )
    return meta


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
