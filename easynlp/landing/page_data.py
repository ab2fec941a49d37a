"""The part of the report's page that is about the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from easynlp.landing.markup import Markup, join, table, tag

__all__ = ["data_section"]

MOST_LABELS = 30
"""Labels whose counts are shown."""


def data_section(found: Mapping[str, Any]) -> Markup:
    """Return the section of a diagnosis, see `easynlp.landing.diagnosis.diagnose`."""
    warnings = [tag("p", text[0].upper() + text[1:] + ".", class_="warning")
                for text in found["warnings"]]  # fmt: skip
    if not warnings:
        warnings = [tag("p", "Nothing that would spoil the figures was found.")]
    return tag(
        "section", tag("h2", "The data", id="data"), *warnings, _splits(found), _labels(found),
        _trouble(found), _noise(found["noise"]), aria_labelledby="data",
    )  # fmt: skip


def _splits(found: Mapping[str, Any]) -> Markup:
    rows = []
    for name, part in found["splits"].items():
        dropped = found["dropped"].get(name, {})
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items()) or "-"
        lengths = part["lengths"]
        rows.append((
            name, f"{part['rows']:,}", f"{part['kept']:,}", why,
            f"{lengths['p50']:,} / {lengths['p95']:,} / {lengths['max']:,}",
        ))  # fmt: skip
    return table(
        "Rows read and kept, and characters of a text: median / 95 % / longest",
        ("split", "read", "kept", "dropped", "characters"), rows,
    )  # fmt: skip


def _labels(found: Mapping[str, Any]) -> Markup:
    labelled = {n: part["labels"] for n, part in found["splits"].items() if part["labels"]}
    names = list(dict.fromkeys(label for counts in labelled.values() for label in counts))
    medians = found["length_alone"]["medians"]
    rows = [
        (label, *(f"{counts.get(label, 0):,}" for counts in labelled.values()),
         f"{medians[label]:,.0f}" if label in medians else "-") for label in names[:MOST_LABELS]
    ]  # fmt: skip
    length = found["length_alone"]
    said = (
        f"Told by its length alone, {100 * length['accuracy']:.1f} % of the {length['rows']:,} dev "
        f"rows would get the right label; by the most frequent label alone "
        f"{100 * length['majority']:.1f} %."
    )
    more = f" (the {MOST_LABELS} most frequent of {len(names):,})" if len(rows) < len(names) else ""
    head = ("label", *labelled, "median characters in train")
    return join((
        table(f"Rows of each label{more}", head, rows, numbers=len(head) - 1), tag("p", said)
    ))  # fmt: skip


def _trouble(found: Mapping[str, Any]) -> Markup:
    rows: list[tuple[object, ...]] = []
    for leak in found["leaks"]:
        what = f"{leak['in']} rows that stand in {leak['of']} ({leak['exact']:,} exactly, "
        what += f"{leak['near']:,} nearly): {'dropped' if leak['dropped'] else 'kept'}"
        rows.append((what, f"{leak['exact'] + leak['near']:,}", _places(leak["places"])))
    for name, part in found["splits"].items():
        for key, said in (("duplicates", "rows that repeat an earlier one"),
                          ("conflicts", "texts that stand there with another label"),
                          ("near", "pairs of texts that are nearly the same")):  # fmt: skip
            each = part[key]
            if each is None:
                rows.append((f"{name}: too many rows to look for near duplicates", "-", "-"))
            elif each["count"]:
                rows.append((f"{name}: {said}", f"{each['count']:,}", _places(each["places"])))
        for kind, each in part["odd"].items():
            rows.append((f"{name}: {kind}", f"{each['count']:,}", _places(each["places"])))
    if not rows:
        return tag("p", "No duplicates, no leaks, no odd texts.")
    return table("Duplicates, leaks and odd texts", ("what", "rows", "first places"), rows,
                 class_="texts")  # fmt: skip


def _places(places: list[str]) -> str:
    return "; ".join(places[:4]) + (" …" if len(places) > 4 else "")


def _noise(noise: Mapping[str, Any]) -> Markup:
    heading = tag("h3", "Labels that look wrong")
    if "why_not" in noise:
        return join((heading, tag("p", f"Not judged: {noise['why_not']}.")))
    said = (
        f"Confident learning estimates that {100 * noise['rate']:.1f} % of the labels of train and "
        f"dev are wrong, and names {noise['suspects']:,} rows to look at. The classifiers it asks "
        f"are right on {100 * noise['accuracy']:.1f} % of rows they have not seen; the less that "
        "is, the less their opinion of a label is worth. No row was changed."
    )
    rows = [
        (each["text"], each["given"], each["likely"], f"{each['margin']:.2f}", each["place"])
        for each in noise["issues"]
    ]
    shown = table("The noisiest rows, worst first", ("text", "label", "likely", "margin", "place"),
                  rows, class_="texts") if rows else None  # fmt: skip
    return join((heading, tag("p", said), shown))
