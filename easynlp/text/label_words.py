"""What stands for a label: words, read from an option or a file.

Written ``好评=好,不错;差评=差,糟``: for each label any number of words, of any length. The same may
be in a file (``@words.txt``, a line ``好评=好,不错`` each, or a JSON mapping). Without words the
labels' names are their words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from easynlp.errors import ConfigError, did_you_mean

__all__ = ["Verbalizer", "are_words", "read_option"]

_NAMES_A_WORD = re.compile(r"[^\W\d_]")
_PLAIN = re.compile(r"[^=;；,，、\n{]+")


@dataclass(frozen=True)
class Verbalizer:
    """The words of each label, in the order of the labels.

    Attributes:
        labels: The labels.
        words: As many tuples of one or more words.

    Example:
        >>> found = Verbalizer.parse("好评=好,不错;差评=差,糟", ["差评", "好评"])
        >>> found.words
        (('差', '糟'), ('好', '不错'))
        >>> str(found)
        '差评=差,糟;好评=好,不错'
    """

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str, labels: Sequence[str]) -> Verbalizer:
        """Read the words of all labels; without text the labels' names are their words.

        Raises:
            ConfigError: If a label has no word, or words are given for an unknown one; says what
                to type.
        """
        written = read_option(text, "words").strip()
        if not written:
            if not are_words(labels):
                raise ConfigError(f"the labels are no words, so give some: {_suggest(labels)}")
            return cls(tuple(labels), tuple((label,) for label in labels))
        given = _read_json(written) if written.startswith("{") else _read_lines(written, labels)
        for label in given:
            if label not in labels:
                raise ConfigError(
                    f'words: there is no label "{label}".{did_you_mean(label, labels)} '
                    f"Labels: {', '.join(labels)}"
                )
        missing = [label for label in labels if not given.get(label)]
        if missing:
            raise ConfigError(
                f"no word for {', '.join(missing)}: give each label one, {_suggest(labels)}"
            )
        return cls(tuple(labels), tuple(tuple(given[label]) for label in labels))

    @property
    def sets(self) -> int:
        """The number of word sets; 0 if the labels have different numbers of words."""
        sizes = {len(words) for words in self.words}
        return sizes.pop() if len(sizes) == 1 else 0

    def __str__(self) -> str:
        pairs = list(zip(self.labels, self.words, strict=True))
        if all(_PLAIN.fullmatch(each) for label, words in pairs for each in (label, *words)):
            return ";".join(f"{label}={','.join(words)}" for label, words in pairs)
        return json.dumps({label: list(words) for label, words in pairs}, ensure_ascii=False)


def are_words(labels: Sequence[str]) -> bool:
    """Return whether all labels have a letter in them, so that they say something themselves.

    Example:
        >>> are_words(["体育", "财经"]), are_words(["100", "101"])
        (True, False)
    """
    return all(_NAMES_A_WORD.search(label) for label in labels)


def read_option(value: str, name: str) -> str:
    """Return an option's value, read from a file if it is ``@FILE``.

    Raises:
        ConfigError: If the file cannot be read.
    """
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot read {value[1:]}: {error}") from error


def _read_json(text: str) -> Mapping[str, list[str]]:
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"words: not valid JSON: {error}") from error
    found: dict[str, list[str]] = {}
    for label, words in given.items():
        found[str(label)] = [words] if isinstance(words, str) else list(words)
        if not all(isinstance(word, str) and word for word in found[str(label)]):
            raise ConfigError(f'words: the words of "{label}" are to be texts, not {words}')
    return found


def _read_lines(text: str, labels: Sequence[str]) -> Mapping[str, list[str]]:
    """Read ``label=word,word`` of every line or between semicolons; tab and colon do as well."""
    found: dict[str, list[str]] = {}
    for part in re.split(r"[;；\n]", text):
        if not part.strip():
            continue
        label, sign, words = (piece.strip() for piece in _at_sign(part))
        if not sign:
            raise ConfigError(f'words: "{part.strip()}" is not label=word: {_suggest(labels)}')
        if label in found:
            raise ConfigError(f'words: the label "{label}" is there twice')
        found[label] = [word.strip() for word in re.split(r"[,，、]", words) if word.strip()]
    return found


def _at_sign(part: str) -> tuple[str, str, str]:
    for sign in ("=", "\t", ":", "："):
        if sign in part:
            label, _, words = part.partition(sign)
            return label, "=", words
    return part, "", ""


def _suggest(labels: Sequence[str]) -> str:
    shown = ";".join(f"{label}=WORD" for label in list(labels)[:3])
    return f'--words "{shown}{";..." if len(labels) > 3 else ""}"'
