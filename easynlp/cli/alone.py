"""One command at a time writes to an output folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easynlp.cli.output import is_main_process
from easynlp.errors import ConfigError

__all__ = ["alone", "written_by"]


def written_by(instances: Sequence[Any]) -> str | None:
    """Return the folder that commands with these options fill over hours; None if they do not.

    Example:
        >>> from easynlp.landing.settings import LandOptions
        >>> written_by([LandOptions(train="few.jsonl", output="runs/land")])
        'runs/land'
    """
    for each in instances:
        if hasattr(each, "resume"):
            return getattr(each, "output", None) or getattr(each, "run", None)
    return None


@contextmanager
def alone(folder: str | None) -> Iterator[None]:
    """Hold a folder for the duration of a block, against other processes of this machine.

    Two runs in one folder delete each other's files half way. The lock stands in the system's
    temporary folder, so that nothing is added to the output; it ends with its process, however
    that ends. Where there are no such locks (Windows, odd file systems) nothing is held.

    Args:
        folder: What is written to; None holds nothing.

    Raises:
        ConfigError: If another process holds it.

    Example:
        >>> with alone("runs/x"):
        ...     pass
    """
    lock = _open(folder) if folder and is_main_process() else None
    if lock is None:
        yield
        return
    import fcntl

    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another easynlp command is writing to {folder}. Wait for its end, stop it, or "
                "choose another --output"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(lock)


def _open(folder: str) -> int | None:
    """Return an open file that stands for a folder, whether that exists or not."""
    try:
        import fcntl  # noqa: F401

        home = Path(tempfile.gettempdir()) / f"easynlp-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        name = hashlib.sha256(str(Path(folder).resolve()).encode()).hexdigest()[:32]
        return os.open(home / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except (ImportError, OSError):
        return None
