"""Where an answer stands: the file, the line in it, and what has become of the file since it was ingested."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel import Match, SourceState, query
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.ingest import ingest
from helix_crawl_otel.corpus.tree import plan_shards
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.store import ShardStore


class Tree:
    """A tree of sources and the shards that were cut from it.

    Args:
        folder: For both.
        sources: Content by path.
    """

    def __init__(self, folder: Path, sources: dict[str, bytes]) -> None:
        self.root, self.out = folder / "tree", folder / "shards"
        self.out.mkdir()
        for name, content in sources.items():
            self.write(name, content)

    def write(self, name: str, content: bytes) -> None:
        """One source."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def build(self, max_chars: int = 1000) -> None:
        """A vector for each passage."""
        encoder = HashingEncoder()
        for epoch, plan in enumerate(plan_shards(self.root, self.out), 1):
            with ShardStore.open(self.out / plan.file, epoch=epoch, create=True) as store:
                progress = {"progress": lambda sources, genes: None, "should_stop": lambda: False}
                ingest(store, plan, ChunkRule(max_chars), prune=False, **progress)  # type: ignore[arg-type]  # as it takes
                store.claim(encoder.identity)
                genes = store.pending(None, 1000)
                store.commit(list(zip(genes, encoder.encode([gene.content for gene in genes]), strict=True)))

    def ask(self, text: str, count: int = 1) -> list[Match]:
        """The nearest."""
        return query(self.out, text, count)


def places(found: list[Match]) -> list[tuple[str | None, int | None, str]]:
    """Of each answer."""
    return [(match.source_id, match.line, match.state.value) for match in found]


FOX = b"A dog.\r\n\r\nThe quick fox jumps\r\nover it.\r\n"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"A dog, a cat.\n\n\nThe quick fox jumps over it.\n\n" + b"Two trees stand there.\n\n" * 3, 4),
        (b"A dog, a cat.\r\n\r\n\r\nThe quick fox jumps over it.\r\n" + b"\r\nTwo trees stand there." * 3, 4),
        ("\ufeffA dog,\n\u4e00 a cat.\n\nThe quick fox jumps over it.\n\n".encode() + b"Two trees." * 6, 4),
        ("A dog, a cat.\n\n\nThe quick fox jumps over it.\n\n".encode("utf-16") + "Two trees.".encode("utf-16-le"), 4),
    ],
    ids=["plain", "windows", "marked", "utf-16"],
)
def test_the_line_is_that_of_the_file(tmp_path: Path, content: bytes, line: int) -> None:
    """From 1, whatever its encoding and its line ends; of a passage that is not the first one of its file."""
    tree = Tree(tmp_path, {"docs/a.txt": content})
    tree.build(max_chars=30)
    assert places(tree.ask("The quick fox jumps over it")) == [("docs/a.txt", line, "there")]


def test_a_passage_that_is_repeated(tmp_path: Path) -> None:
    """Each has its own line."""
    tree = Tree(tmp_path, {"docs/a.txt": b"The quick fox.\n\n" + b"Some other words here.\n\n" + b"The quick fox.\n"})
    tree.build(max_chars=24)
    found = tree.ask("The quick fox", 2)
    assert sorted(match.line or 0 for match in found) == [1, 5]


def test_a_file_that_is_gone_or_has_changed_is_marked(tmp_path: Path) -> None:
    """One that has changed around the passage has it still, on another line."""
    names = ("gone", "changed", "longer", "touched", "same")
    tree = Tree(tmp_path, {f"docs/{name}.txt": FOX for name in names})
    tree.build()
    (tree.root / "docs" / "gone.txt").unlink()
    tree.write("docs/changed.txt", b"Something else.")
    tree.write("docs/longer.txt", b"Before.\n" + FOX)
    os.utime(tree.root / "docs" / "touched.txt", (1, 1))
    assert sorted(places(tree.ask("quick fox", 5))) == [
        ("docs/changed.txt", None, "changed"),
        ("docs/gone.txt", None, "gone"),
        ("docs/longer.txt", 2, "there"),
        ("docs/same.txt", 1, "there"),
        ("docs/touched.txt", 1, "there"),
    ]


@pytest.mark.parametrize("what", ["pipe", "folder", "dead link"])
def test_what_is_no_file_any_more_is_not_read(tmp_path: Path, what: str) -> None:
    """A pipe in the place of a source would be waited for, by whoever asks, for ever."""
    tree = Tree(tmp_path, {"docs/a.txt": FOX})
    tree.build()
    path = tree.root / "docs" / "a.txt"
    path.unlink()
    make: dict[str, Any] = {
        "pipe": getattr(os, "mkfifo", None),
        "folder": Path.mkdir,
        "dead link": lambda path: path.symlink_to("gone"),
    }
    try:
        make[what](path)
    except (OSError, TypeError):
        pytest.skip(f"no {what} can be made here")
    (match,) = tree.ask("quick fox")
    assert (match.line, match.state.value) == (None, "gone" if what == "dead link" else "changed")


def test_a_tree_that_is_not_there_says_nothing_of_its_files(tmp_path: Path) -> None:
    """A disk that is not mounted: nobody has deleted them."""
    tree = Tree(tmp_path, {"docs/a.txt": FOX, "b.txt": FOX})
    tree.build()
    tree.root.rename(tmp_path / "elsewhere")
    assert {match.state for match in tree.ask("quick fox", 2)} == {SourceState.UNKNOWN}


def test_the_line_of_a_page_is_that_of_its_file(tmp_path: Path) -> None:
    """Of HTML the text alone is cut into passages; its lines are not those of the file."""
    head = b"<html>\n<head><title>Animals</title>\n<style>p {}</style></head>\n"
    page = head + b"<body>\n\n<p>The quick fox</p></body></html>"
    tree = Tree(tmp_path, {"docs/page.html": page, "docs/other.txt": b"Nothing."})
    tree.build(max_chars=16)
    assert places(tree.ask("The quick fox")) == [("docs/page.html", 6, "there")]


def test_a_tree_of_one_file(tmp_path: Path) -> None:
    """It is the source itself."""
    tree = Tree(tmp_path, {"one.txt": FOX})
    tree.root = tree.root / "one.txt"
    tree.build()
    assert places(tree.ask("quick fox")) == [("one.txt", 1, "there")]


def test_a_name_that_is_kept_in_pieces(tmp_path: Path) -> None:
    """An id is composed; the file's name need not be, on a disk that a Mac has written."""
    name = unicodedata.normalize("NFD", "docs/\u00fcber.txt")
    tree = Tree(tmp_path, {name: FOX})
    tree.build()
    assert places(tree.ask("quick fox")) == [("docs/\u00fcber.txt", 1, "there")]
    (tree.root / name).unlink()
    assert places(tree.ask("quick fox")) == [("docs/\u00fcber.txt", None, "gone")]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is made of letters")
def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    """An id shows its bytes; the file is there under its own name."""
    tree = Tree(tmp_path, {os.fsdecode(b"docs\xff/caf\xe9.txt"): FOX})
    tree.build()
    assert places(tree.ask("quick fox")) == [("docs\\xff/caf\\xe9.txt", 1, "there")]


def test_one_file_of_several_names_is_answered_once(tmp_path: Path) -> None:
    """Links of both kinds, also more of them than are looked at first; a copy is another file."""
    tree = Tree(tmp_path, {"docs/a.txt": FOX, "docs/copy.txt": FOX, "docs/other.txt": b"A quick hare."})
    for number in range(40):
        link = tree.root / "docs" / f"link{number}.txt"
        try:
            link.symlink_to("a.txt") if number % 2 else os.link(tree.root / "docs" / "a.txt", link)
        except OSError:
            pytest.skip("links cannot be made here")
    tree.build()
    found = tree.ask("quick fox jumps", 3)
    assert [match.source_id for match in found] == ["docs/a.txt", "docs/copy.txt", "docs/other.txt"]
