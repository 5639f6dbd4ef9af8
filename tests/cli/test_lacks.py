"""The system has no memory, thread or descriptor to give: one sentence, and 75 where the same command goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helix_crawl_otel import cli
from helix_crawl_otel.console.notify import notify
from helix_crawl_otel.lacks import is_passing
from helix_crawl_otel.probes.nvml import within
from helix_crawl_otel.probes.probe import ProbeFailure

LACKS = [
    MemoryError(),
    RuntimeError("can't start new thread"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.EMFILE, "Too many open files"),
    ImportError("libx.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", LACKS, ids=repr)
@pytest.mark.parametrize(("command", "code"), [("build", 75), ("backfill", 75), ("run", 75), ("verify", 1)])
def test_a_lack_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, command: str, code: int
) -> None:
    """78 would end scripts that loop on 75, for good."""

    def parser(typed: object) -> object:
        raise error

    monkeypatch.setattr(cli, "_parser", parser)
    assert cli.main([command]) == code
    told = capsys.readouterr().err
    assert told.startswith("helix-crawl: error: ")
    assert told.count("\n") == 1
    assert ("the same command goes on" in told) == (code == 75)


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), ImportError("No module named x")], ids=repr)
def test_a_fault_of_ours_is_none(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """It keeps its traceback."""

    def parser(typed: object) -> object:
        raise error

    monkeypatch.setattr(cli, "_parser", parser)
    assert not is_passing(error)
    with pytest.raises(type(error)):
        cli.main(["build"])


def test_no_thread_for_what_can_be_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML has not answered; somebody is not told. Neither ends anything."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ProbeFailure, match="can't start new thread"):
        within(1.0, lambda: 1)
    notify("http://127.0.0.1:9/", {})


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the shell cannot set it")
@pytest.mark.parametrize("mebibytes", [40, 52])
def test_a_build_without_memory_for_a_thread_ends(tmp_path: Path, mebibytes: int) -> None:
    """It hung at the start of a thread."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.txt").write_text("some words")
    build = ["-m", "helix_crawl_otel", "build", "src", "--out", "out", "--model", "hashing", "--no-metrics"]
    limited = ["sh", "-c", f'ulimit -v {mebibytes * 1024}; exec "$0" "$@"', sys.executable, *build]
    done = subprocess.run(
        limited, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 75, done.stderr
    assert done.stderr.count("\n") == 1
