"""A tree in a bucket gives the shards, ids and fingerprints that the same files in a folder give."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.filters import Filters
from helix_crawl_otel.corpus.ingest import ingest
from helix_crawl_otel.corpus.tree import UnreadableSource, fingerprint, plan_named, plan_shards, sources_of
from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.sources import SourceTree
from helix_crawl_otel.fleet.storage import Entry
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.shards.store import ShardStore

FILES = {
    "notes/a b#%ü.txt": "The first passage.\n",
    "notes/deep/er/日本.md": "# A second one\n\nwith two paragraphs.\n",
    "notes/skipped.log": "not wanted",
    "notes/deep/.gitignore": "*.tmp\n",
    "notes/deep/x.tmp": "not wanted either",
    "other/c.txt": "Of another shard.\n",
    "loose.txt": "Of no folder.\n",
    ".gitignore": "*.log\n",
    ".hidden/d.txt": "hidden",
    "OUT/notes.db": "a shard",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files."""
    for name, content in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path / "tree"


def genes(folder: Path, root: Path, name: str) -> list[tuple[str, str, str]]:
    """Those of a shard that is cut from there."""
    with ShardStore.open(folder / "shard.db", epoch=1, create=True) as store:
        plan = plan_named(root, root / "OUT", name)
        report = ingest(
            store, plan, ChunkRule(), prune=False, progress=lambda sources, genes: None, should_stop=lambda: False
        )
        assert not report.problems
        return store.read("SELECT gene_id, source_id, content FROM genes ORDER BY rowid")


def test_the_outline_gives_the_same_plan(tree: Path, tmp_path: Path) -> None:
    """Shards, sources and fingerprints are those of the files, though nothing of them has been read."""
    bucket = SourceTree(FolderStorage(tree), tmp_path / "home", out=str(tree / "OUT"))
    assert bucket.outline() == []
    assert bucket.root.name == "tree"
    there, here = (plan_shards(root, tree / "OUT", Filters()) for root in (tree, bucket.root))
    assert [plan.name for plan in here] == [plan.name for plan in there] == [".", "notes", "other"]
    for one, other in zip(there, here, strict=True):
        assert fingerprint(one, "") == fingerprint(other, "")
        assert [item[0] for item in sources_of(one)] == [item[0] for item in sources_of(other)]
    assert (bucket.root / "notes" / "a b#%ü.txt").read_bytes().strip(b"\0") == b""


@pytest.mark.parametrize("name", [".", "notes"])
def test_a_node_fetches_one_shard(tree: Path, tmp_path: Path, name: str) -> None:
    """The files that it takes and no others; its genes are those of a build from the folder."""
    bucket = SourceTree(FolderStorage(tree), tmp_path / "home", out=str(tree / "OUT"))
    assignment = bucket.fetch(Assignment(name, "shard.db", source="elsewhere", gitignore=True))
    assert assignment.source == str(bucket.root)
    assert not (bucket.root / "other").exists()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    assert genes(tmp_path / "one", tree, name) == genes(tmp_path / "two", bucket.root, name) != []
    if name == "notes":
        assert (bucket.root / "notes" / "skipped.log").read_bytes().strip(b"\0") == b"", "nobody wants it"


def test_a_shard_whose_files_are_gone_is_empty(tree: Path, tmp_path: Path) -> None:
    """Its worker finds that out, as of a folder."""
    bucket = SourceTree(FolderStorage(tree), tmp_path / "home")
    bucket.fetch(Assignment("gone", "gone.db", source="elsewhere"))
    assert not (bucket.root / "gone").exists()


def test_what_can_be_no_file_is_told(tmp_path: Path) -> None:
    """Names that a bucket takes and a folder does not: the others are there."""

    class Odd(FolderStorage):
        def walk(self, below: str = ""):  # type: ignore[no-untyped-def]  # a listing as a bucket may have it
            entry = Entry("1@0", 1, 0)
            yield from ((name, entry) for name in ("k/a", "k/a/b", "c//d", "../e", "k/" + "x" * 300, "fine/f"))
            yield "fine", Entry("0@0", 0, 0)
            yield "fine/deep", Entry("0@0", 0, 0)
            yield "fine/deep/f", entry

    bucket = SourceTree(Odd(tmp_path / "tree"), tmp_path / "home")
    problems = bucket.outline()
    assert [problem.split(" can be no file: ")[0].rpartition("tree/")[2][:5] for problem in problems] == [
        "k/a/b",
        "c//d",
        "../e",
        "k/xxx",
    ]
    assert (bucket.root / "fine" / "f").stat().st_size == 1
    assert (bucket.root / "fine" / "deep" / "f").stat().st_size == 1, "an empty object may stand for a folder"
    assert not (tmp_path / "home" / "e").exists()


def test_a_tree_without_a_file_is_refused(tmp_path: Path) -> None:
    """A prefix that nobody has put anything below."""
    with pytest.raises(UnreadableSource, match="holds no file; accepted: a prefix of a bucket with files below it"):
        SourceTree(FolderStorage(tmp_path / "none"), tmp_path / "home").outline()


def test_a_file_that_changes_while_it_is_fetched_is_fetched_again(tree: Path, tmp_path: Path) -> None:
    """Its time is that of what is in it."""

    class Changing(FolderStorage):
        turns = 2

        def get(self, name: str, to: Path, **given: object) -> str | None:
            if self.turns and name.endswith("c.txt"):
                self.turns -= 1
                (tree / name).write_text(f"changed {self.turns}")
            return super().get(name, to)

    bucket = SourceTree(Changing(tree), tmp_path / "home")
    bucket.fetch(Assignment("other", "other.db", source="elsewhere", gitignore=False))
    source, copy = tree / "other" / "c.txt", bucket.root / "other" / "c.txt"
    assert copy.read_text() == source.read_text() == "changed 0"
    assert copy.stat().st_mtime_ns == source.stat().st_mtime_ns
