"""Predictions to files, streaming: the user's columns, the answers, the rows' order, or nothing.

A file is written beside its place under a hidden name and renamed when it is complete, so an
error, a full disk or an interruption leaves no half-written output. jsonl, csv, tsv and Parquet
are known by their extension, each with ``.gz`` or ``.zst``; ``-`` is JSON lines on standard
output, which cannot be taken back.

**Names.** An answer keeps its name (``label``, ``score``) unless the input has a column of that
name; then it becomes ``predicted_label`` (and ``predicted_label_2`` if that exists too). The
user's columns are never changed. `Layout` decides once for a whole file.

**Values.** jsonl keeps them (NaN becomes null, a date its text). csv, tsv and Parquet hold plain
values: lists and objects become JSON text, None an empty cell. tsv has no quoting, so tabs and
line breaks inside a value become spaces, and the count is logged.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import zstandard

from easynlp.data.lines import known_encoding, suffixes
from easynlp.data.sinks import Sink, make_sink
from easynlp.errors import ConfigError, DataError, RunError, did_you_mean

__all__ = ["STDOUT", "Layout", "Writer", "open_writer", "refuse_existing"]

STDOUT = "-"
"""The path that means standard output."""

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Layout:
    """The columns of an output, and what each answer is called there.

    Attributes:
        columns: Every column, the user's first.
        renamed: Names of answers to names of columns.
    """

    columns: tuple[str, ...]
    renamed: Mapping[str, str]

    @classmethod
    def of(cls, header: Sequence[str], answers: Sequence[str]) -> Layout:
        """Place answers beside the user's columns.

        Example:
            >>> Layout.of(["text", "label"], ["label", "score"]).columns
            ('text', 'label', 'predicted_label', 'score')
        """
        taken = list(header)
        renamed = {}
        for answer in answers:
            name, number = answer, 1
            while name in taken:
                name = f"predicted_{answer}" if number == 1 else f"predicted_{answer}_{number}"
                number += 1
            renamed[answer] = name
            taken.append(name)
        return cls(tuple(taken), renamed)

    def merge(self, values: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of the output.

        Raises:
            DataError: If the row has a column that an answer's name was given to, or the
                prediction an answer without a name.

        Example:
            >>> Layout.of(["label"], ["label"]).merge({"label": "1"}, {"label": "0"})
            {'label': '1', 'predicted_label': '0'}
        """
        merged = dict(values)
        for answer, value in prediction.items():
            name = self.renamed.get(answer)
            if name is None:
                raise DataError(f'the prediction has "{answer}", which the first had not')
            if name in values:
                raise DataError(
                    f'this row has a column "{name}", which the first rows had not, '
                    f"and the answer is written under that name",
                    hint="Give every row the same keys, or rename that one.",
                )
            merged[name] = value
        return merged


class Writer:
    """An output being written; a context manager.

    Args:
        path: Where the output will stand.
        temporary: Where it is written until then; None for standard output.
        streams: What to close, innermost first.
        sink: The format.
        overwrite: Whether an output that stands there may be replaced.
    """

    def __init__(
        self,
        path: str,
        temporary: Path | None,
        streams: Sequence[BinaryIO],
        sink: Sink,
        overwrite: bool,
    ) -> None:
        self.path, self.temporary, self.streams = path, temporary, streams
        self.sink, self.overwrite = sink, overwrite
        self.rows = 0
        self.open = True

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            DataError: If a value or column does not fit the format.
            RunError: If the disk is full or fails.
        """
        with disk_errors(self.path):
            self.sink.write(values)
        self.rows += 1

    def close(self) -> None:
        """Finish the output and put it in its place.

        Raises:
            ConfigError: If a file has appeared there in the meantime.
            RunError: If the disk is full or fails; nothing is left then.
        """
        if not self.open:
            return
        try:
            with disk_errors(self.path):
                self.sink.finish()
                for stream in self.streams[:-1]:
                    stream.close()
                self.streams[-1].flush()
                if self.temporary is not None:
                    os.fsync(self.streams[-1].fileno())
                    self.streams[-1].close()
                    if not self.overwrite:
                        refuse_existing(self.path)
                    os.replace(self.temporary, self.path)
        except BaseException:
            self.abandon()
            raise
        self.open = False

    def abandon(self) -> None:
        """Leave nothing behind."""
        if not self.open:
            return
        self.open = False
        self.sink.drop()
        if self.temporary is None:
            return
        for stream in self.streams:
            # A stream that cannot flush to a full disk still has to be let go.
            try:
                stream.close()
            except (OSError, ValueError):
                continue
        self.temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


@contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turn a failing disk into a `RunError` that says what is left: nothing.

    Raises:
        RunError: If the disk is full or fails.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        said = error.strerror or str(error)
        raise RunError(f"{path}: cannot write: {said}. Nothing was left there.") from error


def refuse_existing(path: str) -> None:
    """Refuse to replace an output.

    Raises:
        ConfigError: If something stands there.
    """
    if Path(path).exists():
        raise ConfigError(f"{path} exists already. Type --overwrite to replace it.")


def open_writer(
    path: str,
    columns: Sequence[str],
    *,
    overwrite: bool = False,
    encoding: str = "utf-8",
) -> Writer:
    r"""Start an output.

    Folders on the way are made. Reading from the very file that is overwritten is safe.

    Args:
        path: Where to write; the extension is the format, ``-`` is JSON lines on standard output.
        columns: The columns in order, see `Layout`.
        overwrite: Replace what stands there, once the new output is complete.
        encoding: Of text formats; ``utf-8-sig`` is what Excel opens without asking.

    Raises:
        ConfigError: If the extension or encoding is unknown, or the output exists.
        MissingExtra: If Parquet is asked for without pyarrow.
        RunError: If the place cannot be written to.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "out.csv")
        >>> with open_writer(str(file), ["text", "label"]) as out:
        ...     out.write({"text": "好看，真的", "label": "1"})
        >>> file.read_text(encoding="utf-8")
        'text,label\n好看，真的,1\n'
    """
    path = str(path)
    if path == STDOUT:
        stream = sys.stdout.buffer
        return Writer(
            "standard output", None, [stream], make_sink("jsonl", stream, columns, "utf-8"), True
        )
    kind, packed = suffixes(path)
    if kind not in FORMATS:
        raise ConfigError(
            f'{path}: cannot write "{kind}".{did_you_mean(kind, FORMATS)} '
            f"Known: {' '.join(FORMATS)}, each also with .gz or .zst; - is standard output."
        )
    encoding = "utf-8-sig" if encoding == "utf-8-sig" else known_encoding(encoding)
    if Path(path).is_dir():
        raise ConfigError(f"{path} is a folder. Name a file in it: {Path(path) / 'out.jsonl'}")
    if not overwrite:
        refuse_existing(path)
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
    with disk_errors(path):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        raw = open(temporary, "wb")  # noqa: SIM115 - closed by the Writer
    streams: list[BinaryIO] = [raw]
    try:
        if packed == ".gz":
            # No time stamp: the same rows give the same bytes.
            streams.insert(0, gzip.GzipFile("", "wb", 6, raw, mtime=0))  # type: ignore[arg-type]
        elif packed == ".zst":
            packer = zstandard.ZstdCompressor(write_checksum=True)
            streams.insert(0, packer.stream_writer(raw, closefd=False))  # type: ignore[arg-type]
        sink = make_sink(FORMATS[kind], streams[0], columns, encoding)
    except BaseException:
        raw.close()
        temporary.unlink(missing_ok=True)
        raise
    return Writer(path, temporary, streams, sink, overwrite)
