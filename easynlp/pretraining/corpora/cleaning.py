"""Text made clean: control characters, remnants of HTML and broken white space taken out."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

__all__ = ["clean_paragraphs"]

_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ud800-\udfff\ue000-\uf8ff\ufeff\ufff9-\uffff]+"
)
"""Control and direction characters, zero-width spaces, half surrogates, private use. The
zero-width joiners stay: emoji and some scripts need them."""
_APART = (
    "address article aside blockquote body br button caption center dd details div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 head header hr html iframe img input li link "
    "main meta nav noscript object ol optgroup option p param pre section select source summary "
    "table tbody td textarea tfoot th thead title tr ul video"
)
_INLINE = (
    "a abbr acronym b big cite code del em embed font i ins kbd label mark q s samp small span "
    "strike strong sub sup tt u var wbr"
)
_VALUE = r"(?:\"[^\"\n]{0,2000}\"|'[^'\n]{0,2000}'|[^\s<>\"'=]{1,2000})"
_ATTRIBUTES = rf"(?:\s+[a-zA-Z_:@-][\w:.-]*(?:\s*=\s*{_VALUE})?){{0,40}}\s*/?"


def _tags(names: str) -> re.Pattern[str]:
    return re.compile(rf"</?(?:{'|'.join(names.split())}){_ATTRIBUTES}>", re.IGNORECASE)


_HIDDEN = re.compile(
    r"<!--[^\n]{0,10000}?-->|<(script|style)\b[^<>\n]{0,2000}>[^\n]{0,20000}?</\1\s*>",
    re.IGNORECASE,
)
_BLOCKS, _SPANS = _tags(_APART), _tags(_INLINE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_SPACE = re.compile(r"[^\S\n]+")
_EDGES = re.compile(r"^ | $", re.MULTILINE)
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"
_SPACED = re.compile(rf"(?<![{_HAN}])(?:[{_HAN}] ){{3,}}[{_HAN}](?![{_HAN}])")


def clean_paragraphs(paragraphs: Sequence[str], *, nfkc: bool = False) -> list[str]:
    r"""Return paragraphs cleaned, each in its place; one may have become empty.

    Control characters go; HTML comments, scripts and the tags of HTML go (``<int>`` in a program
    stays), its entities become characters; runs of white space become one space; four or more
    Chinese characters with a space between each two are closed up.

    Args:
        paragraphs: Paragraphs without line feeds.
        nfkc: Also apply Unicode's NFKC.

    Example:
        >>> clean_paragraphs(["<p class='x'>早餐&nbsp;很\u200b好</p>", "北 京 欢 迎 你　!"])
        ['早餐 很好', '北京欢迎你 !']
    """
    text = "\n".join(paragraphs)
    if "<" in text:
        text = _SPANS.sub("", _BLOCKS.sub(" ", _HIDDEN.sub(" ", text)))
    if "&" in text:
        text = _ENTITY.sub(_unescape, text)
    if nfkc:
        text = unicodedata.normalize("NFKC", text)
    text = _EDGES.sub("", _SPACE.sub(" ", _CONTROL.sub("", text)))
    return _SPACED.sub(lambda match: match[0].replace(" ", ""), text).split("\n")


def _unescape(match: re.Match[str]) -> str:
    return html.unescape(match[0]).replace("\n", " ")
