"""What can go wrong, said so that the reader can fix it.

Every error a user can cause is an `EasyNLPError`. It carries where it happened, the bad
value, what would be valid and what to type; the command line prints it without a traceback
and exits with `exit_code` (2: usage, configuration or data; 1: a run or a gate failed).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "EasyNLPError",
    "GateError",
    "Interrupted",
    "MissingExtra",
    "ModelError",
    "RunError",
    "did_you_mean",
]


class EasyNLPError(Exception):
    """Base of every error this library raises on purpose."""

    exit_code = 2


class ConfigError(EasyNLPError):
    """An option, recipe or argument is wrong."""


class DataError(EasyNLPError):
    """A file or a row of it is wrong.

    Args:
        message: What is wrong, the bad value, and what would be valid.
        path: The file, if known.
        line: Line number from 1, if known.
        hint: What to do about it.

    Example:
        >>> print(DataError("text is empty", path="a.jsonl", line=3))
        a.jsonl:3: text is empty
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        line: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.path, self.line, self.hint = message, path, line, hint
        where = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__(where + message + (f"\n  {hint}" if hint else ""))

    def at(self, path: str, line: int) -> DataError:
        """Return the same error, placed at a line of a file (unless it already has a place)."""
        if self.path is not None:
            return self
        return DataError(self.message, path=path, line=line, hint=self.hint)


class ModelError(EasyNLPError):
    """A model folder or name cannot be used."""


class MissingExtra(EasyNLPError):
    """A feature needs a package that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f'{feature} needs packages that are not installed. Type: pip install "easynlp[{extra}]"'
        )


class RunError(EasyNLPError):
    """A run failed for a reason outside the input (disk full, a worker died)."""

    exit_code = 1


class GateError(EasyNLPError):
    """A quality gate refused the result (exported model disagrees, accuracy fell)."""

    exit_code = 1


class Interrupted(EasyNLPError):
    """A signal stopped the run; what was done is saved."""

    exit_code = 130


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return `` Did you mean "x"?`` for the closest option, or an empty string.

    Example:
        >>> did_you_mean("epoch", ["epochs", "lr"])
        ' Did you mean "epochs"?'
    """
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""
