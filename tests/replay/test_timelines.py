"""Promises about the timelines that are kept: both incidents are seen in time, and nobody else is touched.

Source: DESIGN.md, section 10 for the bounds, section 4 for what must not trip; INCIDENTS.md for the incidents.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from helix_crawl_otel.commands.replay import ReplayResult, replay
from helix_crawl_otel.policy.model import DecisionKind
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.timeline import BatchEvent, RunEvent, read_timeline
from tests.data.timelines import make

FOLDER = Path(make.__file__).parent
HEALTHY_SLICE_SECONDS = 5 * make.GENES / make.RATE
"""A slice of an ordinary batch on the incidents' card, 21 s."""


def replayed(name: str, settings: Settings | None = None) -> ReplayResult:
    """The replay of a kept timeline."""
    return replay(read_timeline(FOLDER / name), settings or Settings())


def issued(result: ReplayResult) -> list[tuple[str, str, int]]:
    """Shard, kind and rung of what was issued."""
    return [(decision.shard, decision.kind.value, decision.rung) for decision in result.issued() if decision.kind]


def batches(name: str, shard: str) -> list[BatchEvent]:
    """The batch lines of a shard."""
    return [event for event in read_timeline(FOLDER / name) if isinstance(event, BatchEvent) and event.shard == shard]


def test_the_files_are_what_the_script_makes(tmp_path: Path) -> None:
    """Whoever doubts a figure can read how it came about."""
    make.main(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.glob("*.jsonl")}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (FOLDER / path.name).read_bytes(), f"make {path.name} again"


@pytest.mark.parametrize("name", sorted(make.TIMELINES))
def test_each_says_that_it_is_reconstructed(name: str) -> None:
    """Nobody takes made-up figures for a recording; every line can be used."""
    reader = read_timeline(FOLDER / name)
    runs = [event for event in reader if isinstance(event, RunEvent)]
    assert len(runs) == 1
    assert runs[0].source.startswith(("incident", "made up"))
    assert (reader.skipped_lines, reader.unknown_events, reader.torn_line) == (0, 0, None)


@pytest.mark.parametrize("name", ["healthy.jsonl", "long-documents.jsonl", "slow-disk.jsonl"])
@pytest.mark.parametrize("action", ["ladder", "cpu", "off"])
def test_a_healthy_job_is_left_alone(name: str, action: str) -> None:
    """Full memory, long documents and a slow disk are no crawl: no trip, nothing issued, nothing recovered."""
    result = replayed(name, Settings(action=action))
    assert result.trips == 0
    assert result.decisions == []
    assert result.batches > 70


@pytest.mark.parametrize("name", ["long-documents.jsonl", "slow-disk.jsonl"])
def test_the_healthy_jobs_look_like_crawls(name: str) -> None:
    """The controls are hard: by genes a second, or by the time between batches, they fall below a fifth."""
    events = [event for event in read_timeline(FOLDER / name) if isinstance(event, BatchEvent)]
    gaps = [later.t - earlier.t for earlier, later in itertools.pairwise(events)]
    assert max(gaps) > 10 * min(gaps)
    stripped = [event._replace(work=None) for event in events]
    memory = [event for event in read_timeline(FOLDER / name) if not isinstance(event, BatchEvent)]
    if name == "long-documents.jsonl":  # without work it is judged by genes, and would trip
        assert replay([*memory, *stripped], Settings()).trips > 0


def test_incident_0610_confluence() -> None:
    """15.3 to 2.3 genes/s: seen within 15 slices; the whole ladder, because on a timeline no remedy helps."""
    name = "incident-0610-confluence.jsonl"
    result = replayed(name)
    assert issued(result) == [
        ("confluence", "DETECT", 0),
        ("confluence", "EMPTY_CACHE", 1),
        ("confluence", "RECYCLE", 2),
        ("confluence", "DETECT", 2),
        ("confluence", "DEMOTE_CPU", 3),
        ("confluence", "DETECT", 3),
    ]
    fall = next(event for event in batches(name, "confluence") if event.genes / event.seconds < 4)
    detected = result.issued()[0]
    assert detected.t - (fall.t - fall.seconds) <= 15 * HEALTHY_SLICE_SECONDS
    assert detected.evidence["memory_fraction"] == pytest.approx(11.85 / 12, abs=1e-3)
    assert detected.evidence["baseline"] == pytest.approx(15.3, rel=0.1)
    assert detected.evidence["limit"] == pytest.approx(15.3 / 5, rel=0.1)


def test_incident_0611_slack() -> None:
    """64 genes in 47 minutes: seen inside that one batch, and its worker ended at once, within 4 minutes.

    The card is read once a minute there: full from the third slice on, and eight slices from then on are a window.
    """
    name = "incident-0611-slack.jsonl"
    result = replayed(name)
    assert issued(result) == [
        ("slack__eng-oncall", "DETECT", 0),
        ("slack__eng-oncall", "EMPTY_CACHE", 1),
        ("slack__eng-oncall", "RECYCLE", 2),
    ]
    endless = max(batches(name, "slack__eng-oncall"), key=lambda event: event.seconds)
    began = endless.t - endless.seconds
    detected, _, recycled = result.issued()
    assert began < detected.t <= began + (2 + 8 + 1) * HEALTHY_SLICE_SECONDS
    assert recycled.forced
    assert recycled.t == detected.t < began + 240
    assert [decision.what for _, decision in result.decisions if decision.what is not DecisionKind.ISSUE] == [
        DecisionKind.OVERDUE,
        DecisionKind.APPLIED,
    ]
    assert result.cut_batches == 1


def test_a_born_crawling_shard() -> None:
    """It never shows what healthy is; the earlier shards of the card do."""
    name = "born-crawling.jsonl"
    result = replayed(name)
    assert {shard for shard, _, _ in issued(result)} == {"mail"}
    assert [kind for _, kind, _ in issued(result)][:2] == ["DETECT", "EMPTY_CACHE"]
    detected, first = result.issued()[0], batches(name, "mail")[0]
    assert detected.evidence["baseline_source"] == "card"
    assert detected.t - (first.t - first.seconds) <= 15 * HEALTHY_SLICE_SECONDS


def test_without_the_card_nobody_would_know() -> None:
    """The same shard alone is never judged: nothing says that it is slow."""
    alone = [
        event for event in read_timeline(FOLDER / "born-crawling.jsonl") if getattr(event, "shard", "mail") == "mail"
    ]
    assert replay(alone, Settings()).trips == 0


@pytest.mark.parametrize("name", ["born-crawling.jsonl", "incident-0610-confluence.jsonl", "incident-0611-slack.jsonl"])
def test_the_other_modes(name: str) -> None:
    """`cpu` goes to the CPU at the first trip; `off` only detects."""
    cpu, off = replayed(name, Settings(action="cpu")), replayed(name, Settings(action="off"))
    assert [kind for _, kind, _ in issued(cpu)][:2] == ["DETECT", "DEMOTE_CPU"]
    assert cpu.actions["EMPTY_CACHE"] == cpu.actions["RECYCLE"] == 0
    assert {kind for _, kind, _ in issued(off)} == {"DETECT"}
    assert cpu.issued()[0].t == off.issued()[0].t == replayed(name).issued()[0].t


@pytest.mark.parametrize("name", ["born-crawling.jsonl", "incident-0610-confluence.jsonl", "incident-0611-slack.jsonl"])
def test_without_memory_nothing_trips(name: str) -> None:
    """Unknown is not full."""
    lines = (FOLDER / name).read_text().splitlines()
    blind = [event for event in read_timeline(FOLDER / name) if not hasattr(event, "used_bytes")]
    assert len(blind) < len(lines)
    assert replay(blind, Settings()).trips == 0


@pytest.mark.parametrize("name", sorted(make.TIMELINES))
def test_the_order_of_lines_does_not_matter(tmp_path: Path, name: str) -> None:
    """Events are taken by `t`: a file written backwards says the same."""
    run, *lines = (FOLDER / name).read_text().splitlines()
    workers = [line for line in lines if json.loads(line)["event"] == "worker"]
    others = [line for line in lines if json.loads(line)["event"] != "worker"]
    path = tmp_path / name
    path.write_text("\n".join([run, *workers, *reversed(others)]) + "\n")
    assert replay(read_timeline(path), Settings()).decisions == replayed(name).decisions
