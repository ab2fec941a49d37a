"""Files and folders that are written whole or not at all; needs no torch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easynlp.errors import RunError

__all__ = ["read_json", "write_folder", "write_json", "write_text"]


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is either the old one or the new one.

    Raises:
        RunError: If the disk is full or refuses; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}. Nothing was changed") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON as `write_text` writes text."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing if it is absent, damaged or no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder by filling a hidden one beside it, then renaming it into place.

    Raises:
        RunError: If the disk is full or refuses; nothing half-written stays.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_dir():
                file.chmod(0o755)
                continue
            file.chmod(0o644)  # safetensors writes for the owner only
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except Exception as error:
        if (why := _refused(error)) is None:
            raise
        raise RunError(f"cannot write {path}: {why}. Nothing was changed") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _refused(error: Exception) -> str | None:
    """Return why the disk refused, if that is what an error says."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # safetensors, which need not be installed, has an error of its own for what the disk says.
    told = type(error).__name__ == "SafetensorError" and "I/O error" in str(error)
    return str(error) if told else None
