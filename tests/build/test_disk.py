"""A disk that is full or that cannot be written: one sentence, nothing lost, and the same command goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.build.rig import COMMAND, Rig, prose
from tests.programs import require_program
from tests.shards.shards import made, rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system, as Linux does")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system in memory. Where this process may not mount one, the test is skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_full_disk(rig: Rig) -> None:
    """The shard that does not fit fails with a sentence; with more room the same command finishes."""
    rig.write({f"a/{n}.txt": prose(n, 120) for n in range(12)} | {"b/small.txt": prose(1, 2)})
    whole = rig.undisturbed()
    with mounted(rig.out, "size=600k"):
        done = rig.build()
        assert done.code == 1, (done.errors, done.events[-2:])
        assert "the disk is full" in str(done.summary["failed"])
        assert " build " in done.summary["next_step"]  # not `verify`: what it would say is known
        remount(rig.out, "size=20m")
        assert rig.build().code == 0
        assert rig.verify() == whole


def test_a_full_disk_of_the_state_alone(rig: Rig) -> None:
    """Timeline, ladder and logs cannot be written any more: the vectors can, and the build goes on."""
    rig.write_shards(2, 3, 20)
    whole = rig.undisturbed()
    state = rig.out / ".helix-crawl"
    with mounted(state, "size=16k"):
        (state / "lock").touch()
        with (state / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1024))
            except OSError:
                pass
        first = rig.build()
        if first.code != 0:
            assert "No space left on device" in first.errors
        (state / "filler").unlink()
        assert rig.build().code == 0
        assert rig.verify() == whole


def test_a_read_only_output(rig: Rig) -> None:
    """One sentence and exit code 1; once it can be written the same command goes on."""
    rig.write_shards(2, 3, 40)
    with mounted(rig.out, "size=20m"):
        whole = rig.built().verify()
        rig.write({"shard-0/new.txt": prose(7, 3)})
        remount(rig.out, "ro")
        done = rig.build()
        assert done.code == 1
        assert "Read-only file system" in done.errors
        assert len(done.errors.strip().splitlines()) == 1
        remount(rig.out, "rw")
        assert rig.build().code == 0
        assert rig.verify()["genes"] > whole["genes"]


def test_a_copy_that_nobody_may_write_is_verified_and_searched(rig: Rig) -> None:
    """A backup on a read-only disk is read as it is; one with a log that was never folded in is refused by name."""
    rig.write_shards(2, 3, 40)
    with mounted(rig.out, "size=20m"):
        whole = rig.built().verify()
        remount(rig.out, "ro")
        assert rig.verify() == whole
        found = rig.run([*COMMAND, "query", str(rig.out), "a question", "--json"])
        assert found.code == 0, found.errors
        remount(rig.out, "rw")
        (rig.out / "shard-0.db-wal").write_bytes(b"a log that was cut off")
        remount(rig.out, "ro")
        done = rig.run([*COMMAND, "verify", str(rig.out)])
        assert done.code == 1
        assert "shard-0.db has a log beside it" in done.errors


def without_rights(command: list[str]) -> list[str]:
    """The command, without root's right to read everything."""
    if os.geteuid() != 0:
        return command
    rights = "-dac_override,-dac_read_search"
    return [require_program("setpriv"), f"--bounding-set={rights}", f"--inh-caps={rights}", *command]


def test_a_folder_without_permission(rig: Rig) -> None:
    """It is named and counted, the others are done; once it can be read the same command finishes."""
    rig.write({"a/open.txt": prose(1, 5), "a/closed/secret.txt": prose(2, 5), "b/one.txt": prose(3, 5)})
    whole = rig.undisturbed()
    closed = rig.source / "a/closed"
    closed.chmod(0)
    try:
        done = rig.run(without_rights(rig.build_command()))
    finally:
        closed.chmod(0o755)
    assert done.code == 1, done.errors
    assert [event["source"] for event in done.of("source_trouble")] == ["a/closed"], done.events
    assert "Permission denied" in done.of("source_trouble")[0]["reason"]
    assert rig.verify()["missing"] == 0
    assert rig.build().code == 0
    assert {**rig.verify(), "digest": ""} == {**whole, "digest": ""}


def test_a_copy_with_half_a_transaction_is_not_read_as_whole(rig: Rig) -> None:
    """What takes it back lies beside the file, where nobody may write: refused by name, and read once it can be."""
    path = made(rig.folder / "app.db", [f"{number:04}" for number in range(3000)])
    with mounted(rig.out, "size=20m"):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA cache_size = 1")  # so that half of it is in the file already
            connection.execute("BEGIN")
            connection.execute("UPDATE genes SET content = 'half of a transaction'")
            for name in ("app.db", "app.db-journal"):
                shutil.copy(rig.folder / name, rig.out / name)
        remount(rig.out, "ro")
        done = rig.run([*COMMAND, "verify", str(rig.out)])
        assert done.code == 1
        assert "app.db has a log beside it" in done.errors
        remount(rig.out, "rw")
        rig.verify()
        assert rows(rig.out / "app.db", "SELECT count(*) FROM genes WHERE content LIKE 'half%'") == [(0,)]
