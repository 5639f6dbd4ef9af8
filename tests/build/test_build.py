"""`build` on real files: what it makes, what it does the second time, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.build.rig import COMMAND, Rig, prose
from tests.programs import require_installed

RESERVED = "three" if sys.platform == "win32" else "aux"
"""A name that Windows has for a device, where there can be a folder of that name."""


def test_a_tree_becomes_shards_with_a_vector_for_every_gene(rig: Rig) -> None:
    """Top-level folders and the loose files are shards; odd names, empty files and what is no text are no trouble."""
    rig.write(
        {
            "loose.txt": "A loose file.",
            "docs/one.md": prose(1, 20),
            "docs/sub/two words é.md": prose(2, 5),
            "docs/empty.txt": "",
            "docs/blank.txt": " \n\n\t",
            "docs/picture.bin": b"\x89PNG\r\n\x1a\n\x00\x01",
            "docs/latin.txt": "caf\xe9".encode("latin-1"),
            f"{RESERVED}/three.txt": prose(3, 2),
            ".hidden/four.txt": "not this",
        }
    )
    done = rig.build()
    assert done.code == 0, done.errors
    verified = rig.verify()
    assert verified["code"] == 0
    assert verified["genes"] == verified["vectors"] == done.summary["encoded"] > 8
    names = sorted(path.name for path in rig.out.glob("*.db"))
    assert len(names) == 3
    assert "_root.db" in names
    assert "docs.db" in names
    with sqlite3.connect(rig.out / "docs.db") as connection:
        rows = connection.execute("SELECT DISTINCT source_id FROM genes ORDER BY 1").fetchall()
    assert [row[0] for row in rows] == ["docs/one.md", "docs/sub/two words é.md"]
    assert [event["skipped"] for event in done.of("ingested") if event["shard"] == "docs"] == [4]
    assert done.summary["skipped_sources"] == {"empty file": 2, "picture": 1, "undecodable text": 1}
    again = rig.build()
    assert again.summary["skipped_sources"] == done.summary["skipped_sources"]


def test_the_same_command_again_starts_no_worker(rig: Rig) -> None:
    """What is complete is skipped, without a model and without a process."""
    vectors = rig.write_shards(2, 3, 40).built().verify()["vectors"]
    again = rig.build()
    assert again.code == 0
    assert again.of("worker_started") == []
    assert again.summary["encoded"] == 0
    assert again.summary["skipped"] == vectors


def test_two_builds_of_one_tree_have_one_digest(rig: Rig) -> None:
    """Also when one of them uses two workers."""
    rig.write_shards(2, 3, 40)
    assert rig.build("--workers", "2").code == 0
    assert rig.verify()["digest"] == rig.undisturbed()["digest"]


def test_sources_changed_added_and_deleted(rig: Rig) -> None:
    """A changed source keeps the vectors of what is still in it, a deleted one its genes until --prune."""
    rig.write({"a/one.txt": prose(1, 30), "a/two.txt": prose(2, 10), "b/three.txt": prose(3, 10)})
    first = rig.build()
    rig.write({"a/one.txt": prose(1, 30) + "\n\n" + prose(9, 1), "a/four.txt": prose(4, 2)})
    (rig.source / "a/two.txt").unlink()
    second = rig.build()
    assert second.code == 0
    assert 0 < second.summary["encoded"] < first.summary["encoded"]
    kept = rig.verify()["genes"]
    assert rig.build("--prune").code == 0
    assert rig.verify()["genes"] < kept
    shutil.rmtree(rig.out)
    assert rig.build().code == 0
    assert rig.verify()["missing"] == 0


def test_names_with_spaces_and_other_letters(rig: Rig) -> None:
    """In the source, in the output, and as bytes that are no text."""
    rig.write({"ein Ordner/straße nach Łódź.txt": prose(1, 3), "日本/文.txt": prose(2, 3)})
    if sys.platform == "linux":
        path = os.fsencode(rig.source) + b"/ein Ordner/\xff\xfe.txt"
        Path(os.fsdecode(path)).write_text("bytes that are no name")
    done = rig.run([*COMMAND, "build", str(rig.source), "--out", str(rig.folder / "o u t"), *rig.options, "--json"])
    assert done.code == 0, done.errors
    assert rig.verify(rig.folder / "o u t")["code"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows makes links only for who has the right to")
def test_a_loop_of_links_and_a_link_to_nowhere(rig: Rig) -> None:
    """Links to folders are not followed; a link to nothing is nothing."""
    rig.write({"a/one.txt": prose(1, 2)})
    (rig.source / "a/loop").symlink_to(rig.source, target_is_directory=True)
    (rig.source / "a/nowhere.txt").symlink_to(rig.source / "missing")
    assert rig.build().code == 0
    assert rig.verify()["genes"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--batch-tokens", "0"], 2, "--batch-tokens is '0'; accepted: auto, or an integer >= 1"),
        (["--batch-size", "0"], 2, "--batch-size is '0'; accepted: an integer from 1 to 65536"),
        (["--factor", "1"], 2, "--factor is '1'; accepted: a number > 1"),
        (["--fault", "gremlin"], 2, "--fault is 'gremlin'; accepted: card, wedge"),
        (["--fault", "wedge:when=3"], 2, "accepted after wedge: batch=, worker=, seconds="),
        (["--device", "cuda:0", "--model", "minilm"], 2, "NVML sees no card"),
        (["--lock-seconds", "soon"], 2, "--lock-seconds is 'soon'; accepted: seconds, a number from 0 to 99999"),
        (["--workers", "many"], 2, "--workers is 'many'; accepted: an integer from 1 to 256"),
        (["--model", "no/such/model"], 78, "no/such/model"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(rig: Rig, arguments: list[str], code: int, says: str) -> None:
    """Nothing is started, nothing is written, and the way out is named."""
    rig.write({"a/one.txt": "text"})
    if "cuda:0" in arguments:
        require_installed("torch", "helix-crawl-otel[torch]")  # without it the missing torch is what is said
    done = rig.build(*arguments)
    assert done.code == code
    assert says in done.errors or "is not installed" in done.errors
    assert len(done.errors.strip().splitlines()) == 1
    assert list(rig.out.glob("*.db")) == []


def test_a_source_that_is_not_there(rig: Rig) -> None:
    """Exit code 78: no retry helps."""
    done = rig.build()
    assert done.code == 78
    assert "cannot be read: No such file or directory" in done.errors


def test_an_output_that_cannot_be_written(rig: Rig) -> None:
    """A file where the folder should be, and a folder inside a file."""
    rig.write({"a/one.txt": "text"})
    rig.out.write_text("a file")
    done = rig.build()
    assert done.code == 2
    assert "accepted: a folder other than SRC" in done.errors
    done = rig.run([*COMMAND, "build", str(rig.source), "--out", str(rig.out / "below"), *rig.options])
    assert done.code == 1
    assert "Not a directory" in done.errors


def test_a_second_build_on_the_same_output_is_told_who_is_at_work(rig: Rig) -> None:
    """It exits with 2, and the first goes on."""
    rig.write_shards(1, 2, 40)
    with rig.started(rig.build_command("--fault", "slow:seconds=0", "--batch-size", "8"), **rig.held()) as process:
        rig.worker_pid(process)
        second = rig.build()
        rig.go()
        assert second.code == 2
        assert f"process {process.pid} on" in second.errors
        assert rig.ended(process).code == 0


def test_a_port_in_use(rig: Rig) -> None:
    """Asked for by name it ends the run; the usual one gives way to a free one, and the run says which."""
    rig.write({"a/one.txt": "text"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        base = [*COMMAND, "build", str(rig.source), "--out", str(rig.out), "--model", "hashing", "--json"]
        done = rig.run([*base, "--metrics-port", port])
        assert done.code == 1
        assert f"port {port} on 127.0.0.1 is in use" in done.errors
    done = rig.run([*base, "--metrics-port", "0"])
    assert done.code == 0
    assert done.of("metrics_at")[0]["url"].startswith("http://127.0.0.1:")


def test_another_encoder_is_refused_unless_it_is_asked_for(rig: Rig) -> None:
    """The shard says whose vectors it holds; --reencode takes the new encoder in place of the old."""
    rig.write({"a/one.txt": prose(1, 20)})
    assert rig.build().code == 0
    with sqlite3.connect(rig.out / "a.db") as connection:
        other = json.dumps({"model": "other", "revision": "1", "dim": 8, "normalised": True, "max_tokens": 9})
        connection.execute("UPDATE helix_crawl_meta SET value = ? WHERE key = 'encoder'", (other,))
        connection.execute("UPDATE genes SET embedding_dense_v2 = zeroblob(32)")
    connection.close()
    refused = rig.build()
    assert (refused.code, refused.events) == (2, [])
    assert "was encoded by other (1, 8 dimensions), not by hashing; accepted: no --model, which goes" in refused.errors
    with sqlite3.connect(rig.out / "a.db") as connection:
        assert connection.execute("SELECT DISTINCT length(embedding_dense_v2) FROM genes").fetchall() == [(32,)]
    connection.close()
    assert rig.build("--reencode").code == 0
    assert rig.verify()["code"] == 0


def test_a_corrupt_shard_is_set_aside_and_built_again(rig: Rig) -> None:
    """Nothing is deleted, and every gene is there at the end."""
    whole = rig.write_shards(2, 3, 40).built().verify()
    path = rig.out / "shard-0.db"
    content = bytearray(path.read_bytes())
    content[4096:12288] = bytes(8192)
    path.write_bytes(content)
    os.utime(rig.source / "shard-0/file-000.txt")
    done = rig.build()
    assert done.code == 0, done.errors
    assert (rig.out / "shard-0.db.corrupt-1").read_bytes() == content
    assert rig.verify()["digest"] == whole["digest"]
    path.write_bytes(b"no database at all" * 500)  # nothing says that it was ours
    assert rig.build().code == 1
    assert path.read_bytes().startswith(b"no database")


def test_a_locked_database_is_waited_for_and_then_named(rig: Rig) -> None:
    """Another program holds the file: the shard fails with a sentence, the others are done, and later it works."""
    rig.write_shards(2, 3, 40).built().write({"shard-0/new.txt": prose(7, 3), "shard-1/new.txt": prose(8, 3)})
    holder = sqlite3.connect(rig.out / "shard-0.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        done = rig.build("--lock-seconds", "0.5")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert done.code == 1
    assert "is locked by another program" in done.summary["failed"]["shard-0"]
    assert rig.build().code == 0
    assert rig.verify()["code"] == 0


def test_a_batch_that_has_no_room_for_the_longest_text_is_told_of_once(rig: Rig) -> None:
    """Whoever loads the model, and in the words of the option."""
    done = rig.write_shards(2, 1, 8).build("--batch-tokens", "100", "--workers", "2")
    assert done.code == 0, done.errors
    assert [note["text"] for note in done.of("note") if "goes alone" in note["text"]] == [
        "a batch has 100 tokens at most, and the model reads up to 512 of one text: a text with more than 100 goes "
        "alone; --batch-tokens 512 has room for each"
    ]
