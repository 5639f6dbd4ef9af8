"""What a run tells of itself, and what is made of it: what runs, where it stands, how it ended."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.console.run_record import (
    FILE,
    RunEnd,
    RunRecord,
    RunRecorder,
    read_record,
    record_of,
)
from helix_crawl_otel.console.status import NoRun, RunStatus, judge, status_of
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.dates import local_time, moment_of, utc_time
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.lock import LockHolder
from tests.console.story import told

NOW = 1795896611.25
"""2026-11-28T20:10:11.25Z."""

HERE = "rig"
BOOTED = NOW - 1e6


def record(t: float = 200.0, **changes: Any) -> RunRecord:
    """Of the story's run at that second, on this machine."""
    made = record_of(told(t), t, NOW - t + 100.0, NOW, None)
    assert made is not None
    return replace(made, **{"host": HERE, "pid": 4711, "process": "77", **changes})


def ended(code: int) -> RunEnd:
    """An end, with its summary."""
    summary = Summary(code, 12.0, 5, next_step="again", reason="because")
    return RunEnd(utc_time(NOW), code, summary.reason, summary.next_step, summary.lines())


def holder(**changes: Any) -> LockHolder:
    """Of the lock: the same process."""
    given: dict[str, Any] = {"command": "helix-crawl build a", "pid": 4711, "process": "77", "host": HERE, "home": ""}
    return LockHolder(**{**given, "since": utc_time(NOW - 60), **changes})


@pytest.mark.parametrize("end", [None, ended(75)])
def test_what_is_told_comes_back(tmp_path: Path, end: RunEnd | None) -> None:
    """All of it, by way of the file; it is replaced whole."""
    whole = record(end=end)
    recorder = RunRecorder(tmp_path, lambda _: whole)
    recorder.write()
    assert read_record(tmp_path) == whole
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"version": 2}', b"\xff\xfe", b"[" * 100_000])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: bytes) -> None:
    """Torn by a power cut, of a later version, or not ours: the lock still tells who is at work."""
    (tmp_path / FILE).write_bytes(content)
    assert read_record(tmp_path) is None
    (tmp_path / "lock.json").write_text(json.dumps({"pid": 2**40, "host": "far", "command": "c", "since": "s"}))
    found = status_of(tmp_path)
    assert (found.state, found.command) == ("silent", "c")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("standing", "shards"), {}),
        (("standing", "shards"), {"a": 1}),
        (("standing", "shards"), {"running": 3}),
        (("standing", "running", 0, "batch_genes"), 10**400),
        (("standing", "encoded"), 10**19),
        (("standing", "to_go_seconds"), 1e308),
        (("standing", "running", 0, "rate"), -1e308),
        (("started",), "9999-12-31T23:59:59Z"),
        (("as_of",), "0001-01-01T00:00:00Z"),
        (("devices",), []),
        (("pid",), -(2**63)),
        (("end", "lines"), []),
        (("end", "exit_code"), 10**15),
        (("host",), "x" * 9000),
    ],
)
def test_what_can_be_read_is_shown_whatever_it_says(tmp_path: Path, part: tuple[str | int, ...], value: object) -> None:
    """A file that somebody has edited, or of a program of another mind: `status` says something, and never fails."""
    for end in (None, ended(1)) if part[0] != "end" else (ended(1),):
        whole: Any = json.loads(json.dumps(asdict(record(end=end))))
        place = whole
        for key in part[:-1]:
            place = place[key]
        place[part[-1]] = value
        (tmp_path / FILE).write_text(json.dumps(whole))
        found = status_of_this_record(tmp_path)
        assert found.lines(NOW)
        assert json.loads(json.dumps(found.to_json(), allow_nan=False))["exit_code"] == found.exit_code


def status_of_this_record(folder: Path) -> RunStatus:
    """As on the machine of the run, whose process is there."""
    return judge(folder, None, read_record(folder), 1.0, HERE, lambda pid: "77", BOOTED)


@pytest.mark.parametrize("home", ["x" * 9000, "a\0b", "/nowhere", "."])
def test_a_home_that_is_none_is_not_gone_to(tmp_path: Path, home: str) -> None:
    """Of the lock of a folder: what stands beside it is told."""
    lock = {"pid": 4711, "process": "77", "host": "far", "command": "c", "since": "", "home": home}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    assert status_of(tmp_path).command == "c"


def test_a_full_disk_is_told_of_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file cannot be made, here because a folder has its name."""
    (tmp_path / FILE).mkdir()
    recorder = RunRecorder(tmp_path, lambda end: record(end=end))
    for _ in range(3):
        recorder.close(Summary(0, 1.0, 1))
    assert [f"{tmp_path / FILE} cannot be written" in line for line in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("what", "state", "why", "code"),
    [
        ({}, "running", "", 0),
        ({"quiet": 400.0}, "running", "says nothing", 0),
        ({"mark": None}, "killed", "process 4711 is gone; ", 1),
        ({"mark": "78"}, "killed", "its number is another program's by now", 1),
        ({"mark": ""}, "running", "", 0),
        ({"mark": None, "booted": NOW + 5}, "killed", "the machine was started anew at", 1),
        ({"host": "other"}, "running", "", 0),
        ({"host": "other", "quiet": 400.0}, "silent", "it is on rig: nothing was heard for 6 min 40 s", 1),
        ({"end": 0}, "done", "", 0),
        ({"end": 1}, "failed", "", 1),
        ({"end": 2}, "failed", "", 1),
        ({"end": 75}, "paused", "", 75),
        ({"end": 78}, "never", "", 78),
        ({"end": 130}, "interrupted", "", 75),
        ({"end": 0, "holder": holder(pid=5, process="9"), "mark": "9"}, "running", "it has told nothing more yet", 0),
        ({"end": 0, "holder": holder(pid=5, process="9"), "mark": None}, "killed", "process 5 is gone", 1),
        ({"end": 75, "mark": None}, "paused", "", 75),
        ({"record": None}, "running", "it has told nothing more yet", 0),
        ({"record": None, "quiet": None, "host": "other"}, "silent", "it has told nothing", 1),
        ({"record": None, "holder": None}, "silent", "no run has told anything of itself here that this", 1),
    ],
)
def test_what_is_made_of_it(what: dict[str, Any], state: str, why: str, code: int) -> None:
    """Whether it runs, by its process, its machine, and how long it has been silent; how it ended, by its word."""
    end = ended(what["end"]) if isinstance(what.get("end"), int) else None
    found = judge(
        Path("/shards"),
        what.get("holder", holder()),
        what.get("record", record(end=end)),
        what.get("quiet", 1.0),
        str(what.get("host", HERE)),
        lambda pid: what.get("mark", "77"),
        what.get("booted", BOOTED),
    )
    assert (found.state, found.exit_code) == (state, code)
    assert why in found.why
    assert bool(why) == bool(found.why)
    shown = found.lines(NOW)
    assert found.why in "\n".join(shown)
    assert json.loads(json.dumps(found.to_json()))["state"] == state


def test_where_a_crawling_run_stands() -> None:
    """Who, since when, of what, how far; the age of its batch, its rung, what the ladder did and when."""
    found = judge(Path("/b"), holder(), record(), 1.0, HERE, lambda pid: "77", BOOTED)
    text = "\n".join(found.lines(NOW))
    since = moment_of(record().started)
    assert since is not None
    for row in (
        "running: helix-crawl build a --out b",
        "process       4711 on rig",
        "(1 min 40 s ago)",
        "model         minilm on cuda:0",
        "shards        1 done, 1 running, 1 paused, of 3",
        "genes         128 of 1,040 genes have a vector",
        "now           . (loose files): 20 %, CRAWLING, cuda:0 0.3 of 15.3 genes/s, batch of 64 running for 1 min 21 s",
        "rung 1",
        "DETECT applied, shard . (loose files)",
        "metrics       http://127.0.0.1:9464/metrics",
    ):
        assert row in text


def test_a_run_that_is_over_runs_nothing() -> None:
    """What a worker was on is paused, for people and in the file."""
    whole = record_of(told(200.0), 200.0, NOW - 100, NOW, ended(75))
    assert whole is not None
    assert whole.standing.shards == {"planned": 3, "done": 1, "running": 0, "paused": 2, "failed": 0, "not_begun": 0}
    assert whole.standing.running == []
    killed = judge(Path("/b"), holder(), record(), 1.0, HERE, lambda pid: None, BOOTED)
    text = "\n".join(killed.lines(NOW))
    assert "shards        1 done, 2 paused, of 3" in text
    assert "next          helix-crawl build a --out b   # it goes on where it was" in text


def test_genes_of_a_shard_that_failed_still_lack_a_vector() -> None:
    """Nobody comes to them in this run, so that they are none of its time to go; of all genes they are some."""
    progress = told(206.0)
    left = progress.left
    for shard in list(progress.running):
        progress.take(events.ShardEnded(207.0, shard, "failed", 0, "its worker crashed again and again"))
    whole = record_of(progress, 207.0, NOW, NOW, None)
    assert whole is not None
    assert (progress.left + progress.given_up, whole.standing.left) == (left, left)
    assert progress.given_up > 0
    assert progress.left < left


def test_what_nobody_has_counted_is_no_number() -> None:
    """Before the first worker has looked at its shard."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "c", "o", "minilm", ("cpu",), "w", 3, 0))
    whole = record_of(progress, 1.0, NOW, NOW, None)
    found = judge(Path("/b"), None, replace(whole, host=HERE) if whole else None, 1.0, HERE, lambda pid: "", BOOTED)
    assert "genes         not counted yet" in "\n".join(found.lines(NOW))


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    """Named, with what is accepted."""
    for folder, what in ((tmp_path, "a folder in which no run"), (tmp_path / "gone", "no folder")):
        with pytest.raises(NoRun, match=what):
            status_of(folder)


def test_a_second_folder_of_a_backfill_leads_to_the_first(tmp_path: Path) -> None:
    """Which keeps what the run tells of itself."""
    first, second = (tmp_path / name / ".helix-crawl" for name in ("first", "second"))
    lock = {"pid": 4711, "process": "77", "host": "far", "command": "c", "since": "", "home": str(first)}
    for folder in (first, second):
        folder.mkdir(parents=True)
        (folder / "lock.json").write_text(json.dumps(lock))
    RunRecorder(first, lambda end: record(host="far", as_of=utc_time(NOW))).write()
    assert [status_of(folder.parent).folder for folder in (first, second)] == [tmp_path / "first"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever opens it waits for its other end, for ever."""
    (tmp_path / "timeline.jsonl").touch()
    for name in ("lock.json", FILE):
        os.mkfifo(tmp_path / name)
    assert status_of(tmp_path).state == "silent"


@pytest.mark.parametrize(
    "text",
    [
        *("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z", "1601-01-01T00:00:00Z", "1969-12-31T23:59:59Z"),
        *("2026-11-28T20:10:11.250Z", "3001-01-02T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"),
    ],
)
def test_a_date_that_is_read_can_be_written(text: str) -> None:
    """On each system as far as it goes: a file that somebody has written may hold any date."""
    moment = moment_of(text)
    assert moment is None or local_time(moment)
    assert moment is not None or not text.startswith("2026")
