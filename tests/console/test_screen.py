"""The three ways to show a run: JSON lines, plain lines, live bars."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from helix_crawl_otel.console.live import LiveDisplay
from helix_crawl_otel.console.output import OutputThread, Piece
from helix_crawl_otel.console.screen import JsonDisplay, PlainDisplay
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.supervise import events
from tests.console.story import STORY

SUMMARY = Summary(0, 12.0, 5)

DEADLINE_SECONDS = 120.0


@contextmanager
def output_to(stream: io.StringIO) -> Iterator[OutputThread]:
    """An output that writes all that it has been given."""
    output = OutputThread(stream, 1 << 20, "{} missing".format)
    yield output
    output.end()
    assert output.wait(DEADLINE_SECONDS)


def until_drawn(output: OutputThread) -> None:
    """Wait until the thread has nothing more to draw."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while output.is_behind:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _kinds() -> list[type[events.Event]]:
    found = [getattr(events, name) for name in events.__all__ if name != "Event"]
    return [one for one in found if isinstance(one, type)]


def test_the_story_holds_every_kind_of_event() -> None:
    """Otherwise the tests below prove less than they say."""
    assert {type(event) for event in STORY} == set(_kinds())


@pytest.mark.parametrize("event", STORY, ids=[f"{n}-{event.kind}" for n, event in enumerate(STORY)])
def test_every_event_comes_back_from_json(event: events.Event) -> None:
    """Each line has the event's own keys, and nothing is lost on the way."""
    line = json.loads(json.dumps(event.to_json()))
    assert set(line) - {"event"} == {field.name for field in dataclasses.fields(event)} - {"node"}
    there = events.event_of(line, t=7.0, node="n2")
    assert there == dataclasses.replace(event, t=7.0, node="n2")
    assert there.to_json()["node"] == "n2"


def test_json_counts_from_the_first_event_and_ends_with_the_summary() -> None:
    """One object a line."""
    stream = io.StringIO()
    display = JsonDisplay(stream.write)
    for event in STORY:
        display.emit(event)
    display.end(SUMMARY)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [*(event.kind for event in STORY), "summary"]
    assert lines[0]["t"] == 0.0
    assert lines[-1]["encoded"] == 5


def test_json_tells_the_time_to_go_as_soon_as_it_is_known_and_then_every_half_minute() -> None:
    """What is not begun is in it: here 400 genes of a shard that waits, beside 512 of the one that runs."""
    stream = io.StringIO()
    display = JsonDisplay(stream.write)
    for event in STORY:
        if event.t <= 120.0:
            display.emit(event)
            display.refresh(event.t)
    for now in (121.0, 149.0, 150.0, 151.0):
        display.refresh(now)
    told = [row for row in map(json.loads, stream.getvalue().splitlines()) if row["event"] == "progress"]
    assert [row["t"] for row in told] == [20.0, 50.0]
    assert {**told[0], "time": ""} == {
        "time": "",
        "event": "progress",
        "t": 20.0,
        "shards": 3,
        "ended": 1,
        "encoded": 128,
        "left": 912,
        "is_estimate": False,
        "share": 0.123077,
        "rate": 16.0,
        "to_go_seconds": 57.0,
        "running": told[0]["running"],
    }
    assert [(row["shard"], row["done"], row["total"]) for row in told[0]["running"]] == [(".", 128, 640)]


def test_plain_lines_tell_the_story_once() -> None:
    """Each thing in a line of its own; actions are left to the log, whose lines say more of them."""
    stream = io.StringIO()
    display = PlainDisplay(lambda *lines: print(*lines, sep="\n", file=stream))
    for event in STORY:
        display.emit(event)
    display.end(SUMMARY)
    text = stream.getvalue()
    assert "helix-crawl build a --out b: 3 shards, 1 complete already; minilm on cuda:0 (as asked for)\n" in text
    assert "worker cuda:0 starts, process 4711\n" in text
    assert "shard . (loose files): 1 source, 640 genes new, 1 skipped\n" in text
    assert "loading minilm on cuda:0\n" in text
    assert "(1 restart left)" in text
    assert "EMPTY_CACHE" not in text
    assert "\x1b" not in text
    assert text.endswith("done after 12 s: 5 genes encoded\n")


def test_plain_progress_comes_every_half_minute_also_while_nothing_is_encoded() -> None:
    """A model that loads for a minute is told of."""
    stream = io.StringIO()
    display = PlainDisplay(lambda *lines: print(*lines, sep="\n", file=stream))
    for event in STORY[:10]:
        display.emit(event)
    for second in range(103, 165):
        display.refresh(float(second))
    assert stream.getvalue().count("loading minilm, for ") == 2


def test_two_workers_on_the_cpu_are_counted() -> None:
    """Not `cpu, cpu`."""
    stream = io.StringIO()
    display = PlainDisplay(lambda *lines: print(*lines, sep="\n", file=stream))
    display.emit(events.RunStarted(0.0, "c", "o", "minilm", ("cpu", "cpu"), "no card", 1, 0))
    assert "c: 1 shard; minilm on 2 x cpu (no card)" in stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_live_bars_fit_their_terminal(width: int) -> None:
    """Whatever its width, a crawl is seen; no line of the bars is wider than the terminal."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, height=20, color_system=None, highlight=False)
    with output_to(stream) as output:
        display = LiveDisplay(console, output)
        for event in STORY:
            if event.t <= 200.0:
                display.emit(event)
                until_drawn(output)
        stream.truncate(0)
        stream.seek(0)
        display.refresh(260.0)
        until_drawn(output)
        drawn = stream.getvalue()
        display.end(SUMMARY)
    rows = [row.rpartition("\x1b[2K")[2] for row in drawn.splitlines()]
    assert "CRAWLING" in drawn
    assert "1 of 3 shards" in drawn
    assert max(len(row) for row in rows) <= width
    words = " ".join(drawn.split())
    assert "batch of 64 running for 2 min 20 s, memory 99 %, rung 1" in words


def test_log_lines_stand_above_the_bars_whole_and_once() -> None:
    """They can be grepped: no line break is put in; afterwards the logger is as it was."""
    stream = io.StringIO()
    logger = logging.getLogger("helix_crawl_otel")
    before = logger.propagate, list(logger.handlers)
    line = "[crawl-watchdog] issued action=DETECT shard=a " + "x" * 100
    with output_to(stream) as output:
        display = LiveDisplay(Console(force_terminal=True, width=40, color_system=None), output)
        logger.warning("%s", line)
        display.close()
    assert stream.getvalue().count(line) == 1
    assert (logger.propagate, list(logger.handlers)) == before


class _Gone(io.StringIO):
    """A stream whose reader goes away after some lines."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += 1
        if self.lines > 2:
            raise BrokenPipeError
        return super().write(text)


def test_a_reader_that_goes_away_ends_the_show_not_the_run() -> None:
    """Progress is still counted, for the summary."""
    stream = _Gone()
    with output_to(stream) as output:
        display = JsonDisplay(output.write)
        for event in STORY:
            display.emit(event)
        display.end(SUMMARY)
    assert len(stream.getvalue().splitlines()) == 2
    assert display.progress.encoded == 128


def test_what_is_logged_after_the_end_brings_no_bars_back() -> None:
    """Such as a notice that failed: it stands below the summary, and the cursor stays to be seen."""
    stream = io.StringIO()
    with output_to(stream) as output:
        display = LiveDisplay(Console(force_terminal=True, width=80, color_system=None), output)
        for event in STORY:
            display.emit(event)
        display.end(SUMMARY)
        output.put_nowait(Piece("--notify failed\n", logging.ERROR))
    drawn = stream.getvalue()
    assert drawn.endswith("done after 12 s: 5 genes encoded\n--notify failed\n")
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1
