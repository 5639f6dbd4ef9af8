"""The pictures of the boards: every panel has a place in them, numbers are as Grafana writes them, pages show them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.dashboards.looks import DARK, UNITS, in_unit, mapped, step_color
from tests.dashboards.shipped import BOARDS
from tests.rules.tree import ROOT

pytest.importorskip("matplotlib", reason="the pictures are drawn with matplotlib")

from tests.dashboards.drawing import DRAWERS
from tests.dashboards.pictures import FOLDER, PICTURES

NOW = 1_800_000_000.0


def panels(path: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    board = json.loads(path.read_text(encoding="utf-8"))
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: str(path.stem))
def test_every_panel_can_be_drawn(path: Path) -> None:
    """No kind of panel, unit or colour of a board is left out of its picture without a word."""
    for panel in panels(path):
        assert panel["type"] in DRAWERS, panel["title"]
        text = json.dumps(panel)
        for unit in re.findall(r'"unit": "([^"]*)"', text) + re.findall(r'"id": "unit", "value": "([^"]*)"', text):
            assert unit.startswith(UNITS), panel["title"]
        for color in re.findall(r'"(?:color|fixedColor)": "([^"]+)"', text):
            assert color == "transparent" or DARK.color(color).startswith("#"), panel["title"]


def test_every_board_has_a_picture_of_the_whole() -> None:
    """And each picture is of a board that exists."""
    assert {picture.board for picture in PICTURES if picture.height is None} == {path.stem for path in BOARDS}
    assert {picture.board for picture in PICTURES} <= {path.stem for path in BOARDS}


def test_every_picture_is_there_and_is_shown() -> None:
    """On a page of the documentation, small enough for one, and with words for those who do not see it."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = re.findall(
        r"!\[([^\]]+)\]\([^)]*pictures/([\w.-]+)\)", "\n".join(page.read_text("utf-8") for page in pages)
    )
    for picture in PICTURES:
        content = (FOLDER / picture.name).read_bytes()
        assert content.startswith(b"\x89PNG"), picture.name
        assert len(content) < 300_000, picture.name
    assert {path.name for path in FOLDER.iterdir()} == {name for _, name in shown}
    assert all(len(words.split()) > 4 for words, _ in shown)


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.608, "s", 0, "608 ms"),
        (62, "s", None, "1.03 mins"),
        (62, "s", 0, "1 mins"),
        (60, "s", None, "1 min"),
        (12.34, "s", None, "12.3 s"),
        (7000, "s", None, "1.94 hours"),
        (90_000, "s", 0, "1 days"),
        (0, "s", None, "0 s"),
        (0.083, "percentunit", 0, "8%"),
        (0.083, "percentunit", None, "8.30%"),
        (1, "percentunit", None, "100%"),
        (11.85 * 2**30, "bytes", None, "11.9 GiB"),
        (8 * 2**30, "bytes", None, "8 GiB"),
        (0, "bytes", None, "0 B"),
        (1234.5, "none", None, "1235"),
        (0.2, "none", None, "0.200"),
        (3, "none", 0, "3"),
        (25.98, "suffix:genes/s", None, "26.0 genes/s"),
        (20, "suffix:genes/s", None, "20 genes/s"),
        (1000 * (NOW - 200), "dateTimeFromNow", None, "3 minutes ago"),
    ],
)
def test_numbers_are_written_as_grafana_writes_them(value: float, unit: str, decimals: int | None, text: str) -> None:
    """Made with the value formats of `@grafana/data` 11.3; a space in a suffix would be written twice."""
    assert in_unit(value, unit, decimals, NOW) == text


def test_a_unit_that_is_not_known_is_refused() -> None:
    """Instead of a picture with other numbers than Grafana's."""
    with pytest.raises(ValueError, match="unit 'celsius'"):
        in_unit(1.0, "celsius")


def test_texts_and_colors_of_values() -> None:
    """What is mapped has its text; else the highest threshold that was reached; no value takes the lowest."""
    assert mapped(1.0, [{"options": {"1": {"text": "CRAWLS", "color": "red"}}}]) == ("CRAWLS", "red")
    assert mapped(2.0, [{"options": {"1": {"text": "CRAWLS", "color": "red"}}}]) is None
    steps = {
        "steps": [{"value": None, "color": "gray"}, {"value": 0, "color": "red"}, {"value": 0.5, "color": "green"}]
    }
    assert [step_color(value, steps) for value in (float("-inf"), 0.0, 0.4, 0.5)] == ["gray", "red", "red", "green"]
