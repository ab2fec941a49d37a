"""Rows to examples: which column is the text, which the label.

What becomes of the values is said in `easynlp.data.values`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypedDict, Unpack

from easynlp.data.readers import Row, read_rows
from easynlp.data.values import OnEmpty, is_nothing, target_value, text_value
from easynlp.errors import ConfigError, DataError, did_you_mean
from easynlp.tasks.base import Example, Field

__all__ = ["Columns", "Examples", "OnEmpty", "Reading", "read_examples"]

log = logging.getLogger("easynlp")

LOOK_AHEAD = 100
"""Rows whose keys together make the header: JSON lines may leave out keys."""


class Reading(TypedDict, total=False):
    """Options of `read_rows` that users set."""

    encoding: str
    schema: str | None
    header: bool | None
    format: str | None


@dataclass(frozen=True)
class Columns:
    """Which column holds each field of a task.

    Attributes:
        names: Field names to column names; fields without a column are absent.
        fields: The task's fields.
    """

    names: Mapping[str, str]
    fields: tuple[Field, ...]

    @classmethod
    def resolve(
        cls,
        header: Sequence[str],
        fields: Sequence[Field],
        chosen: Mapping[str, str | None],
        *,
        preferred: Mapping[str, str] | None = None,
        path: str | None = None,
        with_targets: bool = True,
    ) -> Columns:
        """Find the column of every field and log each guess.

        A chosen column is taken. Else the preferred one (what a run was trained with), else
        the column named as the field or as its first guess, else the only column that is among
        the guesses. Case and surrounding spaces do not matter for guesses.

        Args:
            header: The columns present.
            fields: The task's fields.
            chosen: Field names to columns, as the user typed them; None is not chosen, an
                empty string says that an optional field has no column.
            preferred: Columns to try before guessing; may be absent.
            path: The file, for messages.
            with_targets: Whether targets are needed; otherwise they are left out, even chosen.

        Raises:
            ConfigError: If `chosen` names a field the task does not have.
            DataError: If a column is missing, or more than one would do.

        Example:
            >>> fields = (Field("text", ("text", "sentence")), Field("label", ("label",)))
            >>> Columns.resolve(["id", "sentence", "label"], fields, {}).names
            {'text': 'sentence', 'label': 'label'}
        """
        known = [field.name for field in fields]
        for name in chosen:
            if name not in known:
                raise ConfigError(
                    f'no field "{name}".{did_you_mean(name, known)} Fields: {", ".join(known)}'
                )
        search = Search(tuple(header), chosen, preferred or {}, path)
        wanted = [field for field in fields if with_targets or not field.target]
        names: dict[str, str] = {}
        for field in sorted(wanted, key=lambda f: not chosen.get(f.name)):
            found = search.find(field, set(names.values()), alone=len(wanted) == 1)
            if found is not None:
                names[field.name] = found
        return cls({n: names[n] for n in known if n in names}, tuple(fields))

    def example(self, row: Row, *, on_empty: OnEmpty = "error") -> Example:
        """Return the task's fields of a row, checked and in canonical form.

        Args:
            row: What was read.
            on_empty: What an empty text does.

        Raises:
            DataError: At the row, if a value cannot be used.

        Example:
            >>> columns = Columns({"text": "t", "label": "y"},
            ...                   (Field("text", ()), Field("label", (), target=True)))
            >>> columns.example(Row({"t": "好看", "y": 1.0}, "a.jsonl", 1))
            {'text': '好看', 'label': '1'}
        """
        example: dict[str, Any] = {}
        for field in self.fields:
            column = self.names.get(field.name)
            if column is None:
                continue
            value = row.values.get(column)
            try:
                if field.target and (field.required or not is_nothing(value)):
                    example[field.name] = target_value(field, value)
                elif not field.target:
                    kept = text_value(field, value, on_empty)
                    if kept is not None:
                        example[field.name] = kept
            except ValueError as error:
                where = "" if column == field.name else f" (column `{column}`)"
                absent = f"is missing; this row has: {', '.join(row.values)}"
                said = str(error) if column in row.values else absent
                raise DataError(
                    f"`{field.name}`{where} {said}", path=row.path, line=row.line
                ) from error
        return example


@dataclass(frozen=True)
class Search:
    """The search for one field's column among those present."""

    header: tuple[str, ...]
    chosen: Mapping[str, str | None]
    preferred: Mapping[str, str]
    path: str | None

    def find(self, field: Field, taken: set[str], *, alone: bool) -> str | None:
        """Return the column of a field, or None for an optional one without.

        Raises:
            DataError: If it is missing or ambiguous.
        """
        chosen = self.chosen.get(field.name)
        if chosen:
            return self.present(field, chosen)
        if chosen == "" and not field.required:
            return None
        found = self.guess(field, taken)
        free = [name for name in self.header if name not in taken]
        if found is None and alone and field.required and len(free) == 1:
            found = free[0]
        if found is None:
            if field.required:
                raise self.missing(field)
            return None
        if found != field.name:  # a column of the field's own name is no guess
            log.info("%s ← column `%s` (guessed; set with %s)", field.name, found, flag(field))
        return found

    def present(self, field: Field, name: str) -> str:
        """Return a chosen column's name.

        Raises:
            DataError: If there is no such column.
        """
        if name in self.header:
            return name
        raise DataError(
            f'{flag(field)}: no column "{name}".{did_you_mean(name, self.header)} {self.listing()}',
            path=self.path,
        )

    def guess(self, field: Field, taken: set[str]) -> str | None:
        """Return the column that fits best, None if there is none.

        Raises:
            DataError: If several fit equally well.
        """
        preferred = self.preferred.get(field.name)
        if preferred in self.header and preferred not in taken:
            return preferred
        plain: dict[str, list[str]] = {}
        for name in self.header:
            if name not in taken:
                plain.setdefault(name.strip().casefold(), []).append(name)
        for best in (field.name, *field.guesses[:1]):
            if found := plain.get(best.casefold()):
                return self.only(field, found)
        guesses = dict.fromkeys(guess.casefold() for guess in field.guesses)
        found = [name for guess in guesses for name in plain.get(guess, ())]
        return self.only(field, found) if found else None

    def only(self, field: Field, found: Sequence[str]) -> str:
        """Return the one candidate.

        Raises:
            DataError: If there are more.
        """
        if len(found) > 1:
            raise DataError(
                f"{' and '.join(f'`{name}`' for name in found)} could each be the {field.name}",
                path=self.path,
                hint=f"Choose one: {flag(field)} {found[0]}",
            )
        return found[0]

    def missing(self, field: Field) -> DataError:
        """Make the error of a field without a column."""
        usual = ", ".join(dict.fromkeys((field.name, *field.guesses)))
        close = [did_you_mean(name, self.header) for name in (field.name, *field.guesses)]
        headless = self.header and all(name.startswith("column") for name in self.header)
        schema = ' or name all columns, e.g. --schema "label:str:1,text:str:1"' if headless else ""
        present = f"{self.listing()}.{max(close, key=len)}"
        return DataError(
            f"no column for `{field.name}` (looked for: {usual}). {present}",
            path=self.path,
            hint=f"Type {flag(field)} COLUMN{schema}",
        )

    def listing(self) -> str:
        """Name the columns present."""
        return f"Columns present: {', '.join(self.header) or 'none'}"


def flag(field: Field) -> str:
    """Return the command-line flag that chooses a field's column."""
    return f"--{field.name.replace('_', '-')}"


class Examples(Iterator[tuple[Row, Example]]):
    """Rows of a file with their examples, streaming.

    Attributes:
        columns: Which column holds each field.
        header: Every column of the first rows, in order.
    """

    def __init__(
        self, rows: Iterator[Row], columns: Columns, header: tuple[str, ...], on_empty: OnEmpty
    ) -> None:
        self.rows, self.columns, self.header, self.on_empty = rows, columns, header, on_empty

    def __next__(self) -> tuple[Row, Example]:
        row = next(self.rows)
        return row, self.columns.example(row, on_empty=self.on_empty)


def read_examples(
    path: str,
    fields: Sequence[Field],
    *,
    chosen: Mapping[str, str | None] | None = None,
    preferred: Mapping[str, str] | None = None,
    with_targets: bool = True,
    on_empty: OnEmpty = "error",
    **reading: Unpack[Reading],
) -> Examples:
    r"""Read a file as a task's examples, one at a time.

    The file is opened and its columns found at once.

    Args:
        path: The file, see `easynlp.data.readers`.
        fields: The task's fields.
        chosen: Field names to columns, as the user typed them.
        preferred: Columns to try before guessing, such as those of a saved run.
        with_targets: Whether targets are needed (training, evaluation) or left out.
        on_empty: What an empty text does; prediction keeps it.
        **reading: ``encoding``, ``schema``, ``header``, ``format`` of `read_rows`.

    Raises:
        ConfigError: If an option does not fit.
        DataError: If the file or a row cannot be used.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "a.tsv")
        >>> _ = file.write_text("标签\t句子\n1\t好看\n", encoding="utf-8")
        >>> fields = (Field("text", ("text",)), Field("label", ("label",), target=True))
        >>> pairs = read_examples(str(file), fields, chosen={"text": "句子", "label": "标签"})
        >>> [example for row, example in pairs]
        [{'text': '好看', 'label': '1'}]
    """
    chosen, preferred = chosen or {}, preferred or {}
    names = {field.name for field in fields} | {g for field in fields for g in field.guesses}
    names |= {name for name in (*chosen.values(), *preferred.values()) if name}
    rows = read_rows(path, names=names, **reading)
    first = list(islice(rows, LOOK_AHEAD))
    header = tuple(dict.fromkeys(name for row in first for name in row.values))
    columns = Columns.resolve(
        header, fields, chosen, preferred=preferred, path=str(path), with_targets=with_targets
    )
    return Examples(chain(first, rows), columns, header, on_empty)
