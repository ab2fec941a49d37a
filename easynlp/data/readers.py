"""Files to rows, streaming: any size in constant memory, every error at its line.

====================================  ==============================================
extension (each also .gz, .zst)       format
====================================  ==============================================
.jsonl .ndjson .jsonlines             one JSON object a line
.json                                 the same, or one array of objects
.csv                                  commas, fields quoted where needed
.tsv .tab                             tabs, never quoted: one line is one row
.txt                                  one text a line, column ``text``
.parquet                              Parquet (needs pyarrow); "lines" are row numbers
.conll .bio .bioes .bmes .iob .ner    character and tag a line, see `easynlp.data.conll`
====================================  ==============================================

``format=`` overrules the extension. ``csv`` for a file that ends in ``.tsv`` reads tabs with
quotes, as pandas writes them; ``conll_repair`` mends wrong tag sequences and counts them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from easynlp.data.lines import STDIN, check_file, numbered_lines, suffixes
from easynlp.errors import ConfigError, DataError, did_you_mean

__all__ = ["FORMATS", "Row", "read_rows"]

log = logging.getLogger("easynlp")

FORMATS = ("jsonl", "json", "csv", "tsv", "txt", "parquet", "conll", "conll_repair")
"""Names that ``format=`` takes."""

EXTENSIONS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "txt", ".parquet": "parquet",
    ".conll": "conll", ".bio": "conll", ".bioes": "conll", ".bmes": "conll", ".iob": "conll",
    ".ner": "conll",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file and where it stands.

    Attributes:
        values: Column names to values, in the file's order.
        path: The file.
        line: Line the row starts on, from 1 (Parquet: row number from 1).
    """

    values: dict[str, Any]
    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def read_rows(
    path: str,
    *,
    encoding: str = "utf-8",
    schema: str | None = None,
    header: bool | None = None,
    format: str | None = None,
    names: Collection[str] = (),
) -> Iterator[Row]:
    r"""Read a file row by row.

    The path and the options are checked at once; the rest when rows are asked for.

    Args:
        path: The file; ``-`` is standard input (JSON lines unless `format` says otherwise).
        encoding: How text is encoded; a byte order mark is removed. Ignored for Parquet.
        schema: EasyNLP's ``name:type:length,…`` for tables without header, types str, int and
            float; a length other than 1 makes comma-separated numbers a list.
        header: Whether the first line of a csv or tsv names the columns; None guesses.
        format: One of `FORMATS`, instead of what the extension says.
        names: Column names to expect, which settle whether a first line is a header.

    Raises:
        ConfigError: If an option does not fit.
        DataError: If the file is missing, empty or broken, at its line.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "a.csv")
        >>> _ = file.write_text("text,label\n好看,1\n", encoding="utf-8")
        >>> [(row.line, row.values) for row in read_rows(str(file))]
        [(2, {'text': '好看', 'label': '1'})]
    """
    path = str(path)
    kind = find_format(path, format)
    if schema and kind not in ("csv", "tsv"):
        raise ConfigError(f"{path}: --schema describes csv and tsv tables; this is {kind}")
    check_file(path)
    return refuse_empty(path, open_rows(path, kind, encoding, schema, header, names))


def open_rows(
    path: str,
    kind: str,
    encoding: str,
    schema: str | None,
    header: bool | None,
    names: Collection[str],
) -> Iterator[Row]:
    """Return the rows of a checked file of a known format."""
    if kind == "parquet":
        from easynlp.data.parquet import read_parquet

        return read_parquet(path)
    lines = numbered_lines(path, encoding, keep_return=kind == "csv")
    if kind in ("csv", "tsv"):
        from easynlp.data.tables import read_table

        delimiter = "\t" if kind == "tsv" or suffixes(path)[0] in (".tsv", ".tab") else ","
        return read_table(
            path, lines, delimiter=delimiter, quoted=kind == "csv", schema=schema, header=header,
            names=names,
        )  # fmt: skip
    if kind in ("conll", "conll_repair"):
        from easynlp.data.conll import read_conll

        return read_conll(path, lines, repair=kind == "conll_repair")
    if kind == "json":
        from easynlp.data.json_array import read_json

        return read_json(path, lines)
    return read_texts(path, lines) if kind == "txt" else read_jsonl(path, lines)


def find_format(path: str, format: str | None = None) -> str:
    """Return the format of a file, from `format` or its extension.

    Raises:
        ConfigError: If `format` is not one of `FORMATS`.
        DataError: If the extension says nothing.
    """
    if format is not None:
        if format not in FORMATS:
            raise ConfigError(
                f'--format: unknown format "{format}".{did_you_mean(format, FORMATS)} '
                f"Known: {', '.join(FORMATS)}"
            )
        return format
    if path == STDIN:
        return "jsonl"
    extension = suffixes(path)[0]
    if extension not in EXTENSIONS:
        raise DataError(
            f'cannot tell the format from the extension "{extension}".'
            f"{did_you_mean(extension, EXTENSIONS)}",
            path=path,
            hint=f"Known: {' '.join(EXTENSIONS)}, each also with .gz or .zst; "
            f"or name it: --format {'|'.join(FORMATS)}",
        )
    return EXTENSIONS[extension]


def refuse_empty(path: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Pass rows on, but fail if there is none."""
    first = next(rows, None)
    if first is None:
        raise DataError("the file holds no rows", path=path)
    yield first
    yield from rows


def read_texts(path: str, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    """Yield every line as a text; blank lines too, so that answers stay beside their lines."""
    for number, line in lines:
        yield Row({"text": line}, path, number)


def read_jsonl(path: str, lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    """Yield one object a line; blank lines are skipped and counted."""
    blank = 0
    for number, line in lines:
        if not line or line.isspace():
            blank += 1
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise broken_json(path, number, line, error) from error
        yield as_row(value, path, number)
    if blank:
        log.info("%s: %d blank lines skipped", path, blank)


def as_row(value: Any, path: str, line: int) -> Row:
    """Make a row of a JSON object.

    Raises:
        DataError: If it is something else.
    """
    if not isinstance(value, dict):
        shown = json.dumps(value, ensure_ascii=False)
        raise DataError(
            f"a row must be a JSON object, this is {type(value).__name__} {shown[:60]}",
            path=path, line=line, hint='Write rows like {"text": "…", "label": "…"}.',
        )  # fmt: skip
    return Row(value, path, line)


def broken_json(path: str, line: int, text: str, error: Exception) -> DataError:
    """Make the error of a line that is not JSON."""
    if isinstance(error, json.JSONDecodeError):
        around = text[max(0, error.pos - 20) : error.pos + 20]
        said = f"{error.msg} at character {error.pos + 1}, near: {around}"
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        hint = "The line is cut off; every object must stand on one line." if cut else None
    else:
        said, hint = "nested too deeply" if isinstance(error, RecursionError) else str(error), None
    return DataError(f"not valid JSON: {said}", path=path, line=line, hint=hint)
