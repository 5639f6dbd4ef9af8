"""Promises of the flight recorder's writer: one line an event, never an exception into the job."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.timeline import BatchEvent, TimelineWriter, read_timeline
from tests.programs import require_module

FULL_DEVICE = Path("/dev/full")


class Clock:
    """Seconds that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "timeline.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a timeline; NaN and its kin are errors."""

    def no_number(name: str) -> None:
        raise AssertionError(f"{name} was written")

    return [json.loads(line, parse_constant=no_number) for line in path.read_text(encoding="ascii").splitlines()]


def test_the_five_events_are_those_of_the_contract(path: Path) -> None:
    """The lines of section 3.6, key by key."""
    clock = Clock(1000.0)
    with TimelineWriter(path, clock, now=lambda: 1795896611.25) as writer:
        writer.run(config=CrawlConfig(), encoder="BAAI/bge-m3", host="rig")
        writer.worker(1000.1, "cuda:0", pid=4711, reason="first")
        writer.batch(1012.31, "a", "cuda:0", 64, 4.18, work=81234)
        writer.memory(1012.31, "cuda:0", 11_850_000_000, 12_000_000_000)
        writer.action(1040.0, "a", "EMPTY_CACHE", "applied", {"rate": 2.3, "baseline_source": "shard"})
    assert [json.dumps(line) for line in lines(path)] == [
        '{"event": "run", "t": 0.0, "version": 1, "config": {"factor": 5.0, "window": 8, "action": "ladder", '
        '"vram_full": 0.92, "ema_alpha": 0.3, "warmup": 1, "inflight": true, "shared": false}, '
        '"encoder": "BAAI/bge-m3", "host": "rig", "started": "2026-11-28T20:10:11.250Z", "clock": 1000.0}',
        '{"event": "worker", "t": 0.1, "device": "cuda:0", "pid": 4711, "reason": "first"}',
        '{"event": "batch", "t": 12.31, "shard": "a", "device": "cuda:0", "genes": 64, "work": 81234, "seconds": 4.18}',
        '{"event": "memory", "t": 12.31, "device": "cuda:0", "used_bytes": 11850000000, "limit_bytes": 12000000000}',
        '{"event": "action", "t": 40.0, "shard": "a", "kind": "EMPTY_CACHE", "outcome": "applied", '
        '"evidence": {"rate": 2.3, "baseline_source": "shard"}}',
    ]


def test_the_worker_is_named_where_it_says_more_than_the_device(path: Path) -> None:
    """Only where several workers share a device."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.worker(0.0, "cuda:0", pid=1, reason="first", worker="cuda:0")
        writer.worker(0.0, "cuda:0", pid=2, reason="first", worker="cuda:0#2")
        writer.batch(5.0, "a", "cuda:0", 1, 1.0, worker="cuda:0#2")
    assert [line.get("worker") for line in lines(path)] == [None, "cuda:0#2", "cuda:0#2"]


def test_the_time_axis_begins_with_the_run(path: Path) -> None:
    """`t` is seconds since the run began, whatever the clock counts from; the next run has its own."""
    clock = Clock(5e6)
    with TimelineWriter(path, clock) as writer:
        clock.now += 7.0
        writer.run()
        writer.memory(clock.now + 1.25, "cuda:0", 1, 2)
    clock.now += 1000.0
    with TimelineWriter(path, clock) as writer:
        writer.run()
        writer.memory(clock.now + 2.5, "cuda:0", 1, 2)
    assert [(line["event"], line["t"]) for line in lines(path)] == [
        ("run", 0.0),
        ("memory", 1.25),
        ("run", 0.0),
        ("memory", 2.5),
    ]


def test_each_line_is_there_at_once(path: Path) -> None:
    """A job that is killed has lost nothing that it said before."""
    writer = TimelineWriter(path, Clock(0.0))
    for n in range(1, 4):
        writer.memory(n, "cuda:0", n, 100)
        assert len(lines(path)) == n
    writer.close()


@pytest.mark.parametrize("torn", [b"{", b'{"event":"batch","t":1', b'{"event":"x"}', b"\x00\x00\x00"])
def test_a_torn_end_is_left_alone(path: Path, torn: bytes) -> None:
    """A crash's half line stays; the next run begins on a line of its own."""
    before = b'{"event":"run","version":1,"t":0}\n' + torn
    path.write_bytes(before)
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.run()
        writer.run()
    assert path.read_bytes().startswith(before + b'\n{"event":"run"')
    assert path.read_bytes().count(b"\n") == 4


def test_a_whole_end_gets_no_blank_line(path: Path) -> None:
    """Appending to a file that ended well adds lines and nothing else."""
    for _ in range(3):
        with TimelineWriter(path, Clock(0.0)) as writer:
            writer.run()
    assert path.read_bytes().count(b"\n") == len(lines(path)) == 3


def test_a_batch_that_did_not_end(path: Path) -> None:
    """Its line has the keys of a batch, and is refused for the same reasons."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.unfinished(40.0, "a", "cuda:0", 64, 28.0, work=81234, worker="cuda:0#2")
        writer.unfinished(40.0, "a", "cuda:0", 64, 0.0)
        assert writer.lost_lines == 1
    assert [json.dumps(line) for line in lines(path)] == [
        '{"event": "unfinished", "t": 40.0, "shard": "a", "device": "cuda:0", "worker": "cuda:0#2", "genes": 64, '
        '"work": 81234, "seconds": 28.0}'
    ]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0, "4", None])
def test_a_batch_that_cannot_be_judged_is_not_written(path: Path, bad: Any) -> None:
    """NaN, infinity, nothing and text are no seconds; such a line would only be skipped later."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.batch(1.0, "a", "cuda:0", 64, bad)
        writer.batch(2.0, "a", "cuda:0", 64, 4.0)
        assert writer.lost_lines == 1
        assert writer.failure is None
    assert [line["t"] for line in lines(path)] == [2.0]


@pytest.mark.parametrize("bad", [math.nan, -math.inf, 0.0, -1.0, "4", True, None])
def test_tokens_that_cannot_be_are_left_out(path: Path, bad: Any) -> None:
    """The batch is judged without them: its line must not be lost for what only an estimate reads."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.batch(1.0, "a", "cuda:0", 64, 4.0, 8192, tokens=bad)
        writer.batch(2.0, "a", "cuda:0", 64, 4.0, 8192, tokens=3100.0)
        assert writer.lost_lines == 0
    assert [event.tokens for event in read_timeline(path) if isinstance(event, BatchEvent)] == [None, 3100]


def test_what_is_unknown_is_null(path: Path) -> None:
    """JSON has no NaN, and an unknown reading is not 0."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.run(config={"factor": math.inf, "odd": [math.nan, 1]})
        writer.memory(1.0, "cuda:0", math.nan, None)
        writer.action(1.0, "a", "DETECT", "applied", {"rate": math.nan, "memory_fraction": None})
    run, memory, action = lines(path)
    assert run["config"] == {"factor": None, "odd": [None, 1]}
    assert memory["used_bytes"] is memory["limit_bytes"] is None
    assert action["evidence"] == {"rate": None, "memory_fraction": None}


def test_numbers_are_short(path: Path) -> None:
    """A timeline of a night is megabytes, not gigabytes: no digits that nobody measured."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.batch(1 / 3, "a", "cuda:0", 64.0, 2 / 3, work=1e6 / 3)
        writer.batch(1 / 3, "a", "cuda:0", 64.0, 1.23456789e-7)
        writer.action(1 / 3, "a", "DETECT", "applied", {"rate": 1 / 3})
    first, second, action = lines(path)
    assert (first["t"], first["genes"], first["work"], first["seconds"]) == (0.333333, 64, 333333.333, 0.666667)
    assert second["seconds"] == 1.23457e-07
    assert action["evidence"]["rate"] == 0.333333


def test_scalars_of_numpy_are_numbers(path: Path) -> None:
    """Lengths come from tokenizers as numpy's own; the file holds numbers, not their text."""
    numpy = require_module("numpy", "numpy")
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.batch(1.0, "a", "cuda:0", numpy.int64(64), numpy.float32(4.0), work=numpy.int32(9))
    (line,) = lines(path)
    assert (line["genes"], line["seconds"], line["work"]) == (64, 4, 9)


def test_odd_names_come_back(path: Path) -> None:
    """Names of shards are names of folders: anything, half a surrogate pair included."""
    names = ["日本語", 'a"b\\c', "new\nline", "\ud800", "\x00", " "]
    with TimelineWriter(path, Clock(0.0)) as writer:
        for name in names:
            writer.batch(1.0, name, "cuda:0", 1, 1.0)
    assert [event.shard for event in read_timeline(path)] == names  # type: ignore[union-attr]  # all are batches


def test_events_of_a_later_version_can_be_written(path: Path) -> None:
    """Anybody may note something; readers ignore what they do not know."""
    with TimelineWriter(path, Clock(0.0)) as writer:
        writer.run()
        writer.write("note", 1.0, text="the cat sat on the keyboard", when=Path("x"))
    assert lines(path)[1] == {"event": "note", "t": 1.0, "text": "the cat sat on the keyboard", "when": "x"}
    reader = read_timeline(path)
    assert len(list(reader)) == 1
    assert (reader.unknown_events, reader.skipped_lines) == (1, 0)


def test_eight_threads_write_whole_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is lost, doubled or mixed with another, as long as no write hangs; a slow machine's may take a second."""
    monkeypatch.setattr("helix_crawl_otel.timeline.writer.LOCK_SECONDS", 100.0)
    writer = TimelineWriter(path, Clock(0.0))

    def work(name: str) -> None:
        for n in range(200):
            writer.batch(n + 1.0, name * 50, "cuda:0", n + 1, 1.0)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    written = [(line["shard"], line["genes"]) for line in lines(path)]
    assert sorted(written) == sorted((letter * 50, n + 1) for letter in "abcdefgh" for n in range(200))


def test_two_writers_share_a_file(path: Path) -> None:
    """Two processes on one file append whole lines."""
    first, second = TimelineWriter(path, Clock(0.0)), TimelineWriter(path, Clock(0.0))
    for n in range(1, 50):
        (first if n % 2 else second).memory(n, "cuda:0", n, 100)
    first.close()
    second.close()
    assert [line["used_bytes"] for line in lines(path)] == list(range(1, 50))


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """The job goes on; whoever cares has the flag, the count and the callback."""
    failures: list[Exception] = []
    writer = TimelineWriter(FULL_DEVICE, Clock(0.0), on_failure=failures.append)
    with caplog.at_level(logging.WARNING):
        for n in range(5):
            writer.memory(n, "cuda:0", 1, 2)
    assert writer.lost_lines == 5
    assert [getattr(failure, "errno", None) for failure in failures] == [errno.ENOSPC]
    assert writer.failure is failures[0]
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith(f"[crawl-watchdog] the timeline {FULL_DEVICE} cannot be written: ")
    writer.close()


def test_a_disk_that_fills_up_and_is_freed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line was written: the next one that fits begins on its own line."""
    real = os.write
    writes: list[Callable[[int, bytes], int]] = [
        real,
        lambda file, data: real(file, data[:20]),
        lambda file, data: real(file, data[:0]),
        real,
    ]

    def write(file: int, data: bytes) -> int:
        return writes.pop(0)(file, data)

    with TimelineWriter(path, Clock(0.0)) as writer:
        monkeypatch.setattr(os, "write", write)
        for n in range(4):
            writer.memory(n, "cuda:0", n, 100)
        monkeypatch.undo()
        assert writer.lost_lines == 2
    whole, torn, after = path.read_text().splitlines()
    assert (json.loads(whole)["t"], json.loads(after)["t"]) == (0.0, 3.0)
    assert len(torn) == 20
    reader = read_timeline(path)
    assert [event.t for event in reader] == [0.0, 3.0]
    assert [skipped.number for skipped in reader.skipped] == [2]


def test_a_callback_that_raises_is_no_exception_of_the_job(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing in this package may break the job it watches."""

    def fail(failure: Exception) -> None:
        raise RuntimeError("no")

    writer = TimelineWriter(path, Clock(0.0), on_failure=fail)
    writer.memory(math.nan, "cuda:0", 1, 2)
    assert writer.lost_lines == 1
    assert "on_failure" in caplog.text
    writer.close()


def test_after_closing_lines_are_lost_quietly(path: Path) -> None:
    """A thread that is late does no harm, least of all to another file of that number."""
    writer = TimelineWriter(path, Clock(0.0))
    writer.close()
    writer.close()
    writer.memory(1.0, "cuda:0", 1, 2)
    assert writer.lost_lines == 1
    assert path.read_bytes() == b""


def test_a_forked_child_leaves_the_file(path: Path) -> None:
    """Its lock may have been held when the fork came."""
    writer = TimelineWriter(path, Clock(0.0))
    writer._lock.acquire()
    writer.abandon()
    writer.memory(1.0, "cuda:0", 1, 2)
    assert path.read_bytes() == b""


def test_a_hanging_write_does_not_stop_the_other_threads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network share that hangs takes one thread, not the job."""
    monkeypatch.setattr("helix_crawl_otel.timeline.writer.LOCK_SECONDS", 0.01)
    writer = TimelineWriter(path, Clock(0.0))
    with writer._lock:
        writer.memory(1.0, "cuda:0", 1, 2)
    assert isinstance(writer.failure, TimeoutError)
    writer.memory(2.0, "cuda:0", 1, 2)
    writer.close()
    assert [line["t"] for line in lines(path)] == [2.0]


def test_what_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    """Before the job starts an exception is right: a folder, a missing folder."""
    with pytest.raises((IsADirectoryError, PermissionError)):  # the second is what Windows says of a folder
        TimelineWriter(tmp_path)
    with pytest.raises(FileNotFoundError):
        TimelineWriter(tmp_path / "missing" / "timeline.jsonl")


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
def test_a_pipe_that_nobody_reads_holds_nobody_up(tmp_path: Path) -> None:
    """What it cannot take is lost and told, once."""
    os.mkfifo(tmp_path / "pipe")
    failures: list[Exception] = []
    with TimelineWriter(tmp_path / "pipe", on_failure=failures.append) as writer:
        for _ in range(200):
            writer.write("x", 0.0, text="y" * 1000)
    assert writer.lost_lines > 0
    assert len(failures) == 1
