"""All rungs for real: another process, the CPU for one shard, the card again for the next; nothing is lost."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import Done, Rig, run_here
from tests.ladder.scrape import Scraper
from tests.programs import require_program

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")

DIGEST = "2df0744d2de6f8e25d99eeccc685d991aefb40b285e853e14438c05a0b838677"
"""Of `small_second_shard`, built without any fault, on every system; recorded on Linux."""

RATE = "clock:rate=25"
"""A healthy batch takes 15 ms of the world's, a slow one a fifth of a second: a moment without a processor, as every
process has it on a busy machine, makes neither of them the other, nor any action overdue."""

SPILLS = "card:fragment_gib=1.0,spill_cost=12,spill_power=0.1,warmup_seconds=0"
"""Each batch leaves a GiB: what a process may hold is full after its eighth, and then it is 13 times slower."""

QUICK = ("--window", "4", "--batch-size", "8", "--release-every", "0", "--fault", RATE)
"""The workers release nothing of themselves: by need they would, before the card spills, as often as the machine's own
speed lets them, and a crawl would come later or never."""

WAITS = """
import atexit, os, sys, time
def wait(name):
    ends = time.monotonic() + 60
    while not os.path.exists(name) and time.monotonic() < ends:
        time.sleep(0.005)
if "helix_crawl_otel.build.worker" in sys.orig_argv:
    wait("scraped-" + str(os.getpid()))
    if {waits_at_exit}:
        atexit.register(wait, "scraped-detected")
"""
"""No worker begins before its start has been scraped, nor ends before a detected crawl has been, if so asked."""


def small_second_shard(rig: Rig) -> Rig:
    """One shard of 60 batches, and one of two."""
    rig.write_shards(1, 16, 90)
    return rig.write({f"shard-1/file-{n}.txt": f"A second shard, file {n}." for n in range(12)})


def run(rig: Rig, *more: str, waits_at_exit: bool = False) -> tuple[Done, Scraper]:
    """Build with a metrics endpoint, which is scraped all the while, and after each start of a worker."""
    rig.options = ("--model", "hashing", "--metrics-port", "0")
    site = rig.with_site(WAITS.format(waits_at_exit=waits_at_exit))
    with rig.started(rig.build_command(*QUICK, *more), **site) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        events: list[dict[str, Any]] = []
        scraper: Scraper | None = None
        for line in process.stdout:
            event = json.loads(line)
            events.append(event)
            if event["event"] == "metrics_at":
                scraper = Scraper(event["url"])
            elif event["event"] == "worker_started" or event.get("action") == "DETECT":
                assert scraper is not None
                scraper.scrape()
                (rig.folder / f"scraped-{event.get('pid', 'detected')}").touch()
        assert scraper is not None
        errors = process.stderr.read().decode()
        process.wait(timeout=60)
        scraper.stop()
    assert scraper.problems == []
    assert scraper.fallen() == []
    return Done(process.returncode, events, errors), scraper


def starts(done: Done) -> list[tuple[str, str]]:
    """Device and reason of each worker."""
    return [(event["device"], event["reason"]) for event in done.of("worker_started")]


def applied(done: Done) -> list[str]:
    """Actions that were applied, in order."""
    return [e["action"] for e in done.of("action") if e["outcome"] == "applied" and e["action"] != "DETECT"]


def replays_as_recorded(rig: Rig, unfinished: int) -> None:
    """The timeline has so many batches that did not end, each before the worker in its place; the replay asks for what
    the job asked for, by the same numbers and as old a batch."""
    path = rig.out / ".helix-crawl/timeline.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ends = [line["event"] for line in lines if line["event"] in ("worker", "unfinished")]
    assert ends == ["worker", *["unfinished", "worker"] * unfinished]
    code, stdout, errors = run_here("replay", str(path), "--json", "--window", "4")
    assert code == 0, errors
    *replayed, summary = map(json.loads, stdout.splitlines())
    assert (summary["unfinished_batches"], summary["cut_batches"]) == (unfinished, 0)
    recorded = [line for line in lines if line["event"] == "action"]
    assert [(line["kind"], line["shard"]) for line in replayed] == [(line["kind"], line["shard"]) for line in recorded]
    for ours, its in zip(replayed, recorded, strict=True):
        for number in ("ema", "baseline", "streak", "inflight_seconds"):
            assert ours["evidence"][number] == pytest.approx(its["evidence"][number], rel=1e-3), number


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 3])
def test_replay_says_what_adaptive_did_in_two_runs(rig: Rig, workers: int) -> None:
    """With the state that the first one kept, and with the second one's line alone to tell of it."""
    rig.options = ("--model", "hashing", "--no-metrics")
    more = ("--action", "adaptive", "--fault", SPILLS, "--workers", str(workers))
    path = rig.out / ".helix-crawl/timeline.jsonl"
    for number in range(2):
        rig.write_shards(3, 8 + 4 * number, 90)
        before = path.stat().st_size if number else 0
        assert rig.build(*QUICK, *more).code == 0
        for text in dict.fromkeys((path.read_bytes(), path.read_bytes()[before:])):
            part = rig.folder / "part.jsonl"
            part.write_bytes(text)
            code, stdout, errors = run_here("replay", str(part), "--json", "--window", "4", "--action", "adaptive")
            assert code == 0, errors
            asked: dict[str, list[str]] = {}
            took: dict[str, list[str]] = {}
            for line in map(json.loads, stdout.splitlines()[:-1]):
                asked.setdefault(line["shard"], []).append(line["kind"])
            for line in map(json.loads, text.splitlines()):
                if line["event"] == "action" and line["outcome"] != "superseded":
                    took.setdefault(line["shard"], []).append(line["kind"])
            assert took == asked
            assert took


@pytest.mark.timeout(180)
def test_all_four_rungs(rig: Rig) -> None:
    """DETECT, EMPTY_CACHE, RECYCLE, DEMOTE_CPU, and the next shard on the card; the digest of an undisturbed build.

    The endpoint answers throughout, no counter falls, the final ones are what the events say, the timeline replays to
    the same decisions.
    """
    small_second_shard(rig)
    done, scraper = run(rig, "--fault", SPILLS)
    assert done.code == 0, done.errors
    assert starts(done) == [("cuda:0", "first"), ("cuda:0", "recycle"), ("cpu", "demote"), ("cuda:0", "resume")]
    assert len({event["pid"] for event in done.of("worker_started")}) == 4
    assert applied(done) == ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]
    assert {event["shard"] for event in done.of("action")} == {"shard-0"}
    verified = rig.verify()
    assert (verified["digest"], verified["genes"]) == (DIGEST, done.summary["encoded"])

    assert len(scraper.scrapes) > 5
    rows = {name for scrape in scraper.scrapes for name, _ in scrape}
    for name in ("ladder_rung", "crawl_ratio", "throughput_per_second", "baseline_per_second", "vram_used_bytes"):
        assert f"helix_dense_{name}" in rows
    for event in ("first", "recycle", "demote", "resume"):
        assert scraper.value("helix_dense_worker_starts_total", reason=event) == 1
    for action in applied(done):
        assert scraper.value("helix_dense_ladder_actions_total", action=action, outcome="applied") == 1
    detected = [event for event in done.of("action") if event["action"] == "DETECT"]
    assert scraper.value("helix_dense_crawl_detected_total", shard="shard-0") == len(detected)

    timeline = str(rig.out / ".helix-crawl/timeline.jsonl")
    code, replayed, errors = run_here("replay", timeline, "--json", "--window", "4")
    assert code == 0, errors
    rows_of_replay = [json.loads(line) for line in replayed.splitlines()]
    kinds = [row["kind"] for row in rows_of_replay if "kind" in row]
    issued = [e["action"] for e in done.of("action") if e["outcome"] in ("applied", "overdue")]
    assert [kind for kind in kinds if kind != "DETECT"] == [kind for kind in issued if kind != "DETECT"]
    ladder = (rig.out / ".helix-crawl/ladder.json").read_text()
    assert '"rung": 3' in ladder or '"rung":3' in ladder


def test_a_fresh_process_is_enough(rig: Rig) -> None:
    """What is left fits into a fresh process: it is fast again, and nothing goes to the CPU."""
    rig.write_shards(1, 7, 90)
    done, _ = run(rig, "--fault", SPILLS)
    assert done.code == 0, done.errors
    assert "RECYCLE" in applied(done)
    assert "DEMOTE_CPU" not in applied(done)
    assert rig.verify()["digest"] == rig.undisturbed()["digest"]


def test_action_cpu(rig: Rig) -> None:
    """The first trip goes to the CPU."""
    small_second_shard(rig)
    done, _ = run(rig, "--fault", SPILLS, "--action", "cpu")
    assert done.code == 0, done.errors
    assert applied(done) == ["DEMOTE_CPU"]
    assert starts(done) == [("cuda:0", "first"), ("cpu", "demote"), ("cuda:0", "resume")]


@pytest.mark.timeout(180)
def test_action_off(rig: Rig) -> None:
    """It is detected and nothing else: one worker to the end."""
    rig.write_shards(1, 6, 90)
    done, scraper = run(rig, "--fault", SPILLS, "--action", "off", waits_at_exit=True)
    assert done.code == 0, done.errors
    assert applied(done) == []
    assert starts(done) == [("cuda:0", "first")]
    assert scraper.value("helix_dense_crawl_detected_total") >= 1


def test_a_wedge_under_a_full_card(rig: Rig) -> None:
    """A C call that holds the GIL: the deadline ends the worker, the endpoint answers meanwhile, the build finishes.

    The next worker crashes. Neither batch ended, both are in the timeline, and it replays to what the job decided.
    """
    rig.write_shards(1, 6, 40)
    full = "card:others_gib=9.0,context_gib=2.5,activation_mib_per_token=0,spill_cost=0"
    faults = ("--fault", full, "--fault", "wedge:batch=8,worker=1", "--fault", "crash:batch=2,worker=2")
    done, scraper = run(rig, *faults)
    assert done.code == 0, done.errors
    assert done.of("worker_ended")[0]["code"] != 0
    assert starts(done) == [("cuda:0", "first"), ("cuda:0", "recycle"), ("cuda:0", "crash")]
    replays_as_recorded(rig, unfinished=2)
    overdue = [e["action"] for e in done.of("action") if e["outcome"] == "overdue"]
    assert overdue
    assert rig.verify()["digest"] == rig.undisturbed()["digest"]
    ages = [v for scrape in scraper.scrapes for (name, _), v in scrape.items() if name.endswith("inflight_seconds")]
    assert max(ages) > 20


@pytest.mark.timeout(180)
def test_two_cards_have_a_ladder_each(rig: Rig) -> None:
    """Two workers crawl at the same time, and each shard climbs for itself."""
    rig.write_shards(2, 16, 90)
    done, _ = run(rig, "--fault", SPILLS, "--workers", "2")
    assert done.code == 0, done.errors
    for shard in ("shard-0", "shard-1"):
        rungs = [e["action"] for e in done.of("action") if e["shard"] == shard and e["outcome"] == "applied"]
        assert [kind for kind in rungs if kind != "DETECT"] == ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]
    assert {device for device, _ in starts(done)} == {"cuda:0", "cuda:1", "cpu"}
    assert rig.verify()["digest"] == rig.undisturbed()["digest"]


@pytest.mark.timeout(180)
def test_a_demoted_shard_outlives_the_supervisor(rig: Rig) -> None:
    """Killed while a shard is on the CPU, the same command goes on there."""
    small_second_shard(rig)
    more = (*QUICK, "--fault", SPILLS, "--action", "cpu", "--fault", "slow:seconds=20,worker=2")
    with rig.started(rig.build_command(*more)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "committed" and event["device"] == "cpu":
                break
        process.kill()
        process.wait(timeout=60)
    done = rig.build(*QUICK, "--fault", SPILLS)
    assert done.code == 0, done.errors
    assert starts(done)[0][0] == "cpu"
    assert starts(done)[-1][0] == "cuda:0"
    assert rig.verify()["digest"] == rig.undisturbed()["digest"]


@pytest.mark.timeout(180)
def test_the_exposition_is_well_formed(rig: Rig) -> None:
    """`promtool check metrics` has nothing to say against it."""
    promtool = require_program("promtool")
    rig.write_shards(2, 3, 20)
    done, scraper = run(rig, "--fault", "card:fragment_gib=0", "--fault", "slow:seconds=5")
    assert done.code == 0, done.errors
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scraper.last.encode(), capture_output=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr.decode() + checked.stdout.decode()
