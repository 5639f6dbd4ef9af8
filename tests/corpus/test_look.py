"""Promises of the look at a tree: what there is and what is left out, without reading it, and at no great cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.corpus.cut import ChunkRule, chunks
from helix_crawl_otel.corpus.decode import taking_rule
from helix_crawl_otel.corpus.filters import Filters, check_pattern, parse_size, pattern_of
from helix_crawl_otel.corpus.look import TreeLook
from helix_crawl_otel.corpus.tree import fingerprint, plan_named, plan_tree
from tests.build.rig import prose, write_tree
from tests.corpus.test_filters import taken


def look(root: Path, filters: Filters | None = None, rule: str | None = None) -> TreeLook:
    """At a tree."""
    looked = TreeLook(lambda plan: rule)
    looked.take(*plan_tree(root, None, filters))
    return looked


def test_files_bytes_and_passages_are_those_of_the_shards(tmp_path: Path) -> None:
    """Passages within a fifth of what cutting gives, for files of a page and of many."""
    texts = {f"a/{n}.md": prose(n, 1 + 7 * n) for n in range(12)}
    write_tree(tmp_path, {**texts, "b/empty.md": "", "loose.md": "text"})
    looked = look(tmp_path)
    assert {name: shard.files for name, shard in looked.shards.items()} == {".": 1, "a": 12, "b": 1}
    assert looked.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.md"))
    there = sum(len(list(chunks([text], ChunkRule()))) for text in texts.values())
    assert looked.shards["a"].passages == pytest.approx(there, rel=0.2)
    assert (looked.shards["b"].passages, looked.shards["."].passages) == (0, 1)


def test_what_is_left_out_is_grouped_by_its_reason(tmp_path: Path) -> None:
    """Files and folders apart, at the root and below; what a left-out folder holds is not looked at."""
    write_tree(
        tmp_path, {".gitignore": "build/\n", "build/x": "", "a/build/y": "", "a/x.log": "", "b.log": "", "a/b": ""}
    )
    write_tree(tmp_path, {"a/__pycache__/x": "", "a/large": "x" * 100})
    found = {
        row["why"]: (row["files"], row["folders"])
        for row in look(tmp_path, Filters(("*.log", "none/"), (), True, 50)).reasons()
    }
    assert found == {
        ".gitignore": (0, 2),
        "--exclude *.log": (2, 0),
        "--max-file-size (larger)": (1, 0),
        "caches": (0, 1),
        "hidden (their names begin with a dot)": (1, 0),
    }
    assert look(tmp_path, Filters(("*.log", "none/", "!x"))).unused(("*.log", "none/", "!x")) == ["none/"]


def test_the_file_that_makes_most_of_the_work_is_found(tmp_path: Path) -> None:
    """One log among small files; its pattern means it alone, whatever is in its name."""
    write_tree(tmp_path, {"a/[x]*.log": "x" * 2_000_000, "a/x.log": "text", **{f"b/{n}": "text" for n in range(9)}})
    looked = look(tmp_path)
    first = looked.dominating()
    assert first is not None
    assert (first.source, first.passages) == ("a/[x]*.log", looked.largest[0].passages)
    assert looked.share(first) > 0.99
    assert "a/x.log" in taken(tmp_path, Filters((first.pattern,)))
    assert first.source not in taken(tmp_path, Filters((first.pattern,)))
    assert look(tmp_path, Filters((first.pattern,))).dominating() is None


def test_what_is_no_text_makes_no_passages(tmp_path: Path) -> None:
    """By its name, or where it is large by its beginning."""
    write_tree(tmp_path, {"a/x.PNG": "x" * 5000, "a/unnamed": b"\0" * 2_000_000, "a/y.md": "text"})
    looked = look(tmp_path)
    assert (looked.files, looked.no_text, looked.passages) == (3, 2, 1)


def test_the_fingerprint_of_a_look_is_that_of_the_shard(tmp_path: Path) -> None:
    """So that what is complete is known without listing its folder again."""
    write_tree(tmp_path, {"a/x.md": "text", "a/b/y.md": "text", "c/z.md": "text"})
    looked = look(tmp_path, rule="rule")
    assert looked.shards["a"].fingerprint == fingerprint(plan_named(tmp_path, None, "a"), taking_rule("rule"))
    assert look(tmp_path).shards["a"].fingerprint is None


def test_who_waits_is_told_how_far_it_is(tmp_path: Path) -> None:
    """Of a large tree now and then, and at the end."""
    write_tree(tmp_path, {f"a/{n}": "x" for n in range(2500)})
    told: list[tuple[int, int]] = []
    looked = TreeLook(lambda plan: None, lambda files, size: told.append((files, size)))
    looked.take(*plan_tree(tmp_path, None))
    assert [files for files, _ in told] == [1000, 2000, 2500]
    assert told[-1][1] == 2500


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20MB", 20_000_000),
        ("20 mb", 20_000_000),
        ("1GiB", 1024**3),
        ("1.5k", 1536),
        ("500kB", 500_000),
        ("12", 12),
        ("12 bytes", 12),
        ("3B", 3),
        ("2T", 2 * 1024**4),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    """B is decimal, iB binary, a letter alone as other programs take it."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "20XB", "1e9", "0", "nan", "1,5MB", "²"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """With what is accepted."""
    with pytest.raises(ValueError, match="accepted: a size such as 500kB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", " ", "#x", "!", "/", "["])
def test_a_pattern_that_means_nothing_is_refused(text: str) -> None:
    """Rather than to leave out nothing without a word."""
    with pytest.raises(ValueError, match=r"accepted: a pattern as in a \.gitignore"):
        check_pattern(text)


def test_the_pattern_of_a_name_means_that_name() -> None:
    """Letters that a pattern would read, and blanks at its end."""
    for name in ("a/b.md", "a/[b]*?.md", "a/b ", "#a", "!a", "a\\b"):
        assert Filters((pattern_of(name),)).why_excluded(name) is not None
        assert Filters((pattern_of(name),)).why_excluded(f"x/{name}") is None
