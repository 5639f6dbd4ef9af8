"""Draws pictures of both boards from a real run, without a Grafana.

    python -m tests.dashboards.pictures FOLDER [--fonts DIR]

FOLDER keeps the run's data: the first call takes ten minutes, later ones seconds. Every number comes from the board's
own queries; places, titles, units, thresholds, texts and colours from its committed JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.font_manager import FontProperties

from tests.dashboards.answers import Moment
from tests.dashboards.drawing import DRAWERS, draw_row
from tests.dashboards.looks import DARK, Look
from tests.dashboards.observed import SCRAPE_SECONDS, asked, recorded
from tests.dashboards.sheet import STRONG, Box, Sheet, known_fonts
from tests.dashboards.shipped import FILES
from tests.rules.tree import ROOT

__all__ = ["PICTURES", "Picture", "draw"]

FOLDER = ROOT / "docs" / "pictures"
WIDTH, CELL, GAP = 1240.0, 30.0, 8.0
HEAD = 92.0


@dataclass(frozen=True)
class Picture:
    """One file.

    Args:
        name: Of the file.
        board: Of the file of the board.
        look: Theme.
        minutes: After the run began: when somebody looks.
        variables: What is chosen above the board.
        height: In rows of the board's grid; None for the whole board.
    """

    name: str
    board: str
    look: Look
    minutes: float
    variables: Mapping[str, str]
    height: int | None = None


_RIG = {"job": "helix-crawl", "instance": "rig-1:9464"}

PICTURES = (
    Picture("board-job-top.png", "helix-crawl-job", DARK, 8.8, _RIG, 21),
    Picture("board-job.png", "helix-crawl-job", DARK, 8.8, _RIG),
    Picture("board-fleet.png", "helix-crawl-fleet", DARK, 6.5, {}),
)


def draw(picture: Picture, moment: Moment, path: Path, fonts: Mapping[str, FontProperties]) -> list[str]:
    """Draw a board.

    Returns:
        Titles of panels that had nothing to show.

    Raises:
        KeyError: The board has a kind of panel that nobody has drawn yet.
    """
    board = json.loads((FILES / "grafana" / "boards" / f"{picture.board}.json").read_text(encoding="utf-8"))
    rows = picture.height or 10_000
    panels = [panel for panel in board["panels"] if panel["gridPos"]["y"] + panel["gridPos"]["h"] <= rows]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    sheet = Sheet(WIDTH, HEAD + bottom * (CELL + GAP) + GAP, picture.look, fonts)
    _head(sheet, board, moment)
    marks = moment.marks(board["annotations"]["list"])
    empty = []
    for panel in panels:
        box = _place(panel["gridPos"])
        if panel["type"] == "row":
            draw_row(sheet, box, panel["title"])
        elif not DRAWERS[panel["type"]](sheet, box, panel, moment, marks):
            empty.append(panel["title"])
    sheet.save(path)
    return empty


def _place(grid: Mapping[str, int]) -> Box:
    column = (WIDTH - GAP) / 24
    return Box(
        GAP + grid["x"] * column,
        HEAD + grid["y"] * (CELL + GAP),
        grid["w"] * column - GAP,
        grid["h"] * (CELL + GAP) - GAP,
    )


def _head(sheet: Sheet, board: Mapping[str, Any], moment: Moment) -> None:
    """Name of the board, the variables, and the time range."""
    sheet.text(14, 24, board["title"], 18, weight=STRONG)
    span = " to ".join(time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(t)) for t in (moment.begin, moment.end))
    sheet.text(WIDTH - 14, 24, f"{span} UTC", 13, ha="right", color=sheet.look.pale)
    x = 14.0
    for variable in board["templating"]["list"]:
        value = "Prometheus" if variable["name"] == "datasource" else moment.variables.get(variable["name"], "All")
        for text, color in ((variable["label"], sheet.look.pale), (value, sheet.look.text)):
            width = sheet.width_of(text, 13) + 20
            sheet.fill(Box(x, 48, width, 28), sheet.look.panel, sheet.look.border)
            sheet.text(x + 10, 62, text, 13, color=color)
            x += width
        x += 10


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fonts", type=Path)
    options = parser.parse_args()
    run = recorded(options.folder.resolve())
    fonts = known_fonts(options.fonts)
    with asked(options.folder.resolve()) as prometheus:
        for picture in PICTURES:
            moment = Moment(prometheus, run.begun, run.begun + 60 * picture.minutes, SCRAPE_SECONDS, picture.variables)
            path = FOLDER / picture.name
            empty = draw(picture, moment, path, fonts)
            print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB; nothing to show in {empty or 'no panel'}")


if __name__ == "__main__":
    main()
