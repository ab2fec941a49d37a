"""What is wrong with the data, before anything learns from it; and the rows that may be learned.

Splits are ranked test, dev, train, pool. A text belongs to the highest split it stands in: of lower
ones it is a *leak*, word for word (after NFKC, spaces collapsed) or nearly (character 6-grams, see
`easynlp.data.near`). Leaks leave the pool always; of train and dev they are dropped, kept with a
warning, or an error, as the user says. Test rows are never changed.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from easynlp.data.diagnose import example_hash
from easynlp.data.near import NearIndex
from easynlp.errors import DataError
from easynlp.fewshot.baselines import Vectors
from easynlp.landing.noise import FEWEST, find_noise
from easynlp.landing.parts import SHOWN, Part, describe, read_parts, text_of
from easynlp.landing.settings import LandOptions

__all__ = ["Diagnosed", "diagnose", "split_off"]

log = logging.getLogger("easynlp")

RANKS = ("test", "dev", "train", "pool")
MOST_JUDGED = 20_000
"""Labelled rows up to which label noise is estimated."""
DEV_SHARE = 0.25
"""Share of train that becomes dev where there is none."""


@dataclass(frozen=True)
class Diagnosed:
    """What was found, and the rows that are left.

    Attributes:
        parts: ``train``, ``dev``, and ``test`` and ``pool`` where there are such files.
        facts: Plain JSON values, as the report shows them.
    """

    parts: Mapping[str, Part]
    facts: Mapping[str, Any]


@dataclass
class _Findings:
    """Collects what is to be told."""

    warnings: list[str] = field(default_factory=list)
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def warn(self, text: str) -> None:
        log.warning("%s", text)
        self.warnings.append(text)


def diagnose(options: LandOptions, vectors: Callable[[], Vectors] | None = None) -> Diagnosed:
    """Look through all files, drop what must not be learned from, and say what was found.

    Args:
        options: Files, columns, and what becomes of leaks.
        vectors: Makes what turns texts into sentence vectors, for a second opinion on labels.

    Raises:
        DataError: If a row is wrong, a label has no row left, or leaks are an error.
        MissingExtra: If scikit-learn is not installed.
    """
    parts, findings = read_parts(options), _Findings()
    seen = {name: describe(part) for name, part in parts.items()}
    for name in ("train", "dev", "test"):
        if name in parts:
            _check_labels(name, parts[name], parts["train"])
    parts["train"] = _drop_repeats("train", parts["train"], findings)
    if "pool" in parts:
        parts["pool"] = _drop_repeats("pool", parts["pool"], findings)
    leaks: list[dict[str, Any]] = []
    for name in RANKS[1:]:
        if name in parts:
            parts[name] = _drop_leaks(name, parts, options.leaks, findings, leaks)
    split = ""
    if "dev" not in parts:
        parts["train"], parts["dev"] = split_off(parts["train"], options.seed)
        split = (
            f"there was no dev file: {len(parts['dev'].examples)} of the training rows were split "
            "off, spread over the labels, and not trained on"
        )
        findings.warn(split[0].upper() + split[1:])
    _check_left(parts, options)
    for name, part in parts.items():
        seen.setdefault(name, describe(part))
        seen[name]["kept"] = len(part.examples)
    facts = {
        "splits": seen,
        "leaks": leaks,
        "dropped": {name: dict(why) for name, why in findings.dropped.items()},
        "split_off": split,
        "noise": _noise(parts, vectors, findings, options.seed),
        "length_alone": _length_alone(parts, findings),
        "warnings": findings.warnings,
    }
    return Diagnosed(parts, facts)


def split_off(train: Part, seed: int) -> tuple[Part, Part]:
    """Part the training rows in two, a quarter of each label for dev, at least one.

    Raises:
        DataError: If a label has only one row.
    """
    by_label: dict[str, list[int]] = defaultdict(list)
    for number, example in enumerate(train.examples):
        by_label[str(example["label"])].append(number)
    single = [label for label, rows in by_label.items() if len(rows) < 2]
    if single:
        raise DataError(
            f'the label "{single[0]}" has one training row, which cannot also be the dev row',
            hint="Give more rows of it, or labelled rows to choose on: --dev FILE",
        )
    random = np.random.default_rng((seed, 0xDE5))
    taken: set[int] = set()
    for label in sorted(by_label):
        rows = by_label[label]
        size = max(1, round(DEV_SHARE * len(rows)))
        taken |= set(random.permutation(rows)[:size].tolist())
    rest = set(range(len(train.examples))) - taken
    return train.without(taken), train.without(rest)


def _check_labels(name: str, part: Part, train: Part) -> None:
    """Refuse a label first seen outside train."""
    known = {str(each["label"]) for each in train.examples}
    for example, place in zip(part.examples, part.places, strict=True):
        if str(example["label"]) not in known:
            path, _, line = place.rpartition(":")
            raise DataError(
                f'the label "{example["label"]}" of this {name} row is not in the training data, '
                f"which has: {', '.join(sorted(known)[:20])}",
                path=path, line=int(line) if line.isdigit() else None,
                hint="Correct the row, or add training rows of this label.",
            )  # fmt: skip


def _drop_repeats(name: str, part: Part, findings: _Findings) -> Part:
    """Drop rows whose text stood before; of texts with several labels drop all."""
    rows: dict[int, list[int]] = defaultdict(list)
    for number, example in enumerate(part.examples):
        rows[example_hash(example)].append(number)
    taken: set[int] = set()
    for same in rows.values():
        if len({part.examples[i].get("label") for i in same}) > 1:
            findings.dropped[name]["text with several labels"] += len(same)
            taken |= set(same)
        elif len(same) > 1:
            findings.dropped[name]["repeated"] += len(same) - 1
            taken |= set(same[1:])
    if findings.dropped[name]["text with several labels"]:
        findings.warn(
            f"{findings.dropped[name]['text with several labels']} {name} rows are texts that "
            "stand there with different labels: dropped"
        )
    return part.without(taken)


def _drop_leaks(
    name: str, parts: Mapping[str, Part], rule: str, findings: _Findings,
    leaks: list[dict[str, Any]],
) -> Part:  # fmt: skip
    """Drop the rows of a split whose text a higher one holds, or do what the rule says."""
    part = parts[name]
    taken: set[int] = set()
    texts = [text_of(each) for each in part.examples]
    for other in RANKS[: RANKS.index(name)]:
        if other not in parts:
            continue
        theirs = parts[other]
        exact = {example_hash(each): i for i, each in reversed([*enumerate(theirs.examples)])}
        found: dict[int, tuple[str, int]] = {}
        for near in NearIndex(text_of(each) for each in theirs.examples).find(texts):
            found[near.text] = ("near", near.row)
        for number, example in enumerate(part.examples):
            if (row := exact.get(example_hash(example))) is not None:
                found[number] = ("exact", row)
        if not found:
            continue
        kinds = Counter(kind for kind, _ in found.values())
        places = [f"{part.places[i]} {'=' if kind == 'exact' else '~'} {theirs.places[row]}"
                  for i, (kind, row) in sorted(found.items())]  # fmt: skip
        keeps = rule == "warn" and name != "pool"
        leaks.append({"of": other, "in": name, "exact": kinds["exact"], "near": kinds["near"],
                      "places": places[:SHOWN], "dropped": not keeps})  # fmt: skip
        said = f"{len(found)} {name} rows stand in {other}, {kinds['near']} of them nearly"
        if rule == "error" and name != "pool":
            raise DataError(
                f"{said}: {'; '.join(places[:3])}",
                hint="Take them out, or let them be dropped: --leaks drop",
            )
        if name != "pool":
            findings.warn(f"{said}: {'kept, so figures flatter' if keeps else 'dropped'} "
                          f"({'; '.join(places[:3])})")  # fmt: skip
        if not keeps:
            new = set(found) - taken
            findings.dropped[name][f"also in {other}"] += len(new)
            taken |= new
    return part.without(taken)


def _check_left(parts: Mapping[str, Part], options: LandOptions) -> None:
    """Refuse to go on without rows of two labels, or without rows to choose on."""
    for name in ("train", "dev"):
        if not parts[name].examples:
            raise DataError(
                f"no {name} row is left", path=getattr(options, name) or options.train,
                hint="All stand in a split they must not be in; keep them with --leaks warn",
            )  # fmt: skip
    labels = {str(each["label"]) for each in parts["train"].examples}
    if len(labels) < 2:
        raise DataError(
            f"the training rows have one label only: {', '.join(labels)}; telling labels apart "
            "takes two or more", path=options.train,
        )  # fmt: skip
    for name in ("dev", "test"):
        gone = {str(e["label"]) for e in parts[name].examples} - labels if name in parts else set()
        if gone:
            raise DataError(
                f'no training row of the label "{min(gone)}" is left', path=options.train,
                hint="They stand in dev or test; keep them with --leaks warn, or give others",
            )  # fmt: skip


def _noise(
    parts: Mapping[str, Part], vectors: Callable[[], Vectors] | None, findings: _Findings,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Return what confident learning says of train and dev; test labels are nobody's business."""
    whole = [(e, p) for name in ("train", "dev") for e, p in
             zip(parts[name].examples, parts[name].places, strict=True)]  # fmt: skip
    if len(whole) > MOST_JUDGED:
        return {"why_not": f"more than {MOST_JUDGED:,} rows"}
    texts, labels = [text_of(e) for e, _ in whole], [str(e["label"]) for e, _ in whole]
    noise = find_noise(texts, labels, vectors() if vectors else None, seed)
    if noise is None:
        return {"why_not": f"a label has fewer than {FEWEST} rows in train and dev together"}
    if noise.rate > 0.1:
        findings.warn(f"about {100 * noise.rate:.0f} % of the labels of train and dev look wrong")
    issues = [{**asdict(each), "place": whole[each.row][1], "text": texts[each.row][:300]}
              for each in noise.issues]  # fmt: skip
    return {**asdict(replace(noise, issues=())), "suspects": len(issues),
            "issues": issues[: 2 * SHOWN]}  # fmt: skip


def _length_alone(parts: Mapping[str, Part], findings: _Findings) -> dict[str, Any]:
    """Return how far a text's length alone gives its label away: a shortcut models take.

    The majority label of each tenth of the training rows by length is asked about dev.
    """
    sides = {
        name: ([len(text_of(e)) for e in parts[name].examples],
               [str(e["label"]) for e in parts[name].examples]) for name in ("train", "dev")
    }  # fmt: skip
    lengths, labels = sides["train"]
    edges = np.unique(np.quantile(lengths, np.linspace(0.1, 0.9, 9)))
    bins = np.digitize(lengths, edges)
    overall = Counter(labels).most_common(1)[0][0]
    answer = {}
    for number in range(len(edges) + 1):
        counts = Counter(label for label, b in zip(labels, bins, strict=True) if b == number)
        answer[number] = counts.most_common(1)[0][0] if counts else overall
    dev_lengths, dev_labels = sides["dev"]
    guesses = [answer[int(b)] for b in np.digitize(dev_lengths, edges)]
    right = sum(g == label for g, label in zip(guesses, dev_labels, strict=True))
    plain = sum(label == overall for label in dev_labels)
    size = len(dev_labels)
    medians = {
        label: float(np.median([n for n, own in zip(lengths, labels, strict=True) if own == label]))
        for label in sorted(set(labels))
    }
    found = {"accuracy": right / size, "majority": plain / size, "rows": size, "medians": medians}
    # Twice the standard error of an accuracy, so that a handful of dev rows warns of nothing.
    if (right - plain) / size > max(0.05, 1 / np.sqrt(size)):
        shown = ", ".join(f"{label} {value:.0f}" for label, value in medians.items())
        findings.warn(
            f"the length of a text alone tells the label of {100 * right / size:.0f} % of the dev "
            f"rows (majority: {100 * plain / size:.0f} %; median characters: {shown}): a model "
            "may learn lengths, and be wrong on texts of other lengths"
        )
    return found
