"""Promises about a folder that is built into again: of the trees and with the model that it was begun with.

Plans alone, for nothing may have been done before what does not fit is refused; what a worker would write is written
here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.build.plan import BuildPlan, plan_backfill, plan_build
from helix_crawl_otel.build.resume import NotThisBuild
from helix_crawl_otel.commands import verify
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.filters import Filters
from helix_crawl_otel.corpus.ingest import ingest
from helix_crawl_otel.corpus.tree import plan_named
from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY
from helix_crawl_otel.encoders.models import minilm_identity
from helix_crawl_otel.shards.build_record import RecordUnusable, read_record, record_path, write_record
from helix_crawl_otel.shards.store import ShardStore
from tests.build.rig import run_here, write_tree
from tests.build.test_plan import options
from tests.shards.shards import encode_all, made, opened, rows, sql

VECTOR = b"\0\0\x80?" + bytes(255 * 4)
FILES = {"a/one.txt": "one", "b/two.txt": "two", "loose.txt": "three"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two folders and a loose file."""
    write_tree(tmp_path / "notes", FILES)
    return tmp_path / "notes"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where it is built."""
    return tmp_path / "out"


def plan(sources: Path | Sequence[Path], out: Path, *, model: str | None = "hashing", **more: Any) -> BuildPlan:
    """What a build would do. `model` is what it names."""
    words = ["--reencode"] if more.pop("reencode", False) else []
    chosen = options(*words, "--dtype", more.pop("dtype", "auto"))
    object.__setattr__(chosen, "model", model)
    return plan_build([sources] if isinstance(sources, Path) else sources, out, chosen, **more)


def build(sources: Path | Sequence[Path], out: Path, shards: int = 99, **more: Any) -> BuildPlan:
    """The same, and does so much of it: the first shards, in order."""
    planned = plan(sources, out, **more)
    assert planned.record is not None
    write_record(out, planned.record)
    for work in planned.works[:shards]:
        given = work.assignment
        assert given.source is not None
        with ShardStore.open(Path(given.path), epoch=given.epoch + 1, create=True) as store:
            found = plan_named(Path(given.source), out, given.shard, may_be_gone=given.prune)
            ingest(store, found, ChunkRule(), prune=given.prune, progress=lambda *_: None, should_stop=lambda: False)
            store.claim(HASHING_IDENTITY if planned.model == "hashing" else minilm_identity())
            encode_all(store, VECTOR if planned.model == "hashing" else VECTOR + bytes(128 * 4))
    return planned


def files(out: Path) -> dict[str, str]:
    """The shards that the record names, with their files."""
    record = read_record(out)
    assert record is not None
    return dict(record.shards)


def genes(out: Path) -> dict[str, list[str]]:
    """Sources of the genes in each file."""
    found = {path.name: rows(path, "SELECT source_id FROM genes ORDER BY 1") for path in sorted(out.glob("*.db"))}
    return {name: [str(source) for (source,) in sources] for name, sources in found.items()}


# -- is it all there? --------------------------------------------------------------------------------------------------


def test_verify_knows_what_was_planned(tree: Path, out: Path) -> None:
    """Whole shards of a paused build are not all: exit code 1, how many are not begun, and the command that goes on."""
    build(tree, out, shards=1)
    code, said, _ = run_here("verify", str(out))
    assert code == 1
    assert f"not whole: {out}: 3 shards planned, 1 done, 2 not begun: a, b" in said.splitlines()
    assert f"to go on: helix-crawl build {tree} --out {out}" in said
    code, text, errors = run_here("verify", str(out), "--json")
    found = json.loads(text)
    assert (code, found["shards"], found["shards_planned"], found["missing"]) == (1, 1, 3, 0)
    states = [(shard["name"], shard["file"], shard["state"], shard["vectors"]) for shard in found["by_shard"]]
    assert states == [(".", "_root.db", "done", 1), ("a", "a.db", "not begun", 0), ("b", "b.db", "not begun", 0)]
    assert "to go on:" in errors
    build(tree, out)
    code, said, _ = run_here("verify", str(out))
    assert (code, said.splitlines()[-2:]) == (
        0,
        ["3 shards planned, 3 done", "every gene that can have a vector has one"],
    )


def test_a_build_that_was_killed_before_its_first_shard(tree: Path, out: Path) -> None:
    """There is a plan, and no shard: that is not nothing. `query` says so as well, before it says that it cannot."""
    build(tree, out, shards=0)
    (out / "a.db").touch()  # begun, and nothing in it yet
    code, said, _ = run_here("verify", str(out))
    assert (code, "3 shards planned, 0 done, 3 not begun" in said) == (1, True)
    code, _, errors = run_here("query", str(out), "word")
    assert (code != 0, f"{out} is not complete (3 shards planned, 0 done" in errors) == (True, True)


def test_a_shard_whose_ingest_was_killed_is_not_done(tree: Path, out: Path) -> None:
    """Every gene that it has may have its vector, and none may be there."""
    build(tree, out)
    for value in ("true", "false"):
        sql(out / "a.db", f"UPDATE helix_crawl_meta SET value = '{value}' WHERE key = 'ingesting'")
        code, said, _ = run_here("verify", str(out))
        assert (code, "1 begun" in said) == ((1, True) if value == "true" else (0, False))


def test_a_file_of_another_program_in_the_place_of_a_shard(tree: Path, out: Path) -> None:
    """It may be whole: it is not the shard that was planned."""
    build(tree, out)
    for part in out.glob("a.db*"):
        part.unlink()
    with opened(made(out / "a.db", "ab")) as store:
        store.claim(HASHING_IDENTITY)
        encode_all(store, VECTOR)
    code, said, errors = run_here("verify", str(out))
    assert (code, "3 shards planned, 2 done, 1 unreadable" in said, "`build` has not made" in errors) == (1, True, True)
    assert "1 unreadable" in run_here("query", str(out), "one")[2]


def test_what_stands_in_the_place_of_a_shard_is_not_that_shard(tree: Path, out: Path) -> None:
    """A copy of another one, a folder: named, and not counted as what was planned. A build makes the copy good."""
    build(tree, out)
    shutil.copyfile(out / "a.db", out / "b.db")
    code, said, errors = run_here("verify", str(out))
    assert (code, "3 shards planned, 2 done, 1 unreadable" in said) == (1, True)
    assert "b.db is the shard 'a' and not 'b'" in errors
    assert "1 unreadable" in run_here("query", str(out), "one")[2]
    build(tree, out)
    assert run_here("verify", str(out))[0] == 0
    (out / "b.db").unlink()
    (out / "b.db").mkdir()
    code, said, errors = run_here("verify", str(out))
    assert (code, "2 done, 1 unreadable" in said) == (1, True), said
    assert "b.db is no file, but a folder" in errors
    assert "is no file, but a folder" in plan(tree, out).failures["b"]


def test_query_says_that_a_folder_is_not_complete(tree: Path, out: Path) -> None:
    """On standard error, in one line; what is found is on standard output as ever."""
    build(tree, out, shards=2)
    code, said, errors = run_here("query", str(out), "one", "--json")
    assert (code, len(json.loads(said)), errors.count("\n")) == (0, 2, 1)
    assert "3 shards planned, 2 done, 1 not begun: b); to go on: helix-crawl build" in errors
    build(tree, out)
    assert run_here("query", str(out), "one", "--json")[2] == ""


def test_a_folder_that_was_moved_or_copied(tree: Path, out: Path) -> None:
    """The command that goes on names the place where it is; each of its names means the one folder."""
    build(tree, out, shards=1)
    there = out.with_name("elsewhere")
    shutil.copytree(out, there)
    code, said, _ = run_here("verify", str(there))
    assert (code, f"--out {there}" in said) == (1, True)
    code, text, _ = run_here("verify", str(out), f"{out}{os.sep}", str(out / "_root.db"), str(out), "--json")
    assert (code, json.loads(text)["shards_planned"], len(json.loads(text)["by_shard"])) == (1, 3, 3)


def test_a_single_shard_is_judged_by_itself(tree: Path, out: Path) -> None:
    """By the name that its build gave it; what else its folder lacks was not asked."""
    build(tree, out, shards=1)
    code, text, _ = run_here("verify", str(out / "_root.db"), "--json")
    found = json.loads(text)
    assert (code, found["shards_planned"], found["by_shard"][0]["name"]) == (0, 1, ".")


def test_a_folder_without_a_record_is_judged_by_what_is_there(tree: Path, out: Path) -> None:
    """As one of an older version, or of an application. A build into it makes a record again."""
    build(tree, out)
    record_path(out).unlink()
    code, said, _ = run_here("verify", str(out))
    assert (code, "planned" in said) == (0, False)
    assert plan(tree, out).record == plan(tree, out).record
    again = build(tree, out)
    assert (again.works, sorted(files(out))) == ([], [".", "a", "b"])


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b"[" * 100_000, b'{"format": "1"}',
        b'{"format": 1, "sources": 3, "model": null, "options": [], "filters": {}, "shards": []}',
        b'{"format": 1, "sources": [], "model": null, "options": [], "filters": {}, "shards": [{"name": "a", "file":'
        b' "../a.db"}]}',
        b'{"format": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_damaged_record(content: bytes, tree: Path, out: Path) -> None:
    """`verify` cannot say that all is there, in one sentence; a build makes the record anew of what the shards say."""
    build(tree, out)
    record_path(out).write_bytes(content)
    code, _, errors = run_here("verify", str(out))
    assert (code, errors.count("\n")) == (1, 1)
    assert f"{record_path(out)}, which says what was to be built, cannot be used" in errors
    if b"9999" in content:
        return
    again = build(tree, out)
    assert "made anew" in again.notes[0]
    assert run_here("verify", str(out))[0] == 0


def test_a_record_of_a_newer_version(tree: Path, out: Path) -> None:
    """It is not written over: whoever has it knows more."""
    build(tree, out)
    record_path(out).write_text('{"format": 2, "shards": "otherwise"}', encoding="utf-8")
    with pytest.raises(RecordUnusable, match=r"written by a newer version of helix-crawl \(format 2, accepted: 1\)"):
        plan(tree, out)
    code, _, errors = run_here("verify", str(out))
    assert (code, errors.count("\n")) == (1, 1)


# -- of which model ----------------------------------------------------------------------------------------------------


def test_the_folders_own_model_is_taken_where_none_is_named(tree: Path, out: Path) -> None:
    """As the record says, or the shards; the default only where nothing is there yet."""
    assert plan(tree, out, model=None).model == "minilm"
    build(tree, out, shards=1)
    assert plan(tree, out, model=None).model == "hashing"
    assert plan(tree, out, model=None).notes == [
        f"hashing is the model, as no --model was given and {out} was built with it"
    ]
    record_path(out).unlink()
    assert plan(tree, out, model=None).model == "hashing"
    assert plan(tree, out, model=None, reencode=True).model == "hashing"


def test_another_model_is_refused_before_anything_is_done(tree: Path, out: Path) -> None:
    """Also where a single shard has been begun, and after the record was lost."""
    build(tree, out, shards=1)
    for _ in range(2):
        with pytest.raises(NotThisBuild) as refused:
            plan(tree, out, model="minilm")
        assert str(refused.value) == (
            f"{out} was encoded by hashing (1, 256 dimensions), not by minilm; accepted: no --model, or --model "
            "hashing, which goes on with it; or --reencode, which encodes everything again; or another --out"
        )
        words = ("build", str(tree), "--out", str(out), "--model", "minilm", "--dry-run")
        assert run_here(*words) == (2, "", f"helix-crawl: error: {refused.value}\n")
        record_path(out).unlink(missing_ok=True)
    assert plan(tree, out, model="minilm", reencode=True).model == "minilm"


def test_a_folder_without_a_vector_takes_another_model(tree: Path, out: Path) -> None:
    """Nothing can be mixed. It says so; another spelling of the same is not another one."""
    build(tree, out, shards=0)
    assert plan(tree, out, model="BAAI/bge-m3").notes == [
        f"{out} was begun for hashing and holds no vector yet; it goes on with BAAI/bge-m3"
    ]
    build(tree, out, shards=0, model="all-MiniLM-L12-v2")
    assert plan(tree, out, model="sentence-transformers/all-MiniLM-L12-v2").notes == []


def test_a_dtype_that_stands_apart_goes_on_and_no_other_beside_it(tree: Path, out: Path) -> None:
    """Where it is not named it is taken up; what agrees with full precision is named nowhere."""
    build(tree, out)
    assert (plan(tree, out).dtype, plan(tree, out, dtype="bfloat16").must_agree) == ("auto", True)
    assert plan(tree, out, reencode=True, dtype="bfloat16").works, "only a worker can tell whether that changes them"
    name_it = (
        "UPDATE helix_crawl_meta SET value = '{\"dtype\": \"bfloat16\", ' || substr(value, 2) WHERE key = 'encoder'"
    )
    for file in files(out).values():
        sql(out / file, name_it)
    for dtype in ("auto", "bfloat16"):
        planned = plan(tree, out, dtype=dtype)
        assert (planned.dtype, planned.must_agree, len(planned.complete)) == ("bfloat16", False, 3)
    with pytest.raises(NotThisBuild) as caught:
        plan(tree, out, dtype="float32")
    assert str(caught.value) == (
        f"{out} was encoded in bfloat16, and --dtype is float32; accepted: --dtype bfloat16, or none; or --reencode, "
        "which encodes everything again; or another --out"
    )
    for dtype in ("auto", "float16"):
        planned = plan(tree, out, reencode=True, dtype=dtype)
        assert (planned.dtype, len(planned.works)) == (dtype, 3)
    code, said, _ = run_here("verify", str(out))
    assert (code, "encoder hashing (1, 256 dimensions, bfloat16): 3 vectors" in said) == (0, True)
    sql(out / "a.db", "UPDATE helix_crawl_meta SET value = replace(value, 'bfloat16', 'float16') WHERE key = 'encoder'")
    assert plan(tree, out).dtype == "auto", "each shard goes on in its own"
    assert run_here("verify", str(out))[0] == 1


def test_a_mixed_folder_fails_and_is_named(tree: Path, out: Path) -> None:
    """Vectors of two encoders cannot be compared; two devices of one encoder are no mix."""
    build(tree, out)
    with opened(out / "a.db", 7) as store:
        store.note_session("cpu", {}, 1, 64)
        store.note_session("cuda:0", {}, 1, 64)
    code, said, _ = run_here("verify", str(out))
    assert code == 0
    shown = "hashing (1, 256 dimensions)"
    assert f"encoder {shown}: 3 vectors in 3 shards, made on cpu (1 shard), cuda:0 (1 shard)" in said.splitlines()
    sql(out / "b.db", "UPDATE helix_crawl_meta SET value = replace(value, '\"1\"', '\"2\"') WHERE key = 'encoder'")
    code, said, _ = run_here("verify", str(out))
    assert code == 1
    assert f"mixed: {out} holds vectors of {shown} in 2 shards and hashing (2, 256 dimensions) in 1 shard" in said
    assert re.search(r"to have one alone: helix-crawl build .* --reencode", said)
    code, text, errors = run_here("verify", str(out), "--json")
    assert (code, len(json.loads(text)["encoders"]), "mixed: " in errors) == (1, 2, True)
    record_path(out).unlink()
    with pytest.raises(NotThisBuild, match="say with --model which of them goes on"):
        plan(tree, out, model=None)


def test_folders_of_several_models_are_no_mix(tree: Path, out: Path) -> None:
    """Each is judged by itself."""
    other = out.with_name("other")
    build(tree, out)
    build(tree, other, model="minilm")
    assert run_here("verify", str(out), str(other))[0] == 0


def test_backfill_takes_the_shards_own_model(tmp_path: Path) -> None:
    """Where one of them says so; another one that is named is refused, for all of them."""
    paths = [made(tmp_path / f"{name}.db", "ab") for name in "xy"]
    with opened(paths[0]) as store:
        store.claim(HASHING_IDENTITY)
        encode_all(store, VECTOR)
    unnamed, other = options(), options()
    object.__setattr__(unnamed, "model", None)
    object.__setattr__(other, "model", "minilm")
    planned = plan_backfill(paths, unnamed, given=[tmp_path])
    assert (planned.model, [work.assignment.shard for work in planned.works]) == ("hashing", ["y"])
    with pytest.raises(NotThisBuild, match=r"was encoded by hashing \(1, 256 dimensions\), not by minilm"):
        plan_backfill(paths, other)
    assert plan_backfill(paths[1:], unnamed).model == "minilm"


# -- of which trees ----------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another tree, some of it called as in the first."""
    write_tree(tmp_path / "work", {"a/four.txt": "four", "c/five.txt": "five", "loose.txt": "six"})
    return tmp_path / "work"


@pytest.mark.parametrize("prune", [False, True])
def test_another_tree_is_refused(prune: bool, tree: Path, other: Path, out: Path) -> None:
    """With the ways out, and before anything is read or written; so after the record was lost."""
    build(tree, out)
    before = genes(out)
    for _ in range(2):
        with pytest.raises(NotThisBuild) as refused:
            plan(other, out, prune=prune)
        assert str(refused.value) == (
            f"{out} was built of {tree}, and not of {other}; accepted: {tree}; both, which adds the one to the other; "
            "--moved, where it is the same tree in another place; or another --out"
        )
        record_path(out).unlink(missing_ok=True)
    assert genes(out) == before


def test_a_tree_is_the_same_by_whatever_name(tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a link, a detour, with something behind; and the folder of the shards too."""
    build(tree, out)
    monkeypatch.chdir(tree.parent)
    names = [Path("notes/"), Path("./notes"), tree / ".." / "notes", tree / "a" / ".."]
    links = tree.with_name("linked"), out.with_name("linked-out")
    for link, target in zip(links, (tree, out), strict=True):
        try:
            link.symlink_to(target, target_is_directory=True)
        except OSError:
            pytest.skip("links cannot be made here")
    for name in [*names, links[0]]:
        assert plan(name.absolute(), out).works == []
    assert plan(tree, links[1]).works == []


def test_a_tree_that_was_moved(tree: Path, out: Path) -> None:
    """Said with --moved, nothing is read or encoded again; what goes after that is pruned as ever.

    Its shards say where it is as well, so that a record that is lost is made anew.
    """
    build(tree, out)
    there = tree.with_name("notes-2026")
    tree.rename(there)
    with pytest.raises(NotThisBuild):
        plan(there, out)
    moved = build(there, out, moved=True)
    assert [work.pending for work in moved.works] == [0, 0, 0]
    assert moved.notes == [f"{tree} is at {there} now, as --moved says"]
    assert (plan(there, out, moved=True).works, plan(there, out, moved=True).notes) == ([], [])
    record_path(out).unlink()
    assert plan(there, out).works == []
    shutil.rmtree(there / "b")
    assert any("b.db is of 'b', which is gone" in note for note in build(there, out).notes)
    build(there, out, prune=True)
    assert genes(out)["b.db"] == []


def test_a_move_that_was_killed_half_way(tree: Path, out: Path) -> None:
    """The record and one shard know of it. The same command, without --moved, tells the others."""
    build(tree, out)
    there = tree.with_name("notes-2026")
    tree.rename(there)
    build(there, out, moved=True, shards=1)
    assert [work.pending for work in build(there, out).works] == [0, 0]
    assert {rows(file, "SELECT value FROM helix_crawl_meta WHERE key = 'tree'")[0] for file in out.glob("*.db")} == {
        (json.dumps([str(there), name]),) for name in (".", "a", "b")
    }
    assert plan(there, out).works == []


def test_an_ingest_that_was_killed_is_gone_on_with(tree: Path, out: Path) -> None:
    """Also one of `--prune`, which leaves the fingerprint of the one before: else it were begun for ever."""
    build(tree, out)
    sql(out / "a.db", "UPDATE helix_crawl_meta SET value = 'true' WHERE key = 'ingesting'")
    assert run_here("verify", str(out))[0] == 1
    assert [work.pending for work in build(tree, out).works] == [None]
    assert run_here("verify", str(out))[0] == 0


def test_a_note_of_a_tree_that_can_be_no_path(tree: Path, out: Path) -> None:
    """It is put right by the next run, whatever a hand has written there."""
    build(tree, out)
    sql(out / "a.db", """UPDATE helix_crawl_meta SET value = '["/\\ud800", "a"]' WHERE key = 'tree'""")
    assert [work.assignment.shard for work in build(tree, out).works] == ["a"]
    assert plan(tree, out).works == []


def test_a_tree_that_is_another_one_is_not_one_that_was_moved(tree: Path, out: Path) -> None:
    """It has none of the folders."""
    build(tree, out)
    write_tree(tree.with_name("strange"), {"x/y.txt": "z", "loose.txt": "z"})
    with pytest.raises(NotThisBuild, match="has none of the folders that"):
        plan(tree.with_name("strange"), out, moved=True, prune=True)


def test_several_trees_make_one_index(tree: Path, other: Path, out: Path) -> None:
    """In whatever order: the same names, files, sources and ids; no two genes of one id, no two shards of one file."""
    build([tree, other], out)
    again = out.with_name("again")
    build([other, tree], again)
    assert genes(out) == genes(again)
    assert sorted(files(out)) == ["notes/.", "notes/a", "notes/b", "work/.", "work/a", "work/c"]
    assert sorted(source for sources in genes(out).values() for source in sources) == sorted(
        [*(f"notes/{name}" for name in FILES), "work/a/four.txt", "work/c/five.txt", "work/loose.txt"]
    )
    ids = [row for path in out.glob("*.db") for row in rows(path, "SELECT gene_id FROM genes")]
    assert len(set(ids)) == 6
    assert [work.assignment.shard for work in plan([tree, other], out).works] == []
    assert run_here("verify", str(out))[0] == 0


def test_a_tree_is_added_later_and_left_out_again(tree: Path, other: Path, out: Path) -> None:
    """What is there keeps its names and vectors; a tree that is not named keeps its genes, also with --prune."""
    build(tree, out)
    first = files(out)
    added = build([other, tree], out)
    assert f"{other} is added to what {out} was built of" in added.notes
    assert {name: file for name, file in files(out).items() if name in first} == first
    assert sorted(work.assignment.shard for work in added.works) == ["work/.", "work/a", "work/c"]
    before = genes(out)
    for one, left in ((tree, other), (other, tree)):
        alone = build(one, out, prune=True)
        assert alone.notes == [f"{left} is left out this time: its shards stay as they are"]
        assert genes(out) == before
        assert sorted(files(out)) == [".", "a", "b", "work/.", "work/a", "work/c"]
    shutil.rmtree(other / "c")
    build([tree, other], out, prune=True)
    assert sum(map(len, genes(out).values())) == 5


def test_one_of_several_trees_that_was_moved_is_not_added_to_itself(tree: Path, other: Path, out: Path) -> None:
    """What it was called by is not there any more: it would be there twice."""
    build([tree, other], out)
    there = tree.parent / "renamed" / tree.name
    there.parent.mkdir()
    tree.rename(there)
    with pytest.raises(NotThisBuild, match=re.escape(f"and {tree}, which is called the same, is not there any more")):
        plan([there, other], out)
    before = files(out)
    build([there, other], out, moved=True)
    assert files(out) == before
    assert plan([other, there], out).works == []


def test_trees_of_one_name(tmp_path: Path, out: Path) -> None:
    """Each gets digits of its place, whatever the order; the one that is there already keeps what it has."""
    trees = [tmp_path / place / "docs" for place in ("x", "y", "z")]
    for number, root in enumerate(trees):
        write_tree(root, {"a.txt": f"text {number}"})
    build(trees[:2], out)
    build(trees[1::-1], out.with_name("turned"))
    assert files(out) == files(out.with_name("turned"))
    assert len(set(files(out).values())) == 2
    before = files(out)
    build(trees, out)
    assert before.items() < files(out).items()
    one = out.with_name("one")
    build(trees[0], one)
    build(trees[:2], one)
    assert sorted(files(one)) == [".", "docs/."]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name is made of letters")
def test_trees_whose_names_are_no_letters(tmp_path: Path, out: Path) -> None:
    """What stands before ids of sources and names of shards can be written into a shard."""
    trees = [tmp_path / place / os.fsdecode(b"src\xff") for place in ("x", "y")]
    for number, root in enumerate(trees):
        write_tree(root, {"a.txt": f"text {number}"})
    build(trees, out)
    assert [bool(re.fullmatch(r"src\\xff-[0-9a-f]{8}/\.", name)) for name in files(out)] == [True, True]
    assert [len(found) for found in genes(out).values()] == [1, 1]


@pytest.mark.parametrize("left_out", ["logs/", "b.log"])
def test_what_is_left_out_by_now_is_no_longer_expected(left_out: str, tmp_path: Path, out: Path) -> None:
    """A look counts what a run would find, whether or not the genes of earlier runs are still there."""
    tree = tmp_path / "tree"
    write_tree(tree, {"logs/b.log": "much ado about this\n\n" * 4000, "a.txt": "one", "logs/c.txt": "two words"})
    build(tree, out)
    before, after = (plan(tree, out, filters=Filters(exclude=one)).look for one in ((), (left_out,)))
    assert before is not None
    assert after is not None
    assert before.tree.passages > 50
    assert 1 <= after.tree.passages <= 3


def test_a_tree_in_another_is_refused_and_one_named_twice_is_taken_once(tree: Path, out: Path) -> None:
    """Its files would be taken twice."""
    with pytest.raises(NotThisBuild, match=re.escape(f"{tree / 'a'} lies in {tree}, so that its files would be taken")):
        plan([tree / "a", tree], out)
    planned = plan([tree, tree / "a" / ".."], out)
    assert len(planned.works) == 3
    assert planned.notes == [f"{tree / 'a' / '..'} is named twice, and taken once"]


def test_single_files_are_trees_too(tree: Path, out: Path) -> None:
    """A file is called by its name, alone or beside others."""
    build(tree / "loose.txt", out)
    assert genes(out) == {"_root.db": ["loose.txt"]}
    both = out.with_name("both")
    build([tree / "a", tree / "loose.txt"], both)
    assert sorted(source for sources in genes(both).values() for source in sources) == ["a/one.txt", "loose.txt"]


def test_a_folder_in_letters_of_the_other_case_takes_no_file_of_another(tree: Path, out: Path) -> None:
    """Where both are one file to the system, one would be written into the other."""
    build(tree, out)
    try:
        write_tree(tree, {"A/six.txt": "six"})
    except OSError:
        pytest.skip("one folder here")
    if sorted(path.name for path in tree.iterdir()) != ["A", "a", "b", "loose.txt"]:
        pytest.skip("one folder here")
    build(tree, out)
    assert files(out)["a"] == "a.db"
    assert files(out)["A"].casefold() != "a.db"
    assert genes(out)["a.db"] == ["a/one.txt"]


def test_the_command_that_goes_on_works_from_everywhere(tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources, folder and the folder of a model are absolute; the rest is as it was typed, without secrets."""
    model = tree.parent / "model"
    model.mkdir()
    monkeypatch.chdir(tree.parent)
    caught: list[Callable[[], BuildPlan]] = []

    def run_build(
        name: str, command: str, folders: object, chosen: object, make_plan: Callable[[], BuildPlan], **_: object
    ) -> int:
        caught.append(make_plan)
        return 0

    monkeypatch.setattr("helix_crawl_otel.build.run.run_build", run_build)
    words = ["build", "notes/", "--out", "out", "--plain", "--batch-size", "9", "--notify=http://x.y/secret", "--moved"]
    monkeypatch.setattr("sys.argv", ["helix-crawl", *words, "--model", "model"])
    run_here(*words, "--model", "model")
    record = caught[0]().record
    assert record is not None
    assert record.command(out) == (
        f"helix-crawl build {tree} --out {out} --model {model} --plain --batch-size 9 --notify=http://x.y/..."
    )


def test_verify_reads_alone(tree: Path, out: Path) -> None:
    """A folder that nobody may write is verified too, and nothing in it is touched."""
    build(tree, out, shards=1)
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert verify.verify([out], as_json=True) == 1
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before


# -- before anything is there ------------------------------------------------------------------------------------------


def test_without_out_the_shards_stand_beside_their_source(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the source is called by. What has no name, or several, has to be told."""
    built: list[list[Path]] = []

    def run_build(name: str, command: str, folders: list[Path], *_: object, **__: object) -> int:
        built.append(folders)
        return 0

    monkeypatch.setattr("helix_crawl_otel.build.run.run_build", run_build)
    monkeypatch.chdir(tree)
    for source in (".", f"..{os.sep}notes{os.sep}", str(tree), f"a{os.sep}.."):
        assert run_here("build", source)[0] == 0
    assert run_here("build", "loose.txt")[0] == 0
    assert built == [[tree.with_name("notes.shards")]] * 4 + [[tree / "loose.txt.shards"]]
    for sources in (["a", "b"], [tree.anchor]):
        code, _, errors = run_here("build", *sources)
        assert (code, "--out is not given" in errors) == (2, True)


def test_a_misspelt_model_makes_nothing(tree: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read, no worker is started, no folder is made; nor where the folder is there and no shard is."""

    def resolve(model: str) -> None:
        raise ModelError(f"the hub has no model {model}")

    monkeypatch.setattr("helix_crawl_otel.encoders.load.resolve", resolve)
    monkeypatch.setattr("helix_crawl_otel.encoders.load._check_installed", lambda model: None)
    words = ("build", str(tree), "--out", str(out), "--model", "BAAI/bge-n3", "--no-metrics")
    code, said, errors = run_here(*words)
    assert (code, said, errors) == (78, "", "helix-crawl: error: the hub has no model BAAI/bge-n3\n")
    assert not out.exists()
    build(tree, out, shards=0)
    assert run_here(*words)[0] == 78
    assert list(out.glob("*.db")) == []
    record = read_record(out)
    assert record is not None
    assert record.model == "hashing"


def test_a_source_that_is_not_there_makes_nothing(tree: Path) -> None:
    """A name that was mistyped leaves no folder behind."""
    code, _, errors = run_here("build", str(tree.with_name("nowhere")), "--model", "hashing")
    assert (code, "nowhere cannot be read" in errors) == (78, True)
    assert not tree.with_name("nowhere.shards").exists()
