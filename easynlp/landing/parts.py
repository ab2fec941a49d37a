"""The rows of a road's files, each with its place, and what they are like."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easynlp.data.columns import read_examples
from easynlp.data.diagnose import example_hash, percentiles
from easynlp.data.lines import STDIN
from easynlp.data.near import NearIndex
from easynlp.errors import ConfigError, DataError
from easynlp.landing.settings import LandOptions
from easynlp.tasks.base import Example
from easynlp.tasks.sequence_labeling import SequenceLabeling
from easynlp.tasks.text_classify import TextClassify

__all__ = ["SHOWN", "Part", "describe", "odd_kinds", "read_parts", "text_of"]

SHOWN = 12
"""Places shown of each kind of trouble."""
NEAR_WITHIN = 20_000
"""Rows of a file up to which near duplicates within it are looked for."""

_ODD: dict[str, re.Pattern[str]] = {
    "no letters": re.compile(r"[\W\d_]*\Z"),
    "markup": re.compile(r"</?[a-zA-Z][^<>]*>|&[a-z]{2,6};"),
    "damaged characters": re.compile(r"\ufffd|[\x00-\x08\x0b\x0c\x0e-\x1f]|锟斤拷|Ã[\x80-\xbf]"),
    "address or contact": re.compile(r"https?://|www\.|@[\w.]+\.\w|\d{11}"),
    "one character repeated": re.compile(r"(.)\1{9}"),
}


@dataclass(frozen=True)
class Part:
    """The rows of a split, and where each stands: ``train.jsonl:3``."""

    examples: Sequence[Example]
    places: Sequence[str]

    def without(self, numbers: set[int]) -> Part:
        """Return the part less some rows."""
        left = [i for i in range(len(self.examples)) if i not in numbers]
        return Part([self.examples[i] for i in left], [self.places[i] for i in left])


def text_of(example: Example) -> str:
    """Return an example's text, the two of a pair on lines of their own."""
    pieces = (example.get("text"), example.get("text_b"))
    return "\n".join(str(piece) for piece in pieces if piece)


def read_parts(options: LandOptions) -> dict[str, Part]:
    """Read every file that is given; rows of the pool without text are left out.

    Raises:
        DataError: With the place of what is wrong.
    """
    found = {}
    reading: dict[str, Any] = {
        "encoding": options.encoding, "schema": options.schema, "header": options.header,
        "format": options.format,
    }  # fmt: skip
    preferred: dict[str, str] = {}
    for name in ("train", "dev", "test", "pool"):
        path = options.unlabeled if name == "pool" else getattr(options, name)
        if path is None:
            continue
        is_pool = name == "pool"
        chosen = {k: v for k, v in options.columns.items() if not (is_pool and k == "label")}
        try:
            reader = read_examples(
                path, TextClassify.fields, chosen=chosen, preferred=preferred,
                with_targets=not is_pool, on_empty="keep" if is_pool else "error", **reading,
            )  # fmt: skip
        except DataError as error:
            if not is_pool and not chosen.get("label") and _marks_entities(path, reading):
                raise DataError(
                    "the file marks entities, and land is for text_classify: a label a text",
                    path=path, hint="For entities type: easynlp train sequence_labeling --help",
                ) from error  # fmt: skip
            raise
        rows = [(row, each) for row, each in reader if not is_pool or each["text"].strip()]
        preferred = preferred or dict(reader.columns.names)
        if not rows:
            raise DataError("there are no rows", path=str(path))
        found[name] = Part([each for _, each in rows], [str(row) for row, _ in rows])
    return found


def _marks_entities(path: str, reading: dict[str, Any]) -> bool:
    """Return whether a file is of sequence_labeling; what can be read once only is not asked."""
    if path == STDIN:
        return False
    try:
        next(read_examples(path, SequenceLabeling.fields, **reading))
    except (DataError, ConfigError, StopIteration):
        return False
    return True


def odd_kinds(text: str) -> list[str]:
    """Return what is odd about a text, by name.

    Example:
        >>> odd_kinds("<b>很好</b>"), odd_kinds("……！"), odd_kinds("房间很干净")
        (['markup'], ['no letters'], [])
    """
    return [kind for kind, pattern in _ODD.items() if pattern.search(text)
            and (kind != "no letters" or pattern.fullmatch(text))]  # fmt: skip


def describe(part: Part) -> dict[str, Any]:
    """Return what a split is: labels, lengths, repeats, near repeats, odd texts."""
    texts = [text_of(each) for each in part.examples]
    lengths = Counter(len(text) for text in texts)
    labels = Counter(str(each["label"]) for each in part.examples if "label" in each)
    odd: dict[str, list[str]] = defaultdict(list)
    for text, place in zip(texts, part.places, strict=True):
        for kind in odd_kinds(text):
            odd[kind].append(place)
    first: dict[int, int] = {}
    repeats: list[str] = []
    conflicts: list[str] = []
    for number, example in enumerate(part.examples):
        other = first.setdefault(example_hash(example), number)
        if other != number:
            pair = f"{part.places[number]} = {part.places[other]}"
            same = example.get("label") == part.examples[other].get("label")
            (repeats if same else conflicts).append(pair)
    return {
        "rows": len(texts),
        "labels": dict(labels.most_common()),
        "lengths": percentiles(lengths, max(lengths)),
        "duplicates": _some(repeats),
        "conflicts": _some(conflicts),
        "near": _near_within(texts, part.places),
        "odd": {kind: _some(places) for kind, places in sorted(odd.items())},
    }


def _some(found: Sequence[str]) -> dict[str, Any]:
    return {"count": len(found), "places": list(found[:SHOWN])}


def _near_within(texts: Sequence[str], places: Sequence[str]) -> dict[str, Any] | None:
    """Return pairs that are nearly, not exactly, the same; None if there are too many rows."""
    if len(texts) > NEAR_WITHIN:
        return None
    index = NearIndex(texts)
    plain = ["".join(unicodedata.normalize("NFKC", text).split()) for text in texts]
    pairs = [
        f"{places[i]} ~ {places[near.row]}"
        for i, text in enumerate(texts)
        for near in index.all_near(text)
        if near.row < i and plain[i] != plain[near.row]
    ]
    return _some(pairs)
