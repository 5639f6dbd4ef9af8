"""Promises of the walk: what is a source and what is not, the same on every system, and an end in every tree."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.corpus.tree import LeftOut, UnreadableSource, entries_of, fingerprint, plan_named, plan_shards
from tests.build.rig import write_tree
from tests.corpus.trees import problems, shards, sources


def test_top_level_folders_are_shards_and_loose_files_are_one(tmp_path: Path) -> None:
    """In the order of their names; a tree without loose files has no shard for them."""
    write_tree(tmp_path, {"b/one.txt": "", "a/sub/two.txt": "", "B/three.txt": ""})
    assert shards(tmp_path) == sorted({entry.name for entry in tmp_path.iterdir()})
    write_tree(tmp_path, {"loose.txt": ""})
    assert shards(tmp_path)[0] == "."
    assert sources(tmp_path, ".") == ["loose.txt"]
    assert sources(tmp_path, "a") == ["a/sub/two.txt"]


def test_sources_come_in_the_order_of_their_ids(tmp_path: Path) -> None:
    """Whatever the order in which the system lists them: digests and batches stand on it."""
    names = ["a/z.txt", "a/b/c.txt", "a/b.txt", "a/B.md", "a/é.txt", "a/10", "a/9", "a/b-c/d.txt"]
    write_tree(tmp_path, dict.fromkeys(names, "text"))
    assert sources(tmp_path, "a") == sorted(names)


def test_hidden_entries_and_caches_are_left_out(tmp_path: Path) -> None:
    """At every depth, folders and files."""
    left_out = ["a/.hidden.txt", "a/.git/config", "a/b/__pycache__/x.txt", "a/node_modules/x.js", ".top/x.txt", ".x"]
    write_tree(tmp_path, dict.fromkeys([*left_out, "a/b/there.txt"], "text"))
    assert shards(tmp_path) == ["a"]
    assert sources(tmp_path, "a") == ["a/b/there.txt"]


def test_what_windows_keeps_on_a_drive_is_left_out(tmp_path: Path) -> None:
    """Its waste-paper basket and its restore points, in the letters of any version: a drive can be a source."""
    write_tree(tmp_path, dict.fromkeys(["$Recycle.Bin/x.txt", "System Volume Information/x.txt", "a/x.txt"], "text"))
    assert shards(tmp_path) == ["a"]


def test_an_output_inside_the_tree_is_left_out(tmp_path: Path) -> None:
    """At the top and deeper, however its path is written: a build must not eat what it makes."""
    write_tree(tmp_path, {"a/one.txt": "", "a/out/x.txt": "", "out/x.txt": ""})
    assert shards(tmp_path, tmp_path / "a" / ".." / "out") == ["a"]
    assert sources(tmp_path, "a", tmp_path / "a" / "out") == ["a/one.txt"]


def test_a_single_file_is_a_tree(tmp_path: Path) -> None:
    """Of one shard with one source."""
    write_tree(tmp_path, {"notes.txt": "text", "other.txt": "text"})
    assert shards(tmp_path / "notes.txt") == ["."]
    assert sources(tmp_path / "notes.txt", ".") == ["notes.txt"]


def test_a_tree_without_a_file_is_an_error_and_so_is_a_missing_one(tmp_path: Path) -> None:
    """A folder in which a disk is not mounted looks like that, also with what a new disk has in it."""
    for make in ("", "lost+found", "a/b/c", ".hidden"):
        (tmp_path / make).mkdir(parents=True, exist_ok=True)
        with pytest.raises(UnreadableSource, match="holds no file that can be read: is a disk not mounted"):
            plan_shards(tmp_path, None)
    (tmp_path / ".hidden/file.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UnreadableSource, match="holds no file"):
        plan_shards(tmp_path, None)
    (tmp_path / "loose.txt").write_text("text", encoding="utf-8")
    with pytest.raises(UnreadableSource, match="accepted: a folder of files"):
        plan_shards(tmp_path / "missing", None)
    with pytest.raises(UnreadableSource, match="has no folder 'z' any more"):
        plan_named(tmp_path, None, "z")


@pytest.mark.skipif(sys.platform == "win32", reason="links to files under Wine are not those of Windows")
def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    """So a loop ends; a link to nothing is nothing, one in a circle is told of. What is a source by its own name, in
    this shard or another one, is none by a link; what is outside of the tree or hidden is one, once.
    """
    write_tree(tmp_path, {"a/one.txt": "text", "b/two.txt": "text"})
    try:
        (tmp_path / "a/link.txt").symlink_to(tmp_path / "b/two.txt")
    except OSError:
        pytest.skip("this user may not make links here")
    write_tree(tmp_path, {".hidden/three.txt": "text"})
    (tmp_path / "a/three.txt").symlink_to(tmp_path / ".hidden/three.txt")
    (tmp_path / "a/x.txt").symlink_to(tmp_path / ".hidden/three.txt")
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    (tmp_path / "a/nowhere.txt").symlink_to(tmp_path / "missing")
    (tmp_path / "a/circle.txt").symlink_to(tmp_path / "a/circle.txt")
    assert shards(tmp_path) == ["a", "b"]
    assert sources(tmp_path, "a") == ["a/one.txt", "a/three.txt"]
    others = {
        item.name: item.about for item in entries_of(plan_named(tmp_path, None, "a")) if isinstance(item, LeftOut)
    }
    assert others["a/link.txt"] == "b/two.txt"
    assert others["a/x.txt"] == "a/three.txt"
    assert list(problems(tmp_path, "a")) == ["a/circle.txt"]


def test_what_is_no_regular_file_is_left_out(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes with names")
    write_tree(tmp_path, {"a/one.txt": "text"})
    os.mkfifo(tmp_path / "a/pipe")
    assert sources(tmp_path, "a") == ["a/one.txt"]


def test_a_folder_without_permission_is_told_of(tmp_path: Path) -> None:
    """The rest of the shard is taken in."""
    write_tree(tmp_path, {"a/one.txt": "text", "a/closed/two.txt": "text"})
    (tmp_path / "a/closed").chmod(0)
    try:
        if os.access(tmp_path / "a/closed", os.R_OK):
            pytest.skip("this user may read every folder")
        assert sources(tmp_path, "a") == ["a/one.txt"]
        assert problems(tmp_path, "a") == {"a/closed": "the folder cannot be read: Permission denied"}
    finally:
        (tmp_path / "a/closed").chmod(0o700)


def test_an_id_is_in_composed_form_and_twins_are_told_apart(tmp_path: Path) -> None:
    """macOS may hand out the other form; where both are there, both are sources."""
    write_tree(tmp_path, {"a/cafe\u0301.txt": "apart"})
    assert sources(tmp_path, "a") == ["a/caf\u00e9.txt"]
    write_tree(tmp_path, {"a/caf\u00e9.txt": "composed"})
    if len(list((tmp_path / "a").iterdir())) == 1:
        pytest.skip("this file system takes both forms for one name")
    found = sources(tmp_path, "a")
    assert found[0] == "a/caf\u00e9.txt"
    assert found[1].startswith("a/caf\u00e9.txt\0")


@pytest.mark.skipif(sys.platform != "linux", reason="only there names are bytes")
def test_a_name_that_is_no_text_has_an_id(tmp_path: Path) -> None:
    """Its bytes are shown; a name that is written like that is another source."""
    write_tree(tmp_path, {"a/\\xff.txt": "text"})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.txt")).write_text("text")
    found = sources(tmp_path, "a")
    assert found[0] == "a/\\xff.txt"
    assert len(set(found)) == 2


def test_the_fingerprint_changes_with_files_and_with_the_rule(tmp_path: Path) -> None:
    """Added, removed, longer, touched, renamed; and back to what it was when all is as it was."""
    write_tree(tmp_path, {"a/one.txt": "text", "a/two.txt": "text", "b/other.txt": "text"})
    plan = plan_named(tmp_path, None, "a")
    one, two = tmp_path / "a/one.txt", tmp_path / "a/two.txt"
    times = (one.stat().st_atime_ns, one.stat().st_mtime_ns)
    seen = [fingerprint(plan, "rule"), fingerprint(plan, "other rule")]
    write_tree(tmp_path, {"b/other.txt": "another shard is none of ours"})
    assert fingerprint(plan, "rule") == seen[0]
    os.utime(one, ns=(times[0], times[1] + 1_000_000_000))
    seen.append(fingerprint(plan, "rule"))
    one.write_text("longer text")
    os.utime(one, ns=times)
    seen.append(fingerprint(plan, "rule"))
    two.rename(tmp_path / "a/three.txt")
    seen.append(fingerprint(plan, "rule"))
    (tmp_path / "a/three.txt").unlink()
    seen.append(fingerprint(plan, "rule"))
    assert len(set(seen)) == len(seen)
