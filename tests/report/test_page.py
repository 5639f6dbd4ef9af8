"""The page and the picture: what they say, that nothing is loaded, that names cannot break them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from helix_crawl_otel.charts import LIGHT, draw, figure
from helix_crawl_otel.report.page import PICTURE, picture
from helix_crawl_otel.report.panels import MOST_POINTS, panels, thinned, thinned_readings, window
from helix_crawl_otel.report.story import Reading, ReportBatch
from tests.report.stories import job_with_a_recycle, job_with_an_endless_batch, page_of, recorded, story_of

EMPTY = {"meta", "link", "br", "hr", "img", "input"}
HOSTILE = "</title><script>alert(1)</script> \" onload='x' & $x_{1}$ \u202e\n<b>"


class Checked(HTMLParser):
    """Elements, their attributes, ids and text; whatever is not closed is a failure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """It ends."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        self.words.append(data)

    @property
    def text(self) -> str:
        """All of it, in one line."""
        return re.sub(r"\s+", " ", "".join(self.words))


def test_the_page_says_what_happened() -> None:
    """Headline, numbers, evidence, effect, definitions, knobs."""
    text = Checked(page_of(story_of(job_with_a_recycle()))).text
    for expected in (
        "1 crawl in 1 of 1 shard.",
        "The crawl took 6 min 00 s beyond what the same batches take at the baseline.",
        "The ladder saved about 17 min 40 s, an estimate.",
        "crawl detected",
        "worker recycled",
        "8 observations in a row like a crawl",
        "average speed 10 % of the shard's baseline of 16.0 genes/s, the limit is 20 %",
        "memory 99.0 % full",
        "1.6 genes/s (10 % of the baseline)",
        "16.0 genes/s (100 % of the baseline)",
        "new worker on cuda:0 (recycle)",
        "Lost to the crawl: the seconds",
        "Saved by the ladder, an estimate:",
        "factor 5, window 8, action ladder",
    ):
        assert expected in text


def test_a_batch_that_did_not_end_is_shown() -> None:
    """A row without a number, in the order of time, and a word in the legend, which no other page has."""
    page = page_of(story_of(job_with_an_endless_batch()))
    text = Checked(page).text
    rows = re.findall(r'data-is="what">([^<]*)<', page)
    assert rows == [
        "new worker on cuda:0 (first)",
        "crawl detected",
        "cache released, by force: a stuck batch kept it from its boundary",
        "A batch of 64 genes did not end in 6 min 00 s: its worker ended",
        "worker recycled",
        "new worker on cuda:0 (recycle)",
    ]
    assert "a batch that did not end, at most so fast" in text
    assert "did not end" not in Checked(page_of(story_of(job_with_a_recycle()))).text


def test_a_batch_that_did_not_end_is_drawn_to_a_cross() -> None:
    """At the most that its rate can have been, from its beginning to the end of its worker, in a crawl's colour."""
    import numpy as np

    (tale,) = story_of(job_with_an_endless_batch()).tales
    page = figure(PICTURE.inches)
    draw(
        page, next(panels(tale, {}, 5.0, 0.92, [PICTURE])), window(tale, {}), LIGHT, PICTURE, 0.9, "since the run began"
    )
    speed = page.axes[0]
    (cross,) = (line for line in speed.lines if line.get_marker() == "X")
    began, ended = [120 / 60, 64 / 360], [480 / 60, 64 / 360]
    assert np.allclose(cross.get_xydata(), [ended])
    assert cross.get_color() == LIGHT["crawl"]
    ways = [np.asarray(line.get_xydata()) for line in speed.lines]
    assert [way.shape for way in ways if way.shape == (2, 2) and np.allclose(way, [began, ended])] == [(2, 2)]
    assert speed.get_ylim()[0] < 64 / 360


def test_it_says_what_was_not_done() -> None:
    """Of a job without recorded actions: what would have been asked for, and that nothing was done."""
    text = Checked(page_of(recorded("incident-0611-slack"))).text
    assert "nothing here was done by the ladder" in text
    assert "would be asked for: worker recycled" in text
    assert "Reconstructed, not recorded: incident 06-11" in text
    assert "new worker on cpu (demote)" in text
    assert "Nothing was done" not in text


@pytest.mark.parametrize("name", ["incident-0610-confluence", "healthy"])
def test_the_page_loads_nothing(name: str) -> None:
    """One file: no address anywhere, no script, no picture; what it refers to is in it, and every id is there once."""
    text = page_of(recorded(name))
    page = Checked(text)
    assert "://" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    assert {tag for tag, _ in page.elements} & {"script", "img", "iframe", "object", "embed"} == set()
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = {
        attributes["href"] or "" for tag, attributes in page.elements if "href" in attributes and tag != "link"
    }
    references |= {f"#{name}" for name in re.findall(r"url\(#([^)]+)\)", text)}
    assert references
    assert references <= {f"#{name}" for name in ids}


def test_a_hostile_name_is_only_text() -> None:
    """Shards, devices, outcomes and reasons come from somebody's files."""
    events = job_with_a_recycle(HOSTILE)
    for event in events:
        if event["event"] in ("batch", "memory", "worker"):
            event["device"] = HOSTILE
        if event["event"] == "worker":
            event["reason"] = HOSTILE
        if event["event"] == "action":
            event["outcome"] = HOSTILE
            event["evidence"] = {"ratio": HOSTILE, "baseline_source": HOSTILE}
    events[0]["reconstructed"], events[0]["source"] = True, HOSTILE
    story = story_of(events)
    page = Checked(page_of(story))
    assert {tag for tag, _ in page.elements} & {"script", "b"} == set()
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "\u202e" not in page.text
    assert "<script>alert(1)</script>" in page.text
    assert picture(story).startswith(b"\x89PNG")


def test_a_name_in_another_script_can_be_drawn() -> None:
    """The picture's font may lack it: no warning, which is an error here."""
    assert picture(story_of(job_with_a_recycle("\u7b14\u8bb0-\u05d0"))).startswith(b"\x89PNG")


def test_colours_are_left_to_the_style() -> None:
    """No colour is fixed in a figure: dark and light both work."""
    text = page_of(recorded("incident-0610-confluence"))
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 4
    for svg in figures:
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
            "none",
            *(f"var(--{name})" for name in ("ink", "soft", "line", "rate", "crawl", "memory")),
        }
        assert "#0102" not in svg
    assert "prefers-color-scheme: dark" in text


def test_the_same_timeline_makes_the_same_page() -> None:
    """No date, no random ids."""
    assert page_of(recorded("slow-disk")) == page_of(recorded("slow-disk"))


def test_a_long_job_makes_a_small_page() -> None:
    """10,000 batches, 20 shards: well below a few MB, and the slowest batch is still there."""
    events: list[dict[str, object]] = []
    t = 0.0
    for n in range(10_000):
        seconds = 900.0 if n == 7_777 else 4.0
        t += seconds
        events.append({"event": "memory", "t": t, "used_bytes": 1, "limit_bytes": 2})
        events.append({"event": "batch", "t": t, "shard": f"s{n // 500}", "genes": 64, "seconds": seconds})
    text = page_of(story_of(events))
    assert len(text) < 3_000_000
    assert "Shown are 12 of 20 shards" in text


def test_of_very_many_actions_the_first_are_shown() -> None:
    """1,000 crawls of a shard: words, table and figure hold the first of them, and say how many there are."""
    events: list[dict[str, object]] = []
    for n in range(1_000):
        at = {"t": 10.0 * n + 8, "shard": "a"}
        events += [
            {"event": "batch", **at, "genes": 64, "seconds": 4.0},
            {"event": "action", **at, "kind": "DETECT"},
            {"event": "action", **at, "kind": "RECYCLE", "outcome": "applied"},
            {"event": "worker", "t": 10.0 * n + 9, "device": "cuda:0", "reason": "recycle"},
        ]
    page = page_of(story_of(events))
    text = Checked(page).text
    assert text.count("It crawled from") == text.count("Worker recycled at") == 30
    assert "So it went on: 1,940 more crawls and remedies are left out here." in text
    assert "The table has the first 200 of 2,999 actions, new workers and batches that did not end" in text
    assert len(page) < 500_000


def test_thinning_keeps_what_stands_out() -> None:
    """Slowest and fastest batch, fullest and emptiest reading."""
    batches = [ReportBatch(n, n + (0.9 if n != 777 else 0.001), 1, 1, "cuda:0", "w", None, False) for n in range(5_000)]
    slow = ReportBatch(6_000, 7_000, 1, 1, "cuda:0", "w", None, False)
    kept = thinned([*batches, slow])
    assert len(kept) <= MOST_POINTS + 2
    assert slow in kept
    assert batches[777] in kept
    assert kept == sorted(kept, key=lambda batch: batch.ended)
    readings = [Reading(n, "cuda:0", 1.2 if n == 333 else None if n % 7 == 0 else 0.5) for n in range(5_000)]
    assert readings[333] in thinned_readings(readings)


def test_memory_that_was_not_recorded_is_not_drawn() -> None:
    """Unknown is not 0."""
    events = [event for event in job_with_a_recycle() if event["event"] != "memory"]
    assert "not recorded</text>" in page_of(story_of(events))
