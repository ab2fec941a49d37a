"""The candidates as a picture: an SVG that needs nothing else to be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Dot", "draw"]

WIDTH, HEIGHT = 860, 520
LEFT, RIGHT, TOP, BOTTOM = 70, 230, 50, 60
_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class Dot:
    """A candidate in the picture.

    Attributes:
        label: Its name.
        megabytes: How far right; above 0.
        score: How far up, in points of 100.
        low: Lower end of its interval.
        high: Upper end.
        front: Whether no other beats it in both.
        chosen: Whether it is the one.
    """

    label: str
    megabytes: float
    score: float
    low: float
    high: float
    front: bool = False
    chosen: bool = False


def draw(
    dots: Sequence[Dot], *, title: str, metric: str, budget: float | None = None,
    floor: float | None = None,
) -> str:  # fmt: skip
    """Return the picture: size on a logarithmic axis, score with its 95% interval, the front.

    Args:
        dots: Candidates; one or more.
        title: Above the picture.
        metric: Name of the score.
        budget: Megabytes not to exceed, a line; None: no line.
        floor: Least score wanted, a line; None: no line.

    Example:
        >>> draw([Dot("a", 4.0, 90.0, 88.0, 92.0)], title="t", metric="m").startswith("<svg")
        True
    """
    sizes = [dot.megabytes for dot in dots] + ([budget] if budget else [])
    scores = [v for dot in dots for v in (dot.low, dot.high)] + ([floor] if floor else [])
    x = _Axis(math.log(min(sizes)) - 0.15, math.log(max(sizes)) + 0.15, LEFT, WIDTH - RIGHT)
    y = _Axis(min(scores) - 0.5, max(scores) + 0.5, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 26, title, size=15),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "megabytes served (log)", anchor="middle"),
        _text(14, TOP - 14, f"dev {metric}, 95% interval"),
    ]
    for size in _marks(min(sizes), max(sizes)):
        at = x.at(math.log(size))
        parts.append(_line(at, TOP, at, HEIGHT - BOTTOM, "#eee"))
        parts.append(_text(at, HEIGHT - BOTTOM + 18, f"{size:g}", anchor="middle"))
    for score in _ticks(y.low, y.high):
        at = y.at(score)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "#eee"))
        parts.append(_text(LEFT - 8, at + 4, f"{score:g}", anchor="end"))
    if budget:
        at = x.at(math.log(budget))
        parts.append(_line(at, TOP, at, HEIGHT - BOTTOM, "#c33", dashed=True))
        parts.append(_text(at + 4, TOP + 12, f"{budget:g} MB", color="#c33"))
    if floor:
        at = y.at(floor)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, "#c33", dashed=True))
        parts.append(_text(LEFT + 4, at - 4, f"{floor:.1f}", color="#c33"))
    front = sorted((d for d in dots if d.front), key=lambda d: d.megabytes)
    path = " ".join(f"{x.at(math.log(d.megabytes)):.1f},{y.at(d.score):.1f}" for d in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#36c" stroke-width="1.5"/>')
    for number, dot in enumerate(dots, 1):
        parts += _dot(number, dot, x.at(math.log(dot.megabytes)), y)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _dot(number: int, dot: Dot, at: float, y: _Axis) -> list[str]:
    color = "#c33" if dot.chosen else "#36c" if dot.front else "#999"
    height = TOP + 14 * number
    return [
        _line(at, y.at(dot.low), at, y.at(dot.high), color),
        f'<circle cx="{at:.1f}" cy="{y.at(dot.score):.1f}" r="{6 if dot.chosen else 4}" '
        f'fill="{color}"><title>{escape(dot.label)}: {dot.score:.2f}, {dot.megabytes:.2f} MB'
        "</title></circle>",
        _text(at + 7, y.at(dot.score) - 5, str(number), color=color),
        _text(WIDTH - RIGHT + 16, height, f"{number}  {dot.label}", color=color),
    ]


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` laid over pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _marks(low: float, high: float) -> list[float]:
    """Return round sizes in a range: 1, 2, 5, 10 …; a range between two of them has none."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [step * 10.0**power for power in range(first, last + 1) for step in _STEPS]
    return [size for size in every if low * 0.86 <= size <= high * 1.16]


def _ticks(low: float, high: float) -> list[float]:
    """Return round scores in a range, some five of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (*_STEPS, 10) if s * power >= rough)
    return [round(step * n, 6) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, color: str = "#222"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{color}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dash}/>'
