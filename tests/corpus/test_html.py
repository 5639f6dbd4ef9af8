"""Promises of the reading of HTML: what a reader of the page would read, whatever its tags do."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from helix_crawl_otel.corpus.html import is_html, text_of_html

PAGE = """<!DOCTYPE html><html><head><title>Pasta &amp; more</title><meta charset="koi8-r">
<style>p { color: red }</style>
<script>if (1 < 2) document.write("<p>no text</p>")</script></head><body><h1>Pasta</h1>
<p>Boil<br>water, <b>sa</b>lt&nbsp;it.<!-- nobody's --><ul><li>two eggs<li>flour</ul>
<pre>a  b
  c</pre><table><tr><th>min<td>8<tr><td>end</table><svg><text>drawn</text></svg>1 &lt; 2 &eacute;&#x1F35D;</body>
</html>"""

reads_as_browsers = pytest.mark.skipif(
    etree.LIBXML_VERSION < (2, 14), reason="libxml2 before 2.14, as in lxml for Windows, reads broken pages otherwise"
)

TEXT = "Pasta & more\n\nPasta\n\nBoil\nwater, salt it.\n\ntwo eggs\nflour\n\na  b\n  c\n\nmin\t8\nend\n\n1 < 2 é🍝\n"


def read(*pieces: str) -> str:
    """The text of a page."""
    return "".join(text_of_html(pieces))


def test_a_page_is_its_text() -> None:
    """The title first, blocks apart, a cell by a tab; no tags, scripts or styles, and entities are letters."""
    assert read(PAGE) == TEXT


@reads_as_browsers
@given(st.lists(st.integers(0, len(PAGE)), max_size=6))
def test_where_a_piece_ends_makes_no_difference(cuts: list[int]) -> None:
    """In the middle of a tag, an entity or a comment."""
    places = [0, *sorted(cuts), len(PAGE)]
    assert read(*(PAGE[start:end] for start, end in pairwise(places))) == TEXT


@pytest.mark.parametrize(
    ("name", "text", "is_one"),
    [
        ("page.HTM", "words", True),
        ("page.xhtml", "", True),
        ("page", '<?xml version="1.0"?>\n<!-- x -->\n<!DOCTYPE HTML PUBLIC "-//W3C//DTD">', True),
        ("page.txt", "  <html lang=de>", True),
        ("notes.md", "In HTML a page begins with <html>.", False),
        ("data.xml", "<?xml version='1.0'?><rows/>", False),
        ("code.py", '"""<!DOCTYPE html>"""', False),
    ],
)
def test_what_is_html(name: str, text: str, is_one: bool) -> None:
    """By its name, or by how it begins."""
    assert is_html(name, text) == is_one


@reads_as_browsers
@pytest.mark.parametrize(
    "part",
    [
        "<div>",
        "<p><b>",
        "<a ",
        '<a b="',
        "<",
        "</",
        "<!--",
        "<script>",
        "&",
        "&#",
        "<table><tr><td>",
        "\0",
        "x",
        "<li>a",
    ],
)
def test_a_hostile_page_costs_no_more_than_its_bytes(part: str) -> None:
    """A million open tags, one that never ends, half entities: read in a moment, and nothing of it is kept."""

    def pieces() -> Iterator[str]:
        for _ in range(20):
            yield part * (50_000 // len(part))

    tracemalloc.start()
    try:
        for _ in text_of_html(pieces()):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000


@reads_as_browsers
@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("", ""),
        ("no tag", "no tag"),
        ("<p>a<script>never closed", "a"),
        ("<p>a<!-- never closed", "a"),
        ("a</p></div></script>b", "ab"),
        ("<p>a<svg><path d='1'><text>drawn</text><p>b", "a\n\nb"),
        ("<p>a<math><mi>x</mi><table><tr><td>b", "a\n\nb"),
        ("<p>a<object data='x'><p>in its place", "a\n\nin its place"),
        ("<p>a\x01\ud800b", "a b"),
        ("<textarea><p>kept</textarea>", "<p>kept"),
        ("<p>x</p>" * 3, "x\n\nx\n\nx"),
    ],
)
def test_a_broken_page_is_read_as_far_as_it_goes(page: str, text: str) -> None:
    """As browsers do."""
    assert read(page).strip() == text
