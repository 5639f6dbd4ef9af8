"""The picture for a mail: the headline, a few sentences, and the shards that matter most."""

from __future__ import annotations

import io
import textwrap
import warnings

from helix_crawl_otel.report.charts import PICTURE, draw
from helix_crawl_otel.report.choice import choose, numbered
from helix_crawl_otel.report.story import RunReport
from helix_crawl_otel.report.svg import LIGHT
from helix_crawl_otel.report.words import headline, name_of, sentences, tale_text

__all__ = ["picture"]

MOST_SHARDS = 3
_HEAD_INCHES, _SHARD_INCHES, _FOOT_INCHES = 1.25, 5.4, 0.45


def picture(story: RunReport) -> bytes:
    """The picture as the bytes of a PNG file.

    Args:
        story: What happened.
    """
    from matplotlib.figure import Figure

    shown = choose(story, MOST_SHARDS)
    height = _HEAD_INCHES + _SHARD_INCHES * max(len(shown.tales), 1) + _FOOT_INCHES
    page = Figure(figsize=(PICTURE.inches[0], height), facecolor="white")
    ratios = [_HEAD_INCHES] + [_SHARD_INCHES] * len(shown.tales) + [_FOOT_INCHES]
    head, *parts, foot = page.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    head.text(0.02, 0.8, headline(story), fontsize=17, fontweight="bold", va="top", color=LIGHT["ink"])
    lines = textwrap.fill(" ".join(sentences(story)), 135)
    head.text(0.02, 0.5, lines, fontsize=10.5, va="top", color=LIGHT["ink"], parse_math=False, linespacing=1.4)
    for part, tale in zip(parts, shown.tales, strict=True):
        name = textwrap.shorten(name_of(tale, story), 90)
        part.text(0.02, 0.985, name, fontsize=13, fontweight="bold", va="top", color=LIGHT["ink"], parse_math=False)
        words = textwrap.wrap(tale_text(tale, story), 145, max_lines=4, placeholder=" ...")
        text = "\n".join(words)
        part.text(0.02, 0.93, text, fontsize=9.5, va="top", color=LIGHT["soft"], parse_math=False, linespacing=1.35)
        steps, settings = numbered(tale), story.settings
        top = 0.93 - 0.042 * len(words) - (0.13 if steps else 0.02)
        draw(part, tale, steps, settings.factor, settings.vram_full, LIGHT, PICTURE, top=top)
    key = "Blue: a batch.  Red: a batch during a crawl.  Dashed: baseline.  Dotted red: crawl limit, full memory."
    if any(tale.tells_shared for tale in shown.tales):
        key += "  Dashed red: shared memory."
    if any(tale.unfinished for tale in shown.tales):
        key += "  Dashed to a cross: a batch that did not end."
    lines = textwrap.fill(" ".join([key, *shown.sentences(story)]), 160)
    foot.text(0.02, 0.6, lines, fontsize=9, color=LIGHT["soft"], va="center", parse_math=False, linespacing=1.35)
    with io.BytesIO() as image, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        page.savefig(image, format="png", dpi=110)
        return image.getvalue()
