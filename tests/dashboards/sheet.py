"""A sheet to draw a board on: pixels from the top left, as in a browser, and axes laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import TextPath
from PIL import Image

from tests.dashboards.looks import Look

__all__ = ["Box", "Sheet", "known_fonts"]

PLAIN, STRONG = "plain", "strong"
SHARPNESS = 1.5
"""Pixels of the file for one of the sheet."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from the top left."""

    x: float
    y: float
    w: float
    h: float

    def within(self, left: float, top: float, right: float, bottom: float) -> Box:
        """What is left inside margins."""
        return Box(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom)


def known_fonts(folder: Path | None) -> Mapping[str, font_manager.FontProperties]:
    """Two weights of a font.

    Args:
        folder: Holds `inter-400.ttf` and `inter-500.ttf`, Grafana's font; None takes the one that matplotlib brings.
    """
    if folder is None:
        properties = font_manager.FontProperties
        return {PLAIN: properties(family="DejaVu Sans"), STRONG: properties(family="DejaVu Sans", weight="bold")}
    files = {PLAIN: folder / "inter-400.ttf", STRONG: folder / "inter-500.ttf"}
    return {name: font_manager.FontProperties(fname=str(path)) for name, path in files.items()}


@dataclass
class Sheet:
    """One picture.

    Args:
        width: In pixels.
        height: In pixels.
        look: Colours.
        fonts: See `known_fonts`.
    """

    width: float
    height: float
    look: Look
    fonts: Mapping[str, font_manager.FontProperties]
    figure: Figure = field(init=False)
    paper: Axes = field(init=False)
    widths: dict[tuple[str, str], float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """An inch has 72 points, so at 72 a pixel is a point."""
        self.figure = Figure(figsize=(self.width / 72, self.height / 72), dpi=72, facecolor=self.look.canvas)
        self.paper = self.figure.add_axes((0, 0, 1, 1))
        self.paper.set(xlim=(0, self.width), ylim=(self.height, 0))
        self.paper.axis("off")

    def axes(self, box: Box) -> Axes:
        """Axes that fill a box, without a frame."""
        bottom = 1 - (box.y + box.h) / self.height
        place = (box.x / self.width, bottom, box.w / self.width, box.h / self.height)
        axes = self.figure.add_axes(place, facecolor="none")
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.tick_params(length=0)
        return axes

    def fill(self, box: Box, color: str, edge: str = "none", rounding: float = 3.0) -> None:
        """A rectangle with round corners."""
        style = f"round,pad=0,rounding_size={rounding}"
        patch = FancyBboxPatch(
            (box.x, box.y), box.w, box.h, boxstyle=style, facecolor=color, edgecolor=edge, linewidth=1
        )
        self.paper.add_patch(patch)

    def width_of(self, text: str, size: float, weight: str = PLAIN) -> float:
        """Of a text, in pixels."""
        if not text.strip():
            return 0.0
        key = text, weight
        if key not in self.widths:
            self.widths[key] = float(TextPath((0, 0), text, size=100, prop=self.fonts[weight]).get_extents().width)
        return self.widths[key] * size / 100

    def text(self, x: float, y: float, text: str, size: float, *, weight: str = PLAIN, **more: Any) -> None:
        """Write, with the middle of the line at `y`."""
        more = {"color": self.look.text, "va": "center", **more}
        self.paper.text(x, y, text, fontproperties=self.font(size, weight), **more)

    def font(self, size: float, weight: str = PLAIN) -> font_manager.FontProperties:
        """A font of a size."""
        font = self.fonts[weight].copy()
        font.set_size(size)
        return font

    def shortened(self, text: str, size: float, room: float, weight: str = PLAIN) -> str:
        """A text that fits, its end left out if need be."""
        if self.width_of(text, size, weight) <= room:
            return text
        while text and self.width_of(text + "…", size, weight) > room:
            text = text[:-1]
        return text + "…"

    def save(self, path: Path) -> None:
        """As PNG of 256 colours, without a date."""
        drawn = BytesIO()
        self.figure.savefig(drawn, dpi=72 * SHARPNESS)
        image = Image.open(drawn).convert("RGB")
        image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
