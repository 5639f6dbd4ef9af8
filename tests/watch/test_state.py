"""The ladder's state between processes: kept, never lost to a damaged file, never a reason to stop the job."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.statefile import StateFile
from tests.otel.fresh import run_fresh
from tests.watch.rig import Rig

PROCESS = """
    import sys
    from tests.watch.rig import Rig
    rig = Rig(state=sys.argv[1], encoder=sys.argv[2])
    with rig.watch.shard("a") as shard:
        status = shard.status()
        if sys.argv[3] == "crawl":
            rig.healthy(shard).crawl(shard, 5)
            sys.exit()
        rig.batch(shard)
        resumed = rig.total("helix_dense_worker_starts", "reason=resume")
        print(status.rung, shard.status().baseline, resumed)
    rig.watch.close()
"""


def test_rung_and_baseline_survive_the_process(tmp_path: Path) -> None:
    """A shard is judged by what it was, and the ladder goes on where it stood."""
    state = str(tmp_path / "made" / "on the way" / "state.json")
    run_fresh(PROCESS, state, "bge-m3", "crawl")
    assert run_fresh(PROCESS, state, "bge-m3", "look") == "1 16.0 1\n"


def test_with_another_encoder_rungs_survive_and_baselines_do_not(tmp_path: Path) -> None:
    """Another model has another speed."""
    state = str(tmp_path / "state.json")
    run_fresh(PROCESS, state, "bge-m3", "crawl")
    assert run_fresh(PROCESS, state, "minilm", "look") == "1 None 1\n"


def test_a_process_that_is_killed_loses_nothing_that_was_decided(tmp_path: Path) -> None:
    """The rung is in the file before the driver hears of the action; a half-written file cannot be."""
    state = tmp_path / "state.json"
    run_fresh(
        """
        import os, signal, sys
        from tests.watch.rig import Rig
        rig = Rig(state=sys.argv[1])
        shard = rig.watch.shard("a").__enter__()
        rig.healthy(shard)
        rig.fraction = 0.99
        for _ in range(5):
            rig.batch(shard, 80.0)
        assert len(rig.watch.actions) == 2
        os._exit(9)
        """,
        str(state),
        code=9,
    )
    assert json.loads(state.read_text())["shards"]["a"]["rung"] == 1
    with Rig(state=state) as rig, rig.watch.shard("a") as shard:
        assert (shard.status().rung, shard.status().baseline) == (1, 16.0)


def test_the_batches_measured_for_a_baseline_survive(tmp_path: Path) -> None:
    """Workers that are recycled early must not measure anew for ever."""
    state, baselines = tmp_path / "state.json", []
    for _ in range(3):
        with Rig(state=state) as rig, rig.watch.shard("a") as shard:
            rig.healthy(shard, 4)  # one of them the warm-up of this process
        baselines.append(json.loads(state.read_text("utf-8"))["shards"]["a"]["meters"]["cuda:0"]["baseline"])
    assert baselines == [None, None, {"rate": 1000.0, "genes_rate": 16.0, "work": 4000.0}]


DAMAGED = {
    "empty": b"",
    "torn": b'{"version": 1, "enc',
    "not JSON": b"rung 3",
    "not UTF-8": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a number": b"3",
    "another version": b'{"version": 99, "encoder": "", "shards": {}, "cards": {"cards": {}}}',
    "a rung that is none": b'{"version": 1, "encoder": "", "shards": {"a": {"rung": 7, "unit": "", "meters": {}}}, "cards": {"cards": {}}}',  # noqa: E501 - one line of a file
    "too deep": b"[" * 100_000,
    "a key too few": b'{"version": 1, "shards": {}, "cards": {"cards": {}}}',
    "NaN": b'{"version": 1, "encoder": "", "shards": {"a": {"rung": NaN, "unit": "", "meters": {}}}, "cards": {"cards": {}}}',  # noqa: E501 - one line of a file
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_set_aside_and_the_job_begins(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Never deleted; a warning says where it is and what it means."""
    state = tmp_path / "state.json"
    state.write_bytes(DAMAGED[name])
    with Rig(state=state) as rig, rig.watch.shard("a") as shard:
        assert shard.status().rung == 0
        rig.healthy(shard)
    (line,) = [line for line in caplog.messages if "state file" in line]
    assert line.startswith(f"[crawl-watchdog] state file {state} cannot be used (")
    assert "every shard starts on rung 0" in line
    aside = tmp_path / f"state.json.damaged-{os.getpid()}"
    assert aside.name in line
    assert aside.read_bytes() == DAMAGED[name]
    assert set(json.loads(state.read_text())["shards"]) == {"a"}


def test_a_place_that_cannot_be_written_is_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The ladder works on without it; when the place can be written again, the next tick writes."""
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    with Rig(state=blocked / "state.json") as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard).crawl(shard, 5)
        assert shard.status().rung == 1
        assert rig.series("helix_dense_internal_errors")["where=state",] >= 1
        assert rig.series("helix_dense_internal_errors")["where=driver",] == 0
        blocked.unlink()
        rig.watch.tick()
        assert json.loads((blocked / "state.json").read_text())["shards"]["a"]["rung"] == 1
    assert "internal error in state, the job goes on" in caplog.text


def test_a_read_only_folder_is_told_and_counted(tmp_path: Path) -> None:
    """The same for permissions."""
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("permissions bind nobody here: not POSIX, or root")
    folder = tmp_path / "read only"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with Rig(state=folder / "state.json") as rig, rig.watch.shard("a") as shard:
            rig.healthy(shard)
            assert rig.series("helix_dense_internal_errors")["where=state",] >= 1
    finally:
        folder.chmod(stat.S_IRWXU)


def test_the_file_is_replaced_whole_and_only_when_it_changed(tmp_path: Path) -> None:
    """No temporary file stays, and a healthy hour writes nothing."""
    file = StateFile(tmp_path / "state.json")
    file.save('{"a": [1.5]}')
    first = file.path.stat()
    assert file.path.read_text() == '{"a": [1.5]}'
    file.save('{"a": [1.5]}')
    assert file.path.stat().st_mtime_ns == first.st_mtime_ns
    assert file.path.stat().st_ino == first.st_ino
    file.save('{"b": 2}')
    assert file.path.stat().st_ino != first.st_ino
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_save_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    """And leaves no temporary file behind."""
    file = StateFile(tmp_path / "state.json")
    file.save('{"a": 1}')
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(OSError, match=r"state\.json"):
        file.save('{"a": 2}')
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    file.path.rmdir()
    file.save('{"a": 2}')
    assert json.loads(file.path.read_text()) == {"a": 2}


def test_a_healthy_hour_writes_the_file_while_it_measures_and_then_no_more(tmp_path: Path) -> None:
    """Not a write a batch for ever."""
    state = tmp_path / "state.json"
    with Rig(state=state) as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard, 9)
        before = state.stat().st_mtime_ns, state.stat().st_ino
        rig.healthy(shard, 50)
        assert (state.stat().st_mtime_ns, state.stat().st_ino) == before


def test_a_timeline_that_cannot_be_opened_is_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No reason for the job not to run."""
    with Rig(timeline=tmp_path / "not there" / "timeline.jsonl") as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard, 10)
        assert shard.status().baseline == 16.0
        assert rig.series("helix_dense_internal_errors")["where=timeline",] == 1
    assert "internal error in timeline" in caplog.text


def test_everything_is_on_the_timeline(tmp_path: Path) -> None:
    """Run, worker, batches, readings, actions with their outcome and evidence; times count from the run."""
    timeline = tmp_path / "timeline.jsonl"
    with Rig(timeline=timeline, encoder="bge-m3") as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.healthy(shard).crawl(shard, 10)
    lines = [json.loads(line) for line in timeline.read_text().splitlines()]
    run, worker = lines[:2]
    assert (run["event"], run["t"], run["encoder"], run["config"]["factor"]) == ("run", 0.0, "bge-m3", 5.0)
    assert worker == {"event": "worker", "t": 0.0, "device": "cuda:0", "pid": os.getpid(), "reason": "first"}
    assert {line["event"] for line in lines} == {"run", "worker", "batch", "memory", "action"}
    batches = [line for line in lines if line["event"] == "batch"]
    assert batches[0] == {
        "event": "batch",
        "t": 4.0,
        "shard": "a",
        "device": "cuda:0",
        "genes": 64,
        "work": 4000,
        "seconds": 4,
    }
    assert batches[-1]["device"] == "cpu"
    actions = [(line["kind"], line["outcome"]) for line in lines if line["event"] == "action"]
    assert actions == [
        ("DETECT", "applied"),
        ("EMPTY_CACHE", "applied"),
        ("RECYCLE", "passed_over"),
        ("DEMOTE_CPU", "applied"),
    ]
    evidence = next(line["evidence"] for line in lines if line["event"] == "action")
    assert (evidence["baseline"], evidence["limit"], evidence["memory_fraction"]) == (16, 3.2, 0.99)
    assert [line["t"] for line in lines] == sorted(line["t"] for line in lines)


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: files that are open can be replaced here")
def test_a_file_that_is_held_open_is_waited_for(tmp_path: Path) -> None:
    """A virus scanner has it for a moment. Held for longer the old content stays, nothing is left beside it."""
    path = tmp_path / "state.json"
    path.write_text("old")
    reader = path.open()
    StateFile(path, wait=lambda seconds: reader.close()).save('{"n": 1}')
    assert json.loads(path.read_text()) == {"n": 1}
    waits: list[float] = []
    state_file = StateFile(path, wait=waits.append)
    with path.open():
        for _ in range(2):  # whoever holds it for long is waited for once
            with pytest.raises(PermissionError):
                state_file.save('{"n": 2}')
    assert 0 < sum(waits) < 0.5
    assert json.loads(path.read_text()) == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]
    state_file.save('{"n": 2}')
    assert json.loads(path.read_text()) == {"n": 2}


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
def test_a_state_that_is_no_file_is_refused_and_left_where_it_is(tmp_path: Path) -> None:
    """A pipe would be waited for; and none of it is ours to set aside: root would move `/dev/null`."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path(os.devnull)):
        with pytest.raises(ValueError, match="accepted: a file, there or not"):
            StateFile(path).load("")
        assert path.exists()
