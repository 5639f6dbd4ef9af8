"""Promises of `backfill`: shards that the app wrote get their vectors in place, and keep all else that is theirs."""

from __future__ import annotations

import signal
import struct
import sys

import pytest

from tests.build.rig import COMMAND, SECONDS, Done, Rig, wait_for
from tests.commands.app import foreign, hashed, not_ours, vectors_of, write_app_shard
from tests.shards.shards import made, rows, sql

GENES = {f"g{n:03}": f"Passage number {n} is about {'keys' if n % 2 else 'lunch'}." for n in range(150)}


def backfill(rig: Rig, *arguments: object) -> Done:
    """Run it on paths, with the options of the rig."""
    return rig.run([*COMMAND, "backfill", *map(str, arguments), *rig.options, "--json"])


@pytest.mark.parametrize("without_rowid", [False, True], ids=["rowid", "without rowid"])
def test_a_folder_of_the_app_is_encoded_in_place(rig: Rig, without_rowid: bool) -> None:
    """Every .db file that is a shard; columns, their order, indices, triggers, views and other files stay."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    paths = [write_app_shard(folder / f"{name}.db", GENES, without_rowid=without_rowid) for name in ("a", "b")]
    sql(folder / "settings.db", "CREATE TABLE settings (n INTEGER)")
    settings, before = (folder / "settings.db").read_bytes(), [not_ours(path) for path in paths]
    done = backfill(rig, folder)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == 2 * len(GENES)
    assert [not_ours(path) for path in paths] == before
    assert vectors_of(paths[0]) == vectors_of(paths[1]) == hashed(GENES)
    assert rows(paths[0], "SELECT count(*) FROM changes WHERE what = 'vector'") == [(len(GENES),)]
    assert (folder / "settings.db").read_bytes() == settings
    assert rig.verify(folder)["code"] == 0


def test_files_are_encoded_and_others_beside_them_are_not(rig: Rig) -> None:
    """Those that were named, whatever they are called; two of one name are told apart by their folder."""
    for name in ("one", "two"):
        (rig.folder / name).mkdir()
        write_app_shard(rig.folder / name / "main.db", GENES)
    beside = write_app_shard(rig.folder / "one" / "beside.db", GENES)
    odd = write_app_shard(rig.folder / "one" / "no suffix é", GENES)
    untouched = beside.read_bytes()
    named = [rig.folder / "one/main.db", rig.folder / "two/main.db", odd]
    done = backfill(rig, *named)
    assert done.code == 0, done.errors
    names = {f"{rig.folder.as_posix()}/{name}" for name in ("one/main", "two/main", "one/no suffix é")}
    assert {event["shard"] for event in done.of("shard_ended")} == names
    assert [vectors_of(path) for path in named] == [hashed(GENES)] * 3
    assert beside.read_bytes() == untouched


def test_a_table_with_nothing_but_the_two_columns_gets_the_others(rig: Rig) -> None:
    """They are added behind, and only once."""
    path = made(rig.folder / "bare.db", GENES)
    assert backfill(rig, path).code == 0
    columns = [row[0] for row in rows(path, "SELECT name FROM pragma_table_info('genes')")]
    assert columns == ["gene_id", "content", "source_id", "content_hash", "embedding_dense_v2"]
    assert backfill(rig, path).of("worker_started") == []


def test_vectors_that_agree_are_adopted(rig: Rig) -> None:
    """A half-encoded file: what is there is kept byte for byte, the rest is encoded, and the file then says by whom."""
    right = hashed(GENES)
    there = {name: vector for name, vector in right.items() if int(name[1:]) < 60}
    # Off by a hair, as another machine's are: kept ones can be told from those that were made anew.
    there["g005"] = _nudged(there["g005"])
    path = foreign(write_app_shard(rig.folder / "app.db", GENES), there)
    done = backfill(rig, path)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == len(GENES) - 60
    assert vectors_of(path) == {**right, "g005": there["g005"]}
    assert rows(path, "SELECT count(*) FROM changes") == [(len(GENES) - 60,)]
    assert '"hashing"' in str(rows(path, "SELECT value FROM helix_crawl_meta WHERE key = 'encoder'"))


def test_vectors_that_do_not_agree_are_refused_until_told_otherwise(rig: Rig) -> None:
    """The shard fails and keeps them, the others of the folder are done; --reencode makes them all anew."""
    strange = dict.fromkeys(list(GENES)[:50], struct.pack("<256f", 1.0, *[0.0] * 255))
    folder = rig.folder / "genomes"
    folder.mkdir()
    path = foreign(write_app_shard(folder / "strange.db", GENES), strange)
    good = write_app_shard(folder / "good.db", GENES)
    done = backfill(rig, folder)
    assert done.code == 1
    assert list(done.summary["failed"]) == ["strange"]
    assert "--reencode" in done.summary["failed"]["strange"]
    assert {name: vector for name, vector in vectors_of(path).items() if vector is not None} == strange
    assert vectors_of(good) == hashed(GENES)
    before = not_ours(path)
    again = backfill(rig, folder, "--reencode")
    assert again.code == 0, again.errors
    assert vectors_of(path) == hashed(GENES)
    assert not_ours(path) == before


def test_vectors_of_a_wrong_length_are_repaired(rig: Rig) -> None:
    """Too short, too long, empty, or text in place of bytes: each is encoded again, the good ones are not."""
    right = hashed(GENES)
    path = foreign(write_app_shard(rig.folder / "app.db", GENES), right)
    sql(
        path,
        "UPDATE genes SET embedding_dense_v2 = x'00' WHERE gene_id = 'g001'",
        "UPDATE genes SET embedding_dense_v2 = embedding_dense_v2 || x'00000000' WHERE gene_id = 'g002'",
        "UPDATE genes SET embedding_dense_v2 = x'' WHERE gene_id = 'g003'",
        "UPDATE genes SET embedding_dense_v2 = 'a text' WHERE gene_id = 'g004'",
    )
    assert rig.verify(path)["wrong_length"] == 4
    done = backfill(rig, path)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == 4
    assert vectors_of(path) == right
    assert rig.verify(path)["wrong_length"] == 0


def test_a_killed_backfill_goes_on_where_it_was(rig: Rig) -> None:
    """The supervisor is killed in the middle: what was committed is not encoded again, and all is there at the end."""
    path = write_app_shard(rig.folder / "app.db", GENES)
    command = [*COMMAND, "backfill", str(path), *rig.options, "--batch-size", "10", "--json"]
    with rig.started([*command, "--fault", "slow:seconds=0"], **rig.held(2)) as process:
        wait_for(process, "committed")
        process.kill()
        process.wait(timeout=SECONDS)
    done = rig.run(command)
    assert done.code == 0, done.errors
    assert 0 < done.summary["encoded"] < len(GENES)
    assert vectors_of(path) == hashed(GENES)


def test_blank_and_quarantined_genes_are_left_out(rig: Rig) -> None:
    """Blank ones are no trouble; a quarantined one makes the exit code 1 each time, until it is tried again."""
    path = write_app_shard(rig.folder / "app.db", {**GENES, "blank": " \n"})
    done = backfill(rig, path, "--fault", "nan:text=number 42 is")
    assert done.code == 1
    assert [row["gene"] for row in done.summary["quarantines"]] == ["g042"]
    counted = rig.verify(path)
    assert (counted["quarantined"], counted["not_encodable"], counted["code"]) == (1, 1, 1)
    again = backfill(rig, path)
    assert (again.code, again.summary["encoded"], again.summary["quarantined"]) == (1, 0, 1)
    assert again.of("worker_started") == []
    assert "--retry-quarantined" in again.summary["next_step"]
    last = backfill(rig, path, "--retry-quarantined")
    assert (last.code, last.summary["encoded"]) == (0, 1)
    assert rig.verify(path)["vectors"] == len(GENES)


def test_a_path_that_is_not_there_is_wrong_usage(rig: Rig) -> None:
    """Before anything is started or written."""
    nowhere = rig.folder / "nowhere"
    done = backfill(rig, nowhere)
    assert (done.code, done.events) == (2, [])
    assert f"{nowhere} is not there" in done.errors
    assert list(rig.folder.iterdir()) == []


def _nudged(vector: bytes) -> bytes:
    values = list(struct.unpack("<256f", vector))
    place = next(n for n, value in enumerate(values) if value)
    values[place] *= 1.00001
    return struct.pack("<256f", *values)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is a kill there")
def test_reencode_leaves_what_is_this_models_own(rig: Rig) -> None:
    """So that the same command, paused and started again, comes to an end."""
    path = write_app_shard(rig.folder / "app.db", GENES)
    command = [*COMMAND, "backfill", str(path), *rig.options, "--batch-size", "10", "--reencode", "--json"]
    with rig.started([*command, "--fault", "slow:seconds=0.05"], **rig.held(2)) as process:
        wait_for(process, "committed")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "interrupted")
        rig.go()
        first = rig.ended(process)
    assert first.code == 75
    there = sum(vector is not None for vector in vectors_of(path).values())
    assert 0 < there < len(GENES)
    second = rig.run(command)
    assert (second.code, second.summary["encoded"]) == (0, len(GENES) - there)
    third = rig.run(command)
    assert (third.code, third.of("worker_started")) == (0, [])
