"""Patterns: how a text becomes a sentence with a hole, such as ``{text}。总之很[MASK]。``.

A pattern is literal text with slots in it:

- ``{text}`` and ``{text_b}``: the fields of an example; each may stand more than once;
- ``[MASK]``: what the model is asked for. One ``[MASK]`` stands for as many mask tokens as a
  label word has tokens; several (``[MASK][MASK]`` or ``[MASK]*2``) fix that number;
- ``[PRO]``: a soft token, a vector that is learned; ``[PRO]*4`` are four of them;
- ``[SEP]``: the tokenizer's separator; ``{{`` and ``}}`` are braces.

EasyNLP's notation is read too: a comma list of columns, literal text, ``label`` and ``<pseudo>``,
such as ``sent1,用,label,概括。``

A filled pattern is tokenized in one piece, with the tokenizer's own special tokens at its ends.
What is too long is cut out of the fields, from their right and of the longer first; the rest of
the pattern is never cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from tokenizers import Tokenizer as Backend

from easynlp.errors import ConfigError, DataError, did_you_mean
from easynlp.text.label_words import read_option
from easynlp.text.tokenizer import MAX_CHARS, Tokenizer

__all__ = ["Filled", "Part", "Template", "TemplateEncoder", "add_soft_tokens"]

FIELDS = ("text", "text_b")
EXAMPLE = '"{text}。总之很[MASK]。"'
UNCUT = 1 << 24
COLUMNS = {
    "text": "text", "sent1": "text", "sentence1": "text", "sentence": "text", "text_a": "text",
    "text1": "text", "first_sequence": "text",
    "text_b": "text_b", "sent2": "text_b", "sentence2": "text_b", "text2": "text_b",
    "second_sequence": "text_b",
}  # fmt: skip
"""Columns of EasyNLP's comma lists to our fields."""

MOST_TIMES = 100
"""Repetitions of a token that may be written."""

Kind = Literal["literal", "field", "mask", "soft", "sep"]
_SLOT = re.compile(
    r"(?P<brace>\{\{|\}\})|\{(?P<field>[^{}]*)\}"
    r"|(?P<special>\[MASK\]|<mask>|\[PRO\]|<pseudo>|\[SEP\])(?:\*(?P<times>\d+))?"
)
_KINDS: dict[str, Kind] = {
    "[MASK]": "mask", "<mask>": "mask", "[PRO]": "soft", "<pseudo>": "soft", "[SEP]": "sep"
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A piece of a pattern; `value` is a literal's text or a field's name."""

    kind: Kind
    value: str = ""


@dataclass(frozen=True)
class Template:
    """A pattern, read.

    Attributes:
        parts: Its pieces in order; repetitions are written out.

    Example:
        >>> [part.kind for part in Template.parse("{text}。总之很[MASK]。").parts]
        ['field', 'literal', 'mask', 'literal']
        >>> str(Template.parse("sent1,用,label,概括。"))
        '{text}用[MASK]概括。'
    """

    parts: tuple[Part, ...]

    @classmethod
    def parse(cls, pattern: str) -> Template:
        """Read a pattern; see the module's docstring.

        Args:
            pattern: The pattern, or ``@FILE`` for one in a file.

        Raises:
            ConfigError: If a field is unknown, the braces are odd, or there is no ``{text}`` or
                no ``[MASK]``; says what to type.
        """
        written = read_option(pattern, "pattern").strip("\r\n")
        if not written.strip():
            raise ConfigError(f"a prompt needs a pattern, for example {EXAMPLE}")
        items = [item.strip() for item in written.split(",")]
        parts = _read_list(items) if "{" not in written and "label" in items else _read(written)
        found = cls(tuple(_joined(parts)))
        if not found.fields or found.fields[0] != "text":
            raise ConfigError(f'the pattern "{written}" has no {{text}}; write it as {EXAMPLE}')
        if not found.masks:
            raise ConfigError(f'the pattern "{written}" has no [MASK]; write it as {EXAMPLE}')
        return found

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields it uses, ``text`` first."""
        used = {part.value for part in self.parts if part.kind == "field"}
        return tuple(name for name in FIELDS if name in used)

    @cached_property
    def masks(self) -> int:
        """How often ``[MASK]`` stands in it; 1 makes room for words of any length."""
        return sum(part.kind == "mask" for part in self.parts)

    @cached_property
    def tight(self) -> bool:
        """Whether the first ``[MASK]`` stands directly behind a character, without a space."""
        first = [part.kind for part in self.parts].index("mask")
        before = self.parts[first - 1] if first else Part("field")
        return before.kind == "literal" and not before.value[-1].isspace()

    @cached_property
    def softs(self) -> int:
        """How many soft tokens it has."""
        return sum(part.kind == "soft" for part in self.parts)

    def with_soft(self, count: int) -> Template:
        """Return the template with `count` soft tokens before it."""
        return Template((*[Part("soft")] * count, *self.parts))

    def __str__(self) -> str:
        shown = {"mask": "[MASK]", "soft": "[PRO]", "sep": "[SEP]"}
        return "".join(
            part.value.replace("{", "{{").replace("}", "}}")
            if part.kind == "literal"
            else f"{{{part.value}}}" if part.kind == "field" else shown[part.kind]
            for part in self.parts
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filled:
    """A filled pattern: ids (1-D int32), where its masks are, and whether a field was cut."""

    ids: np.ndarray
    holes: np.ndarray
    truncated: bool


class TemplateEncoder:
    """Fill a template with texts and tokenize it.

    Args:
        template: The pattern.
        tokenizer: With a mask token, and with the template's soft tokens (`add_soft_tokens`).
        masks: Mask tokens in place of a single ``[MASK]``: the length of the longest label word.
        max_length: Most ids of a row, special tokens included.

    Attributes:
        soft_ids: Ids of the soft tokens, in order.

    Raises:
        ConfigError: If the tokenizer has no mask token, or the pattern alone is too long.

    Example:
        >>> encoder = TemplateEncoder(template, tokenizer, 1, 128)    # doctest: +SKIP
        >>> encoder.encode_batch([{"text": "房间很干净"}])[0].holes   # doctest: +SKIP
        array([9])
    """

    def __init__(
        self, template: Template, tokenizer: Tokenizer, masks: int, max_length: int
    ) -> None:
        if tokenizer.mask_id < 0:
            raise ConfigError(
                "the model's tokenizer has no mask token ([MASK] or <mask>), so it cannot fill "
                "holes. Choose a masked-language model with --model"
            )
        self.template, self.tokenizer, self.max_length = template, tokenizer, max_length
        self.masks = masks if template.masks == 1 else template.masks
        found = [tokenizer.id_of(name) for name in soft_names(template.softs)]
        self.soft_ids = [number for number in found if number is not None]
        assert len(self.soft_ids) == template.softs, "add_soft_tokens comes first"
        self._names = _special_names(tokenizer)
        self._after = np.array([tokenizer.mask_id, *self.soft_ids, self._names["sep"][1]])
        self._check_room()

    def encode_batch(self, examples: Sequence[Mapping[str, str]]) -> list[Filled]:
        """Encode examples whose fields the template names.

        Raises:
            DataError: If a row's pattern leaves no room for its text.
        """
        limit = max(MAX_CHARS, 16 * self.max_length)
        filled = [self._fill({name: e[name][:limit] for name in FIELDS if name in e})
                  for e in examples]  # fmt: skip
        rows = self.tokenizer.encode_batch([text for text, _ in filled], UNCUT)
        found = []
        for example, (text, spans), row in zip(examples, filled, rows, strict=True):
            ids = self.tokenizer.without_spaces(row.ids, self._after)[0]
            holes = np.flatnonzero(ids == self.tokenizer.mask_id)
            was_cut = any(len(example[name]) > limit for name in self.template.fields)
            if len(ids) <= self.max_length and len(holes) == self.masks:
                found.append(Filled(ids, holes, was_cut))
            else:
                found.append(self._cut(text, spans, was_cut))
        return found

    def _fill(self, values: Mapping[str, str]) -> tuple[str, list[tuple[Part, int, int]]]:
        """Return the filled pattern, and each part with where it begins and ends."""
        text, spans, softs = "", [], iter(soft_names(self.template.softs))
        for part in self.template.parts:
            begin = len(text)
            if part.kind == "field":
                text += values[part.value]
            elif part.kind == "literal":
                text += part.value
            elif part.kind == "soft":
                text += next(softs)
            else:
                times = self.masks if part.kind == "mask" and self.template.masks == 1 else 1
                text += self._names[part.kind][0] * times
            spans.append((part, begin, len(text)))
        return text, spans

    def _cut(self, text: str, spans: list[tuple[Part, int, int]], was_cut: bool) -> Filled:
        """Encode a row again, knowing which token is of which part."""
        row = self.tokenizer.encode_batch([text], UNCUT, offsets=True)[0]
        assert row.offsets is not None
        ids, kept = self.tokenizer.without_spaces(row.ids, self._after)
        starts, ends = row.offsets[kept].T
        keep = np.ones(len(ids), bool)
        slots: dict[int, np.ndarray] = {}
        of_mask = np.zeros(len(ids), bool)
        for number, (part, begin, end) in enumerate(spans):
            inside = (starts >= begin) & (ends <= end) & (ends > starts)
            if part.kind == "field":
                slots[number] = np.flatnonzero(inside)
            elif part.kind == "mask":
                of_mask |= inside & (ids == self.tokenizer.mask_id)
        excess = len(ids) - self.max_length
        sizes = _fit([len(s) for s in slots.values()], excess)
        shorter = {}
        for (number, slot), size in zip(slots.items(), sizes, strict=True):
            keep[slot[size:]] = False
            end = spans[number][2]
            if size < len(slot) and ((starts < end) & (ends > end)).any():
                shorter[number] = int(starts[slot[size]])
        if shorter:  # a token is of a field's end and of the pattern: cut the text, and try again
            return self._cut(*_shorten(text, spans, shorter), was_cut=True)
        if keep.sum() > self.max_length:
            raise DataError(
                f"the pattern leaves no room for this text in {self.max_length} tokens",
                hint="Give more with --max-length, or shorten the pattern.",
            )
        return Filled(ids[keep], np.flatnonzero(of_mask[keep]), was_cut or excess > 0)

    def _check_room(self) -> None:
        empty, _ = self._fill(dict.fromkeys(FIELDS, ""))
        row = self.tokenizer.encode_batch([empty], UNCUT)[0]
        needed = len(self.tokenizer.without_spaces(row.ids, self._after)[0])
        if needed + len(self.template.fields) > self.max_length:
            raise ConfigError(
                f'the pattern "{self.template}" alone takes {needed} of {self.max_length} tokens '
                "and leaves no room for the text: shorten it, or give more with --max-length"
            )


def add_soft_tokens(tokenizer: Tokenizer, count: int) -> Tokenizer:
    """Return a tokenizer that knows `count` soft tokens, ``<pseudo-0>`` and on.

    The tokenizer given is left as it is; one that knows them is returned itself.
    """
    missing = [name for name in soft_names(count) if tokenizer.id_of(name) is None]
    if not missing:
        return tokenizer
    tokenizer.fingerprint()  # leaves it without truncation, which would be copied
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens(missing)
    return Tokenizer(backend)


def soft_names(count: int) -> list[str]:
    """Return the names of the first soft tokens; they are EasyNLP's."""
    return [f"<pseudo-{i}>" for i in range(count)]


def _read(pattern: str) -> list[Part]:
    parts: list[Part] = []
    done = 0
    for found in _SLOT.finditer(pattern):
        parts.append(Part("literal", _literal(pattern[done : found.start()], pattern)))
        done = found.end()
        if found["brace"]:
            parts.append(Part("literal", found["brace"][0]))
        elif found["special"]:
            parts += [Part(_KINDS[found["special"]])] * _times(found["special"], found["times"])
        elif found["field"] in FIELDS:
            parts.append(Part("field", found["field"]))
        else:
            raise ConfigError(
                f"the pattern has a field {{{found['field']}}}; there are {{text}} and {{text_b}}."
                f"{did_you_mean(found['field'], FIELDS)} For a brace itself write {{{{ or }}}}"
            )
    parts.append(Part("literal", _literal(pattern[done:], pattern)))
    return parts


def _times(special: str, written: str | None) -> int:
    times = int(written or 1)
    if not 1 <= times <= MOST_TIMES:
        raise ConfigError(
            f"the pattern has {special}*{written}: valid are 1 to {MOST_TIMES}. Leave {special} "
            "out where there is to be none"
        )
    return times


def _literal(text: str, pattern: str) -> str:
    if "{" in text or "}" in text:
        raise ConfigError(
            f'the pattern "{pattern}" has a brace without its other half; a brace itself is '
            "written {{ or }}"
        )
    return text


def _read_list(items: Sequence[str]) -> list[Part]:
    """Read EasyNLP's comma list."""
    parts = []
    for item in items:
        if item in COLUMNS:
            parts.append(Part("field", COLUMNS[item]))
        elif item == "label":
            parts.append(Part("mask"))
        else:
            parts += _read(item)
    return parts


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Join neighbouring literals, and drop empty ones."""
    found: list[Part] = []
    for part in parts:
        if part.kind == "literal" and found and found[-1].kind == "literal":
            found[-1] = Part("literal", found[-1].value + part.value)
        elif part.kind != "literal" or part.value:
            found.append(part)
    return found


def _shorten(
    text: str, spans: Sequence[tuple[Part, int, int]], ends: Mapping[int, int]
) -> tuple[str, list[tuple[Part, int, int]]]:
    """Return a filled pattern and its parts, those of the numbers given with earlier ends."""
    short, found = "", []
    for number, (part, begin, end) in enumerate(spans):
        at = len(short)
        short += text[begin : ends.get(number, end)]
        found.append((part, at, len(short)))
    return short, found


def _fit(sizes: Sequence[int], excess: int) -> list[int]:
    """Return sizes less `excess` in all, taken of the largest first (of equal ones the last)."""
    found = list(sizes)
    while excess > 0 and any(found):
        longest = max(range(len(found)), key=lambda i: (found[i], i))
        others = [size for i, size in enumerate(found) if i != longest]
        step = min(excess, max(1, found[longest] - max(others, default=0)))
        found[longest] -= step
        excess -= step
    return found


def _special_names(tokenizer: Tokenizer) -> dict[str, tuple[str, int]]:
    """Return the mask's and the separator's name and id."""
    mask = str(tokenizer.backend.id_to_token(tokenizer.mask_id))
    for name in ("[SEP]", "</s>"):
        if (found := tokenizer.id_of(name)) is not None:
            return {"mask": (mask, tokenizer.mask_id), "sep": (name, found)}
    return {"mask": (mask, tokenizer.mask_id), "sep": ("", tokenizer.mask_id)}
