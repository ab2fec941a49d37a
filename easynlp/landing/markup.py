"""HTML and SVG from nested calls: what is not markup already is escaped, always."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Markup", "join", "table", "tag"]

VOID = frozenset({"meta", "br", "line", "rect", "circle", "polyline", "path", "col"})


class Markup(str):
    """Text that is markup; made by `tag` and `join` only."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element; children and attribute values are escaped unless they are `Markup`.

    Args:
        name: Of the element.
        *children: Text or elements; None and False are left out.
        **attributes: ``class_`` is class, ``aria_label`` is aria-label; None is left out.

    Example:
        >>> tag("p", "a < b", tag("b", "c"), class_="x")
        '<p class="x">a &lt; b<b>c</b></p>'
        >>> tag("td", "<script>alert(1)</script>", title='"')
        '<td title="&quot;">&lt;script&gt;alert(1)&lt;/script&gt;</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_safe(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Markup(f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Return pieces one after the other, escaped unless they are `Markup`.

    Characters that HTML does not allow (control characters of damaged texts) become U+FFFD.
    """
    return Markup("".join(_safe(child) for child in children if child not in (None, False)))


def table(
    caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], *,
    numbers: int = 0, marked: Sequence[int] = (), class_: str = "",
) -> Markup:  # fmt: skip
    """Return a table whose first column names the rows, in a region that scrolls sideways.

    Args:
        caption: What it shows.
        head: Headings.
        rows: Cells; the first of each is its heading.
        numbers: How many of the last columns are numbers.
        marked: Rows to set off.
        class_: Of the region.
    """
    first = len(head) - numbers

    def kind(column: int) -> str | None:
        return "n" if column >= first else None

    body = [
        tag("tr", *(
            tag("th", cell, scope="row") if column == 0 else tag("td", cell, class_=kind(column))
            for column, cell in enumerate(cells)
        ), class_="marked" if number in marked else None)
        for number, cells in enumerate(rows)
    ]  # fmt: skip
    whole = tag(
        "table", tag("caption", tag("span", caption)),
        tag("thead", tag("tr", *(
            tag("th", cell, scope="col", class_=kind(i)) for i, cell in enumerate(head)
        ))),
        tag("tbody", *body),
    )  # fmt: skip
    return tag(
        "div", whole, class_=f"scroll {class_}".strip(), tabindex="0", role="region",
        aria_label=caption,
    )  # fmt: skip


def _safe(child: object) -> str:
    if isinstance(child, Markup):
        return child
    text = html.escape(str(child), quote=True)
    return "".join(
        "\ufffd" if (ord(c) < 32 and c not in "\n\t") or 0xD800 <= ord(c) < 0xE000 else c
        for c in text
    )
