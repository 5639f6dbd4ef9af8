"""Takes the text out of HTML: no tags, scripts or styles, each block on lines of its own, the title first.

libxml2's parser (lxml) hands on what it finds as the file goes by: no tree is built, and a broken page, a tag that
never ends or a million open ones cost no more than their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

__all__ = ["RULE", "is_html", "text_of_html"]

RULE = "html-1"
"""Changes when the same page gives another text."""

FED_CHARS = 65536
"""Handed to the parser at once: what it finds in them is held."""

_NAMES = (".html", ".htm", ".xhtml", ".shtml")
_BEGINS = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)

_HIDDEN = frozenset({"script", "style", "noscript", "template", "svg", "math", "iframe", "canvas"})
_DRAWN = frozenset({"svg", "math"})
# fmt: off
_BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "br", "button", "caption", "center", "dd",
        "details", "dialog", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form",
        "frameset", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "legend", "li", "main",
        "menu", "nav", "ol", "optgroup", "option", "p", "pre", "search", "section", "select", "summary",
        "table", "tbody", "tfoot", "thead", "title", "tr", "ul",
    }
)
# fmt: on
_APART = frozenset({"blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "table", "title", "ul"})
_CELLS = frozenset({"td", "th"})
_GAPS = ("", " ", "\t", "\n", "\n\n")
_GAP_AT = {**dict.fromkeys(_CELLS, 2), **dict.fromkeys(_BLOCKS, 3), **dict.fromkeys(_APART, 4)}
_BLANKS = re.compile(r"[ \t\n\r\f\u00a0]+")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


def is_html(name: str, text: str) -> bool:
    """Whether a file is HTML: by its name, or by how it begins.

    Args:
        name: Of the file.
        text: Its first characters, decoded.
    """
    begins = text.lstrip("\ufeff")[:4096]
    return name.lower().endswith(_NAMES) or _BEGINS.match(begins) is not None


def text_of_html(pieces: Iterable[str]) -> Iterator[str]:
    """The text of a page, some at once.

    Args:
        pieces: Of the page, decoded. Where a piece ends makes no difference.
    """
    from lxml import etree

    found = _Text()
    parser: Any = etree.HTMLParser(target=found)
    for piece in pieces:
        for start in range(0, len(piece), FED_CHARS):
            # XML knows no other control characters, and a parser need not go on after one.
            parser.feed(_CONTROLS.sub(" ", piece[start : start + FED_CHARS]))
            yield found.taken()
    with suppress(etree.XMLSyntaxError):  # there is nothing in it at all
        parser.close()
    yield found.taken() + "\n"


class _Text:
    """What the parser tells of, as text. The names of its methods are lxml's."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._gap = 0  # before the next text, the widest that was asked for; none before the first
        self._has_text = False
        self._hidden: list[str] = []
        self._pre = 0

    def taken(self) -> str:
        """What has been found since."""
        text = "".join(self._parts)
        self._parts.clear()
        return text

    def start(self, tag: str, attributes: object) -> None:
        """A tag opens."""
        if self._hidden and self._hidden[-1] in _DRAWN and tag in _BLOCKS - {"title"}:
            self._hidden.pop()  # it was never closed: as browsers have it
        if self._hidden or tag in _HIDDEN:
            if tag in _HIDDEN:
                self._hidden.append(tag)
            return
        self._break_at(tag)
        self._pre += tag == "pre"

    def end(self, tag: str) -> None:
        """A tag closes, also one that the page has left open."""
        if self._hidden:
            if tag == self._hidden[-1]:
                self._hidden.pop()
            return
        self._break_at(tag)
        self._pre -= tag == "pre" and self._pre > 0

    def data(self, text: str) -> None:
        """Text, of which entities are letters by now."""
        if self._hidden:
            return
        if self._pre:
            self._put(text)
            return
        text = _BLANKS.sub(" ", text)
        if text.startswith(" "):
            self._gap = self._gap or 1
        if core := text.strip(" "):
            self._put(core)
            if text.endswith(" "):
                self._gap = 1

    def comment(self, text: str) -> None:
        """Is nobody's text."""

    def close(self) -> None:
        """At the end."""

    def _break_at(self, tag: str) -> None:
        gap = _GAP_AT.get(tag, 0)
        if gap > self._gap:
            self._gap = gap

    def _put(self, text: str) -> None:
        if self._has_text:
            self._parts.append(_GAPS[self._gap])
        self._parts.append(text)
        self._gap, self._has_text = 0, True
