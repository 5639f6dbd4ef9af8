"""One driver at a time, and what it tells of its run: in a folder as on one machine, in a bucket by a record there."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.fleet import home
from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.home import RunHome
from helix_crawl_otel.fleet.object_storage import ObjectStorage
from helix_crawl_otel.fleet.storage import Superseded
from helix_crawl_otel.supervise.lock import FolderLocked
from tests.programs import require_module


@pytest.fixture
def bucket() -> ObjectStorage:
    """In memory."""
    store = require_module("obstore.store", "obstore").MemoryStore()
    return ObjectStorage("s3://bucket/x", lambda _: store)


def test_a_folder_is_its_own_home(tmp_path: Path) -> None:
    """Under the lock of every build."""
    storage = FolderStorage(tmp_path / "OUT")
    with RunHome(storage, tmp_path / "OUT", "the first") as first:
        first.keep()
        with pytest.raises(FolderLocked, match="is in use by `the first`"):
            RunHome(storage, tmp_path / "OUT", "the second").__enter__()
    with RunHome(storage, tmp_path / "OUT", "the second"):
        pass


@pytest.mark.fleet
def test_a_second_driver_of_a_bucket_is_told_of_the_first(bucket: ObjectStorage, tmp_path: Path) -> None:
    """Who, where, since when; once it is over the next one comes in, and nothing of the record is left."""
    with (
        RunHome(bucket, tmp_path / "home", "the first", beat_seconds=None),
        pytest.raises(FolderLocked, match=f"s3://bucket/x is in use by `the first` .* on {platform.node()}, since"),
    ):
        RunHome(bucket, tmp_path / "home", "the second").__enter__()
    assert list(bucket.walk()) == []
    with RunHome(bucket, tmp_path / "home", "the second"):
        pass


@pytest.mark.fleet
@pytest.mark.parametrize("way", ["its process is gone", "it is too old"])
def test_the_record_of_a_driver_that_is_gone_is_taken_over(
    bucket: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """At once where that was a process of this machine, else after a while by the store's clock; the one that was gone
    and comes back learns of it, and removes nothing."""
    gone = RunHome(bucket, tmp_path / "home", "gone", beat_seconds=None)
    gone.__enter__()
    if way == "it is too old":
        monkeypatch.setattr(home, "STALE_SECONDS", -1.0)
    else:
        monkeypatch.setattr(home, "process_mark", lambda pid: "another")
    with RunHome(bucket, tmp_path / "home", "next", beat_seconds=None) as following:
        gone.beat()
        assert gone.is_lost
        with pytest.raises(Superseded, match="has been taken over by another driver"):
            gone.keep()
        gone.__exit__(None, None, None)
        following.beat()
        assert not following.is_lost


@pytest.mark.fleet
def test_what_a_run_tells_goes_on_in_the_bucket(
    bucket: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run, on whatever machine, finds it, and puts what it changes only."""
    with RunHome(bucket, tmp_path / "home", "one") as one:
        state = tmp_path / "home" / ".helix-crawl"
        (state / "build.json").write_text("{}")
        (state / "timeline.jsonl").write_text("line\n")
        (state / "nodes").mkdir()
        one.keep()
        assert bucket.read(".helix-crawl/build.json") is not None
        (state / "timeline.jsonl").write_text("line\nanother\n")
    shutil.rmtree(tmp_path / "home")
    written: list[str] = []
    write = bucket.write

    def noted(name: str, content: Any) -> None:
        written.append(name)
        write(name, content)

    monkeypatch.setattr(bucket, "write", noted)
    with RunHome(bucket, tmp_path / "home", "two", beat_seconds=None):
        assert (tmp_path / "home" / ".helix-crawl" / "timeline.jsonl").read_text() == "line\nanother\n"
        with (tmp_path / "home" / ".helix-crawl" / "timeline.jsonl").open("a") as file:
            file.write("third\n")
    assert written == [".helix-crawl/timeline.jsonl"]
    found = bucket.read(".helix-crawl/timeline.jsonl")
    assert found is not None
    assert found[0] == b"line\nanother\nthird\n"
