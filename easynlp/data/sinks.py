"""What turns rows into the bytes of one format; `easynlp.data.writers` puts them in place."""

from __future__ import annotations

import codecs
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from easynlp.errors import DataError, MissingExtra

__all__ = ["Sink", "make_sink"]

log = logging.getLogger("easynlp")

PARQUET_BATCH = 1024
"""Rows a Parquet column's type is read from, and rows written at a time."""
TSV_BREAKS = str.maketrans("\t\n\r", "   ")


class Sink(Protocol):
    """What turns rows into the bytes of one format."""

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a row."""

    def finish(self) -> None:
        """Write what is still held back."""

    def drop(self) -> None:
        """Forget what is held back: the output will not be kept."""


def make_sink(kind: str, stream: BinaryIO, columns: Sequence[str], encoding: str) -> Sink:
    """Return what writes a format: jsonl, csv, tsv or parquet."""
    if kind == "jsonl":
        return JsonLines(stream, encoding)
    if kind == "parquet":
        return Parquet(stream, columns)
    return Table(stream, columns, encoding, delimiter="\t" if kind == "tsv" else ",")


def to_json(value: Any) -> str:
    """Return a value as one line of JSON; NaN is null, what JSON does not know is its text.

    Example:
        >>> to_json({"评分": float("nan")})
        '{"评分": null}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    except ValueError:
        return json.dumps(finite(value), ensure_ascii=False, default=str)


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, however deep."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def to_cell(value: Any) -> str:
    """Return a value as the text of a table's cell."""
    if isinstance(value, str):
        return value
    return "" if value is None else to_json(value)


class TextStream:
    """Encodes text on its way to a stream."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.stream, self.encoding = stream, encoding
        self.encoder = codecs.getincrementalencoder(encoding)()

    def write(self, text: str) -> None:
        """Write text.

        Raises:
            DataError: If the encoding has no such character.
        """
        try:
            self.stream.write(self.encoder.encode(text))
        except UnicodeEncodeError as error:
            raise DataError(
                f"{error.object[error.start]!r} cannot be written as {self.encoding}"
            ) from error


class JsonLines:
    """One JSON object a line."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self.text = TextStream(stream, encoding)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a row."""
        line = to_json(values) + "\n"
        try:
            self.text.write(line)
        except DataError:
            # Half a surrogate pair, or a character the encoding lacks: as \\u escapes.
            self.text.write(json.dumps(json.loads(line)) + "\n")

    def finish(self) -> None:
        """Nothing is held back."""

    def drop(self) -> None:
        """Nothing is held back."""


class Table:
    """csv by RFC 4180 with LF line ends, or tsv, which has no quoting."""

    def __init__(
        self, stream: BinaryIO, columns: Sequence[str], encoding: str, *, delimiter: str
    ) -> None:
        self.text = TextStream(stream, encoding)
        self.columns, self.delimiter = tuple(columns), delimiter
        self.spaced = 0
        self.line(list(self.columns))

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            DataError: If it has a column the table has not.
        """
        refuse_unknown(values, self.columns)
        self.line([to_cell(values.get(name)) for name in self.columns])

    def line(self, cells: list[str]) -> None:
        """Write one line of cells."""
        if self.delimiter == ",":
            cells = [quote(cell) for cell in cells]
            if cells == [""]:
                cells = ['""']  # a blank line would be no row
        else:
            flat = [cell.translate(TSV_BREAKS) for cell in cells]
            self.spaced += sum(a != b for a, b in zip(flat, cells, strict=True))
            cells = flat
        self.text.write(self.delimiter.join(cells) + "\n")

    def finish(self) -> None:
        """Say what tsv could not hold."""
        if self.spaced:
            log.warning("tabs or line breaks in %d values became spaces; csv and jsonl keep them",
                        self.spaced)  # fmt: skip

    def drop(self) -> None:
        """Nothing is held back."""


def quote(cell: str) -> str:
    """Quote a csv cell if it needs it.

    Example:
        >>> quote("好，a,b")
        '"好，a,b"'
    """
    if any(mark in cell for mark in ',"\n\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


def refuse_unknown(values: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Refuse a row that does not fit a table.

    Raises:
        DataError: If it has a column the table has not.
    """
    unknown = [name for name in values if name not in columns]
    if unknown:
        raise DataError(
            f'a row has a column "{unknown[0]}", which the first rows had not',
            hint="Write .jsonl, where every row has its own keys.",
        )


class Parquet:
    """A Parquet file of plain columns, typed by the first batch.

    Raises:
        MissingExtra: If pyarrow is not installed.
    """

    def __init__(self, stream: BinaryIO, columns: Sequence[str]) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise MissingExtra("writing Parquet", "parquet") from error
        self.arrow, self.parquet = pyarrow, parquet
        self.stream, self.columns = stream, tuple(columns)
        self.rows: list[Mapping[str, Any]] = []
        self.schema: Any = None
        self.writer: Any = None

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            DataError: If it has a column the table has not, or a value of another type.
        """
        refuse_unknown(values, self.columns)
        self.rows.append(values)
        if len(self.rows) == PARQUET_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the rows held back.

        Raises:
            DataError: If a value does not fit its column's type.
        """
        columns = {name: [row.get(name) for row in self.rows] for name in self.columns}
        if self.schema is None:
            self.schema = self.arrow.schema([(n, self.kind(v)) for n, v in columns.items()])
            self.writer = self.parquet.ParquetWriter(self.stream, self.schema)
        arrays = [self.array(name, values) for name, values in columns.items()]
        self.writer.write_table(self.arrow.table(arrays, schema=self.schema))
        self.rows = []

    def kind(self, values: Sequence[Any]) -> Any:
        """Return the column type that holds values: a number, truth or text."""
        kinds = {type(value) for value in values if value is not None}
        if kinds == {bool}:
            return self.arrow.bool_()
        if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values if value):
            return self.arrow.int64()
        if kinds and kinds <= {int, float}:
            return self.arrow.float64()
        return self.arrow.string()

    def array(self, name: str, values: list[Any]) -> Any:
        """Make an array of a column.

        Raises:
            DataError: If a value does not fit its type.
        """
        kind = self.schema.field(name).type
        if kind == self.arrow.string():
            values = [None if value is None else to_cell(value) for value in values]
        try:
            return self.arrow.array(values, type=kind)
        except (self.arrow.ArrowException, UnicodeError, OverflowError) as error:
            raise DataError(
                f'column "{name}" held {kind} in the first {PARQUET_BATCH} rows, then: {error}',
                hint="Write .jsonl, where every value has its own type.",
            ) from error

    def finish(self) -> None:
        """Write the last rows and the file's end."""
        if self.rows or self.schema is None:
            self.flush()
        self.writer.close()

    def drop(self) -> None:
        """Keep the writer from adding the file's end to a stream that is closed."""
        self.rows = []
        if self.writer is not None:
            self.writer.is_open = False
