"""The seal on the test file: while a contender learns, nothing in the process may open it.

Checkpoints and settings chosen on test are how tables of results went wrong; so this is not
left to good manners. The interpreter reports every opened file, and one named ``test_public``
is refused while the seal is on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from easynlp.errors import DataError

__all__ = ["check_open", "sealed"]

NAME = "test_public"
_state = {"depth": 0, "watching": 0}


@contextmanager
def sealed() -> Iterator[None]:
    """Refuse to open any file whose name begins with ``test_public``, in all threads.

    Raises:
        DataError: Where the file is opened, inside the block.

    Example:
        >>> with sealed():
        ...     open("test_public.jsonl")
        Traceback (most recent call last):
            ...
        easynlp.errors.DataError: test_public.jsonl: the test file is closed while ...
    """
    if not _state["watching"]:
        sys.addaudithook(_watch)  # it cannot be taken off again, so it is put on once
        _state["watching"] = 1
    _state["depth"] += 1
    try:
        yield
    finally:
        _state["depth"] -= 1


def check_open(path: Path | None) -> None:
    """Refuse a test file that is not there to be read.

    Raises:
        DataError: If the path is None, or the seal is on and it is a test file.
    """
    if path is None or (_state["depth"] and path.name.startswith(NAME)):
        raise _refusal(str(path) if path else f"{NAME}.jsonl")


def _watch(event: str, given: tuple[Any, ...]) -> None:
    if event != "open" or not _state["depth"]:
        return
    target = given[0]
    if isinstance(target, str | bytes | os.PathLike):
        name = os.path.basename(os.path.realpath(os.fsdecode(target)))
        if name.startswith(NAME):
            raise _refusal(os.fsdecode(target))


def _refusal(path: str) -> DataError:
    return DataError(
        "the test file is closed while a contender learns: epochs, learning rates and templates "
        "are chosen on dev, or fixed beforehand",
        path=path,
    )
