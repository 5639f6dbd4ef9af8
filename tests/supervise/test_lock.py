"""One run at a time on a folder, and the second is told who has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.supervise.lock import FolderLock, FolderLocked

HOLDER = """
import sys, time
from pathlib import Path
from helix_crawl_otel.supervise.lock import FolderLock
with FolderLock(Path(sys.argv[1]), "helix-crawl build /src"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def refused(folder: Path) -> str:
    """What a second one is told."""
    with pytest.raises(FolderLocked) as error, FolderLock(folder, "second"):
        pass
    return str(error.value)


def test_a_second_run_is_told_who_holds_the_folder_and_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    """Its command, process, host and since when; killed, it leaves a file behind and no lock."""
    folder = tmp_path / "out" / ".helix-crawl"
    with holder(folder) as process:
        told = refused(folder)
        assert told.startswith(f"{tmp_path / 'out'} is in use by `helix-crawl build /src` (process {process.pid} on ")
        assert ", since 2" in told
        assert told.endswith("; wait for it, or end it: what it has done is kept")
        process.kill()
        process.wait(60)
    assert (folder / "lock.json").exists()
    with FolderLock(folder, "helix-crawl build again"):
        kept = json.loads((folder / "lock.json").read_text(encoding="utf-8"))
        assert (kept["pid"], kept["command"]) == (os.getpid(), "helix-crawl build again")
    assert not (folder / "lock.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'"x"', b'{"pid": 1}', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path: Path, content: bytes | None) -> None:
    """It is just writing it, or somebody has been at it: the lock holds all the same."""
    with FolderLock(tmp_path, "first"):
        (tmp_path / "lock.json").unlink()
        if content is not None:
            (tmp_path / "lock.json").write_bytes(content)
        assert f"{tmp_path.parent} is in use by another process" in refused(tmp_path)


def test_a_lock_that_was_given_back_is_free(tmp_path: Path) -> None:
    """Also when its block has raised; its file may have been removed meanwhile."""

    def fail() -> None:
        with FolderLock(tmp_path, "first"):
            (tmp_path / "lock.json").unlink()
            raise LookupError("the build's")

    with pytest.raises(LookupError):
        fail()
    with FolderLock(tmp_path, "second"):
        pass


def test_somebody_who_reads_who_holds_it_is_in_nobodys_way(tmp_path: Path) -> None:
    """On Windows the file cannot be removed meanwhile: what it says is then of nobody, and the lock is free."""
    with (tmp_path / "lock.json").open("w+") as reader, FolderLock(tmp_path, "first"):
        assert "first" in reader.read()
    with FolderLock(tmp_path, "second"):
        assert "`second`" in refused(tmp_path)


def test_two_folders_do_not_know_each_other(tmp_path: Path) -> None:
    """One process may hold several: a backfill of shards in two folders does."""
    with FolderLock(tmp_path / "a", "one"), FolderLock(tmp_path / "b", "one"):
        assert "`one`" in refused(tmp_path / "a")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """The error of the file system, not one about locks."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), FolderLock(tmp_path / "file" / "below", "x"):
        pass


def test_a_holder_that_cannot_be_written_holds_no_lock(tmp_path: Path) -> None:
    """Otherwise a disk that is full would leave the folder locked for this process's life."""
    (tmp_path / "lock.json").mkdir()
    with pytest.raises(OSError, match=r"lock\.json"), FolderLock(tmp_path, "x"):
        pass
    (tmp_path / "lock.json").rmdir()
    with FolderLock(tmp_path, "x"):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
@pytest.mark.parametrize("name", ["lock", "lock.json", "ladder.json", "timeline.jsonl", "worker-cpu.log", "anything"])
def test_a_pipe_in_the_folder_is_named_and_not_waited_for(name: str, tmp_path: Path) -> None:
    """Whoever opens it waits for its other end, for ever; what else lies there is nobody's matter."""
    for harmless in ("old.log", "folder"):
        (tmp_path / harmless).mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(tmp_path / "old.log")
    with FolderLock(tmp_path, "x"):
        pass
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match=f"{name} is a pipe, a socket or a device; accepted: "), FolderLock(tmp_path, "x"):
        pass
