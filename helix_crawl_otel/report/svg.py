"""Makes figures fit for a page: SVG with real text, colours that the page's style decides, ids of their own.

matplotlib knows fixed colours only. So each name gets a colour that nobody uses, and in the finished text that colour
becomes the CSS variable of that name: the page shows it in light and dark.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["INK", "LIGHT", "svg_of"]

NAMES = ("ink", "soft", "line", "rate", "crawl", "memory")

INK = {name: f"#01020{at}" for at, name in enumerate(NAMES)}
"""Stand-ins, replaced in the SVG."""

LIGHT = {
    "ink": "#1f2328",
    "soft": "#57606a",
    "line": "#d8dee4",
    "rate": "#1f6fb4",
    "crawl": "#cf2a1a",
    "memory": "#7b5aa6",
}
"""Colours of the picture, and of the page in light."""

_FONT = re.compile(r"(font: [^;\"]*?px) [^;\"]*")
_SOURCE = re.compile(r"\s+xmlns(?::\w+)?=\"[^\"]*\"")
_ID = re.compile(r'(\sid="|url\(#|href="#)')


def svg_of(figure: Figure, key: str, label: str) -> str:
    """A figure as an SVG element without an address in it.

    Args:
        figure: Drawn with `INK`.
        key: Put before every id, so that two figures of a page do not share one.
        label: What it shows, escaped for HTML; for those who cannot see it.
    """
    from matplotlib import rc_context

    image = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "helix-crawl", "path.simplify": True}):
        figure.savefig(image, format="svg", metadata=nothing)
    svg = image.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = _SOURCE.sub("", svg).replace("xlink:href", "href")
    svg = _ID.sub(rf"\g<1>{key}-", svg)
    svg = _FONT.sub(r"\1 system-ui, sans-serif", svg)
    for name, stand_in in INK.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"<style .*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    return f'<svg role="img" aria-label="{label}" {box[0]}>' + svg[svg.index(">") + 1 :].strip()
