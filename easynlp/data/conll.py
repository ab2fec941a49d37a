"""CoNLL-style files to rows: a character and its tag a line, a blank line between sentences.

::

    吴 B-NAME            {"text": "吴重阳，", "entities":
    重 I-NAME      →        [{"start": 0, "end": 3, "type": "NAME", "text": "吴重阳"}]}
    阳 I-NAME
    ， O

Tags are BIO, BIOES (BILOU) or BMES, joined to the type with ``-`` or ``_``. Columns between the
first and the last are ignored, tokens are joined without spaces, an empty token stands for a
space, ``-DOCSTART-`` lines are skipped. Offsets count characters, `end` is exclusive.

A tag sequence that is no entity (``I-`` after ``O``, a change of type without ``B-``, an
entity without its ``E-`` in a file that uses ``E-``) is an error at its line: guessing would
change the numbers. Format ``conll_repair`` mends it as conlleval does (such a tag begins an
entity; an entity ends where its tags end) and logs how many tags were mended.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from easynlp.data.readers import Row
from easynlp.errors import DataError

__all__ = ["read_conll"]

log = logging.getLogger("easynlp")

TAG = re.compile(r"([BIEMSLU])[-_](.+)")
ROLES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
HINT = "Mend the tags; or type --format conll_repair to have such tags begin an entity."


def read_conll(
    path: str, lines: Iterator[tuple[int, str]], *, repair: bool = False
) -> Iterator[Row]:
    """Yield a row a sentence; its line is that of the first character.

    Args:
        path: The file, for messages.
        lines: Its numbered lines.
        repair: Mend wrong sequences and log the count, instead of failing.

    Raises:
        DataError: At the line whose tag is malformed or cannot follow the one before.
    """
    reader = TagReader(path, repair)
    sentence: list[tuple[int, str, str]] = []
    for number, line in lines:
        if not line.strip(" \t"):
            if sentence:
                yield reader.row(sentence)
            sentence = []
        elif not line.startswith("-DOCSTART-"):
            sentence.append((number, *split_line(path, number, line)))
    if sentence:
        yield reader.row(sentence)
    if reader.mended:
        log.warning("%s: %d wrong tags mended, the first at line %d",
                    path, reader.mended, reader.first_mended)  # fmt: skip


def split_line(path: str, line: int, text: str) -> tuple[str, str]:
    """Return the token and the tag of a line.

    Raises:
        DataError: If there are no two columns.
    """
    # Not str.split(): an ideographic space is a token like any other.
    parts = text.split("\t") if "\t" in text else text.rstrip(" ").split(" ")
    if len(parts) < 2:
        raise DataError(
            f"expected a character and a tag, found: {text[:40]}", path=path, line=line,
            hint="Lines look like: 北 B-LOC",
        )  # fmt: skip
    return parts[0] or " ", parts[-1].strip()


class TagReader:
    """Turns tags into entities, remembering what the file has shown of its scheme.

    Args:
        path: The file, for messages.
        repair: Mend instead of failing.
    """

    def __init__(self, path: str, repair: bool) -> None:
        self.path, self.repair = path, repair
        self.mended = self.first_mended = 0
        self.closes: int | None = None
        """First line with an E- or S- tag: from there on entities must be closed."""
        self.left_open: int | None = None
        """First line where an entity ended without E-."""

    def row(self, sentence: list[tuple[int, str, str]]) -> Row:
        """Make the row of a sentence of (line, token, tag).

        Raises:
            DataError: At the line of a tag that does not fit.
        """
        text = "".join(token for _, token, _ in sentence)
        entities: list[dict[str, Any]] = []
        begun: tuple[int, str] | None = None
        at = 0
        for line, token, tag in sentence:
            role, kind = self.parse(line, tag)
            if role in ("I", "E") and (begun is None or begun[1] != kind):
                self.wrong(line, f"tag {tag} does not continue an entity of type {kind}")
                role = "B" if role == "I" else "S"
            if role not in ("I", "E") and begun is not None:
                self.unclosed(line)
                entities.append(entity(text, begun, at))
                begun = None
            if role in ("B", "S"):
                begun = (at, kind)
            at += len(token)
            if role in ("E", "S") and begun is not None:
                entities.append(entity(text, begun, at))
                begun = None
        if begun is not None:
            self.unclosed(sentence[-1][0])
            entities.append(entity(text, begun, at))
        return Row({"text": text, "entities": entities}, self.path, sentence[0][0])

    def parse(self, line: int, tag: str) -> tuple[str, str]:
        """Return a tag's role (O, B, I, E or S) and type.

        Raises:
            DataError: If it is no tag.
        """
        if tag == "O":
            return "O", ""
        found = TAG.fullmatch(tag)
        if found is None:
            raise DataError(
                f'"{tag}" is no tag', path=self.path, line=line,
                hint="Tags are O, or one of B I E S M L U with a type: B-LOC.",
            )  # fmt: skip
        if found[1] not in "BI" and self.closes is None:
            self.closes = line
            if self.left_open is not None:
                self.wrong(self.left_open, f"an entity ends without E-, which line {line} uses")
        return ROLES[found[1]], found[2]

    def unclosed(self, line: int) -> None:
        """Note an entity that ended without E-: right in BIO, wrong in BIOES and BMES."""
        if self.closes is not None:
            self.wrong(line, f"the entity before ends without E-, which line {self.closes} uses")
        elif self.left_open is None:
            self.left_open = line

    def wrong(self, line: int, said: str) -> None:
        """Fail, or count a mended tag.

        Raises:
            DataError: Unless repairing.
        """
        if not self.repair:
            raise DataError(said, path=self.path, line=line, hint=HINT)
        self.mended += 1
        self.first_mended = self.first_mended or line


def entity(text: str, begun: tuple[int, str], end: int) -> dict[str, Any]:
    """Make an entity of its start, type and end."""
    start, kind = begun
    return {"start": start, "end": end, "type": kind, "text": text[start:end]}
