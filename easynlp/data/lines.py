"""Bytes to numbered lines: opening, decompressing and decoding, each failure at its line.

Everything that reads a file goes through here, so a missing file, a truncated archive and a
broken character give the same kind of error whatever the format.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from easynlp.errors import ConfigError, DataError, did_you_mean

__all__ = ["STDIN", "check_file", "numbered_lines", "open_bytes", "suffixes"]

STDIN = "-"
"""The path that means standard input."""

COMPRESSED = {".gz": "gzip", ".zst": "Zstandard"}
LONGEST_LINE = 256 * 2**20
"""Bytes. A longer "line" is a file of another kind, and would fill the memory."""
CHUNK = 8192
"""Compressed bytes read at a time: small, because Zstandard can unfold some 30,000-fold."""


def suffixes(path: str) -> tuple[str, str]:
    """Return the extension of the format and of the compression, in lower case.

    Example:
        >>> suffixes("a/Train.JSONL.gz"), suffixes("b.csv")
        (('.jsonl', '.gz'), ('.csv', ''))
    """
    name = Path(path)
    last = name.suffix.lower()
    if last in COMPRESSED:
        return Path(name.stem).suffix.lower(), last
    return last, ""


def check_file(path: str) -> None:
    """Refuse what is not a readable file with something in it.

    Raises:
        DataError: If the file is missing (with close names of that folder), a folder, or empty.
    """
    if path == STDIN:
        return
    file = Path(path)
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if child.is_file())
        hint = f"Name one file of it: {', '.join(names[:8])}" if names else "It holds no files."
        raise DataError("this is a folder, not a file", path=path, hint=hint)
    if not file.exists():
        raise DataError("no such file", path=path, hint=near(file))
    if file.is_file() and file.stat().st_size == 0:
        raise DataError("the file is empty (0 bytes)", path=path)


def near(file: Path) -> str:
    """Say what stands where a missing file was looked for."""
    folder = file.parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist either."
    names = sorted(child.name for child in folder.iterdir() if child.is_file())
    close = difflib.get_close_matches(file.name, names, n=3, cutoff=0.5)
    if close:
        return f"In {folder} there is: {', '.join(close)}"
    return f"In {folder} there is: {', '.join(names[:8])}" if names else f"{folder} is empty."


class ZstdBytes(io.RawIOBase):
    """Decompressed bytes of a Zstandard stream.

    Unlike the library's own reader, it notices when the stream stops in the middle.

    Args:
        source: The compressed bytes.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.source = source
        self.frame = zstandard.ZstdDecompressor().decompressobj()
        self.started = False
        self.ready = memoryview(b"")

    def readable(self) -> bool:
        """Say yes: this is for reading."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer with decompressed bytes; return how many (0 at the end)."""
        while not self.ready:
            packed = self.source.read(CHUNK)
            if not packed:
                if self.started:
                    raise EOFError("the stream stops in the middle")
                return 0
            self.ready = memoryview(self.unpack(packed))
        taken = min(len(buffer), len(self.ready))
        buffer[:taken] = self.ready[:taken]
        self.ready = self.ready[taken:]
        return taken

    def unpack(self, packed: bytes) -> bytes:
        """Decompress bytes, crossing from one frame into the next."""
        parts = []
        while packed:
            self.started = True
            parts.append(self.frame.decompress(packed))
            packed = b""
            if self.frame.eof:
                packed = self.frame.unused_data
                self.frame = zstandard.ZstdDecompressor().decompressobj()
                self.started = False
        return b"".join(parts)

    def close(self) -> None:
        """Close the compressed source too."""
        self.source.close()
        super().close()


def open_bytes(path: str) -> BinaryIO:
    """Open a checked file for reading, decompressing by its extension.

    Raises:
        DataError: If the file cannot be opened.
    """
    packed = suffixes(path)[1]
    try:
        if path == STDIN:
            return open(sys.stdin.fileno(), "rb", closefd=False)  # leaves standard input open
        if packed == ".gz":
            return io.BufferedReader(gzip.open(path, "rb"), 2**16)  # type: ignore[arg-type]
        raw = open(path, "rb")  # noqa: SIM115 - handed to the caller
    except OSError as error:
        raise DataError(f"cannot open the file: {error.strerror}", path=path) from error
    return io.BufferedReader(ZstdBytes(raw), 2**16) if packed == ".zst" else raw


def numbered_lines(
    path: str, encoding: str = "utf-8", *, keep_return: bool = False
) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a text file with their numbers from 1, without ``\n`` or ``\r\n``.

    A byte order mark is removed. Only ``\n`` ends a line: a lone ``\r`` or U+2028 is text.

    Args:
        path: A file `check_file` has passed; ``-`` is standard input.
        encoding: Any Python encoding.
        keep_return: Leave the ``\r`` of ``\r\n``, for a format where it can be part of a value.

    Raises:
        ConfigError: If there is no such encoding.
        DataError: At the line where the bytes are broken, hold NUL, or the archive stops.
    """
    encoding = known_encoding(encoding)
    line = 0
    with open_bytes(path) as stream:
        raw_lines = wide_lines(stream, encoding) if wide(encoding) else byte_lines(stream)
        while True:
            try:
                raw = next(raw_lines, None)
            except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
                raise broken_archive(path, line + 1, error) from error
            except UnicodeDecodeError as error:
                raise broken_text(path, line + 1 + lines_before(error), error) from error
            if raw is None:
                return
            line += 1
            if len(raw) >= LONGEST_LINE:
                raise DataError(
                    f"the line is longer than {LONGEST_LINE:,} bytes: not a text file of lines",
                    path=path, line=line,
                )  # fmt: skip
            text = clean(raw, path, line, encoding)
            yield line, text if keep_return else text.removesuffix("\r")


def byte_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield raw lines, cut at `LONGEST_LINE`."""
    return iter(lambda: stream.readline(LONGEST_LINE), b"")


def wide(encoding: str) -> bool:
    """Tell whether a line end is more than the byte 0x0A in an encoding."""
    return "\n".encode(encoding)[-4:] != b"\n"


def wide_lines(stream: BinaryIO, encoding: str) -> Iterator[str]:
    """Yield decoded lines of UTF-16 or UTF-32, where bytes cannot be cut at 0x0A."""
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    while chunk := stream.read(2**16):
        pieces = (rest + decoder.decode(chunk)).split("\n")
        rest = pieces.pop()
        yield from (piece + "\n" for piece in pieces)
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def clean(raw: bytes | str, path: str, line: int, encoding: str) -> str:
    """Decode one line, and drop its line feed and the byte order mark.

    Raises:
        DataError: If it does not decode, or holds NUL.
    """
    if isinstance(raw, bytes):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise broken_text(path, line, error) from error
    else:
        text = raw
    if line == 1:
        text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise DataError(
            f"a NUL byte at character {text.index(chr(0)) + 1}", path=path, line=line,
            hint="The file is damaged, or is not the encoding it was read as: "
            f"{_save_as('utf-16')}.",
        )  # fmt: skip
    return text.removesuffix("\n")


def known_encoding(encoding: str) -> str:
    """Return Python's name of an encoding.

    Raises:
        ConfigError: If there is none.
    """
    try:
        name = codecs.lookup(encoding).name
        "\n".encode(name)
    except (LookupError, UnicodeError) as error:
        usual = ["utf-8", "gb18030", "gbk", "big5", "utf-16"]
        raise ConfigError(
            f'--encoding: unknown encoding "{encoding}".{did_you_mean(encoding, usual)} '
            f"Usual ones: {', '.join(usual)}"
        ) from error
    return "utf-8" if name == "utf-8-sig" else name


def lines_before(error: UnicodeDecodeError) -> int:
    """Count line ends between the last line given out and a broken place in UTF-16 or UTF-32."""
    before = error.object[: error.start].decode(error.encoding, errors="replace")
    return before.count("\n")


def _save_as(encoding: str) -> str:
    """Say what to do about a file; not every command has the option."""
    return f"try --encoding {encoding}, or save it as UTF-8 (iconv -f {encoding} -t utf-8)"


def broken_text(path: str, line: int, error: UnicodeDecodeError) -> DataError:
    """Make the error of bytes that do not decode."""
    byte = error.object[error.start]
    if error.encoding.startswith("utf-8"):
        wide_mark = error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and line == 1
        hint = (
            f"It starts like UTF-16: {_save_as('utf-16')}."
            if wide_mark
            else f"Older Chinese files are often GB18030 (GBK): {_save_as('gb18030')}."
        )
    else:
        hint = "Most files are UTF-8: leave --encoding out."
    return DataError(
        f"not valid {error.encoding.upper()}: byte 0x{byte:02x} at byte {error.start + 1} "
        f"of the line ({error.reason})",
        path=path,
        line=line,
        hint=hint,
    )


def broken_archive(path: str, line: int, error: Exception) -> DataError:
    """Make the error of a compressed file that stops early or never was one."""
    kind = COMPRESSED.get(suffixes(path)[1])
    if kind is None:
        return DataError(f"cannot read on: {error}", path=path, line=line)
    if isinstance(error, EOFError):
        return DataError(
            f"the {kind} file is cut off: its data ends in the middle, after line {line - 1}",
            path=path, line=line, hint="Copy or download it again.",
        )  # fmt: skip
    return DataError(
        f"not a sound {kind} file: {error}", path=path, line=line,
        hint="Copy it again; if it is not compressed, take the last extension off its name.",
    )  # fmt: skip
