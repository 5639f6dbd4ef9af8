"""A real build on real streams: a terminal, a pipe whose reader goes, no standard output, odd letters."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.rig import COMMAND, Rig

pytestmark = pytest.mark.timeout(300)

DEADLINE_SECONDS = 120.0

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals and shells")


def _command(rig: Rig, *more: str) -> list[str]:
    return [*COMMAND, "build", str(rig.source), "--out", str(rig.out), *rig.options, *more]


@contextlib.contextmanager
def _on_terminal(rig: Rig, command: list[str], ours: int, theirs: int) -> Iterator[subprocess.Popen[bytes]]:
    """A command that has a terminal for all its streams; both ends are closed with the block."""
    environ = {**rig.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
        os.close(theirs)


@needs_posix
def test_a_terminal_is_left_as_it_was_after_an_interrupt(rig: Rig) -> None:
    """Bars are drawn; Ctrl-C pauses; the cursor is shown again, the settings are the old ones, the summary is last."""
    import fcntl
    import pty
    import struct
    import termios

    rig.write_shards(1, 4, 1500)  # minutes of work: whenever the interrupt comes, some is left
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(theirs)
    command = _command(rig, "--fault", "slow:seconds=0.3", "--batch-size", "4")
    with _on_terminal(rig, command, ours, theirs) as process:
        seen = _read_until(ours, process, b"genes/s")
        process.send_signal(signal.SIGINT)
        seen += _read_until(ours, process, b"goes on where it was")
        assert process.wait(DEADLINE_SECONDS) == 75
        after = termios.tcgetattr(theirs)
    assert after == before
    assert seen.count(b"\x1b[?25l") == seen.count(b"\x1b[?25h") > 0
    assert "━".encode() in seen
    assert b"exit code     75: paused, nothing is lost" in seen
    assert b"Traceback" not in seen


def _read_until(terminal: int, process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    import select

    seen = b""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
        elif process.poll() is not None:
            break
    assert wanted in seen, seen.decode(errors="replace")[-2000:]
    return seen


@pytest.mark.parametrize("form", ["--plain", "--json"])
def test_a_reader_that_has_seen_enough(rig: Rig, form: str) -> None:
    """`| head -1`: the build goes on to its end, with its own exit code and without a traceback."""
    rig.write_shards(2, 2, 8)
    process = subprocess.Popen(_command(rig, form), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=rig.environ)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(DEADLINE_SECONDS) == 0
    assert errors == b""
    assert rig.verify()["missing"] == 0


@needs_posix
@pytest.mark.parametrize("form", ["", "--plain", "--json"])
def test_no_standard_output_at_all(rig: Rig, form: str) -> None:
    """`>&-`: there is nothing to show on, and the build is done all the same."""
    rig.write_shards(1, 1, 4)
    command = _command(rig, *([form] if form else []))
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command],
        check=False,
        stderr=subprocess.PIPE,
        env=rig.environ,
        timeout=DEADLINE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rig.verify()["missing"] == 0


def test_letters_that_the_console_cannot_show(rig: Rig) -> None:
    """They are shown as something else; the build is not ended by them."""
    rig.write({"日本/文.txt": "Some text.", "loose.txt": "Other text."})
    environ = {**rig.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(_command(rig), check=False, capture_output=True, env=environ, timeout=DEADLINE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert b"shard ??" in done.stdout
    assert b"shard . (loose files): 1 source, 1 gene new" in done.stdout
    assert b"\x1b" not in done.stdout


def test_a_command_is_told_of_the_end(rig: Rig, tmp_path: Path) -> None:
    """With the summary that `--json` prints, and after it; by then the folder is free for the next run."""
    rig.write({"a/one.txt": "Some text."})
    program = tmp_path / "told.py"
    program.write_text(
        "import sys, filelock\n"
        "filelock.FileLock(sys.argv[2]).acquire(timeout=0)\n"
        "open(sys.argv[1], 'w').write(sys.stdin.read())\n"
    )
    words = [sys.executable, str(program), str(tmp_path / "got.json"), str(rig.out / ".helix-crawl" / "lock")]
    done = rig.build("--notify", " ".join(words))
    assert done.code == 0
    told = {"event": "summary", **json.loads((tmp_path / "got.json").read_text())}
    assert told == {key: value for key, value in done.summary.items() if key != "time"}


def test_a_driver_of_the_users_own_is_shown_as_well(rig: Rig) -> None:
    """`run`: its shards begin and end, and its batches carry rate and baseline."""
    program = rig.folder / "job.py"
    program.write_text(
        "from helix_crawl_otel import CrawlWatch\n"
        "with CrawlWatch() as watch, watch.shard('mine', device='cpu') as shard:\n"
        "    for _ in range(12):\n"
        "        with shard.batch(genes=8):\n"
        "            sum(range(20000))\n"
        "        shard.boundary()\n"
    )
    state = str(rig.folder / "state")
    done = rig.run([*COMMAND, "run", "--no-metrics", "--json", "--state", state, "--", sys.executable, str(program)])
    assert done.code == 0, done.errors
    assert [event["shard"] for event in done.of("shard_started")] == ["mine"]
    committed = done.of("committed")
    assert [event["genes"] for event in committed] == [8] * 12
    assert committed[-1]["rate"] > 0
    assert committed[-1]["baseline"] > 0
    assert [(event["state"], event["encoded"]) for event in done.of("shard_ended")] == [("done", 96)]
    assert done.summary["encoded"] == 96


@needs_posix
def test_what_a_job_writes_on_a_terminal_is_not_drawn_over(rig: Rig) -> None:
    """It is the job's as well as ours: bars would erase its lines, and its own bar."""
    import pty

    ours, theirs = pty.openpty()
    program = "import time; print('of the job'); time.sleep(1)"
    command = [
        *COMMAND,
        "run",
        "--no-metrics",
        "--state",
        str(rig.folder / "state"),
        "--",
        sys.executable,
        "-c",
        program,
    ]
    with _on_terminal(rig, command, ours, theirs) as process:
        seen = _read_until(ours, process, b"done after")
        assert process.wait(DEADLINE_SECONDS) == 0
    assert b"of the job" in seen
    assert b"\x1b[" not in seen
