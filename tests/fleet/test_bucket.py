"""Shards in a bucket, over HTTP: what a put's answer would have said is found out, and each fault is one sentence."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from helix_crawl_otel.exit_codes import PAUSED, USAGE
from helix_crawl_otel.fleet.object_storage import ObjectStorage
from helix_crawl_otel.fleet.places import open_storage
from helix_crawl_otel.fleet.stage import Stage, StagedShard
from helix_crawl_otel.fleet.storage import StorageBusy, StorageError, StorageRefused, Superseded
from tests.fleet.bucket import BUCKET, Bucket, served
from tests.fleet.genes import add_gene, genes_in
from tests.fleet.holders import Holders, holders_at
from tests.programs import require_installed

pytestmark = [pytest.mark.fleet, pytest.mark.xdist_group("moto")]

NAME = "a b#%ü?&+.db"


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    """One for all tests here: each has a prefix of its own."""
    require_installed("obstore", "obstore")
    require_installed("moto", "moto[server,s3]")
    with served() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Without faults yet."""
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    server.faults.clear()
    server.method = "PUT"
    server.ignores_conditions = False
    server.seen.clear()
    return server


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """A place of its own, with odd letters in it."""
    return f"s3://{BUCKET}/{abs(hash(request.node.name))}/an index%20 ü#1"


@pytest.fixture
def storage(bucket: Bucket, address: str) -> ObjectStorage:
    """There; it waits for nobody between two tries."""
    found = open_storage(address, patience_seconds=30)
    assert isinstance(found, ObjectStorage)
    found._wait = lambda seconds: None
    return found


def test_what_was_put_is_listed_read_and_copied(storage: ObjectStorage, tmp_path: Path) -> None:
    """By the name that it was put under, whatever letters are in it."""
    storage.check()
    names = [NAME, "日本.db", "a%20b.db", "100%.db", ".x.db", "a..b.db", "'\"<>|*.db"]
    versions = {name: storage.put(name, name.encode(), expected=None, holder="a") for name in names}
    storage.write(f"folder/{NAME}", b"below")
    assert {name: entry.version for name, entry in storage.list().items()} == versions
    assert {name for name, _ in storage.walk()} == {*names, f"folder/{NAME}"}
    assert [name for name, _ in storage.walk("folder")] == [f"folder/{NAME}"]
    for number, name in enumerate(names):
        assert storage.read(name) == (name.encode(), versions[name])
        copy = tmp_path / str(number)
        assert storage.get(name, copy) == versions[name]
        assert copy.read_bytes() == name.encode()
    storage.remove(NAME)
    assert storage.look(NAME) is None
    assert storage.read(NAME) is None
    assert storage.get(NAME, tmp_path / "none") is None


@pytest.mark.parametrize("expected", [None, "0" * 32])
def test_another_version_is_not_replaced(storage: ObjectStorage, expected: str | None) -> None:
    """Nor is one made where one is expected."""
    version = storage.put(NAME, b"one", expected=None, holder="a")
    with pytest.raises(Superseded, match="has been put by another holder since; nothing was written"):
        storage.put(NAME, b"two", expected=expected, holder="b")
    with pytest.raises(Superseded):
        storage.put("gone.db", b"two", expected=version, holder="b")
    assert storage.read(NAME) == (b"one", version)
    assert storage.look("gone.db") is None


@pytest.mark.parametrize(
    "faults",
    [
        ["503"] * 5,
        ["lost"],
        ["reset"],
        ["lost", "503", "lost"],
        ["503", "lost", "reset", "lost"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "there"])
def test_a_put_gets_through_once(storage: ObjectStorage, bucket: Bucket, faults: list[str], *, is_new: bool) -> None:
    """Whatever happens to its requests and answers: what was put stands there, and its version is the one that is told,
    so that the next put goes on from it."""
    version = None if is_new else storage.put(NAME, b"before", expected=None, holder="other")
    bucket.faults.extend(faults)
    version = storage.put(NAME, b"one", expected=version, holder="a")
    assert storage.read(NAME) == (b"one", version)
    bucket.faults.extend(faults)
    version = storage.put(NAME, b"two", expected=version, holder="a")
    assert storage.read(NAME) == (b"two", version)
    with pytest.raises(Superseded):
        storage.put(NAME, b"other", expected=None, holder="b")


def test_the_same_content_of_another_is_not_taken_for_ours(storage: ObjectStorage, bucket: Bucket) -> None:
    """Two that put the same bytes at once: one has put them, and the other one learns that it has not."""
    storage.put(NAME, b"same", expected=None, holder="a")
    bucket.faults.append("503")
    with pytest.raises(Superseded):
        storage.put(NAME, b"same", expected=None, holder="b")


def test_a_put_that_arrives_late_replaces_nothing(storage: ObjectStorage, bucket: Bucket) -> None:
    """The store was slow, the put was made again, and then the first one comes: what is there is newer."""
    version = storage.put(NAME, b"one", expected=None, holder="a")
    bucket.faults.append("late")
    second = storage.put(NAME, b"two", expected=version, holder="a")
    third = storage.put(NAME, b"three", expected=second, holder="a")
    bucket.release()
    assert storage.read(NAME) == (b"three", third)


def test_one_that_arrives_late_and_was_given_up_is_known_again(storage: ObjectStorage, bucket: Bucket) -> None:
    """The put failed as far as anybody could tell, and then it was there: the next one goes on from it."""
    storage._patience = 0.0
    version = storage.put(NAME, b"one", expected=None, holder="a")
    bucket.faults.append("late")
    with pytest.raises(StorageBusy, match="nothing is lost, the same command goes on"):
        storage.put(NAME, b"two", expected=version, holder="a")
    bucket.release()
    storage._patience = 30.0
    third = storage.put(NAME, b"three", expected=version, holder="a")
    assert storage.read(NAME) == (b"three", third)


@pytest.mark.parametrize("fault", ["503", "reset", "cut", "changed"])
def test_a_copy_is_what_was_put(storage: ObjectStorage, bucket: Bucket, tmp_path: Path, fault: str) -> None:
    """Cut off, or changed on the way: it is read again; and again it is said when that does not help."""
    content = bytes(range(256)) * 4000
    version = storage.put(NAME, content, expected=None, holder="a")
    bucket.method = "GET"
    bucket.faults.extend([fault] * 3)
    assert storage.get(NAME, tmp_path / "copy") == version
    assert (tmp_path / "copy").read_bytes() == content
    storage._patience = 0.0
    bucket.faults.extend([fault] * 3)
    with pytest.raises(StorageBusy, match="cannot be read"):
        storage.get(NAME, tmp_path / "copy")


def test_what_was_put_is_read_back(storage: ObjectStorage, bucket: Bucket) -> None:
    """Before a copy is dropped."""
    version = storage.put(NAME, b"one", expected=None, holder="a")
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    storage.verify(NAME, version, digest)
    storage._patience = 0.0
    with pytest.raises(StorageBusy, match="what was read back is not what was put"):
        storage.verify(NAME, version, digest[::-1])
    storage.put(NAME, b"two", expected=version, holder="b")
    with pytest.raises(Superseded):
        storage.verify(NAME, version, digest)


def test_a_store_that_does_not_answer_is_given_up(bucket: Bucket, address: str, tmp_path: Path) -> None:
    """After so long, in one sentence, with the code by which the same command goes on; the copy is there still."""
    storage = open_storage(address, patience_seconds=0.3)
    with Stage(tmp_path / "stage") as stage:
        shard = StagedShard.take(storage, NAME, stage, create=True)
        add_gene(shard, "one")
        bucket.method = ""
        bucket.faults.extend(["503"] * 1000)
        with pytest.raises(StorageBusy, match=r"cannot be written: .*\(503 Service Unavailable") as caught:
            shard.checkpoint()
        assert caught.value.exit_code == PAUSED
        assert "\n" not in str(caught.value)
        bucket.faults.clear()
        assert shard.checkpoint()
        shard.finish()
    assert storage.get(NAME, tmp_path / "copy") is not None
    assert genes_in(tmp_path / "copy") == ["one"]


def test_a_client_that_gets_no_answer_gives_up_a_request(bucket: Bucket, storage: ObjectStorage) -> None:
    """A silent store: the request ends by its deadline, and the next one is answered."""
    connect = storage._connect
    storage._store = connect(1.0)
    bucket.faults.append("silent")
    version = storage.put(NAME, b"one", expected=None, holder="a")
    assert storage.read(NAME) == (b"one", version)


def test_bad_places_are_refused_in_one_sentence(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each names what was wrong, and what is accepted; no secret is in it."""

    def refusal(text: str) -> str:
        with pytest.raises(StorageRefused) as caught:
            open_storage(text, patience_seconds=1).check()
        assert caught.value.exit_code == USAGE
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refusal("s3://none-of-that-name/x") == (
        "s3://none-of-that-name/x cannot be written: there is no such bucket; accepted: one that is there"
    )
    assert "ftp://, which is not known; accepted: a folder, or s3://, gs://, az://, file://" in refusal("ftp://a/b")
    assert "names no bucket; accepted: s3://BUCKET/PREFIX" in refusal("s3://")
    assert "without . and .." in refusal("s3://a/../b")
    assert "hunter2" not in refusal("s3://me:hunter2@bucket/x")
    assert "on another machine, 'server'" in refusal("file://server/x")
    bucket.ignores_conditions = True
    assert "takes a put although its condition (If-Match, If-None-Match) does not hold" in refusal(f"s3://{BUCKET}/c")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refusal(f"s3://{BUCKET}/x")


def test_a_log_beside_a_shard_is_refused(storage: ObjectStorage) -> None:
    """It was copied out of a running build: what is in the log is a part of the shard."""
    storage.write(NAME, b"shard")
    storage.write("other.db-wal", b"of nothing that is there")
    storage.write(f"{NAME}-wal", b"")
    assert len(storage.list()) == 3
    storage.write(f"{NAME}-wal", b"log")
    with pytest.raises(
        StorageRefused, match=r"-wal belongs into .*; accepted: shards that were copied when nobody had"
    ):
        storage.list()


def test_a_probe_leaves_nothing(bucket: Bucket, storage: ObjectStorage) -> None:
    """What was put to find out whether it can be is removed."""
    storage.check()
    assert list(storage.walk()) == []


def test_without_the_extra_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback of an import."""
    for name in ("obstore", "obstore.store", "obstore.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        StorageRefused, match=r"obstore is not installed; install it with pip install 'helix-crawl-otel\[ray\]'"
    ):
        open_storage("s3://bucket/x")


@pytest.fixture
def holders(bucket: Bucket, address: str, tmp_path: Path) -> Iterator[Holders]:
    """Processes that hold shards there."""
    with holders_at(address, tmp_path, bucket.environ()) as started:
        yield started


@pytest.mark.skipif(sys.platform == "win32", reason="forks, and freezes by a signal")
def test_a_frozen_one_that_wakes_beside_its_replacement_writes_nothing(
    holders: Holders, storage: ObjectStorage
) -> None:
    """It stood between its comparison and its put."""
    version = storage.put(NAME, b"before", expected=None, holder="a")
    frozen = holders.start("freeze", NAME)
    frozen.until(lambda lines: lines == ["frozen"])
    now = storage.put(NAME, b"of its replacement", expected=version, holder="b")
    frozen.signal(signal.SIGCONT)
    holders.ended()
    assert frozen.lines() == ["frozen", "superseded"]
    assert storage.read(NAME) == (b"of its replacement", now)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_of_eight_that_put_at_once_one_does(holders: Holders, storage: ObjectStorage, tmp_path: Path) -> None:
    """From the same version on: the others are told."""
    for turn in range(3):
        ended = holders.race(NAME, tmp_path / f"start-{turn}")
        entry = storage.look(NAME)
        assert entry is not None
        assert sorted(lines[-1] for lines in ended) == ["done", *["superseded"] * 7]
        assert ["ready", f"put {entry.version}", "done"] in ended


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_kills_at_any_moment_lose_nothing_that_was_put(
    holders: Holders, storage: ObjectStorage, bucket: Bucket, tmp_path: Path
) -> None:
    """While faults happen: all that was put is there, once."""
    put: list[str] = []
    for turn in range(20):
        bucket.faults.extend(["lost", "", "503"] if turn % 2 else [])
        holder = holders.start("hold", NAME)
        holder.until(partial(_told, turn % 3))
        time.sleep((turn * 7 % 20) / 200)
        holder.signal(signal.SIGKILL)
        holders.ended()
        put += [line for line in holder.lines() if line != "holds"]
        copy = tmp_path / f"copy-{turn}"
        found = genes_in(copy) if storage.get(NAME, copy) is not None else []
        assert found[: len(put)] == put
        assert len(found) <= len(put) + 1
        put = found
    assert len(put) >= 6


def _told(least: int, lines: list[str]) -> bool:
    return len(lines) >= least


LARGE = """
import resource, sys
from pathlib import Path
from helix_crawl_otel.fleet.places import open_storage
storage = open_storage(sys.argv[1])
source = Path(sys.argv[2])
def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
storage.put("small.db", b"1", expected=None, holder="a")
before = anonymous()
version = storage.put("large.db", source, expected=None, holder="a")
storage.get("large.db", source.with_suffix(".copy"))
print(anonymous() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_shard_takes_little_memory(bucket: Bucket, address: str, tmp_path: Path) -> None:
    """It is sent from a mapping of its file, and copied a piece at a time."""
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(96 * 1024**2)
    command = [sys.executable, "-c", LARGE, address, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=True)
    assert int(done.stdout) < 32 * 1024, "KiB"
    assert source.with_suffix(".copy").stat().st_size == source.stat().st_size


def test_what_is_too_large_for_one_put_is_refused(storage: ObjectStorage, tmp_path: Path) -> None:
    """Before a byte of it is read or sent."""
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(5 * 1024**3 + 1)
    with pytest.raises(StorageError, match="5,368,709,121 bytes, and a store compares and swaps at most 5,368,709,120"):
        storage.put(NAME, source, expected=None, holder="a")
