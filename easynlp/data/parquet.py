"""Parquet files to rows, a batch at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from easynlp.data.lines import broken_archive, open_bytes, suffixes
from easynlp.data.readers import Row
from easynlp.errors import DataError, MissingExtra

__all__ = ["read_parquet"]

BATCH = 1024
"""Rows decoded at a time."""


def read_parquet(path: str) -> Iterator[Row]:
    """Yield the rows of a Parquet file; their "line" is the row number from 1.

    A compressed file (``.parquet.gz``) is unpacked into a temporary file first: Parquet is
    read from its end.

    Raises:
        MissingExtra: If pyarrow is not installed.
        DataError: If the file is not sound.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra(f"reading {path}", "parquet") from error
    number = 0
    with open_seekable(path) as stream:
        try:
            file = parquet.ParquetFile(stream, pre_buffer=False)
            for batch in file.iter_batches(batch_size=BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, path, number)
        except (pyarrow.ArrowException, OSError) as error:
            said = str(error).strip().split("\n")[0][:200]
            raise DataError(
                f"not a sound Parquet file (after {number} rows): {said}", path=path,
                hint="Write it again; or name the format it really has with --format.",
            ) from error  # fmt: skip


def open_seekable(path: str) -> IO[Any]:
    """Open a file for random access, unpacked."""
    stream = open_bytes(path)
    if not suffixes(path)[1]:
        return stream
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - handed to the caller
    try:
        with stream:
            shutil.copyfileobj(stream, unpacked, 2**20)
    except (EOFError, OSError, ValueError) as error:
        unpacked.close()
        raise broken_archive(path, 1, error) from error
    unpacked.seek(0)
    return unpacked
