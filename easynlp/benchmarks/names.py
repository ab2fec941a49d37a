"""How contenders are named: ``WAY:OPTION=VALUE:OPTION=VALUE@MODEL``.

A colon stands between options and a comma only between contenders, so that a list of contenders
can be cut without knowing what any of them means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from easynlp.errors import ConfigError, did_you_mean
from easynlp.options import convert, hints

__all__ = ["NESTED", "PLACEBO", "Name", "placebo_of", "split_names", "typed"]

PLACEBO = "placebo"
"""The option whose value names a placebo arm."""
NESTED = ("teacher", "student", "members")
"""Options whose values are contenders' names."""
_OPTION = re.compile(r"(?<!:):(?=[a-z_]+=)")


@dataclass(frozen=True)
class Name:
    """A contender's name, taken apart.

    Attributes:
        way: What stands before the options, e.g. ``method:pet``.
        options: As typed, in their order.
        model: What stands behind the last ``@``; empty if nothing does.
    """

    way: str
    options: Mapping[str, str]
    model: str

    @classmethod
    def parse(cls, name: str, nested: Iterable[str] = ()) -> Name:
        """Take a name apart.

        Args:
            name: As typed.
            nested: Options whose values are names: an ``@`` in one at the end is its own.

        Raises:
            ConfigError: If an option is given twice, or is none.

        Example:
            >>> Name.parse("method:pet:prompt=lm-bff:alpha=1e-4@tiny-zh")
            Name(way='method:pet', options={'prompt': 'lm-bff', 'alpha': '1e-4'}, model='tiny-zh')
            >>> Name.parse("self-training:student=lp-ft@tiny-zh", ("student",)).model
            ''
        """
        way, *written = _OPTION.split(name)
        model = ""
        if not written:
            way, _, model = way.partition("@")
        elif written[-1].partition("=")[0] not in nested:
            written[-1], _, model = written[-1].partition("@")
        options: dict[str, str] = {}
        for part in written:
            key, _, value = part.partition("=")
            if key in options:
                raise ConfigError(f"{name}: the option {key} is given twice")
            options[key] = value
        if not way or "=" in way:
            raise ConfigError(
                f'"{name}" is an option and no contender. Between the options of a contender '
                "stands a colon, a comma between contenders: method:pet:prompt=lm-bff:alpha=1e-4"
            )
        return cls(way, options, model)


def split_names(given: Iterable[str]) -> list[str]:
    """Return contenders one by one, each once: a value may hold several with commas between.

    Example:
        >>> split_names(["floor, method:pet:prompt=lm-bff:alpha=1e-4,floor"])
        ['floor', 'method:pet:prompt=lm-bff:alpha=1e-4']
    """
    parts = (piece.strip() for each in given for piece in each.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def placebo_of(name: str) -> tuple[str, str]:
    """Return the contender that a placebo arm is of, and what the arm is; both empty for none.

    Example:
        >>> placebo_of("method:pet:placebo=shuffled-words@tiny-zh")
        ('method:pet@tiny-zh', 'shuffled-words')
        >>> placebo_of("method:pet")
        ('', '')
    """
    found = re.search(rf":{PLACEBO}=([\w-]+)(?=[:@]|$)", name)
    if not found:
        return "", ""
    return name[: found.start()] + name[found.end() :], found[1]


def typed(options: Mapping[str, str], kind: type, name: str) -> dict[str, Any]:
    """Return options converted to the types of a dataclass's fields.

    Args:
        options: As typed.
        kind: The dataclass.
        name: The contender, for the message.

    Raises:
        ConfigError: If there is no such option, or a value is of another type.
    """
    types = hints(kind)
    found: dict[str, Any] = {}
    for key, value in options.items():
        if key not in types:
            raise ConfigError(
                f'{name}: no option "{key}".{did_you_mean(key, types)} Options: {", ".join(types)}'
            )
        try:
            found[key] = convert(value, types[key])
        except ValueError as error:
            raise ConfigError(f"{name}: {key}: {error}") from error
    return found
