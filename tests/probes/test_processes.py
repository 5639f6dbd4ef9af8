"""What a process has started, and what it is called: by the table of Windows, and by `/proc`."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helix_crawl_otel.probes.processes import (
    Process,
    ProcessorUse,
    booted_at,
    creation_time,
    descendants,
    process_mark,
    process_names,
    process_tree,
    processes,
    processor_seconds,
    read_ps,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
windows = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: runs under Wine")
elsewhere = pytest.mark.skipif(sys.platform == "win32", reason="Windows has a table of processes")


def table(*parents: tuple[int, int]) -> list[Process]:
    """Processes by pid and parent."""
    return [Process(pid, parent, f"program-{pid}.exe") for pid, parent in parents]


def test_a_tree_is_a_process_and_all_it_has_started() -> None:
    """Children and theirs; not its parent, not its siblings, and not those of a parent that has ended."""
    found = process_tree(10, table((1, 0), (10, 1), (11, 10), (12, 11), (13, 10), (20, 1), (21, 99)), lambda pid: pid)
    assert found == {10, 11, 12, 13}


def test_a_process_that_has_ended_is_its_own_tree() -> None:
    """Nobody is taken along for want of it."""
    assert process_tree(10, table((1, 0)), lambda pid: pid) == {10}


def test_a_process_older_than_the_bearer_of_its_parents_id_is_somebody_elses() -> None:
    """Windows gives ids away again: what the earlier bearer of an id started is not the worker's."""
    born = {10: 100, 11: 90, 12: 95, 13: 100}
    assert process_tree(10, table((10, 1), (11, 10), (12, 11), (13, 10)), born.get) == {10, 13}


@pytest.mark.parametrize("unknown", [10, 11])
def test_where_a_start_is_not_known_the_table_is_believed(unknown: int) -> None:
    """A process that may not be asked is still counted with its parent."""
    born: dict[int, int | None] = {10: 100, 11: 110, unknown: None}
    assert process_tree(10, table((10, 1), (11, 10)), born.get) == {10, 11}


def test_a_circle_of_parents_ends() -> None:
    """Ids that were given away again can make one."""
    assert process_tree(10, table((10, 11), (11, 10)), lambda pid: None) == {10, 11}


@elsewhere
def test_elsewhere_no_process_is_known() -> None:
    """An empty answer, not an exception."""
    assert processes() == ()
    assert process_names() == {}
    assert creation_time(os.getpid()) is None
    assert process_tree(os.getpid()) == {os.getpid()}


@windows
def test_a_child_and_its_child_are_found_by_name() -> None:
    """Real processes: this one, one that it started, and one that that started."""
    wait = "import sys; sys.stdin.read()"
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], stdout=sys.stdout)"
    said = f"print('here', flush=True); {wait}"
    child = subprocess.Popen(
        [sys.executable, "-c", start, said], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline().strip() == "here"
        tree, names = process_tree(os.getpid()), process_names()
        (grandchild,) = process_tree(child.pid) - {child.pid}
        assert {os.getpid(), child.pid, grandchild} <= tree
        own = Path(sys.executable).name
        assert [names[pid] for pid in (os.getpid(), child.pid, grandchild)] == [own] * 3
        born = [creation_time(pid) for pid in (os.getpid(), child.pid, grandchild)]
        known = [when for when in born if when is not None]
        assert len(known) == 3
        assert known == sorted(known)
    finally:
        child.stdin.close()
        child.wait(60)
        child.stdout.close()


@windows
def test_asking_leaves_no_handle_open() -> None:
    """Neither of the table, nor of the processes that were opened for their start."""
    before = next_handle()
    for _ in range(100):
        processes()
        creation_time(os.getpid())
    assert next_handle() < before + 50


def next_handle() -> int:
    """The number of the next handle: the lowest that is free. Wine does not count the open ones."""
    if sys.platform != "win32":
        return 0
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.CreateEventW.restype = ctypes.c_void_p
    handle = ctypes.c_void_p(kernel32.CreateEventW(None, 0, 0, None))
    assert handle.value is not None
    kernel32.CloseHandle(handle)
    return handle.value // 4


# -- /proc ------------------------------------------------------------------------------------------------------------


def _process(proc: Path, pid: int, parent: int, name: str = "python") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} {pid} 1 0 -1 4194560 1\n")


@linux
def test_children_and_their_children_whatever_they_are_called(tmp_path: Path) -> None:
    """A name may hold spaces, parentheses and digits; one that has ended meanwhile is passed over."""
    _process(tmp_path, 10, 1)
    _process(tmp_path, 11, 10, "sh) S 1 (x")
    _process(tmp_path, 12, 11, "a b")
    _process(tmp_path, 13, 1)
    (tmp_path / "14").mkdir()
    (tmp_path / "15").mkdir()
    (tmp_path / "15" / "stat").write_text("")
    (tmp_path / "self").mkdir()
    assert descendants(10, tmp_path) == {11, 12}
    assert descendants(12, tmp_path) == set()


@linux
def test_a_circle_in_proc_ends(tmp_path: Path) -> None:
    """Pids that were used again while they were listed must not keep the supervisor in a loop."""
    _process(tmp_path, 10, 11)
    _process(tmp_path, 11, 10)
    assert descendants(10, tmp_path) == {11}


@linux
def test_no_such_folder_is_no_family(tmp_path: Path) -> None:
    """Nothing is known, nothing is killed."""
    assert descendants(1, tmp_path / "missing") == set()


PS = """
    1     0   0:42.17
  812     1 123:45.67
  900   812   1:02:03
  901   900 2-03:04:05
  ??    no  line
"""


def test_what_ps_tells_of_the_processor() -> None:
    """Minutes, hours, days; on macOS with hundredths of a second."""
    read = {process.pid: (process.parent, seconds) for process, seconds in read_ps(PS)}
    assert read == {
        1: (0, pytest.approx(42.17)),
        812: (1, pytest.approx(123 * 60 + 45.67)),
        900: (812, 3723.0),
        901: (900, 2 * 86400 + 3 * 3600 + 4 * 60 + 5),
    }


BURNS = "import sys\nwhile True: pass"
FAMILY = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURNS!r}])"


@pytest.mark.parametrize("program", [BURNS, pytest.param(FAMILY, marks=linux)], ids=["alone", "by-a-child"])
def test_a_process_that_burns_the_processor(program: str) -> None:
    """Also where it waits for a child that does."""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        ends = time.monotonic() + 60.0
        while (processor_seconds(process.pid) or 0.0) < 0.3:
            assert time.monotonic() < ends
            time.sleep(0.02)
    finally:
        for pid in (*descendants(process.pid), process.pid):
            os.kill(pid, signal.SIGTERM)
        process.wait(60)


def test_processor_use_is_looked_at_once_a_minute() -> None:
    """The first look tells nothing; what falls, because a child has ended, is no work."""
    use = ProcessorUse()
    assert use.is_due(0.0)
    assert not use.feed(0.0, 500.0)
    assert not use.is_due(59.0)
    assert use.is_due(60.0)
    assert use.feed(60.0, 503.0)
    assert not use.feed(120.0, 505.9)
    assert not use.feed(180.0, 100.0)
    assert not use.feed(240.0, None)
    assert use.feed(240.0, 103.0)


def test_a_process_is_told_from_a_later_one_with_its_id() -> None:
    """By a mark that it keeps; one that has ended has none, also before anybody has taken note of that."""
    own = process_mark(os.getpid())
    assert own == process_mark(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        mark = process_mark(child.pid)
        assert mark is not None
        assert mark != own or mark == ""
        child.stdin.close()
        deadline = time.monotonic() + 60
        while process_mark(child.pid) is not None and sys.platform in ("linux", "win32"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert process_mark(child.pid) is None
    assert [process_mark(pid) for pid in (0, -1, 2**40)] == [None] * 3


@linux
def test_what_the_kernel_says_of_a_process(tmp_path: Path) -> None:
    """The moment of its start, whatever its name holds; a zombie is gone."""
    for pid, state, mark in ((1, "S", "7654"), (2, "Z", None)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a) (b c) {state} " + " ".join(["0"] * 18) + " 7654 0 0\n")
        assert process_mark(pid, tmp_path) == mark


def test_this_machine_was_started_before_now() -> None:
    """And not before computers were."""
    assert 0 < booted_at() < time.time()
