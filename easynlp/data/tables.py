"""csv and tsv tables to rows.

Written by hand rather than with the `csv` module, which caps a field at 128 KiB through a
process-wide setting, reads to the end of the file when a quote is not closed, and cannot say
where that quote stood.

csv follows RFC 4180: a field may be quoted, quotes inside are doubled, a quoted field may span
lines. tsv is what Chinese data sets and EasyNLP use: a tab always separates, a quote is only a
character, and a line is a row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from easynlp.data.readers import Row
from easynlp.errors import ConfigError, DataError

__all__ = ["parse_schema", "read_table"]

log = logging.getLogger("easynlp")

Lines = Iterator[tuple[int, str]]
Cells = tuple[int, list[str]]

LONGEST_FIELD = 2**24
"""Characters a quoted field may have before its quote counts as forgotten."""
NAME_LENGTH = 40
"""A longer first-line cell is text, not a column name."""
NOT_A_NAME = re.compile(r"^[-+.\d]*$|[。，！？；：、…!?;]|\s{2}")
"""What no column name is: empty, a number, or something with the marks of a sentence."""


def read_table(
    path: str,
    lines: Lines,
    *,
    delimiter: str,
    quoted: bool,
    schema: str | None = None,
    header: bool | None = None,
    names: Collection[str] = (),
) -> Iterator[Row]:
    """Yield the rows of a table.

    Blank lines are skipped and counted, except in a table of one column, where they are
    empty values.

    Raises:
        ConfigError: If the schema is malformed.
        DataError: At the line that does not fit.
    """
    casts = parse_schema(schema) if schema else None
    records = csv_records(path, lines, delimiter) if quoted else tsv_records(lines, delimiter)
    first = next(records, None)
    while first is not None and first[1] == [""]:
        first = next(records, None)
    if first is None:
        return
    line, cells = first
    if casts is not None:
        columns = list(casts)
        has_header = header if header is not None else [c.strip() for c in cells] == columns
    else:
        has_header = header if header is not None else guess_header(path, line, cells, names)
        columns = name_columns(path, line, cells, has_header)
    if not has_header:
        yield make_row(path, line, cells, columns, casts)
    skipped = 0
    for line, cells in records:
        if cells == [""] and len(columns) > 1:
            skipped += 1
        else:
            yield make_row(path, line, cells, columns, casts)
    if skipped:
        log.info("%s: %d blank lines skipped", path, skipped)


def name_columns(path: str, line: int, cells: list[str], has_header: bool) -> list[str]:
    """Return the column names: the first line's, or column1, column2 and so on.

    Raises:
        DataError: If a name is empty or stands twice.
    """
    if not has_header:
        return [f"column{i}" for i in range(1, len(cells) + 1)]
    if any("\r" in cell for cell in cells):
        raise DataError(
            "a carriage return inside the header",
            path=path,
            line=line,
            hint="Lines must end with LF or CRLF, not CR alone; convert the file.",
        )
    columns = [cell.strip() for cell in cells]
    # pandas writes its index under an empty name; only one such column can be told apart.
    columns = [name or (f"column{i}" if i == 1 else "") for i, name in enumerate(columns, 1)]
    wrong = [name for name in columns if not name or columns.count(name) > 1]
    if wrong:
        said = f'column name "{wrong[0]}" stands twice' if wrong[0] else "a column has no name"
        raise DataError(
            f"{said} in the header: {', '.join(columns)}", path=path, line=line,
            hint="Rename it; or type --no-header if this line is data.",
        )  # fmt: skip
    return columns


def guess_header(path: str, line: int, cells: list[str], names: Collection[str]) -> bool:
    """Decide whether a first line names the columns, and log the decision.

    Raises:
        DataError: If it cannot be told.
    """
    known = {name.casefold() for name in names}
    plain = [cell.strip() for cell in cells]
    if known & {cell.casefold() for cell in plain}:
        found = True
    elif len(set(plain)) < len(plain) or any(
        len(cell) > NAME_LENGTH or NOT_A_NAME.search(cell) for cell in plain
    ):
        found = False
    elif all(re.fullmatch(r"[A-Za-z_][\w.-]*", cell, re.ASCII) for cell in plain):
        found = True
    else:
        raise DataError(
            f"cannot tell whether this line names the columns: {' | '.join(plain)}",
            path=path, line=line,
            hint="Type --header if it does, --no-header if it is a row.",
        )  # fmt: skip
    log.info("%s: line %d is %s header (guessed; set with --header or --no-header)",
             path, line, "the" if found else "no")  # fmt: skip
    return found


def make_row(
    path: str,
    line: int,
    cells: list[str],
    columns: list[str],
    casts: dict[str, Callable[[str], Any]] | None,
) -> Row:
    """Put cells under their columns.

    Raises:
        DataError: If there are more or fewer cells than columns, or a number is none.
    """
    if len(cells) != len(columns):
        shown = " | ".join(cell[:20] for cell in cells[: len(columns) + 1])
        raise DataError(
            f"{len(cells)} columns where {len(columns)} are expected "
            f"({', '.join(columns)}): {shown}",
            path=path, line=line,
            hint="A separator inside a text must be quoted (csv) or replaced (tsv); "
            "a tsv with quoted fields is read with --format csv.",
        )  # fmt: skip
    if casts is None:
        return Row(dict(zip(columns, cells, strict=True)), path, line)
    values: dict[str, Any] = {}
    for (name, cast), cell in zip(casts.items(), cells, strict=True):
        try:
            values[name] = cast(cell)
        except ValueError as error:
            raise DataError(
                f'column `{name}` holds "{cell[:40]}", which does not fit the schema: {error}',
                path=path, line=line,
            ) from error  # fmt: skip
    return Row(values, path, line)


def parse_schema(schema: str) -> dict[str, Callable[[str], Any]]:
    """Turn ``name:type:length,…`` into column names and what reads their cells.

    Raises:
        ConfigError: If a part is malformed.

    Example:
        >>> [cast("3") for cast in parse_schema("label:str:1,n:int:1").values()]
        ['3', 3]
    """
    casts: dict[str, Callable[[str], Any]] = {}
    types: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    for part in schema.split(","):
        pieces = part.strip().split(":")
        if len(pieces) != 3 or pieces[1] not in types or not pieces[2].isdigit() or not pieces[0]:
            raise ConfigError(
                f'--schema: "{part}" is not name:type:length with type str, int or float. '
                "Example: label:str:1,sent1:str:1"
            )
        name, kind, length = pieces
        if name in casts:
            raise ConfigError(f'--schema: column "{name}" stands twice')
        single = kind == "str" or int(length) == 1
        casts[name] = types[kind] if single else number_list(types[kind], int(length))
    return casts


def number_list(cast: Callable[[str], Any], length: int) -> Callable[[str], list[Any]]:
    """Return what reads `length` comma-separated numbers (0: any number of them)."""

    def read(cell: str) -> list[Any]:
        values = [cast(part) for part in cell.split(",")]
        if length and len(values) != length:
            raise ValueError(f"{len(values)} numbers where {length} are expected")
        return values

    return read


def tsv_records(lines: Lines, delimiter: str) -> Iterator[Cells]:
    """Yield the cells of every line; quotes are plain characters."""
    for number, line in lines:
        yield number, line.split(delimiter)


def csv_records(path: str, lines: Lines, delimiter: str) -> Iterator[Cells]:
    """Yield the cells of every record, with the line it starts on.

    Raises:
        DataError: At the line of a quote that is not closed, or not followed by a separator.
    """
    for number, line in lines:
        if '"' not in line:
            yield number, line.removesuffix("\r").split(delimiter)
        else:
            yield number, quoted_record(path, number, line, lines, delimiter)


def quoted_record(path: str, start: int, line: str, lines: Lines, delimiter: str) -> list[str]:
    """Parse a record that holds a quote, reading further lines while a field is open.

    A quote inside a field that does not start with one is a plain character.
    """
    cells: list[str] = []
    at, number = 0, start
    while True:
        if line.startswith('"', at):
            cell, line, at, number = quoted_cell(path, number, line, at + 1, lines, delimiter)
            cells.append(cell)
        else:
            end = line.find(delimiter, at)
            end = last(line) if end < 0 else end
            cells.append(line[at:end])
            at = end
        if at >= last(line):
            return cells
        at += len(delimiter)


def last(line: str) -> int:
    r"""Return where the content of a line ends: before the ``\r`` of ``\r\n``."""
    return len(line) - line.endswith("\r")


def quoted_cell(
    path: str, opened: int, line: str, at: int, lines: Lines, delimiter: str
) -> tuple[str, str, int, int]:
    """Read a quoted cell from after its opening quote.

    Returns:
        The cell, the line its closing quote stands on, the place after it, that line's number.
    """
    parts: list[str] = []
    size, number = 0, opened
    while True:
        end = line.find('"', at)
        if end < 0:
            parts.append(line[at:] + "\n")
            size += len(parts[-1])
            following = next(lines, None) if size <= LONGEST_FIELD else None
            if following is None:
                raise unclosed(path, opened, parts[0])
            (number, line), at = following, 0
        elif line.startswith('""', end):
            parts.append(line[at : end + 1])
            at = end + 2
        elif end + 1 == last(line) or line.startswith(delimiter, end + 1):
            parts.append(line[at:end])
            return "".join(parts), line, end + 1, number
        elif number == opened:
            raise DataError(
                f"text after a closing quote: {line[end : end + 20]}", path=path, line=number,
                hint='A quote inside a quoted field must be doubled: "".',
            )  # fmt: skip
        else:
            # The quote that closed it was meant to open another field.
            raise unclosed(path, opened, parts[0], number)


def unclosed(path: str, line: int, text: str, noticed: int | None = None) -> DataError:
    """Make the error of a quote that is never closed."""
    where = f" (noticed at line {noticed})" if noticed else ""
    return DataError(
        f'a quote opened on this line is never closed{where}: "{text[:30].rstrip()}',
        path=path,
        line=line,
        hint="Close the quote, or double it if it is part of the text; "
        "a file without quoting is read with --format tsv if tabs separate it.",
    )
