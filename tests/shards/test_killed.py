"""Promises when a worker is killed: what it committed is there, what it did not is pending, nothing is in between."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.shards.accounts import account
from helix_crawl_otel.shards.damage import set_aside
from helix_crawl_otel.shards.errors import CannotSetAside
from helix_crawl_otel.shards.inspect import salvage
from tests.rules.tree import ROOT
from tests.shards.shards import IDENTITY, encode_all, epoch_of, made, opened, rows

DEADLINE_SECONDS = 120.0

GENE_COUNT = 2000
BATCH = 20

WRITER = """
import sys
from pathlib import Path
from helix_crawl_otel.shards.store import ShardStore
from tests.shards.shards import IDENTITY, VECTOR
store = ShardStore.open(Path(sys.argv[1]), epoch=1, create=False)
store.claim(IDENTITY)
after = None
while page := store.pending(after, int(sys.argv[2])):
    after = page[-1].key
    print(store.commit([(gene, VECTOR) for gene in page]), flush=True)
    if sys.argv[3] == "hang":
        sys.stdin.readline()
    if sys.argv[3] == "run" and after >= 1000:
        sys.stdin.readline()
    if sys.argv[3] == "open" and after >= 200:
        store._connection.execute("BEGIN IMMEDIATE")
        store._connection.execute("PRAGMA cache_size = 1")
        store._connection.execute("UPDATE genes SET content = content || ' half'")
        print("open", flush=True)
        sys.stdin.readline()
"""


@contextlib.contextmanager
def writer(path: Path, how: str = "run") -> Iterator[subprocess.Popen[str]]:
    """A process that encodes half of a shard, if it is not told otherwise, and is killed in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(BATCH), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        kill(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def kill(process: subprocess.Popen[str]) -> None:
    """As the system does it: nothing of the process runs any more."""
    if sys.platform == "win32":
        process.kill()
    else:
        process.send_signal(signal.SIGKILL)
    process.wait()


def told(process: subprocess.Popen[str], lines: int) -> list[str]:
    """What the writer has said."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(lines)]


def with_vectors(path: Path) -> int:
    """How many genes have one."""
    return int(str(rows(path, "SELECT count(*) FROM genes WHERE embedding_dense_v2 IS NOT NULL")[0][0]))


@pytest.mark.parametrize("batches", [1, 7, 40])
def test_what_a_killed_worker_committed_is_recovered(tmp_path: Path, batches: int) -> None:
    """From the log beside the file, which it had no time to fold in; the next worker goes on behind it."""
    path = made(tmp_path / "a.db", [f"{n:04}" for n in range(GENE_COUNT)])
    with writer(path) as process:
        assert told(process, batches) == [str(BATCH)] * batches
        kill(process)
    assert path.with_name("a.db-wal").stat().st_size > 0
    assert not salvage(path).is_complete
    assert epoch_of(path) == 1
    done = with_vectors(path)
    assert batches * BATCH <= done < GENE_COUNT
    assert done % BATCH == 0
    with opened(path, 2) as store:
        assert store.identity() == IDENTITY
        assert store.pending_count() == GENE_COUNT - done
        assert encode_all(store) == GENE_COUNT - done
    assert account(path).is_whole


def test_what_a_killed_worker_had_not_committed_is_undone(tmp_path: Path) -> None:
    """Even where half of it has reached the log."""
    path = made(tmp_path / "a.db", [f"{n:04}" for n in range(GENE_COUNT)])
    with writer(path, "open") as process:
        assert "open" in told(process, 200 // BATCH + 1)
        kill(process)
    assert account(path).vectors == 200
    assert rows(path, "SELECT count(*) FROM genes WHERE content LIKE '%half'") == [(0,)]
    with opened(path, 2) as store:
        assert store.pending_count() == GENE_COUNT - 200


def test_a_worker_that_only_hangs_is_overtaken(tmp_path: Path) -> None:
    """It is not dead: the lease is taken while its connection is open, and its next batch is refused."""
    path = made(tmp_path / "a.db", [f"{n:04}" for n in range(GENE_COUNT)])
    with writer(path, "hang") as process:
        assert told(process, 1) == [str(BATCH)]
        with opened(path, 2) as store:
            assert process.stdin is not None
            process.stdin.write("go on\n")
            process.stdin.flush()
            assert process.wait(DEADLINE_SECONDS) == 1
            assert with_vectors(path) == BATCH
            assert encode_all(store) == GENE_COUNT - BATCH


def test_a_corrupt_file_is_kept_with_its_log(tmp_path: Path) -> None:
    """All three files, under one name, and a second time under another; nothing is written over."""
    path = tmp_path / "a.db"
    for number in (1, 2):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).write_text(f"{number}{suffix}")
        assert set_aside(path) == tmp_path / f"a.db.corrupt-{number}"
        assert not path.exists()
    kept = {item.name: item.read_text() for item in tmp_path.iterdir()}
    assert kept == {f"a.db.corrupt-{n}{suffix}": f"{n}{suffix}" for n in (1, 2) for suffix in ("", "-wal", "-shm")}


def test_a_log_that_was_kept_before_is_not_written_over(tmp_path: Path) -> None:
    """Somebody has taken away the file beside it."""
    path = tmp_path / "a.db"
    (tmp_path / "a.db.corrupt-1-wal").write_text("kept")
    path.write_text("new")
    path.with_name("a.db-wal").write_text("new log")
    assert set_aside(path).name == "a.db.corrupt-2"
    assert (tmp_path / "a.db.corrupt-1-wal").read_text() == "kept"


def test_a_file_that_is_set_aside_leaves_no_log_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no moment: SQLite would read it into the file that is made next."""
    path = tmp_path / "a.db"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).touch()
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        assert self != path or not path.with_name("a.db-wal").exists()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    set_aside(path)


def test_a_file_that_cannot_be_set_aside_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its log: what is renamed before the file that cannot be goes back."""
    path = tmp_path / "a.db"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).write_text(suffix)
    replace = Path.replace

    def held(self: Path, target: Path) -> Path:
        if self == path:  # as Windows has it while another program holds the file open
            raise PermissionError(13, "Access is denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", held)
    with pytest.raises(CannotSetAside, match=r"set aside \(Access is denied\): close what has it open"):
        set_aside(path)
    left = {item.name: item.read_text() for item in tmp_path.iterdir()}
    assert left == {f"a.db{suffix}": suffix for suffix in ("", "-wal", "-shm")}


def test_a_kept_file_can_be_built_anew(tmp_path: Path) -> None:
    """A real one: damaged in the middle of a run, set aside, and a new file is made in its place."""
    path = made(tmp_path / "a.db", [f"{n:04}" for n in range(GENE_COUNT)])
    with writer(path) as process:
        told(process, 5)
        kill(process)
    set_aside(path)
    with opened(path, 2, create=True) as store:
        assert store.pending_count() == 0
    assert rows(tmp_path / "a.db.corrupt-1", "SELECT count(*) FROM genes") == [(GENE_COUNT,)]
    assert with_vectors(tmp_path / "a.db.corrupt-1") >= 5 * BATCH
