"""Promises of how a file with several names is met: it is one file, and it is told of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helix_crawl_otel.shards.accounts import account
from helix_crawl_otel.shards.find import find_shards, names_by_file
from tests.build.rig import COMMAND, Rig, run_here
from tests.shards.shards import made


def linked(make: Callable[[Path, Path], None], target: Path, name: Path) -> Path:
    """Another name of a file."""
    try:
        make(target, name)
    except (OSError, NotImplementedError):
        pytest.skip("this user may not make links here")
    return name


LINKS: dict[str, Callable[[Path, Path], None]] = {"hard": os.link, "symbolic": os.symlink}


@pytest.mark.parametrize("kind", LINKS)
def test_a_file_with_two_names_is_one_shard(tmp_path: Path, kind: str) -> None:
    """Whichever is given first, in whatever spelling and folder."""
    (tmp_path / "sub").mkdir()
    one = made(tmp_path / "one.db", "ab")
    other = made(tmp_path / "other.db", "ab")
    two = linked(LINKS[kind], one, tmp_path / "sub" / "two.db")
    spelled = tmp_path / "sub" / ".." / "one.db"
    files, notes = find_shards([two, one, spelled, tmp_path, other])
    assert files == [two, other]
    assert f"{spelled}, {one} is the same file as {two}, which is taken once" in notes[0] or str(one) in notes[0]
    assert any("is one of 2 names (hard links)" in note for note in notes) is (kind == "hard")


def test_two_files_are_two_and_one_name_is_told_of_by_nobody(tmp_path: Path) -> None:
    """However alike they are."""
    paths = [made(tmp_path / name, "ab") for name in ("one.db", "two.db")]
    assert find_shards([*paths, tmp_path, *paths])[0] == paths
    assert find_shards(paths)[1] == []


def test_where_the_system_does_not_number_files_the_path_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some shares of Windows: 0 is no number, and two files are not one for it."""
    paths = [made(tmp_path / name, "ab") for name in ("one.db", "two.db")]
    stat = Path.stat

    def without_number(path: Path, **options: bool) -> os.stat_result:
        about = list(stat(path, **options))
        about[1] = 0
        return os.stat_result(about)

    monkeypatch.setattr(Path, "stat", without_number)
    (tmp_path / "sub").mkdir()
    again = tmp_path / "sub" / ".." / "one.db"
    assert names_by_file([*paths, again]) == [[paths[0], again], [paths[1]]]


def test_of_two_names_the_one_with_a_log_is_taken(tmp_path: Path) -> None:
    """What a killed program has left there belongs to the file; beside the other name SQLite would not find it."""
    one = made(tmp_path / "one.db", "ab")
    two = linked(os.link, one, tmp_path / "two.db")
    assert find_shards([one, two])[0] == [one]
    (tmp_path / "two.db-wal").write_bytes(b"a log")
    assert find_shards([one, two])[0] == [two]


def test_a_file_with_two_names_is_encoded_once(rig: Rig) -> None:
    """By a backfill of both, which tells of it; and it is counted once."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    one = made(folder / "one.db", [f"g{number}" for number in range(20)])
    two = linked(os.link, one, folder / "two.db")
    done = rig.run([*COMMAND, "backfill", str(folder), str(two), *rig.options, "--json"])
    assert (done.code, done.summary["encoded"], done.summary["shards"]["done"]) == (0, 20, 1)
    texts = [event["text"] for event in done.of("note")]
    assert any("two.db is the same file as" in text for text in texts)
    assert any("is one of 2 names (hard links)" in text for text in texts)
    assert account(one) == account(two)
    code, stdout, stderr = run_here("verify", str(folder))
    assert (code, "1 shard" in stdout, "two.db is the same file as" in stderr) == (0, True, True)


def test_two_shards_of_a_build_that_are_one_file_are_refused(rig: Rig) -> None:
    """Both: nobody knows whose it is. A name beside them is told of, and the shard is built."""
    rig.write({f"{name}/one.txt": f"Text of {name}." for name in "abc"})
    assert rig.build().code == 0
    before = rig.verify()
    (rig.out / "b.db").unlink()
    linked(os.link, rig.out / "a.db", rig.out / "b.db")
    linked(os.link, rig.out / "c.db", rig.folder / "backup of c")
    content = (rig.out / "a.db").read_bytes()
    rig.write({f"{name}/two.txt": f"More of {name}." for name in "abc"})
    done = rig.build("--prune")
    assert (done.code, sorted(done.summary["failed"]), done.summary["encoded"]) == (1, ["a", "b"], 1)
    assert "are one file, by a link; it was left as it is" in done.summary["failed"]["a"]
    assert (rig.out / "a.db").read_bytes() == content
    assert any("c.db is one of 2 names" in event["text"] for event in done.of("note"))
    (rig.out / "b.db").unlink()
    assert rig.build().code == 0
    assert rig.verify()["genes"] == 2 * before["genes"]
