"""Where option values come from: defaults < YAML < ``EASYNLP_*`` < flags.

Options are the fields of flat frozen dataclasses. `resolve` fills them from every source,
checks each value against its type, and reports all that is wrong at once, each with its place.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import logging
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from easynlp.errors import ConfigError, did_you_mean

__all__ = [
    "Range",
    "Value",
    "convert",
    "documentation",
    "flag",
    "hints",
    "is_required",
    "option_fields",
    "read_recipe",
    "resolve",
    "to_yaml",
]

ENV_PREFIX = "EASYNLP_"
LEARNED = frozenset({"labels", "pair", "types"})
"""Fields of these names are filled from the training data and are no options; others say so
with ``dataclasses.field(metadata={"learned": True})``."""

WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
log = logging.getLogger("easynlp")


@dataclass(frozen=True)
class Range:
    """Limits of a number, as ``Annotated[int, Range(1)]``."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """The low end itself is not valid."""

    def holds(self, value: float) -> bool:
        """Return whether a number is within the limits."""
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            most = "" if self.high == math.inf else f", at most {self.high:g}"
            return f"more than {self.low:g}{most}"
        if self.high == math.inf:
            return f"{self.low:g} or more"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Value:
    """A value as found, and where: ``recipe.yaml:3: lr``, ``EASYNLP_LR``, ``--lr``."""

    raw: Any
    where: str


def pieces(given: Iterable[str]) -> list[str]:
    """Return what a list option names, each once: values may hold several with commas between.

    A comma before ``name=`` stands between the options of one piece and is no cut.

    Example:
        >>> pieces(["a, b", "r_drop:alpha=4,weight=1,b"])
        ['a', 'b', 'r_drop:alpha=4,weight=1']
    """
    parts = (piece.strip() for each in given for piece in re.split(r",(?![\w-]+=)", each))
    return list(dict.fromkeys(part for part in parts if part))


def flag(name: str) -> str:
    """Return a field's name as a flag: ``batch_size`` is ``--batch-size``."""
    return "--" + name.replace("_", "-")


def option_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass a user may set (not those learned from data)."""
    return [
        field
        for field in dataclasses.fields(cls)
        if field.init and field.name not in LEARNED and not field.metadata.get("learned")
    ]


@cache
def hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields, evaluated, ``Annotated`` kept."""
    return typing.get_type_hints(cls, include_extras=True)


@cache
def documentation(cls: type) -> dict[str, str]:
    """Return the docstring written under each field of a dataclass, on one line each."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError):  # typed into a console, or built at run time
            continue
        body = typing.cast(ast.ClassDef, tree.body[0]).body
        for before, after in itertools.pairwise(body):
            match before, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


def resolve(
    classes: Sequence[type],
    *,
    path: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    spell: Callable[[str], str] = flag,
) -> list[Any]:
    """Fill dataclasses from all sources; later ones win: defaults, YAML, environment, flags.

    Args:
        classes: Dataclasses that share one flat set of names.
        path: YAML recipe: option names with underscores.
        env: The environment; ``EASYNLP_BATCH_SIZE`` sets ``batch_size``. A list is separated
            by semicolons.
        flags: What the user named explicitly, on the command line or as keyword arguments.
        spell: How messages write a field's name.

    Returns:
        One instance of each class, in order.

    Raises:
        ConfigError: With everything that is wrong: unknown names, wrong types, missing values.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     lr: float = 1e-4
        >>> resolve([Options], env={"EASYNLP_LR": "2e-4"}, flags={"lr": 3e-4})
        [Options(lr=0.0003)]
    """
    names = {field.name: cls for cls in classes for field in option_fields(cls)}
    problems: list[str] = []
    given: dict[str, Value] = {}
    for name, value in (read_recipe(path) if path is not None else {}).items():
        if name in names:
            given[name] = value
        else:
            place, _, key = value.where.rpartition(" ")
            problems.append(f'{place} unknown option "{key}".{did_you_mean(name, names)}')
    given |= _from_env(env or {}, names)
    for name, raw in (flags or {}).items():
        if name in names:
            given[name] = Value(raw, spell(name))
        else:
            problems.append(f'unknown option "{name}".{did_you_mean(name, names)}')
    values: dict[str, Any] = {}
    for name, value in given.items():
        try:
            values[name] = convert(value.raw, hints(names[name])[name])
        except ValueError as error:
            problems.append(f"{value.where}: {error}")
    problems += _missing(names, given, spell)
    if problems:
        raise ConfigError("\n".join(problems))
    made = []
    for cls in classes:
        own = {f.name: values[f.name] for f in option_fields(cls) if f.name in values}
        try:
            made.append(cls(**own))
        except ConfigError as error:  # a rule over several fields, in __post_init__
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return made


def _from_env(env: Mapping[str, str], names: Mapping[str, type]) -> dict[str, Value]:
    """Pick the options out of the environment; a variable one letter off is worth a warning."""
    found = {}
    for variable, raw in env.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
            if close:
                meant = ENV_PREFIX + close[0].upper()
                log.warning("%s in the environment is no option; %s is", variable, meant)
            continue
        value: Any = raw
        if _is_tuple(hints(names[name])[name]):
            value = [part.strip() for part in raw.split(";") if part.strip()]
        found[name] = Value(value, variable)
    return found


def is_required(each: dataclasses.Field[Any]) -> bool:
    """Return whether a field has no default."""
    missing = dataclasses.MISSING
    return each.default is missing and each.default_factory is missing


def _missing(
    names: Mapping[str, type], given: Mapping[str, Value], spell: Callable[[str], str]
) -> list[str]:
    """Return a message for each option that has neither a value nor a default."""
    problems = []
    for name, cls in names.items():
        field = next(f for f in dataclasses.fields(cls) if f.name == name)
        if name not in given and is_required(field):
            about = documentation(cls).get(name, "")
            problems.append(f"{spell(name)} is missing: {about[:1].lower()}{about[1:]}")
    return problems


def read_recipe(path: str | Path) -> dict[str, Value]:
    """Read a YAML recipe: a flat mapping, each value with its line.

    Raises:
        ConfigError: If the file is missing, is not YAML or not a flat mapping, or names an
            option twice.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(Path(path).read_text(encoding="utf-8-sig"))
        root = loader.get_single_node()
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the recipe is not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f'{path}: a recipe is lines such as "lr: 1e-4", not a list or one value')
    found: dict[str, Value] = {}
    for key, node in root.value:
        where = f"{path}:{key.start_mark.line + 1}: {key.value}"
        name = str(key.value).replace("-", "_")
        if name in found:
            raise ConfigError(f"{where} is set twice, first at {found[name].where}")
        try:
            found[name] = Value(loader.construct_object(node, deep=True), where)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{where}: {getattr(error, 'problem', None) or error}") from error
    return found


def to_yaml(*instances: Any) -> str:
    """Write dataclasses as one flat recipe that `resolve` reads back to the same values.

    Fields with ``metadata={"once": True}`` (``overwrite``, ``resume``) are of one run only
    and left out.
    """
    import yaml

    flat: dict[str, Any] = {}
    for instance in instances:
        own = inspect.get_annotations(type(instance))
        for field in sorted(option_fields(type(instance)), key=lambda each: each.name not in own):
            if field.metadata.get("once"):
                continue
            value = getattr(instance, field.name)
            flat[field.name] = list(value) if isinstance(value, tuple) else value
    written: str = yaml.safe_dump(flat, allow_unicode=True, sort_keys=False)
    return written


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(_bare(hint)) is tuple


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def convert(raw: Any, hint: Any) -> Any:
    """Return a value as its annotation wants it.

    Text is parsed, so ``1e-4`` (a string in YAML 1.1) is a number; nothing is guessed beyond.

    Args:
        raw: From YAML, the environment, a flag or a keyword argument.
        hint: ``int``, ``float``, ``bool``, ``str``, a ``Literal``, ``T | None``,
            ``tuple[T, ...]``, or ``Annotated`` of these with a `Range`.

    Raises:
        ValueError: If it does not fit; says what would.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _in_range(convert(raw, arguments[0]), arguments[1:])
    if origin in (Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        return convert(raw, next(a for a in arguments if a is not type(None)))
    if origin is tuple:
        items = raw if isinstance(raw, list | tuple) else [raw]
        one = _bare(arguments[0])
        if one in (int, float) or typing.get_origin(one) is Literal:  # may be written 1,8,64
            items = [part.strip() for item in items for part in str(item).split(",")]
        return tuple(_item(item, arguments[0]) for item in items)
    if raw is None:
        raise ValueError("has no value; give one, or delete the line for the default")
    if origin is Literal:
        return _choice(raw, arguments)
    if isinstance(raw, list | tuple | Mapping):
        raise ValueError(f"{_show(raw)} is not {_noun(hint)}: one plain value is wanted")
    return _scalar(raw, hint)


def _scalar(raw: Any, hint: Any) -> Any:
    wrong = ValueError(f"{_show(raw)} is not {_noun(hint)}")
    if hint is bool:
        value = raw if isinstance(raw, bool) else WORDS.get(str(raw).strip().lower())
        if value is None:
            raise wrong
        return value
    if hint in (int, float):
        if isinstance(raw, bool):
            raise wrong
        try:
            number = float(raw)
        except ValueError:
            raise wrong from None
        if not math.isfinite(number) or (hint is int and number != int(number)):
            raise wrong
        return int(raw) if hint is int and isinstance(raw, int) else hint(number)
    if isinstance(raw, bool):
        raise ValueError(f"{_show(raw)} is not text; put it in quotes if it is meant as a name")
    return str(raw)


def _item(item: Any, hint: Any) -> Any:
    """Convert one entry of a list; ``{name: r_drop, alpha: 4}`` is ``r_drop:alpha=4``."""
    if isinstance(item, Mapping) and _bare(hint) is str:
        options = {str(key): value for key, value in item.items()}
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ValueError(f"{_show(item)} has no name; write {{name: r_drop, alpha: 4}}")
        if any(isinstance(v, list | tuple | Mapping) or v is None for v in options.values()):
            raise ValueError(f"{_show(item)}: options of a method are plain values")
        return name + ":" * bool(options) + ",".join(f"{k}={v}" for k, v in options.items())
    return convert(item, hint)


def _choice(raw: Any, choices: Sequence[Any]) -> Any:
    for choice in choices:
        if (raw == choice and type(raw) is type(choice)) or str(raw) == str(choice):
            return choice
    names = [str(choice) for choice in choices]
    raise ValueError(
        f"{_show(raw)} is not one of {', '.join(names)}.{did_you_mean(str(raw), names)}"
    )


def _in_range(value: Any, limits: Sequence[Any]) -> Any:
    for limit in limits:
        if isinstance(limit, Range) and value is not None and not limit.holds(value):
            raise ValueError(f"{value} is out of range; valid: {limit}")
    return value


def _show(raw: Any) -> str:
    text = f'"{raw}"' if isinstance(raw, str) else str(raw)
    return text if len(text) <= 80 else text[:77] + "..."


def _noun(hint: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "text")
