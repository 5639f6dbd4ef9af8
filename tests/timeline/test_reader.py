"""Promises of the reader: a damaged timeline is read as far as it goes, and says what is missing."""

from __future__ import annotations

import gzip
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.timeline import (
    ActionEvent,
    BatchEvent,
    Event,
    MemoryEvent,
    RunEvent,
    SkippedLine,
    TimelineError,
    TimelineReader,
    UnfinishedEvent,
    WorkerEvent,
    read_timeline,
)
from helix_crawl_otel.timeline.events import parse_event, usual_event

RUN = '{"event":"run","version":1,"t":0.0,"config":{"factor":5},"encoder":"BAAI/bge-m3","host":"rig"}'
WORKER = '{"event":"worker","t":0.1,"device":"cuda:0","pid":4711,"reason":"first"}'
BATCH = '{"event":"batch","t":12.31,"shard":"a","device":"cuda:0","genes":64,"work":81234,"seconds":4.18}'
MEMORY = '{"event":"memory","t":12.31,"device":"cuda:0","used_bytes":11850000000,"limit_bytes":12000000000}'
ACTION = '{"event":"action","t":40.0,"shard":"a","kind":"EMPTY_CACHE","outcome":"applied","evidence":{"rate":2.3}}'
ALL = [RUN, WORKER, BATCH, MEMORY, ACTION]


def read(data: str | bytes) -> tuple[list[Event], TimelineReader]:
    """The events of some content, and the reader with its counts."""
    reader = read_timeline(io.BytesIO(data.encode() if isinstance(data, str) else data))
    return list(reader), reader


def changed(line: str, **keys: object) -> str:
    """A line with other values; `...` takes a key away."""
    content = {**json.loads(line), **keys}
    return json.dumps({key: value for key, value in content.items() if value is not ...})


def test_the_lines_of_the_contract() -> None:
    """Section 3.6, line by line."""
    events, reader = read("\n".join(ALL) + "\n")
    assert events == [
        RunEvent(0.0, {"factor": 5}, "BAAI/bge-m3", "rig", ""),
        WorkerEvent(0.1, "cuda:0", "cuda:0", "first"),
        BatchEvent(12.31, "a", "cuda:0", "cuda:0", 64, 81234, 4.18),
        MemoryEvent(12.31, "cuda:0", 11_850_000_000, 12_000_000_000),
        ActionEvent(40.0, "a", "EMPTY_CACHE", "applied", {"rate": 2.3}),
    ]
    assert (reader.lines, reader.events, reader.skipped_lines, reader.torn_line) == (5, 5, 0, None)


def test_a_batch_that_did_not_end() -> None:
    """A line of its own with the keys of a batch, and no batch: who counts batches does not count it."""
    events, reader = read(
        changed(BATCH, event="unfinished", worker="w") + "\n" + changed(BATCH, event="unfinished", genes=0)
    )
    assert events == [UnfinishedEvent(12.31, "a", "cuda:0", "w", 64, 81234, 4.18)]
    assert not isinstance(events[0], BatchEvent)
    assert reader.skipped == [SkippedLine(2, "genes is 0; accepted: a number > 0 (from 1e-12 to 1e+18)")]


def test_a_line_needs_only_the_keys_that_matter() -> None:
    """Somebody else's job has no work, no device, no worker, no run."""
    events, reader = read(
        '{"event":"batch","t":4,"shard":"a","genes":64,"seconds":4}\n{"event":"memory","t":4,"used_bytes":1,"limit_bytes":2}\n'
    )
    assert events == [BatchEvent(4.0, "a", "cuda:0", "cuda:0", 64, None, 4), MemoryEvent(4.0, "cuda:0", 1, 2)]
    assert reader.skipped_lines == 0
    assert read('{"event":"run"}')[0] == [RunEvent(0.0, {}, "", "", "")]


def test_more_keys_and_other_events_are_ignored() -> None:
    """A later version, or another program, may say more."""
    more = changed(BATCH, stage="encode", nested={"a": [1]}, worker=4711)
    events, reader = read(f'{more}\n{{"event":"note","t":"whenever"}}\n')
    assert events == [BatchEvent(12.31, "a", "cuda:0", "4711", 64, 81234, 4.18)]
    assert (reader.unknown_events, reader.skipped_lines) == (1, 0)


def test_an_unknown_reading_is_null() -> None:
    """Null is unknown; a missing key is a damaged line."""
    events, reader = read(changed(MEMORY, used_bytes=None) + "\n" + changed(MEMORY, used_bytes=...) + "\n")
    assert events == [MemoryEvent(12.31, "cuda:0", None, 12_000_000_000)]
    assert reader.skipped == [SkippedLine(2, "used_bytes is missing")]


def test_a_reconstructed_run_says_where_it_is_from() -> None:
    """Nobody takes made-up figures for a recording."""
    events, _ = read(
        changed(RUN, reconstructed=True, source="incident 06-10") + "\n" + changed(RUN, reconstructed=True)
    )
    assert [event.source for event in events if isinstance(event, RunEvent)] == ["incident 06-10", "not said"]


BAD_LINES = [
    ("not json", "not JSON (expecting value, column 1)"),
    ("[1, 2]", "not an object"),
    ("7", "not an object"),
    ('{"t":1}', "no event named"),
    ('{"event":7}', "no event named"),
    (BATCH[:-20], "cut short"),
    (BATCH[: BATCH.index("4.18")], "cut short"),
    (BATCH + BATCH, "not JSON (extra data, column 97)"),
    (BATCH.replace("4.18", "NaN"), "NaN is not a number"),
    (BATCH.replace("4.18", "-Infinity"), "-Infinity is not a number"),
    (BATCH.replace("4.18", "1e999"), "seconds is inf; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (BATCH.replace("64", "9" * 5000), "not JSON (too long a number, or too deep)"),
    ("[" * 200_000, "not JSON (too long a number, or too deep)"),
    (changed(BATCH, seconds=0), "seconds is 0; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (changed(BATCH, seconds=-4.18), "seconds is -4.18; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (changed(BATCH, seconds="4.18"), "seconds is '4.18'; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (changed(BATCH, seconds=...), "seconds is missing; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (changed(BATCH, genes=0), "genes is 0; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (changed(BATCH, genes=True), "genes is True; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (
        changed(BATCH, genes=10**400),
        "genes is an integer of more than 40 digits; accepted: a number > 0 (from 1e-12 to 1e+18)",
    ),
    (changed(BATCH, work=-1), "work is -1; accepted: a number > 0 (from 1e-12 to 1e+18)"),
    (changed(BATCH, shard=...), "shard is missing; accepted: a name"),
    (changed(BATCH, shard=""), "shard is ''; accepted: a name"),
    (changed(BATCH, shard=["a"]), "shard is ['a']; accepted: a name"),
    (changed(BATCH, device=0), "device is 0; accepted: a name"),
    (changed(BATCH, worker=1.5), "worker is 1.5; accepted: a name"),
    (changed(BATCH, t=...), "t is missing; accepted: a number of seconds"),
    (changed(BATCH, t="12"), "t is '12'; accepted: a number of seconds"),
    (changed(BATCH, t=1e300), "t is 1e+300; accepted: a number of seconds"),
    (changed(MEMORY, used_bytes=-1), "used_bytes is -1; accepted: 0 or more bytes, or null"),
    (changed(MEMORY, limit_bytes=0), "limit_bytes is 0; accepted: 1 or more bytes, or null"),
    (changed(MEMORY, limit_bytes="12 GB"), "limit_bytes is '12 GB'; accepted: 1 or more bytes, or null"),
    (changed(RUN, version="one"), "version is 'one'; accepted: 1"),
    (changed(ACTION, kind=...), "kind is missing; accepted: a name"),
    ("\x00" * 40, "not JSON (expecting value, column 1)"),
    (b"\xff\xfe{\x00", "not UTF-8"),
    (b'{"event":"note","x":"' + b"x" * (1 << 20) + b'"}', "longer than 1 MiB"),
    (b'{"event":"note","x":"' + b"x" * (3 << 20) + b'"}', "longer than 1 MiB"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES, ids=itertools.count(1))
def test_a_bad_line_is_named_skipped_and_counted(line: str | bytes, reason: str) -> None:
    """By number and with its reason; the lines around it are used."""
    data = line.encode() if isinstance(line, str) else line
    events, reader = read(RUN.encode() + b"\n" + data + b"\n" + BATCH.encode() + b"\n")
    assert [type(event) for event in events] == [RunEvent, BatchEvent]
    assert reader.skipped == [SkippedLine(2, reason)]
    assert (reader.skipped_lines, reader.lines, reader.torn_line) == (1, 3, None)


def test_a_thousand_bad_lines_are_counted_and_a_hundred_kept() -> None:
    """A wrong file of millions of lines must not fill the memory."""
    _, reader = read(RUN + "\n" + "junk\n" * 1000)
    assert (reader.skipped_lines, len(reader.skipped)) == (1000, 100)


@pytest.mark.parametrize("last", ALL, ids=["run", "worker", "batch", "memory", "action"])
def test_a_torn_last_line_is_no_error_at_any_byte(last: str) -> None:
    """A job killed in the middle of a line: reported, not counted as bad; what is before it is used."""
    before = f"{RUN}\n{BATCH}\n".encode()
    for end in range(1, len(last)):
        events, reader = read(before + last.encode()[:end])
        assert len(events) == 2, end
        assert (reader.torn_line, reader.skipped_lines, reader.lines) == (3, 0, 3), end
    events, reader = read(before + last.encode())
    assert len(events) == 3
    assert reader.torn_line is None


def test_a_torn_line_in_another_script() -> None:
    """The cut may go through a letter."""
    line = changed(BATCH, shard="日本語").encode().decode("unicode_escape").encode()
    for end in range(1, len(line)):
        _, reader = read(RUN.encode() + b"\n" + line[:end])
        assert (reader.torn_line, reader.skipped_lines) == (2, 0), end


def test_a_whole_bad_last_line_is_bad_not_torn() -> None:
    """Without its line end it is still all there."""
    _, reader = read(f"{RUN}\n{changed(BATCH, seconds=0)}")
    assert reader.torn_line is None
    assert [skipped.number for skipped in reader.skipped] == [2]


def test_a_power_cut_leaves_nul_bytes() -> None:
    """Some file systems fill the end with zeros."""
    events, reader = read(RUN.encode() + b"\n" + BATCH.encode() + b"\n" + bytes(4096))
    assert len(events) == 2
    assert reader.torn_line == 3


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", " \n"])
def test_line_ends_and_blank_lines(end: str) -> None:
    """Windows line ends, blank lines and a byte order mark mean nothing."""
    events, reader = read("\ufeff" + end.join(ALL) + end)
    assert len(events) == 5
    assert reader.skipped_lines == 0


@pytest.mark.parametrize("name", ["timeline.jsonl.gz", "timeline.jsonl"])
def test_gzip_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    """Whatever the file is called; several members one after the other too."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(f"{RUN}\n".encode()) + gzip.compress(f"{BATCH}\n".encode()))
    assert len(list(read_timeline(path))) == 2


def test_a_cut_gzip_file_is_read_as_far_as_it_goes() -> None:
    """At every byte: some events and a torn end, or one clear error."""
    body = "".join(changed(BATCH, t=n) + "\n" for n in range(1, 40))
    whole = gzip.compress(f"{RUN}\n{body}".encode())
    for end in range(2, len(whole)):
        reader = read_timeline(io.BytesIO(whole[:end]))
        try:
            list(reader)
        except TimelineError as error:
            assert "cannot be read" in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert reader.torn_line is not None


REFUSED: list[tuple[bytes, str]] = [
    (b"", "is empty; accepted: a file of JSON lines, see the timeline's reference"),
    (b"\n \n\r\n", "is empty; accepted: a file of JSON lines, see the timeline's reference"),
    (
        b"# Read me\n\nHello.\n",
        "is not a timeline: none of its 3 lines can be used; line 1: not JSON (expecting value, column 1)",
    ),
    (
        bytes(range(256)) * 8,
        "is not a timeline: none of its 9 lines can be used; line 1: not JSON (expecting value, column 1)",
    ),
    (RUN[:20].encode(), "is not a timeline: it has no whole line"),
    (RUN.encode("utf-16"), "is not a timeline: it has no whole line"),
    (b"\x1f\x8b", "cannot be read: "),
    (b"\x1f\x8bnot gzip at all", "cannot be read: "),
    (bytes(3 << 20), "is not a timeline: it begins with a line of more than 1 MiB"),
    (changed(RUN, version=2).encode(), "line 1: version is 2; accepted: 1"),
]


@pytest.mark.parametrize(("data", "why"), REFUSED, ids=itertools.count(1))
def test_what_is_no_timeline_is_one_clear_error(tmp_path: Path, data: bytes, why: str) -> None:
    """The message names the file and says why."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    with pytest.raises(TimelineError) as caught:
        list(read_timeline(path))
    assert str(caught.value).startswith(f"{path} {why}")


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    """As every other problem of a path."""
    with pytest.raises(TimelineError, match=r"is a folder; accepted: a file of JSON lines$"):
        list(read_timeline(tmp_path))
    with pytest.raises(TimelineError, match=r"missing\.jsonl cannot be read: No such file or directory$"):
        list(read_timeline(tmp_path / "missing.jsonl"))
    with pytest.raises(TimelineError, match=r"cannot be read: embedded null (byte|character)"):
        list(read_timeline("a\0b"))


def test_a_share_that_goes_away_in_the_middle() -> None:
    """What was read stands; the rest is a torn end."""

    class Share(io.RawIOBase):
        def __init__(self) -> None:
            self.data = [f"{RUN}\n{BATCH}\n".encode()]

        def read(self, size: int = -1) -> bytes:
            if self.data:
                return self.data.pop()
            raise OSError(5, "Input/output error")

    reader = read_timeline(Share())  # type: ignore[arg-type]  # it reads, which is all that is asked
    assert len(list(reader)) == 2
    assert reader.torn_line == 3


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_give_another_exception(data: bytes, after_a_run: bool) -> None:
    """Events and counts, or a `TimelineError`; nothing else, ever."""
    content = RUN.encode() + b"\n" + data if after_a_run else data
    reader = read_timeline(io.BytesIO(content))
    try:
        events = list(reader)
    except TimelineError:
        assert not after_a_run or b"version" in data
    else:
        assert len(events) == reader.events
        assert reader.lines >= reader.events + reader.skipped_lines + reader.unknown_events


KEYS = sorted({key for line in ALL for key in json.loads(line)} | {"worker", "reconstructed", "source"})
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(ALL), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_no_values_give_another_exception(line: str, values: dict[str, Any]) -> None:
    """Any JSON value under any key is an event whose numbers can be used, or a bad line."""
    try:
        events, _ = read(f"{RUN}\n{changed(line, **values)}\n")
    except TimelineError as error:
        assert "version" in str(error)  # noqa: PT017 - a later version is refused
        return
    for event in events:
        assert abs(event.t) <= 1e11
        if isinstance(event, BatchEvent):
            assert 1e-12 <= event.genes <= 1e18
            assert 1e-12 <= event.seconds <= 1e18


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**18, 10**18 + 1, 10**30, 1e-12, 1e-13, 1e18, 1.1e18, -1e11, 1e12, 4.0, 64, -0.0]),
    st.sampled_from(["", "a", "cuda:0", "é\u2028", "\ud800", "4"]),
    st.floats(),
    st.just([1, {"a": None}]),
)
KEYS = [*BatchEvent._fields, *MemoryEvent._fields, "other"]


@given(
    name=st.sampled_from(["batch", "memory", "unfinished", "run", "note", 7]),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES | st.just(...), max_size=4),
    is_last=st.booleans(),
)
def test_a_usual_line_is_what_any_line_would_be(name: object, changes: dict[str, Any], is_last: bool) -> None:
    """Batches and readings are decoded in another way, which takes no line otherwise, and no other line."""
    usual = {**json.loads(BATCH), **json.loads(MEMORY), "worker": "w", **changes}
    line = {key: value for key, value in usual.items() if value is not ... and key != "event"}
    text = json.dumps({**line, "event": name} if is_last else {"event": name, **line})
    if (found := usual_event(text.encode())) is not None:
        wanted = parse_event(json.loads(text))
        assert (type(found), found) == (type(wanted), wanted)
        assert list(map(type, found)) == list(map(type, wanted or ()))


def test_the_lines_of_our_own_jobs_are_usual() -> None:
    """Else they would be read twice."""
    told = {"worker": "cuda:0", "work_pending": 5.0, "shards_follow": True, "tokens": 80_000, "read_seconds": 0.2}
    assert usual_event(changed(BATCH, **told).encode()) == parse_event(json.loads(changed(BATCH, **told)))
    assert usual_event(changed(MEMORY, shared_bytes=None, cap_bytes=5).encode()) is not None
    assert usual_event(changed(BATCH, genes=0).encode()) is None
