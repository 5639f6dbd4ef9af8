"""Promises of what is left out by the user's wish: patterns as git reads them, the same on every system."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from helix_crawl_otel.corpus.filters import GITIGNORE, Filters
from helix_crawl_otel.corpus.tree import (
    LeftOut,
    Source,
    UnreadableSource,
    entries_of,
    fingerprint,
    plan_shards,
)
from tests.build.rig import write_tree

PATTERNS = (
    *("*.log", "!keep.log", "a/", "/a", "a/b", "*", "!*/", "!*.md", "b", "/*", "!/a", "**/c", "a/**", "a/*", "!a/b/"),
    *("c.md", "d?", "[ab]", "!b", "x y", "*.md ", "\\!z", "a/**/c", "!", "#b", "/b/*.md", "!d1/"),
)


def taken(root: Path, filters: Filters | None = None) -> list[str]:
    """Ids of all files that are taken, in order."""
    plans = plan_shards(root, None, filters)
    return sorted(item.source_id for plan in plans for item in entries_of(plan) if isinstance(item, Source))


def left_out(root: Path, filters: Filters | None = None) -> dict[str, str]:
    """Of what the root's own folder and the shards leave out: name and reason."""
    plans = plan_shards(root, None, filters)
    return {item.name: item.why for plan in plans for item in entries_of(plan) if isinstance(item, LeftOut)}


def test_git_and_we_agree_in_trees_of_any_shape(tmp_path: Path) -> None:
    """Nested files of patterns, negations, anchors, `**`: git itself says which files there are."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for seed in range(12):
        dice, root = random.Random(seed), tmp_path / str(seed)
        folders = [root]
        root.mkdir()
        for _ in range(dice.randint(3, 12)):
            folder = dice.choice(folders) / dice.choice(("a", "b", "c", "d1", "x y"))
            if not folder.exists():
                folder.mkdir()
                folders.append(folder)
        for folder in folders:
            for name in ("k.log", "keep.log", "c.md", "!z", "z.txt"):
                if dice.random() < 0.6:
                    (folder / name).write_text("text", encoding="utf-8")
            if folder == root or dice.random() < 0.3:
                lines = [dice.choice(PATTERNS) for _ in range(dice.randint(1, 4))]
                (folder / GITIGNORE).write_text("\n".join(lines), encoding="utf-8")
        (root / "always/there.txt").parent.mkdir()
        (root / "always/there.txt").write_text("text", encoding="utf-8")
        (root / "always" / GITIGNORE).write_text("!there.txt", encoding="utf-8")
        subprocess.run(["git", "init", "-q", root], check=True, env=environ, timeout=60)
        asked = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
        said = subprocess.run(asked, check=True, env=environ, capture_output=True, timeout=60).stdout.decode()
        names = [name for name in said.split("\0") if name and not name.rpartition("/")[2].startswith(".")]
        try:
            found = taken(root)
        except UnreadableSource:
            found = []
        assert found == sorted(names), seed


def test_gitignore_counts_without_a_repository_too_and_can_be_turned_off(tmp_path: Path) -> None:
    """A tree that was copied has its files of patterns, and no `.git`."""
    write_tree(
        tmp_path, {".gitignore": "*.log\nbuild/\n", "a/.gitignore": "!keep.log\n", "a/keep.log": "", "a/x.log": ""}
    )
    write_tree(tmp_path, {"a/one.txt": "", "a/build/two.txt": "", "build/three.txt": "", "loose.log": ""})
    assert taken(tmp_path) == ["a/keep.log", "a/one.txt"]
    assert left_out(tmp_path)["a/build"] == GITIGNORE
    every = ["a/build/two.txt", "a/keep.log", "a/one.txt", "a/x.log", "build/three.txt", "loose.log"]
    assert taken(tmp_path, Filters(gitignore=False)) == every


def test_a_part_of_a_repository_follows_the_rules_above_it(tmp_path: Path) -> None:
    """And those that git keeps for it; a folder that is named is taken although it is ignored itself."""
    write_tree(tmp_path, {".git/info/exclude": "*.tmp\n", ".gitignore": "docs/\n*.log\n/docs/drafts/\n"})
    write_tree(tmp_path, dict.fromkeys(["docs/a/x.md", "docs/a/x.log", "docs/a/x.tmp", "docs/drafts/y.md"], ""))
    assert taken(tmp_path / "docs") == ["a/x.md"]


def test_a_repository_inside_has_its_own_rules_alone(tmp_path: Path) -> None:
    """As git has it."""
    write_tree(tmp_path, {".gitignore": "*.log\n", "a/.git/info/exclude": "*.tmp\n", "a/x.log": "", "a/x.tmp": ""})
    write_tree(tmp_path, {"b/x.log": "", "b/x.tmp": ""})
    assert taken(tmp_path) == ["a/x.log", "b/x.tmp"]


def test_odd_files_of_patterns_do_no_harm(tmp_path: Path) -> None:
    """A mark at the beginning, Windows' ends of lines, bytes that are no text, a lone `!`, a folder or a pipe."""
    write_tree(
        tmp_path, {"a/x.log": "", "a/x.tmp": "", "a/x.txt": "", "b/.gitignore/x": "", "b/y.log": "", "c/z.log": ""}
    )
    (tmp_path / GITIGNORE).write_bytes(b"\xef\xbb\xbf*.tmp\r\n!\n\xff\xfe\n[\n")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "c" / GITIGNORE)
    assert taken(tmp_path) == ["a/x.log", "a/x.txt", "b/y.log", "c/z.log"]


def test_patterns_of_the_command(tmp_path: Path) -> None:
    """From the root, letters as they are written; `--include` narrows, and takes in nothing that is left out."""
    write_tree(tmp_path, dict.fromkeys(["a/x.md", "a/y.MD", "a/x.log", "a/keep.log", "b/a/x.md", "x.md"], ""))
    assert taken(tmp_path, Filters(exclude=("*.log", "!keep.log", "/a/*.md"))) == sorted(
        ["a/keep.log", "a/y.MD", "b/a/x.md", "x.md"]
    )
    assert taken(tmp_path, Filters(include=("*.md",))) == ["a/x.md", "b/a/x.md", "x.md"]
    assert taken(tmp_path, Filters(include=("a/",), exclude=("*.log",))) == ["a/x.md", "a/y.MD", "b/a/x.md"]
    assert taken(tmp_path, Filters(include=("/b",))) == ["b/a/x.md"]
    assert left_out(tmp_path, Filters(exclude=("*.log",)))["a/x.log"] == "--exclude *.log"


def test_large_files_are_left_out_where_that_is_wanted(tmp_path: Path) -> None:
    """What is as large as the limit is taken."""
    write_tree(tmp_path, {"a/large.txt": "x" * 101, "a/small.txt": "x" * 100})
    assert taken(tmp_path) == ["a/large.txt", "a/small.txt"]
    assert taken(tmp_path, Filters(max_file_bytes=100)) == ["a/small.txt"]


def test_a_tree_of_which_nothing_is_wanted_says_why(tmp_path: Path) -> None:
    """It is not the disk that is missing."""
    write_tree(tmp_path, {".gitignore": "*\n", "a/x.md": "", "b/y.md": ""})
    with pytest.raises(UnreadableSource, match=r"holds no file that is wanted: .* 2 by \.gitignore"):
        plan_shards(tmp_path, None)
    with pytest.raises(UnreadableSource, match=r"1 by --exclude a/, 1 by --exclude b/"):
        plan_shards(tmp_path, None, Filters(exclude=("a/", "b/"), gitignore=False))
    with pytest.raises(UnreadableSource, match="2 by --include"):
        plan_shards(tmp_path, None, Filters(include=("*.txt",), gitignore=False))


def test_only_a_filter_that_changes_something_changes_the_fingerprint(tmp_path: Path) -> None:
    """A shard whose files are the same is not read again."""
    write_tree(tmp_path, {"a/x.md": "", "a/x.log": "", "b/y.md": ""})

    def prints(filters: Filters) -> dict[str, str]:
        return {plan.name: fingerprint(plan, "rule") for plan in plan_shards(tmp_path, None, filters)}

    before, after = prints(Filters()), prints(Filters(exclude=("*.log", "*.tmp"), max_file_bytes=1000))
    assert after["b"] == before["b"]
    assert after["a"] != before["a"]


def test_filters_survive_a_message_and_a_file() -> None:
    """As they are typed again, too; what is no such object is refused."""
    filters = Filters(("*.log", "!keep.log"), ("*.md",), gitignore=False, max_file_bytes=1000)
    assert Filters.of_json(filters.to_json()) == filters
    assert Filters.of_json(None) == Filters()
    typed = "--exclude *.log --exclude !keep.log --include *.md --no-gitignore --max-file-size 1000"
    assert " ".join(filters.words()) == typed
    for bad in ({"exclude": "*.log"}, {"include": [1]}, {"gitignore": "yes"}, {"max_file_bytes": "1"}):
        with pytest.raises(ValueError, match="filters are"):
            Filters.of_json(bad)
