"""A command from dataclasses: their fields become flags, `easynlp.options.resolve` fills them.

Every flag is optional to the parser and arrives as text, so that a flag not given is told from
one that equals the default, and one place (`resolve`) judges values from all sources.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Literal, Union

from cyclopts import App, Group, Parameter

from easynlp.cli.alone import alone, written_by
from easynlp.cli.output import say
from easynlp.options import (
    documentation,
    flag,
    hints,
    is_required,
    option_fields,
    resolve,
    to_yaml,
)

__all__ = ["Command", "build"]


@dataclass(frozen=True)
class Command:
    """What a command is made of.

    Attributes:
        name: As typed, ``bench speed``.
        summary: One line.
        classes: Dataclasses whose fields are the options.
        run: Called with one instance of each class.
        positional: Fields given by position; the rest are flags.
        recipe: Whether it takes ``--config`` and ``--print-config``.
        titles: Headings of a class's options in the help.
        after: Lines at the end of the help.
    """

    name: str
    summary: str
    classes: tuple[type, ...]
    run: Callable[..., None]
    positional: tuple[str, ...] = ()
    recipe: bool = False
    titles: Mapping[type, str] = field(default_factory=dict)
    after: str = ""

    def spell(self, name: str) -> str:
        """Return how a field is written on the command line."""
        return name.upper() if name in self.positional else flag(name)


def build(command: Command) -> App:
    """Return the parser of one command; calling it with tokens runs the command."""
    app = App(
        name=f"easynlp {command.name}",
        help=command.summary,
        help_epilogue=command.after or None,
        help_format="plaintext",
        help_flags=("--help", "-h"),
        version_flags=(),
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )

    def call(*positional: Any, **named: Any) -> None:
        given = {
            name: value
            for name, value in (*zip(command.positional, positional, strict=False), *named.items())
            if value is not None
        }
        path, show = given.pop("config", None), given.pop("print_config", False)
        instances = resolve(
            command.classes, path=path, env=os.environ, flags=given, spell=command.spell
        )
        if show:
            say(to_yaml(*instances).rstrip())
            return
        with alone(written_by(instances)):
            command.run(*instances)

    parameters = list(_parameters(command))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__doc__ = command.summary
    app.default(call)
    app["--help"].group = Group("Recipe", sort_key=99) if command.recipe else "Options"
    return app


def _parameters(command: Command) -> list[inspect.Parameter]:
    """Return the signature of a command: all optional, positional ones first."""
    fields = {f.name: (cls, f) for cls in command.classes for f in option_fields(cls)}
    found = []
    for name in command.positional:
        cls, each = fields.pop(name)
        hint = _token_type(_plain(hints(cls)[name]))  # a tuple takes all that follow
        found.append(_parameter(name, hint, about=_about(cls, each)))
    groups = _Groups(command)
    for name, (cls, each) in fields.items():
        hint = _plain(hints(cls)[name])
        found.append(
            _parameter(
                name, _token_type(hint), about=_about(cls, each), group=groups.of(cls, name),
                metavar=_metavar(hint), default=_default(each),
                negative=None if hint is bool else (),
            )
        )  # fmt: skip
    if command.recipe:
        group = Group("Recipe", sort_key=99)
        found += [
            _parameter(
                "config", str | None, group=group, metavar="FILE",
                about="YAML recipe: option names with underscores. Flags, EASYNLP_* win over it.",
            ),
            _parameter(
                "print_config", bool | None, group=group, negative=(),
                about="Print the resolved recipe and stop.",
            ),
        ]  # fmt: skip
    return found


def _parameter(
    name: str, annotation: Any, *, about: str, group: Group | None = None,
    metavar: str | None = None, default: str = "", negative: tuple[str, ...] | None = None,
) -> inspect.Parameter:  # fmt: skip
    """Return one optional parameter; without a group it is positional."""
    given: dict[str, Any] = {"group": group, "metavar": metavar, "negative": negative}
    flagged = Parameter(
        help=about,
        show_default=(lambda _: default) if default else False,
        **{key: value for key, value in given.items() if value is not None},
    )
    kind = inspect.Parameter.KEYWORD_ONLY if group else inspect.Parameter.POSITIONAL_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[annotation, flagged])


class _Groups:
    """Headings of the help: one a class, a command's own classes before those they share."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.made: dict[str, Group] = {}

    def of(self, cls: type, name: str) -> Group:
        owner = next(c for c in cls.__mro__ if name in inspect.get_annotations(c))
        title = self.command.titles.get(owner, "Options")
        rank = self.command.classes.index(owner) if owner in self.command.classes else 50
        return self.made.setdefault(title, Group(title, sort_key=rank))


def _plain(hint: Any) -> Any:
    """Strip ``Annotated`` and ``| None``."""
    if typing.get_origin(hint) is Annotated:
        return _plain(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, UnionType):
        return _plain(next(a for a in typing.get_args(hint) if a is not type(None)))
    return hint


def _token_type(hint: Any) -> Any:
    """Return what the parser should collect: a switch, texts, or one text."""
    if hint is bool:
        return bool | None
    return tuple[str, ...] | None if typing.get_origin(hint) is tuple else str | None


def _metavar(hint: Any) -> str | None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "|".join(str(choice) for choice in arguments)
    if origin is tuple:
        return "TEXT..."
    return {int: "INT", float: "NUMBER", str: "TEXT"}.get(hint)


def _about(cls: type, each: dataclasses.Field[Any]) -> str:
    about = documentation(cls).get(each.name, "")
    return f"{about} Required." if is_required(each) else about


def _default(each: dataclasses.Field[Any]) -> str:
    value = each.default
    if value is dataclasses.MISSING or value is None or value is False or value in ((), ""):
        return ""
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def option_of(tokens: Sequence[str], name: str) -> str | None:
    """Return the value of ``--name value`` or ``--name=value`` among tokens, if it is there."""
    for number, token in enumerate(tokens):
        if token == f"--{name}" and number + 1 < len(tokens):
            return tokens[number + 1]
        if token.startswith(f"--{name}="):
            return token.partition("=")[2]
    return None
