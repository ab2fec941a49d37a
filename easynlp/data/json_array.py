"""``.json`` files to rows: one object a line, or one array of objects, streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from easynlp.data.readers import Row, as_row, broken_json, read_jsonl
from easynlp.errors import DataError

__all__ = ["read_json"]

Lines = Iterator[tuple[int, str]]

SPACE = re.compile(r"\s*")
LONGEST_ITEM = 2**24
"""Characters an item may have before its text counts as broken rather than unfinished."""
READ_AHEAD = 2**16
"""Characters to append to the buffer at a time."""


def read_json(path: str, lines: Lines) -> Iterator[Row]:
    """Yield the objects of a ``.json`` file; many data sets name JSON lines so.

    Raises:
        DataError: At the line that is broken.
    """
    for number, line in lines:
        if not line or line.isspace():
            continue
        if line.lstrip().startswith("["):
            yield from ArrayReader(path, number, line, lines).rows()
        else:
            yield from read_jsonl(path, chain([(number, line)], lines))
        return


class ArrayReader:
    """Reads one JSON array item by item, holding little more than an item in memory.

    Args:
        path: The file, for messages.
        number: Line the array starts on.
        line: That line.
        lines: The lines after it.
    """

    def __init__(self, path: str, number: int, line: str, lines: Lines) -> None:
        self.path, self.lines, self.number = path, lines, number
        self.text, self.at = line, line.index("[") + 1
        self.decoder = json.JSONDecoder()

    def rows(self) -> Iterator[Row]:
        """Yield a row an item.

        Raises:
            DataError: At the line where the array is broken.
        """
        mark = self.peek()
        while mark != "]":
            line = self.number
            yield as_row(self.item(), self.path, line)
            mark = self.peek()
            if mark == ",":
                self.at += 1
                mark = self.peek()
            elif mark != "]":
                raise DataError(
                    f"expected , or ] after a row, found: {mark or 'the end of the file'}",
                    path=self.path,
                    line=self.number,
                )
        self.at += 1
        if self.peek():
            raise DataError("text after the end of the array", path=self.path, line=self.number)

    def peek(self) -> str:
        """Move to the next character that is no space and return it; "" at the end."""
        while True:
            end = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            self.move(end)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def move(self, end: int) -> None:
        """Move on to a place in the buffer, counting lines."""
        self.number += self.text.count("\n", self.at, end)
        self.at = end

    def more(self) -> bool:
        """Drop what is behind and append lines; False if there is none left.

        What is ahead at least doubles, so an item of many lines, tried again each time,
        costs linear time.
        """
        rest = self.text[self.at :]
        parts: list[str] = []
        wanted = max(len(rest), READ_AHEAD)
        while wanted > 0 and (following := next(self.lines, None)) is not None:
            parts.append("\n" + following[1])
            wanted -= len(parts[-1])
        if parts:
            self.text, self.at = rest + "".join(parts), 0
        return bool(parts)

    def item(self) -> Any:
        """Decode the item at the current place, reading on until it is complete."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.at < LONGEST_ITEM and self.more():
                    continue
                raise self.broken(error) from error
            self.move(end)
            return value

    def broken(self, error: Exception) -> DataError:
        """Place an error at its own line, which may lie below the item's first."""
        if not isinstance(error, json.JSONDecodeError):
            return broken_json(self.path, self.number, "", error)
        begin = self.text.rfind("\n", 0, error.pos) + 1
        line = self.number + self.text.count("\n", self.at, error.pos)
        found = self.text[begin:].split("\n", 1)[0]
        return broken_json(
            self.path, line, found, json.JSONDecodeError(error.msg, found, error.pos - begin)
        )
