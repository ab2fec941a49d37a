"""What several parts of the report's page are made with."""

from __future__ import annotations

from easynlp.landing.markup import Markup, tag

__all__ = ["percent", "section", "size"]


def section(name: str, heading: str, *children: object) -> Markup:
    """Return a section with its heading."""
    return tag("section", tag("h2", heading, id=name), *children, aria_labelledby=name)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def size(value: float | None) -> str:
    """Return bytes in MB or kB."""
    if value is None:
        return "-"
    return f"{value / 1e6:.1f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"
