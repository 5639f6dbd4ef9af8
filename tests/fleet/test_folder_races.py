"""Shards in a folder that several holders reach: killed, frozen and woken, at once. One holds it, nothing is lost."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.fleet.folder_storage import FolderStorage
from tests.fleet.genes import genes_in
from tests.fleet.holders import Holders, holders_at

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and freezes by a signal")

NAME = "a b#%ü.db"


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: a hundred kills wait for no disk, and its times are coarse."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def holders(folder: Path) -> Iterator[Holders]:
    """Of shards in the folder OUT."""
    with holders_at(str(folder / "OUT"), folder) as started:
        yield started


def test_kills_at_any_moment_lose_nothing_that_was_put(holders: Holders, folder: Path) -> None:
    """Of a hundred holders after each other, each killed while it takes, puts or adds: all that was put is there, once,
    in the order in which it was put."""
    draw = random.Random(15)
    put: list[str] = []
    for _ in range(100):
        holder = holders.start("hold", NAME)
        if draw.random() < 0.8:
            holder.until(bool)
        time.sleep(draw.random() * 0.06)
        holder.signal(signal.SIGKILL)
        assert holders.ended() == holder
        told = [line for line in holder.lines() if line != "holds"]
        found = genes_in(folder / "OUT" / NAME) if (folder / "OUT" / NAME).exists() else []
        put += told
        # The one whose put went through and who was killed before it could tell of it is there as well.
        assert found[: len(put)] == put
        assert len(found) <= len(put) + 1
        put = found
    assert len(put) > 20
    parts = list((folder / "OUT" / ".helix-crawl" / "parts").iterdir())
    assert len(parts) <= 1, "what a killed one has left is removed by the next one"


def test_of_eight_that_put_at_once_one_does(holders: Holders, folder: Path) -> None:
    """From the same version on: the others are told, and what is there is the one's."""
    storage = FolderStorage(folder / "OUT")
    for turn in range(12):
        ended = holders.race(NAME, folder / f"start-{turn}")
        winners = [lines for lines in ended if lines[-1] == "done"]
        assert [lines[-1] for lines in ended if lines not in winners] == ["superseded"] * 7
        entry = storage.look(NAME)
        assert entry is not None
        assert winners == [["ready", f"put {entry.version}", "done"]]


@pytest.mark.parametrize(
    ("step", "turn"),
    [("_require", 1), ("_write_part", 1), ("_take_away_others", 1), ("_require", 2)],
    ids=["before its part", "with its part", "before its comparison", "before its rename"],
)
@pytest.mark.parametrize("is_new", [False, True], ids=["there", "new"])
def test_a_frozen_one_that_wakes_beside_its_replacement_writes_nothing(
    holders: Holders, folder: Path, step: str, turn: int, *, is_new: bool
) -> None:
    """Wherever in its put it stood, and however long."""
    storage = FolderStorage(folder / "OUT")
    version = None if is_new else storage.put(NAME, b"before", expected=None, holder="a")
    frozen = holders.start("freeze", NAME, step=step, turn=turn)
    frozen.until(lambda lines: lines == ["frozen"])
    now = storage.put(NAME, b"of its replacement", expected=version, holder="b")
    later = storage.put(NAME, b"and once more", expected=now, holder="b")
    frozen.signal(signal.SIGCONT)
    holders.ended()
    assert frozen.lines() == ["frozen", "superseded"]
    assert storage.read(NAME) == (b"and once more", later)
    assert list((folder / "OUT" / ".helix-crawl" / "parts").iterdir()) == []
