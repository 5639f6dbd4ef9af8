"""Paths that Windows has rules of its own for: each works, or gets one sentence. Some run everywhere."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.paths import on_disk
from tests.build.rig import COMMAND, SECONDS, Rig, prose
from tests.rules.tree import ROOT

TIMELINE = ROOT / "tests/data/timelines/incident-0611-slack.jsonl"

needs_windows = pytest.mark.skipif(sys.platform != "win32", reason="paths of Windows: runs under Wine")

DIGEST = "b0ab6e0c7416079d5ed836f9e0b7a84799a2fff59d6357f26ff0a1fc1607495a"
"""Of the tree below, on every system."""

DEEP = "/".join(f"{n:02}-" + "long" * 12 for n in range(6))
TREE = {
    "two words/Größe & Maß.txt": prose(1, 6),
    "日本/説明.md": prose(2, 6),
    "lines/of windows.txt": prose(3, 6).replace("\n", "\r\n"),
    f"deep/{DEEP}/bottom.txt": prose(4, 6),
    "aux/con.txt": prose(5, 6),
    "com1.txt/nul .txt": prose(6, 6),
    "dot./ends in a dot.": prose(7, 6),
    "blank /ends in a blank ": prose(8, 6),
    "loose & 100%.txt": prose(9, 6),
}


def said(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command in this process: its exit code, and what it said."""
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def sentence(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The code and the one sentence of a command that is refused."""
    code, out, err = said(argv, capsys)
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("helix-crawl: error: ")
    return code, lines[0]


def test_a_tree_of_odd_names(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Blanks, letters of all the world, 300 characters of path, devices' names, CRLF: all is taken in, and is the same
    on every system; ids have `/`; and a pipe whose encoding lacks the letters is no trouble."""
    source, out = rig.folder / "Größe ü, two words", rig.folder / "out & 日本 %PATH%"
    for name, content in TREE.items():
        path = on_disk(source) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())
    command = [*COMMAND, "build", str(source), "--out", str(out), *rig.options]
    with rig.started(command, PYTHONIOENCODING="cp437") as process:
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, stderr
    assert "9 done" in stdout.decode("cp437")
    code, text, _ = said(["verify", str(out), "--json"], capsys)
    assert (code, json.loads(text)["digest"]) == (0, DIGEST)
    code, text, _ = said(["query", str(out), "gene of a shard", "-k", "999", "--json"], capsys)
    found = json.loads(text)
    assert {gene["source_id"] for gene in found} == set(TREE)
    assert not any("\r" in gene["content"] for gene in found)
    names = {path.name for path in out.glob("*.db")}
    assert {"two words.db", "日本.db", "_root.db", "deep.db"} <= names
    assert {"aux.db", "com1.txt.db", "dot..db", "blank .db"}.isdisjoint(names)
    code, text, _ = said(["backfill", str(out), "--model", "hashing", "--no-metrics"], capsys)
    assert (code, "9 complete before" in text) == (0, True), text


def test_an_output_that_is_deep(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a plain path of Windows has no room left for the names of shards."""
    rig.write({"docs/one.txt": prose(1, 3)})
    out = rig.folder / DEEP / "shards"
    done = rig.run([*COMMAND, "build", str(rig.source), "--out", str(out), *rig.options, "--json"])
    assert done.code == 0, done.errors
    assert said(["verify", str(out)], capsys)[0] == 0


@needs_windows
def test_places_that_depend_on_where_one_is(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    r"""`C:source` is below the folder one is in on C:, `\source` is on the drive one is on, `--out` may be on another
    drive, and what stands behind `\\?\` is taken as it is: the second command finds all done by the first."""
    rig.write({"docs/one.txt": prose(1, 3)})
    drive = rig.folder.drive
    with other_drive(drive) as other:
        out = str(other / "out")
        done = rig.run([*COMMAND, "build", f"{drive}source", "--out", out, *rig.options, "--json"])
        assert done.code == 0, done.errors
        code, text, _ = said(["verify", out, "--json"], capsys)
        assert (code, json.loads(text)["vectors"]) == (0, done.summary["encoded"])
        command = ["build", str(rig.source).removeprefix(drive), "--out", rf"\\?\{out}", *rig.options, "--json"]
        done = rig.run([*COMMAND, *command])
        assert (done.code, done.of("worker_started")) == (0, []), done.errors


@contextmanager
def other_drive(drive: str) -> Iterator[Path]:
    """A folder on a drive that is not this one."""
    for letter in "DEFZ":
        temporary = Path(f"{letter}:\\tmp")
        if letter != drive[:1].upper() and temporary.is_dir():
            with tempfile.TemporaryDirectory(dir=temporary) as folder:
                yield Path(folder)
            return
    pytest.skip("there is no other drive with a folder tmp")


def flat(text: str) -> str:
    """A path, or text with one in it, whether its backslashes are doubled or not."""
    return re.sub(r"\\+", "/", text.lower())


@needs_windows
@pytest.mark.parametrize("place", [r"\\no-such-server\share\notes", r"\\?\UNC\no-such-server\share", "q:\\notes"])
def test_a_share_or_a_drive_that_is_not_there(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that names it, whatever it was given as."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.md").write_text("text")  # a tree without any file is refused before its output is looked at
    model = ["--model", "hashing", "--no-metrics"]
    for argv, expected in (
        (["build", place, "--out", "out", *model], 78),
        (["build", ".", "--out", place, *model], 1),
        (["backfill", place, *model], 2),
        (["verify", place], 2),
        (["query", place, "a text"], 2),
        (["replay", place], 2),
        (["dashboards", place], 1),
        (["run", "--no-metrics", "--state", place, "--", sys.executable, "-c", ""], 1),
    ):
        code, line = sentence(argv, capsys)
        assert code == expected, line
        assert flat(place) in flat(line)


@needs_windows
@pytest.mark.parametrize("place", ["aux", "con", r"com1", "nul"])
def test_a_device_is_no_folder(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be read for ever, or written to for nothing: the sentence names the way to a folder of that name."""
    model = ["--model", "hashing", "--no-metrics"]
    for argv in (
        ["build", place, "--out", str(tmp_path), *model],
        ["build", str(tmp_path), "--out", place, *model],
        ["backfill", place, *model],
        ["verify", place],
        ["query", place, "a text"],
        ["dashboards", place],
        ["run", "--state", place, "--", sys.executable],
    ):
        code, line = sentence(argv, capsys)
        assert code == 2
        assert f"is {place!r}, which Windows takes for a device; accepted: another name, or the whole path" in line


def test_a_file_and_a_folder_that_are_read_only(rig: Rig) -> None:
    """One sentence, and what is there can be read; once they can be written the same command goes on."""
    rig.write({"docs/one.txt": prose(1, 3)})
    tried = rig.folder / "tried"
    tried.touch(0o444)
    with contextlib.suppress(PermissionError), tried.open("r+b"):
        pytest.skip("this user may write what is read-only")
    assert rig.build().code == 0
    shard = rig.out / "docs.db"
    shard.chmod(0o444)
    try:
        rig.write({"docs/two.txt": prose(2, 3)})
        done = rig.build()
        assert done.code == 1
        assert "docs.db cannot be written" in done.summary["failed"]["docs"]
        assert rig.verify()["missing"] == 0
        rig.source.chmod(0o555)
        done = rig.run([*COMMAND, "build", str(rig.source), "--out", str(rig.source / "out"), *rig.options])
        if sys.platform == "win32":
            assert done.code == 0  # the attribute of a folder is for what is shown of it
        else:
            assert done.code == 1
            assert len(done.errors.strip().splitlines()) == 1
            assert "out/.helix-crawl cannot be written: Permission denied; accepted: a folder" in done.errors
    finally:
        for path in rig.out.glob("docs.db*"):  # what SQLite makes beside a file has that one's rights
            path.chmod(0o644)
        rig.source.chmod(0o755)
    assert rig.build().code == 0


def test_the_other_commands_take_odd_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A timeline, a page, boards: blanks and letters of all the world in their paths."""
    folder = tmp_path / "Größe 日本, two words"
    folder.mkdir()
    timeline = folder / "timeline ü.jsonl"
    timeline.write_bytes(TIMELINE.read_bytes())
    assert said(["replay", str(timeline)], capsys)[0] == 0
    assert said(["dashboards", str(folder / "boards ü")], capsys)[0] == 0
    assert (folder / "boards ü/grafana/boards/helix-crawl-job.json").is_file()


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_a_pipe_that_lacks_the_letters(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shown as `?`; nothing ends with an error for that."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    timeline = tmp_path / "日本.jsonl"
    timeline.write_bytes(TIMELINE.read_bytes().replace(b"slack__eng-oncall", "日本".encode()))
    for argv, expected in (
        (["replay", str(timeline)], 0),
        (["verify", str(tmp_path / "日本")], 2),
        (["build", str(tmp_path / "日本"), "--out", str(tmp_path / "説明"), "--model", "hashing", "--no-metrics"], 78),
        (["simulate", "日本"], 2),
        (["doctor"], None),
    ):
        code = main(argv)
        assert expected is None or code == expected
    out.flush()
    err.flush()
    assert b"?" in out.buffer.getvalue()
