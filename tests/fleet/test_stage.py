"""A shard on a node's stage: what comes there, what is put back while a worker writes, and what is never put."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.exit_codes import USAGE
from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.stage import Stage, StagedShard
from helix_crawl_otel.fleet.storage import StorageError, StorageRefused, Superseded
from helix_crawl_otel.shards.errors import NotAShard, ShardCorrupt
from helix_crawl_otel.shards.inspect import built_from
from helix_crawl_otel.shards.store import ShardStore
from tests.fleet.genes import TREE, add_gene, genes_in

NAME = "a b#%ü.db"


def genes_of(path: Path) -> list[str]:
    """With what is in the log beside it."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT gene_id FROM genes ORDER BY rowid")]


@pytest.fixture
def out(tmp_path: Path) -> FolderStorage:
    """OUT."""
    return FolderStorage(tmp_path / "OUT")


@pytest.fixture
def shard_file(out: FolderStorage, tmp_path: Path) -> Path:
    """A shard there, with one gene."""
    with Stage(tmp_path / "first") as stage:
        shard = StagedShard.take(out, NAME, stage, create=True)
        add_gene(shard, "one")
        shard.finish()
    return out.folder / NAME


def test_a_checkpoint_holds_what_is_committed_while_a_worker_writes(
    out: FolderStorage, shard_file: Path, tmp_path: Path
) -> None:
    """Whole transactions; the worker has the file open all the time, and goes on."""
    with Stage(tmp_path / "stage") as stage:
        shard = StagedShard.take(out, NAME, stage, create=True)
        with ShardStore.open(shard.path, epoch=shard.epoch + 1, create=True) as store:
            for name in ("two", "three"):
                with store.writing() as connection:
                    connection.execute("INSERT INTO genes (gene_id, content) VALUES (?, 'text')", (name,))
                    before = genes_in(shard_file)
                    shard.checkpoint()
                    assert genes_in(shard_file) == before
                assert shard.checkpoint()
                assert not shard.checkpoint()
            assert genes_in(shard_file) == ["one", "two", "three"]
        version = shard.finish()
        assert not shard.path.parent.exists()
    entry = out.look(NAME)
    assert entry is not None
    assert entry.version == version
    assert [path.name for path in out.folder.iterdir()] in ([NAME, ".helix-crawl"], [".helix-crawl", NAME])


def test_what_a_killed_build_left_in_the_log_comes_along(out: FolderStorage, shard_file: Path, tmp_path: Path) -> None:
    """Of one machine: the genes that are in the log beside the file are in the shard, and that log is read into no
    later one, even where its taker is lost at once."""
    made = tmp_path / "made.db"
    shutil.copy(shard_file, made)
    with ShardStore.open(made, epoch=9, create=True) as store:
        with store.writing() as connection:
            connection.execute("INSERT INTO genes (gene_id, content) VALUES ('in the log', 'text')")
        for end in ("", "-wal"):
            shutil.copy(f"{made}{end}", f"{shard_file}{end}")
    assert genes_in(shard_file) == ["one"]
    copy = tmp_path / "copy.db"
    assert out.get(NAME, copy) is not None
    assert genes_of(copy) == ["one", "in the log"]
    log = shard_file.with_name(f"{NAME}-wal")
    assert log.exists(), "a mere look takes nothing away"
    entry = out.look(NAME)
    assert entry is not None
    out._move_logs(NAME, entry.version)  # whoever takes it is killed before its rename
    assert not log.exists()
    with Stage(tmp_path / "stage") as stage:
        shard = StagedShard.take(out, NAME, stage, create=True)
        assert genes_in(shard_file) == ["one", "in the log"]
        assert shard.epoch == 10
        add_gene(shard, "later")
        shard.finish()
    assert genes_in(shard_file) == ["one", "in the log", "later"]
    assert list((out.folder / ".helix-crawl" / "parts").iterdir()) == []


def test_a_log_without_its_file_is_read_into_no_new_one(out: FolderStorage, shard_file: Path, tmp_path: Path) -> None:
    """The shard is gone, and its log was left: it is kept, out of the way."""
    shard_file.rename(tmp_path / "moved.db")
    log = shard_file.with_name(f"{NAME}-wal")
    log.write_bytes(b"of the one that is gone")
    with Stage(tmp_path / "stage") as stage:
        StagedShard.take(out, NAME, stage, create=True).finish()
    assert genes_in(shard_file) == []
    assert not log.exists()
    [kept] = (out.folder / ".helix-crawl" / "parts").iterdir()
    assert kept.read_bytes() == b"of the one that is gone"


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be replaced there anyway")
def test_one_that_another_program_has_open_is_left_alone(out: FolderStorage, shard_file: Path, tmp_path: Path) -> None:
    """It would go on in a file that is no longer there."""
    program = f"""
import sqlite3, sys
with sqlite3.connect({str(shard_file)!r}) as connection:
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("SELECT count(*) FROM genes").fetchall()
    print("open", flush=True)
    sys.stdin.read()
"""
    pipe = subprocess.PIPE
    version = out.look(NAME)
    assert version is not None
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Stage(tmp_path / "stage") as stage, pytest.raises(StorageError, match="is open in another program; close"):
            StagedShard.take(out, NAME, stage, create=True)
        with pytest.raises(StorageError, match="is open in another program; close"):
            out.put(NAME, b"", expected=version.version, holder="a")
        process.communicate()
    assert genes_in(shard_file) == ["one"]


def test_a_damaged_shard_is_kept_under_another_name(out: FolderStorage, shard_file: Path, tmp_path: Path) -> None:
    """And made anew in its place."""
    content = bytearray(shard_file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    shard_file.write_bytes(content)
    with Stage(tmp_path / "stage") as stage:
        shard = StagedShard.take(out, NAME, stage, create=True)
        [note] = shard.notes
        assert f"it is now {out.folder / NAME}.corrupt-1 and is made again" in note
        assert str(shard.path) not in note
        add_gene(shard, "again")
        shard.finish()
    assert (out.folder / f"{NAME}.corrupt-1").read_bytes() == content
    assert genes_in(shard_file) == ["again"]


def test_what_is_somebody_elses_is_left_alone(out: FolderStorage, tmp_path: Path) -> None:
    """A database without genes: the message names where it lies, not the copy."""
    out.folder.mkdir()
    with closing(sqlite3.connect(out.folder / NAME)) as connection:
        connection.execute("CREATE TABLE other (x)")
    before = (out.folder / NAME).read_bytes()
    with Stage(tmp_path / "stage") as stage:
        for create in (True, False):
            with pytest.raises(NotAShard) as caught:
                StagedShard.take(out, NAME, stage, create=create)
            assert str(caught.value).startswith(f"{out.folder / NAME} is no shard")
        assert [path.name for path in stage.folder.iterdir()] == ["lock"]
    assert (out.folder / NAME).read_bytes() == before


def test_only_a_build_makes_a_shard(out: FolderStorage, tmp_path: Path) -> None:
    """A backfill finds it gone."""
    with Stage(tmp_path / "stage") as stage, pytest.raises(StorageError, match="is not there any more"):
        StagedShard.take(out, NAME, stage, create=False)
    assert out.look(NAME) is None


def test_a_damaged_copy_replaces_nothing(out: FolderStorage, shard_file: Path, tmp_path: Path) -> None:
    """The disk of the node has failed: what was put last is there still."""
    with Stage(tmp_path / "stage") as stage:
        shard = StagedShard.take(out, NAME, stage, create=True)
        before = shard_file.read_bytes()
        content = bytearray(shard.path.read_bytes())
        content[4096:] = b"\xff" * (len(content) - 4096)
        shard.path.write_bytes(content)
        with pytest.raises(ShardCorrupt, match="is damaged") as caught:
            shard.checkpoint()
        assert str(shard.path) not in str(caught.value)
    assert shard_file.read_bytes() == before


def test_one_that_was_replaced_is_told_whether_or_not_it_has_something_to_put(
    out: FolderStorage, shard_file: Path, tmp_path: Path
) -> None:
    """And puts nothing, whatever it has."""
    with Stage(tmp_path / "stage") as stage:
        old = StagedShard.take(out, NAME, stage, create=True)
        new = StagedShard.take(out, NAME, stage, create=True)
        assert new.epoch == old.epoch + 1
        for turn in range(2):
            for way in (old.checkpoint, old.finish, old.require_held):
                with pytest.raises(Superseded, match="has been put by another holder since; nothing was written"):
                    way()
            add_gene(old, f"lost {turn}")
        new.require_held()
        add_gene(new, "two")
        new.finish()
    assert genes_in(shard_file) == ["one", "two"]


def test_a_shard_says_what_it_was_cut_from_not_where_a_node_had_it(out: FolderStorage, tmp_path: Path) -> None:
    """The address of the tree; another one is refused."""
    with Stage(tmp_path / "stage") as stage:
        shard = StagedShard.take(out, NAME, stage, create=True, tree="s3://bucket/tree")
        add_gene(shard, "one")
        shard.finish()
        assert built_from(out.folder / NAME) == "s3://bucket/tree"
        StagedShard.take(out, NAME, stage, create=True, tree="s3://bucket/tree").drop()
        with pytest.raises(StorageError, match=f"was cut from s3://bucket/tree, not from {TREE}"):
            StagedShard.take(out, NAME, stage, create=True, tree=TREE)


def test_a_stage_without_room_is_told_before_anything_is_copied(
    out: FolderStorage, shard_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is free, what is needed, and the option."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with Stage(tmp_path / "stage") as stage:
        with pytest.raises(StorageError, match=r"has no room for .*1.0 MB are free, 67.1 MB are needed; .* by --stage"):
            StagedShard.take(out, NAME, stage, create=True)
        assert [path.name for path in stage.folder.iterdir()] == ["lock"]


def test_a_stage_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """One sentence, with the option."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageRefused, match=r"--stage is .*file, which cannot be written: ") as caught:
        Stage(tmp_path / "file").__enter__()
    assert caught.value.exit_code == USAGE


def test_what_a_killed_process_left_on_the_stage_is_removed(tmp_path: Path) -> None:
    """Of one that lives nothing is."""
    left = tmp_path / "stage" / "left"
    left.mkdir(parents=True)
    (left / "lock").touch()
    os.utime(left / "lock", (time.time() - 3600,) * 2)
    (left / "shard.db").touch()
    with Stage(tmp_path / "stage") as one, Stage(tmp_path / "stage") as other:
        os.utime(one.folder / "lock", (time.time() - 3600,) * 2)
        with Stage(tmp_path / "stage"):
            assert sorted((tmp_path / "stage").iterdir()) != []
            assert one.folder.is_dir()
            assert other.folder.is_dir()
            assert not left.exists()
    assert list((tmp_path / "stage").iterdir()) == []


@pytest.mark.parametrize(
    ("number", "sentence", "kind"),
    [
        (
            errno.ENOSPC,
            "the disk is full; free some space and start the same command again, nothing is lost",
            StorageError,
        ),
        (errno.EACCES, "cannot be written from this machine", StorageRefused),
        (errno.EROFS, "accepted: a folder in which every node may make files", StorageRefused),
        (errno.EIO, "what was there is there still", StorageError),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_put_that_fails_leaves_what_was_there(
    out: FolderStorage,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    sentence: str,
    kind: type[StorageError],
    call: str,
) -> None:
    """Whatever the system says, at its beginning or at its end; nothing of it is left."""
    version = out.put(NAME, b"before", expected=None, holder="a")

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, fails)
        with pytest.raises(kind, match=sentence) as caught:
            out.put(NAME, b"after", expected=version, holder="a")
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
    assert out.read(NAME) == (b"before", version)
    assert list((out.folder / ".helix-crawl" / "parts").iterdir()) == []
    out.put(NAME, b"after", expected=version, holder="a")


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """A file is in its place; or a name is too long."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageRefused, match="file cannot be written from this machine: Not a directory; accepted"):
        FolderStorage(tmp_path / "file").check()
    with pytest.raises(StorageRefused, match="File name too long"):
        FolderStorage(tmp_path / "OUT").put("x" * 300, b"", expected=None, holder="a")


def test_a_check_leaves_nothing_and_a_mark_tells_one_place_from_another(tmp_path: Path) -> None:
    """Of a mount that is missing on a node, where a folder of the same name is."""
    here, there = FolderStorage(tmp_path / "here"), FolderStorage(tmp_path / "there")
    here.check()
    assert [name for name, _ in here.walk()] == []
    word = here.mark()
    here.require_mark(word)
    for wrong in (there, here):
        with pytest.raises(StorageRefused, match="is another place on this machine than where the command was typed"):
            wrong.require_mark(word if wrong is there else "another")


def test_a_version_never_comes_back(out: FolderStorage) -> None:
    """Whatever the clocks of the nodes say: each put is later than the one it replaces."""
    versions = [out.put(NAME, b"0", expected=None, holder="a")]
    ahead = time.time_ns() + 10**15
    os.utime(out.folder / NAME, ns=(ahead, ahead))
    with pytest.raises(Superseded):
        out.put(NAME, b"1", expected=versions[0], holder="a")
    entry = out.look(NAME)
    assert entry is not None
    versions.append(entry.version)
    for turn in range(5):
        versions.append(out.put(NAME, str(turn).encode(), expected=versions[-1], holder="a"))
    assert len(set(versions)) == 7
    times = [int(version.partition("@")[2]) for version in versions[1:]]
    assert times == sorted(set(times))
    (out.folder / NAME).write_bytes(b"by hand")
    with pytest.raises(Superseded):
        out.put(NAME, b"over it", expected=versions[-1], holder="a")
