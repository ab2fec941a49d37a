"""Tables of strings: names to the objects they stand for, imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from easynlp.errors import ConfigError, did_you_mean

__all__ = ["resolve"]


def resolve(name: str, table: Mapping[str, str], *, kind: str) -> Any:
    """Import what a table name, or a ``package.module:Name`` of the user's own, stands for.

    Args:
        name: Key of the table, or an import path with a colon.
        table: Names to import paths.
        kind: What the table holds, for messages: ``task``, ``method``.

    Raises:
        ConfigError: If the name is neither, or the import fails.

    Example:
        >>> resolve("join", {"join": "os.path:join"}, kind="function")("a", "b")
        'a/b'
    """
    target = table.get(name, name)
    if ":" not in target:
        raise ConfigError(
            f'unknown {kind} "{name}".{did_you_mean(name, table)} '
            f"Known: {', '.join(table)}; your own works as package.module:Name."
        )
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in table:
            raise
        raise ConfigError(f'cannot import {kind} "{name}": {error}') from error
