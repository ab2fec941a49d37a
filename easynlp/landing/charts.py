"""The report's charts: inline SVG, legible at a phone's width, and told apart without colour.

All are 360 units wide, so that at 390 pixels a unit is a pixel, and their letters are 12 units.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from easynlp.landing.markup import Markup, tag

__all__ = ["interval_chart", "line_chart", "pareto_chart", "reliability_chart"]

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 42
DASHES = ("none", "6 3", "2 3")


def interval_chart(rows: Sequence[Mapping[str, Any]], about: str) -> Markup:
    """Return accuracies with their intervals, a line each.

    Args:
        rows: ``name``, ``accuracy``, ``low``, ``high`` (0 to 1) and ``served``.
        about: What a reader who does not see it is told.
    """
    step, left = 40, 12
    height = step * len(rows) + 30
    low = min(row["low"] for row in rows)
    start = max(0.0, int(low * 10 - 0.2) / 10)

    def across(value: float) -> float:
        return left + (value - start) / (1 - start) * (WIDTH - left - RIGHT)

    marks: list[Markup] = []
    for i in range(5):
        value = start + (1 - start) * i / 4
        x = across(value)
        anchor = "start" if i == 0 else "end" if i == 4 else "middle"
        marks += [
            tag("line", x1=_n(x), x2=_n(x), y1=4, y2=height - 24, class_="grid"),
            _text(x, height - 8, f"{round(100 * value, 1):g} %", anchor),
        ]
    for number, row in enumerate(rows):
        y = step * number + 30
        kind = "served" if row.get("served") else "floor" if row.get("floor") else "other"
        said = f"{_short(row['name'], 34)}  {100 * row['accuracy']:.1f} %"
        marks += [
            _text(left, y - 11, said, "start", "strong" if row.get("served") else None),
            tag("line", x1=_n(across(row["low"])), x2=_n(across(row["high"])), y1=y, y2=y,
                class_=f"whisker {kind}"),
            tag("circle", cx=_n(across(row["accuracy"])), cy=y, r=5, class_=f"dot {kind}"),
        ]  # fmt: skip
    return _svg(height, marks, about)


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], across: str, about: str
) -> Markup:
    """Return lines of shares (0 to 1) over a number, with a legend above.

    Args:
        series: Points by name; x rising.
        across: What x is.
        about: What a reader who does not see it is told.
    """
    legend = 20 * len(series)
    height, top = 240 + legend, TOP + legend
    points = [point for line in series.values() for point in line]
    last = max(x for x, _ in points)
    first = min(0.0, min(x for x, _ in points))
    low = max(0.0, int(min(y for _, y in points) * 10) / 10)
    high = min(1.0, (int(max(y for _, y in points) * 10 - 1e-9) + 1) / 10)

    def place(x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDTH - LEFT - RIGHT, height - top - BOTTOM
        return (LEFT + (x - first) / max(1e-9, last - first) * wide,
                top + (high - y) / max(1e-9, high - low) * tall)  # fmt: skip

    marks: list[Markup] = []
    for i in range(5):
        value = low + (high - low) * i / 4
        _, y = place(first, value)
        marks += [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y), y2=_n(y), class_="grid"),
                  _text(LEFT - 6, y + 4, f"{round(100 * value, 1):g}", "end")]  # fmt: skip
    for i in range(5):
        value = first + (last - first) * i / 4
        x, _ = place(value, low)
        anchor = "end" if i == 4 else "middle"
        marks.append(_text(x, height - BOTTOM + 18, f"{value:,.0f}", anchor))
    marks.append(_text(WIDTH / 2, height - 6, f"{across} (vertical: accuracy on dev, %)", "middle"))
    for number, (name, line) in enumerate(series.items()):
        placed = [place(x, y) for x, y in line]
        style = f"line s{number % 3}"
        dash = DASHES[number % 3]
        y = 12 + 20 * number
        best = 100 * max(value for _, value in line)
        marks += [
            tag("line", x1=LEFT, x2=LEFT + 28, y1=y, y2=y, class_=style, stroke_dasharray=dash),
            _mark(LEFT + 14, y, number),
            _text(LEFT + 36, y + 4, f"{_short(name, 28)}: best {best:.1f}", "start"),
            tag("polyline", points=" ".join(f"{_n(x)},{_n(y)}" for x, y in placed), class_=style,
                stroke_dasharray=dash),
            *(_mark(x, y, number) for x, y in placed),
        ]  # fmt: skip
    return _svg(height, marks, about)


def reliability_chart(bins: Sequence[Mapping[str, Any]], about: str) -> Markup:
    """Return a reliability diagram: bars of accuracy by confidence, and the line of the ideal.

    Args:
        bins: ``low``, ``high``, ``rows``, ``confidence`` and ``accuracy`` (None if empty).
        about: What a reader who does not see it is told.
    """
    height = 300
    wide, tall = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x * wide, TOP + (1 - y) * tall

    marks: list[Markup] = []
    for i in range(6):
        x, y = place(i / 5, i / 5)
        anchor = "end" if i == 5 else "middle"
        marks += [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y), y2=_n(y), class_="grid"),
                  _text(LEFT - 6, y + 4, f"{20 * i}", "end"),
                  _text(x, height - BOTTOM + 18, f"{20 * i}", anchor)]  # fmt: skip
    for each in bins:
        if not each["rows"]:
            continue
        x0, y0 = place(each["low"], each["accuracy"])
        x1, base = place(each["high"], 0)
        marks.append(tag("rect", x=_n(x0 + 1), y=_n(y0), width=_n(x1 - x0 - 2),
                         height=_n(base - y0), class_="bar"))  # fmt: skip
        inside = base - y0 > 20
        marks.append(_text((x0 + x1) / 2, y0 + 14 if inside else y0 - 4, f"{each['rows']}",
                           "middle", "inside" if inside else None))  # fmt: skip
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    marks += [
        tag("line", x1=_n(x0), y1=_n(y0), x2=_n(x1), y2=_n(y1), class_="ideal"),
        _text(WIDTH / 2, height - 6, "confidence, % (vertical: share right, %)", "middle"),
    ]
    return _svg(height, marks, about)


def pareto_chart(rows: Sequence[Mapping[str, Any]], wanted: int | None, about: str) -> Markup:
    """Return sizes (logarithmic) against accuracies: numbered points, the front joined.

    Args:
        rows: ``bytes``, ``dev`` (0 to 1), ``front`` (no other is smaller and better), ``chosen``.
        wanted: Bytes not to exceed, a line.
        about: What a reader who does not see it is told.
    """
    height = 260
    wide, tall = WIDTH - LEFT - RIGHT, height - TOP - BOTTOM
    sizes = [row["bytes"] for row in rows] + ([wanted] if wanted else [])
    first, last = math.log(min(sizes) / 1.15), math.log(max(sizes) * 1.15)
    found = [row["dev"] for row in rows]
    low = max(0.0, math.floor(20 * min(found) - 0.2) / 20)
    high = min(1.0, max(low + 0.05, math.ceil(20 * max(found) - 1e-9) / 20))
    low = min(low, high - 0.05)

    def place(bytes_: float, dev: float) -> tuple[float, float]:
        return (LEFT + (math.log(bytes_) - first) / (last - first) * wide,
                TOP + 8 + (high - dev) / (high - low) * (tall - 8))  # fmt: skip

    marks: list[Markup] = []
    for i in range(5):
        value = low + (high - low) * i / 4
        _, y = place(min(sizes), value)
        marks += [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=_n(y), y2=_n(y), class_="grid"),
                  _text(LEFT - 6, y + 4, f"{round(100 * value, 2):g}", "end")]  # fmt: skip
    free = -99.0
    for size in _round_sizes(math.exp(first), math.exp(last)):
        x, _ = place(size, low)
        if x - free > 44:
            marks.append(_text(x, height - BOTTOM + 18, _megabytes(size), "middle"))
            free = x
    marks.append(_text(WIDTH / 2, height - 6, "MB served (vertical: accuracy on dev, %)", "middle"))
    if wanted:
        x, _ = place(wanted, low)
        marks.append(tag("line", x1=_n(x), x2=_n(x), y1=TOP, y2=height - BOTTOM, class_="ideal"))
    front = sorted((row["bytes"], row["dev"]) for row in rows if row["front"])
    joined = " ".join(f"{_n(x)},{_n(y)}" for x, y in (place(*point) for point in front))
    marks.append(tag("polyline", points=joined, class_="line s0"))
    for number, row in enumerate(rows, 1):
        x, y = place(row["bytes"], row["dev"])
        kind = "dot served" if row["chosen"] else "dot floor"
        side, anchor = (-8, "end") if x > WIDTH - RIGHT - 24 else (8, "start")
        marks += [tag("circle", cx=_n(x), cy=_n(y), r=5, class_=kind),
                  _text(x + side, y - 5, str(number), anchor)]  # fmt: skip
    return _svg(height, marks, about)


def _round_sizes(low: float, high: float) -> list[float]:
    """Return sizes between two that are round: 1, 2, 5, 10 … MB."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return [size for size in every if low <= size <= high]


def _megabytes(size: float) -> str:
    return f"{size / 1e6:g}"


def _svg(height: float, marks: Sequence[Markup], about: str) -> Markup:
    return tag("svg", tag("title", about), *marks, viewBox=f"0 0 {WIDTH} {_n(height)}",
               role="img", aria_label=about, xmlns="http://www.w3.org/2000/svg")  # fmt: skip


def _text(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Markup:
    return tag("text", _short(text, 50), x=_n(x), y=_n(y), text_anchor=anchor, class_=kind)


def _short(text: str, most: int) -> str:
    """Cut a text to a width in half-width columns."""
    width, kept = 0, ""
    for char in text:
        width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if width > most:
            return kept + "…"
        kept += char
    return kept


def _mark(x: float, y: float, number: int) -> Markup:
    """Return a point of a series: a disc, a square or a diamond."""
    kind = f"point s{number % 3}"
    if number % 3 == 0:
        return tag("circle", cx=_n(x), cy=_n(y), r=3.5, class_=kind)
    if number % 3 == 1:
        return tag("rect", x=_n(x - 3), y=_n(y - 3), width=6, height=6, class_=kind)
    path = (
        f"M{_n(x)} {_n(y - 4.5)}L{_n(x + 4.5)} {_n(y)}L{_n(x)} {_n(y + 4.5)}L{_n(x - 4.5)} {_n(y)}Z"
    )
    return tag("path", d=path, class_=kind)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
