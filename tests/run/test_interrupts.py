"""Ctrl-C once and twice, SIGTERM: for a driver with a watch, for one without, and for a shell script with children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.build.rig import COMMAND, SECONDS, Rig, another_wish, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sends signals to processes found through /proc")


def command(*driver: str) -> list[str]:
    """`helix-crawl run -- DRIVER`."""
    return [*COMMAND, "run", "--no-metrics", "--json", "--", *driver]


def plain(rig: Rig, way: str) -> list[str]:
    """The same of one of the plain drivers, which writes a line a batch."""
    return command(sys.executable, "-m", "tests.run.plain", way, str(rig.folder / "lines"))


def lines(rig: Rig) -> list[str]:
    """What the driver has written."""
    path = rig.folder / "lines"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def until_lines(rig: Rig, process: subprocess.Popen[bytes], count: int = 5) -> None:
    """Wait for the driver to have written some."""
    deadline = time.monotonic() + SECONDS
    while len(lines(rig)) < count:
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "the driver does nothing"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["watched", "unwatched"])
def test_the_first_interrupt_pauses(rig: Rig, way: str, number: signal.Signals) -> None:
    """Exit code 75, and no second start. A watch ends its driver at the boundary; without one it gets a Ctrl-C."""
    with rig.started(plain(rig, way)) as process:
        until_lines(rig, process)
        process.send_signal(number)
        done = rig.ended(process)
    assert done.code == 75, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [75 if way == "watched" else -signal.SIGINT]
    assert len(done.of("worker_started")) == 1
    assert "run" in done.summary["next_step"]
    assert ("KeyboardInterrupt" in done.errors) == (way == "unwatched")


@pytest.mark.parametrize("way", ["deaf", "stubborn"])
def test_the_second_interrupt_ends_it(rig: Rig, way: str) -> None:
    """Exit code 130 although the driver takes no notice of the first: it has no boundary, or ignores Ctrl-C."""
    with rig.started(plain(rig, way)) as process:
        until_lines(rig, process)
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted")
        until_lines(rig, process, len(lines(rig)) + 5)
        another_wish()
        process.send_signal(signal.SIGINT)
        done = rig.ended(process)
    assert done.code == 130, done.errors
    assert len({line.split()[0] for line in lines(rig)}) == 1


def test_ctrl_c_on_a_terminal_reaches_the_driver_through_its_supervisor(rig: Rig) -> None:
    """The whole foreground group is signalled: a driver with a watch ends at its boundary, not in a batch."""
    with rig.started(plain(rig, "watched")) as process:  # the leader of a group
        until_lines(rig, process)
        os.killpg(process.pid, signal.SIGINT)
        done = rig.ended(process)
    assert done.code == 75, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [75]
    assert "KeyboardInterrupt" not in done.errors


SCRIPT = """\
"{python}" -m tests.run.plain unwatched "{folder}/lines" &
"{python}" -m tests.run.plain stubborn "{folder}/lines" &
wait
"""


def script(rig: Rig, text: str = SCRIPT) -> list[str]:
    """A driver that is a shell script with children."""
    path = rig.folder / "job.sh"
    path.write_text(text.format(python=sys.executable, folder=rig.folder), encoding="utf-8")
    return command("sh", str(path))


def until_both(rig: Rig, process: subprocess.Popen[bytes]) -> None:
    """Wait until both children of the script write."""
    deadline = time.monotonic() + SECONDS
    while len({line.split()[0] for line in lines(rig) if line.endswith("5")}) < 2:
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "the children do nothing"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_script_and_its_children_are_paused(rig: Rig, number: signal.Signals) -> None:
    """Also children in the background, which a shell has made deaf to Ctrl-C: nothing is left running."""
    with rig.started(script(rig)) as process:
        until_both(rig, process)
        process.send_signal(number)
        done = rig.ended(process)
        assert done.code == 75, done.errors
        rig.until_gone("tests.run.plain")


def test_a_script_that_ends_leaves_nothing_behind(rig: Rig) -> None:
    """What it has started in the background ends with it."""
    text = SCRIPT.replace("wait\n", 'until [ -s "{folder}/lines" ]; do sleep 0.1; done\n')
    done = rig.run(script(rig, text))
    assert done.code == 0, done.errors
    rig.until_gone()


def test_a_script_is_ended_with_its_killed_supervisor(rig: Rig) -> None:
    """SIGKILL, which nobody can act upon: the guard ends all of its group."""
    with rig.started(script(rig)) as process:
        until_both(rig, process)
        process.kill()
        process.communicate(timeout=SECONDS)
    rig.until_gone()


def test_the_lock_of_a_killed_run_is_free(rig: Rig) -> None:
    """The same command starts again in the same folder."""
    with rig.started(plain(rig, "watched")) as process:
        until_lines(rig, process)
        second = rig.run(plain(rig, "watched"))
        process.kill()
        process.communicate(timeout=SECONDS)
    assert second.code == 2
    assert "is in use by" in second.errors
    assert rig.run(command(sys.executable, "-c", "")).code == 0
    assert Path(rig.folder / ".helix-crawl").is_dir()
