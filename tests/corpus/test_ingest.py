"""Promises of the ingest: a source is taken in whole and once, and what stays in it keeps its vector."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from helix_crawl_otel.corpus import decode, text, tree
from helix_crawl_otel.corpus import ingest as module
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.tree import UnreadableSource, plan_named, size_and_time
from helix_crawl_otel.shards.accounts import account
from tests.build.rig import prose, write_tree
from tests.corpus.trees import RULE, contents, encoded, taken_in
from tests.shards.shards import IDENTITY, VECTOR, opened, rows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a shard `a` of three sources."""
    write_tree(tmp_path / "source", {"a/one.txt": prose(1, 6), "a/two.txt": prose(2, 4), "a/x/three.txt": prose(3, 2)})
    return tmp_path / "source"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where its file will be."""
    return tmp_path / "a.db"


def test_a_shard_is_resumed_in_the_middle_of_a_file(root: Path, path: Path) -> None:
    """By gene, not by source: the ones that have no vector yet are the ones that are pending."""
    first = taken_in(path, root)
    with opened(path, 2) as store:
        store.claim(IDENTITY)
        store.commit([(gene, VECTOR) for gene in store.pending(None, 3)])
    before = contents(path)
    again = taken_in(path, root)
    assert (again.unchanged, again.added_genes, again.removed_genes) == (3, 0, 0)
    assert contents(path) == before
    assert encoded(path) == first.added_genes - 3


def test_a_changed_source_keeps_the_vectors_of_what_stays(root: Path, path: Path) -> None:
    """Also of passages that moved; what is no longer in it goes."""
    report = taken_in(path, root)
    encoded(path)
    one = root / "a/one.txt"
    kept = prose(1, 6).split("\n\n")
    one.write_text("\n\n".join(["A new beginning. " + "x " * 60, *kept[1:]]), encoding="utf-8")
    changed = taken_in(path, root)
    assert changed.unchanged == 2
    assert changed.kept_genes > 0
    assert changed.added_genes > 0
    assert changed.removed_genes > 0
    assert encoded(path) == changed.added_genes
    assert account(path).genes == report.added_genes + changed.added_genes - changed.removed_genes


def test_genes_of_a_source_that_is_gone_stay_until_they_are_pruned(root: Path, path: Path) -> None:
    """The report names it each time; nothing else goes with it."""
    taken_in(path, root)
    before = contents(path)
    (root / "a/two.txt").unlink()
    for _ in range(2):
        report = taken_in(path, root)
        assert (report.gone, report.removed_genes) == (["a/two.txt"], 0)
    assert contents(path) == before
    report = taken_in(path, root, prune=True)
    wanted = [row for row in before if row[2] != "a/two.txt"]
    assert (report.gone, report.removed_genes) == (["a/two.txt"], len(before) - len(wanted))
    assert contents(path) == wanted
    assert taken_in(path, root).gone == []


def test_a_folder_without_a_file_is_not_pruned(root: Path, path: Path) -> None:
    """It is where a disk is mounted that is not there now. Once the folder is gone as well, that is what was meant."""
    write_tree(root, {"b/other.txt": "Another shard."})
    taken_in(path, root)
    before = contents(path)
    for name in ("one.txt", "two.txt", "x/three.txt"):
        (root / "a" / name).unlink()
    with pytest.raises(UnreadableSource, match="holds no file any more, so that nothing was pruned"):
        taken_in(path, root, prune=True)
    assert contents(path) == before
    assert len(taken_in(path, root).gone) == 3
    (root / "a/x").rmdir()
    (root / "a").rmdir()
    with opened(path, 99, create=True) as store:
        gone = plan_named(root, None, "a", may_be_gone=True)
        done = module.ingest(store, gone, RULE, prune=True, progress=lambda *counts: None, should_stop=lambda: False)
    assert (len(done.gone), contents(path)) == (3, [])


def test_a_source_that_has_become_empty_or_no_text_gives_up_its_genes(root: Path, path: Path) -> None:
    """It is there, and there is nothing in it."""
    taken_in(path, root)
    (root / "a/one.txt").write_bytes(b"")
    (root / "a/two.txt").write_bytes(b"\0binary")
    report = taken_in(path, root)
    assert [(source, note.reason) for source, note in report.notes.items()] == [
        ("a/one.txt", "it is empty"),
        ("a/two.txt", "it is binary"),
    ]
    assert {row[2] for row in contents(path)} == {"a/x/three.txt"}
    assert taken_in(path, root).unchanged == 3


def test_the_same_passage_twice_is_two_genes(root: Path, path: Path) -> None:
    """Within a source and in two of them; when one of the two goes, the other stays with its vector."""
    passage = "The same passage. " * 5
    write_tree(root, {"a/one.txt": "\n\n".join([passage] * 3), "a/two.txt": passage})
    taken_in(path, root)
    same = [row for row in contents(path) if row[1] == passage.strip()]
    assert [row[2] for row in same] == ["a/one.txt"] * 3 + ["a/two.txt"]
    assert len({row[0] for row in same}) == 4
    encoded(path)
    write_tree(root, {"a/one.txt": "\n\n".join([passage] * 2)})
    report = taken_in(path, root)
    assert (report.added_genes, report.removed_genes, report.kept_genes) == (0, 1, 2)
    assert encoded(path) == 0


def test_a_touched_source_is_read_once_and_nothing_of_it_changes(root: Path, path: Path) -> None:
    """The next time its new time is known."""
    taken_in(path, root)
    before = contents(path)
    os.utime(root / "a/one.txt", ns=(0, 1_000_000_000))
    report = taken_in(path, root)
    assert (report.unchanged, report.added_genes, report.removed_genes) == (2, 0, 0)
    assert taken_in(path, root).unchanged == 3
    assert contents(path) == before


def test_another_rule_cuts_everything_anew(root: Path, path: Path) -> None:
    """A mark of another rule is no mark."""
    taken_in(path, root)
    fresh = path.with_name("fresh.db")
    taken_in(fresh, root, rule=ChunkRule(60))
    taken_in(path, root, rule=ChunkRule(60))
    assert sorted(map(repr, contents(path))) == sorted(map(repr, contents(fresh)))


@pytest.mark.parametrize("together", [1, 2, 3, 5])
def test_a_stop_in_the_middle_makes_no_difference(
    root: Path, path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Stopped after each transaction and started again, the rows lie as if it had run through."""
    write_tree(root, {f"a/more-{n}.txt": prose(n, 3) for n in range(10, 17)})
    through = path.with_name("through.db")
    taken_in(through, root)
    monkeypatch.setattr(module, "TOGETHER_SOURCES", together)
    runs = 1
    while taken_in(path, root, stop=lambda: True).stopped:
        assert rows(path, "SELECT value FROM helix_crawl_meta WHERE key = 'fingerprint'") == []
        runs += 1
        assert runs < 20
    assert runs > 2
    assert contents(path) == contents(through)


@pytest.mark.skipif(sys.platform == "win32", reason="a link in a circle, which Wine has not as Windows has it")
def test_a_source_that_cannot_be_read_keeps_its_genes(root: Path, path: Path) -> None:
    """Not known to be gone, it is not pruned, and the shard is looked into again next time."""
    taken_in(path, root)
    before = contents(path)
    (root / "a/one.txt").unlink()
    try:
        (root / "a/one.txt").symlink_to(root / "a/one.txt")
    except OSError:
        pytest.skip("this user may not make links here")
    (root / "a/new.txt").write_text("A new source.", encoding="utf-8")
    report = taken_in(path, root, prune=True)
    assert [source for source, _ in report.problems] == ["a/one.txt"]
    assert contents(path)[: len(before)] == before
    (root / "a/one.txt").unlink()
    assert taken_in(path, root, prune=True).gone == ["a/one.txt"]


def test_what_lies_in_a_folder_that_cannot_be_read_is_not_gone(root: Path, path: Path) -> None:
    """A drive that is not there for a moment must cost nothing."""
    taken_in(path, root)
    before = contents(path)
    (root / "a/x").chmod(0)
    try:
        if os.access(root / "a/x", os.R_OK):
            pytest.skip("this user may read every folder")
        report = taken_in(path, root, prune=True)
    finally:
        (root / "a/x").chmod(0o700)
    assert [source for source, _ in report.problems] == ["a/x"]
    assert report.gone == []
    assert contents(path) == before


def in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes are large."""
    monkeypatch.setattr(decode, "HEAD", 64)
    for name in ("BLOCK", "KEPT_BYTES"):
        monkeypatch.setattr(text, name, 64)


def test_a_large_source_is_taken_in_as_a_small_one_is(root: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read twice and in a transaction of its own: the same rows in the same order; then the same vectors stay."""
    passage = "The same passage. " * 5
    write_tree(root, {"a/one.txt": "\n\n".join([prose(1, 9), passage, passage, prose(5, 2), passage])})
    kept = path.with_name("kept.db")
    taken_in(kept, root)
    in_blocks(monkeypatch)
    taken_in(path, root)
    assert contents(path) == contents(kept)
    encoded(path)
    write_tree(root, {"a/one.txt": "\n\n".join(["A new beginning. " * 8, prose(1, 9), passage])})
    report = taken_in(path, root)
    assert report.unchanged == 2
    assert min(report.added_genes, report.removed_genes, report.kept_genes) > 0
    assert encoded(path) == report.added_genes


def test_a_source_that_fails_is_named_and_the_others_are_taken_in(
    root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector, in the first reading or in the second: it keeps the genes that it had, and the next run tries."""
    taken_in(path, root)
    before = contents(path)
    in_blocks(monkeypatch)
    read_on, calls = text._Reading._read, [0]
    fails_at = [3]

    def read(reading: Any, most: int) -> bytes:
        block = read_on(reading, most)
        if b"bad sector" in block or calls[0]:
            calls[0] += 1
        if calls[0] == fails_at[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return block

    monkeypatch.setattr(text._Reading, "_read", read)
    for fails_at[0] in (3, 33):
        calls[0] = 0
        write_tree(root, {"a/one.txt": "A bad sector. " + prose(fails_at[0], 6), f"a/z{fails_at[0]}.txt": "Another."})
        report = taken_in(path, root)
        assert calls[0] >= fails_at[0]
        assert report.problems == [("a/one.txt", f"it cannot be read: {os.strerror(errno.EIO)}")]
        assert report.added_genes == 1
        assert contents(path)[: len(before)] == before
        calls[0] = -1000
    assert taken_in(path, root).problems == []


def test_a_pause_in_the_middle_of_a_large_source(root: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for to its end; nothing of it is there, and it is begun anew."""
    in_blocks(monkeypatch)
    through = path.with_name("through.db")
    taken_in(through, root)
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == 20

    assert taken_in(path, root, stop=stop).stopped
    assert rows(path, "SELECT source_id FROM helix_crawl_sources") == []
    taken_in(path, root)
    assert contents(path) == contents(through)


@pytest.mark.parametrize("year", [-(2**70), -(2**63) - 1, -1, 0, 2**63 - 1, 2**63, 2**70])
def test_a_file_of_any_date_is_taken_in(year: int, root: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 1677 or after 2262 its nanoseconds are more than SQLite has room for."""

    def stamped(about: os.stat_result) -> tuple[int, int]:
        return size_and_time(cast(os.stat_result, SimpleNamespace(st_size=about.st_size, st_mtime_ns=year)))

    monkeypatch.setattr(tree, "size_and_time", stamped)
    monkeypatch.setattr(text, "size_and_time", stamped)
    report = taken_in(path, root)
    assert report.problems == []
    assert report.added_genes > 0
    assert taken_in(path, root).unchanged == 3


def test_a_folder_of_an_earlier_version_keeps_what_is_read_as_it_was(root: Path, path: Path) -> None:
    """HTML and what could not be read are taken in again; all else is read, found to be the same, and left alone."""
    write_tree(root, {"a/page.html": "<p>Boil <b>wa</b>ter.", "a/old.txt": "Die Straße wird größer.".encode("cp1252")})
    taken_in(path, root)
    encoded(path)
    before = contents(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE helix_crawl_sources SET digest = replace(digest, 'read-2:', '')")
        connection.execute("DELETE FROM genes WHERE source_id = 'a/old.txt'")
        old = f"{RULE.fingerprint}:not text"
        connection.execute("UPDATE helix_crawl_sources SET digest = ?, genes = 0 WHERE source_id = 'a/old.txt'", (old,))
        connection.execute("UPDATE genes SET gene_id = 'tags', content = '<p>' WHERE source_id = 'a/page.html'")
        tags = f"{RULE.fingerprint}:{hashlib.sha256((root / 'a/page.html').read_bytes()).hexdigest()}"
        connection.execute("UPDATE helix_crawl_sources SET digest = ? WHERE source_id = 'a/page.html'", (tags,))
        connection.execute("DROP TABLE helix_crawl_source_notes")
    report = taken_in(path, root)
    assert (report.added_genes, report.removed_genes, report.unchanged) == (2, 1, 0)
    assert {source: note.kind for source, note in report.notes.items()} == {"a/old.txt": "cp1252"}
    assert encoded(path) == 2
    assert sorted(contents(path), key=str) == sorted(before, key=str)
    assert taken_in(path, root).unchanged == 5


def test_what_was_guessed_or_refused_is_looked_at_again_by_another_detector(
    root: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may know more; what was certain is not read again. Notes of what is as it was stay, run after run."""
    write_tree(root, {"a/old.txt": "Die Straße wird größer.".encode("cp1252"), "a/word.txt": b"caf\xe9\xe9\n"})
    first = taken_in(path, root)
    assert set(first.notes) == {"a/old.txt", "a/word.txt"}
    again = taken_in(path, root)
    assert (again.unchanged, again.notes) == (5, first.notes)
    monkeypatch.setattr(module, "detector", lambda: "chardet 99")
    assert taken_in(path, root).unchanged == 3


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links as Windows does not have them")
def test_what_is_no_file_of_its_own_is_named_and_a_file_of_two_names_is_one_source(root: Path, path: Path) -> None:
    """Its genes under a second name, which an earlier version took in, go at once: they are there by the first."""
    (root / "a/zwei.txt").write_text((root / "a/two.txt").read_text(encoding="utf-8"), encoding="utf-8")
    before = taken_in(path, root)
    (root / "a/zwei.txt").unlink()
    os.link(root / "a/two.txt", root / "a/zwei.txt")
    (root / "a/link.txt").symlink_to("one.txt")
    (root / "a/dead").symlink_to("nowhere")
    os.mkfifo(root / "a/pipe")
    report = taken_in(path, root)
    assert {source: note.reason for source, note in report.notes.items()} == {
        "a/dead": "it is a link to nothing",
        "a/link.txt": "it is the same file as a/one.txt",
        "a/pipe": "it is no file, but a pipe",
        "a/zwei.txt": "it is the same file as a/two.txt",
    }
    assert (before.sources, report.sources, report.gone) == (4, 3, [])
    assert {row[2] for row in contents(path)} == {"a/one.txt", "a/two.txt", "a/x/three.txt"}
    (root / "a/pipe").unlink()
    assert "a/pipe" not in taken_in(path, root).notes
