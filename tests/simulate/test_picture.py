"""The pictures are made, hold what they should, and load nothing."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helix_crawl_otel.charts import ChartError
from helix_crawl_otel.formats import span
from helix_crawl_otel.simulate.picture import check_picture, draw_into, figure_of
from tests.simulate.results import result


def words(name: str) -> str:
    """Every text of the picture of a scenario."""
    from matplotlib.text import Text

    figure = figure_of(result(name))
    return "\n".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


@pytest.mark.parametrize("name", ["incident-06-11", "endless-batch", "slow-disk"])
def test_a_png_of_a_readable_size(tmp_path: Path, name: str) -> None:
    """Its header says so."""
    path = tmp_path / "a.png"
    draw_into(path, result(name))
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert 1200 <= width <= 2400
    assert 1200 <= height <= 2400


def test_the_picture_says_what_happened() -> None:
    """Title, units, each policy with its finish, the actions, the limit."""
    text = words("incident-06-11")
    for expected in (
        "incident-06-11: 25,000 genes on a card of 12 GiB, modelled",
        "genes/s",
        "GiB",
        "minutes since the start",
        "limit",
        "none: finished after 2.7 d",
        "finished-batches: finished after 16.2 h",
        f"ladder: finished after {span(result('incident-06-11').row('ladder').finish_seconds)}, 1.",
        " times the best possible",
        "crawl noticed",
        "worker recycled by force",
        "goes on beyond this picture",
        "done",
    ):
        assert expected in text


def test_a_run_that_never_ends_is_called_that() -> None:
    """Given up after 30 days."""
    assert "none: not finished after 30 d" in words("endless-batch")


def test_the_background_is_light() -> None:
    """Whatever the user's matplotlib settings are."""
    assert figure_of(result("slow-disk")).get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    """Inline SVG with real text, the table, the definitions; no script, no address."""
    path = tmp_path / "a.HTML"
    draw_into(path, result("incident-06-10"))
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "http" not in page
    assert not re.search(r"<(script|link|img|iframe|object)\b|@import|url\((?!#)", page)
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + len("</svg>")])
    texts = [element.text for element in svg.iter("text")]
    assert "worker recycled" in texts
    assert "finished-batches" in page[page.index("<pre>") :]
    assert "a bound, knowing all that will come" in page


def test_the_same_page_twice_is_the_same(tmp_path: Path) -> None:
    """No date, no random ids: it can be kept in a repository."""
    first, second = tmp_path / "a.html", tmp_path / "b.html"
    draw_into(first, result("slow-disk"))
    draw_into(second, result("slow-disk"))
    assert first.read_bytes() == second.read_bytes()


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    """Before anything is run."""
    with pytest.raises(ChartError, match=r"accepted: a file name that ends in \.png or \.html"):
        check_picture(tmp_path / "a.pdf")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional: the message says how to get it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ChartError, match=r"pip install 'helix-crawl-otel\[plot\]'"):
        check_picture(tmp_path / "a.png")
