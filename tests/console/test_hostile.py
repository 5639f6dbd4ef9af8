"""Whatever the texts of a run are, what shows it writes lines, and the terminal obeys us alone."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
from typing import Any

import pytest
from rich.console import Console

from helix_crawl_otel.console.live import LiveDisplay
from helix_crawl_otel.console.screen import JsonDisplay, PlainDisplay
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.supervise import events
from tests.console.story import STORY
from tests.console.test_screen import output_to, until_drawn
from tests.hostile import HOSTILE, assert_tame

hostile = pytest.mark.parametrize("text", [*HOSTILE.values(), "x" * 100_000], ids=[*HOSTILE, "long"])

OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
"""What `rich` moves the cursor with."""


def _told(text: str, event: events.Event) -> events.Event:
    """The event with this for every text in it, and one shard for all."""

    def changed(value: Any) -> Any:
        return text if isinstance(value, str) else tuple(map(changed, value)) if isinstance(value, tuple) else value

    fields = {field.name: changed(getattr(event, field.name)) for field in dataclasses.fields(event)}
    return type(event)(**fields)


def _summary(text: str) -> Summary:
    rows = [{"shard": text, "gene": text, "source": text, "reason": text}]
    many, out = {text: text}, [{"why": text, "files": 1, "folders": 1}]
    return Summary(
        *(1, 12.0, 5, 3, 1, rows, {text: 1}, many, 2, rows, {text: 1}, {text: 1}),
        next_step=text,
        reason=text,
        logs=[text],
        left_out=out,
    )


@hostile
def test_plain_lines_stay_lines(text: str) -> None:
    """As many as of a harmless run: none ends early, none is begun by a name."""
    counts = []
    for name in ("harmless", text):
        stream = io.StringIO()
        with output_to(stream) as output:
            display = PlainDisplay(output.say)
            for event in STORY:
                display.emit(_told(name, event))
                display.refresh(event.t)
            display.end(_summary(name))
        assert_tame(stream.getvalue())
        counts.append(stream.getvalue().count("\n"))
    assert counts[0] == counts[1] > 20


@hostile
def test_bars_and_log_lines_obey_nobody_else(text: str) -> None:
    """Events, bars, activities, the summary, and what is logged meanwhile, with a traceback."""
    stream = io.StringIO()
    logger = logging.getLogger("helix_crawl_otel")
    with output_to(stream) as output:
        display = LiveDisplay(Console(force_terminal=True, width=80, color_system=None), output)
        for event in STORY:
            display.emit(_told(text, event))
            display.refresh(event.t + 0.5)
            until_drawn(output)
        logger.error("%s", text)
        logger.error("it failed: %s", text, exc_info=ValueError(text))
        display.end(_summary(text))
    drawn = stream.getvalue()
    assert "\x1b[?25h" in drawn
    assert text not in drawn
    assert_tame(OURS.sub("", drawn))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_programs_get_every_text_as_it_is(text: str) -> None:
    """One object a line, in ASCII, whole."""
    stream = io.StringIO()
    with output_to(stream) as output:
        display = JsonDisplay(output.write)
        for event in STORY:
            display.emit(_told(text, event))
        display.end(_summary(text))
    lines = stream.getvalue().splitlines()
    assert stream.getvalue().isascii()
    assert len(lines) == len(STORY) + 1
    assert json.loads(lines[-1])["failed"] == {text: text}
