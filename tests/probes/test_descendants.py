"""What a process has started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helix_crawl_otel.probes.processes import descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")


def _process(proc: Path, pid: int, parent: int, name: str = "python") -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} {pid} 1 0 -1 4194560 1\n")


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


def test_a_circle_ends(tmp_path: Path) -> None:
    """Pids that were used again while they were listed must not keep the supervisor in a loop."""
    _process(tmp_path, 10, 11)
    _process(tmp_path, 11, 10)
    assert descendants(10, tmp_path) == {11}


def test_no_such_folder_is_no_family(tmp_path: Path) -> None:
    """Nothing is known, nothing is killed."""
    assert descendants(1, tmp_path / "missing") == set()
