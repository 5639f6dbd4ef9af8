"""Draws a scenario into a file: a PNG, or a page that holds the picture, the figures and the definitions.

matplotlib is imported late: only who draws needs it.

Source: DESIGN.md, section 3.3 (`simulate --plot`).
"""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from helix_crawl_otel.simulate.compare import Comparison, legend, table
from helix_crawl_otel.simulate.picture import figure_of

__all__ = ["PictureError", "check_picture", "draw"]

SUFFIXES = (".png", ".html")


class PictureError(Exception):
    """The picture cannot be drawn; the message is one sentence that says what to do."""


def check_picture(path: Path) -> None:
    """Refuse, before anything is run, what cannot be drawn.

    Raises:
        PictureError: Another kind of file than `.png` or `.html`, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PictureError(f"--plot is {str(path)!r}; accepted: a file name that ends in .png or .html")
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError:
        raise PictureError("--plot needs matplotlib: pip install 'helix-crawl-otel[plot]'") from None


def draw(path: Path, comparison: Comparison) -> None:
    """Draw a scenario into a file.

    Args:
        path: Ends in `.png` or `.html`. The page loads nothing.
        comparison: All policies on one scenario.

    Raises:
        PictureError: See `check_picture`.
        OSError: The file cannot be written.
    """
    check_picture(path)
    if path.suffix.lower() == ".html":
        path.write_text(_page(comparison), encoding="utf-8")
        return
    with io.BytesIO() as image:
        figure_of(comparison).savefig(image, format="png", dpi=130)
        path.write_bytes(image.getvalue())


def _page(comparison: Comparison) -> str:
    from matplotlib import rc_context

    image = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "helix-crawl"}):
        figure_of(comparison).savefig(image, format="svg", metadata=nothing)
    svg = image.getvalue()
    svg = svg[svg.index("<svg") :]
    title = html.escape(f"helix-crawl simulate {comparison.scenario.name}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ background: #fff; color: #222; font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; }}
svg {{ width: 100%; height: auto; }}
pre {{ overflow-x: auto; font-size: 13px; }}
</style>
</head>
<body>
{svg}
<h2>Figures</h2>
<pre>{html.escape(table([comparison]))}</pre>
<h2>What is compared</h2>
<pre>{html.escape(legend())}</pre>
<p>A model in virtual time, not a measurement.</p>
</body>
</html>
"""
