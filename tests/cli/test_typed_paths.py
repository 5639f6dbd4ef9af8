"""Paths as they are typed, and as Windows takes them whatever they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from helix_crawl_otel import cli
from helix_crawl_otel.paths import (
    PLAIN_CHARACTERS,
    are_same,
    is_no_file,
    on_disk,
    same_place,
    typed_folder,
    typed_path,
    verbatim,
)

needs_windows = pytest.mark.skipif(sys.platform != "win32", reason="paths of Windows: runs under Wine")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("C:\\notes", r"\\?\C:\notes"),
        (r"\\server\share\notes", r"\\?\UNC\server\share\notes"),
        (r"\\?\C:\notes", r"\\?\C:\notes"),
        (r"\\?\UNC\server\share", r"\\?\UNC\server\share"),
        (r"\\.\aux", r"\\.\aux"),
    ],
)
def test_the_verbatim_form(path: str, expected: str) -> None:
    """A drive and a share each have their own; what has it already, and a device, stay."""
    assert verbatim(path) == expected


def test_where_files_have_no_numbers_paths_tell(tmp_path: Path) -> None:
    """As on some network drives of Windows, where `samefile` takes all files of one for the same."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    unnumbered = os.stat_result((0o040777, 0, 7, 1, 0, 0, 0, 0, 0, 0))
    assert os.path.samestat(unnumbered, unnumbered)
    assert not are_same(one, unnumbered, other, unnumbered)
    assert are_same(one, unnumbered, on_disk(one), unnumbered)
    assert are_same(one, unnumbered, other / ".." / "one", unnumbered)


def test_the_same_place(tmp_path: Path) -> None:
    """There or not, and on Windows in both forms of a path."""
    assert same_place(tmp_path, on_disk(tmp_path))
    assert not same_place(tmp_path, tmp_path / "gone")
    assert same_place(tmp_path / "gone", on_disk(tmp_path / "gone"))


@pytest.mark.skipif(sys.platform == "win32", reason="paths of other systems")
def test_elsewhere_a_path_is_what_was_typed() -> None:
    """Only `~` is somebody's folder."""
    assert typed_path("aux", "SRC") == Path("aux")
    assert typed_folder("~/notes", "SRC") == Path.home() / "notes"
    assert on_disk(Path("/" + "x" * 300)) == Path("/" + "x" * 300)


@needs_windows
def test_a_path_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its drive, its root and the folder one is in leave open."""
    monkeypatch.chdir(tmp_path)
    drive = tmp_path.drive
    for text, expected in (
        ("notes", tmp_path / "notes"),
        (f"{drive}notes", tmp_path / "notes"),
        ("\\notes", Path(f"{drive}\\notes")),
        (f"{drive}/a/../notes", Path(f"{drive}\\notes")),
        ("//server/share/notes", Path(r"\\server\share\notes")),
        (r"\\?\C:\aux", Path(r"\\?\C:\aux")),
    ):
        assert typed_path(text, "SRC") == expected


@needs_windows
def test_a_long_folder_is_taken_verbatim() -> None:
    """From the length on at which the longest name of a shard's file would not fit behind it."""
    short, long = "C:\\" + "x" * (PLAIN_CHARACTERS - 3), "C:\\" + "x" * (PLAIN_CHARACTERS - 2)
    assert str(typed_folder(short, "--out")) == short
    assert str(typed_folder(long, "--out")) == rf"\\?\{long}"


@pytest.mark.parametrize("command", ["build", "query"])
def test_a_model_in_the_users_folder(command: str) -> None:
    """PowerShell hands `~` on as it is; an id stays what it was."""
    arguments = {"build": ["build", "SRC", "--out", "DIR"], "query": ["query", "DIR", "TEXT"]}[command]
    for model, taken in [("~/models/e5", f"{Path.home()}/models/e5"), ("BAAI/bge-m3", "BAAI/bge-m3")]:
        assert cli._parser().parse_args([*arguments, "--model", model]).model == taken


@needs_windows
@pytest.mark.parametrize("argv", [["doctor", "--out"], ["replay"], ["report", "x.jsonl", "-o"], ["simulate", "--plot"]])
def test_a_device_is_no_place(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, before anything is done."""
    assert cli.main([*argv, "con"]) == 2
    assert "is 'con', which Windows takes for a device; accepted: another name" in capsys.readouterr().err


# -- what is no file ---------------------------------------------------------------------------------------------------


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """And what is not there, or leads nowhere, is nothing that is in the way."""
    file = tmp_path / "file"
    file.touch()
    assert [is_no_file(path) for path in (tmp_path, file, tmp_path / "none", file / "below")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_file_that_is_gone_at_a_second_look_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes its log away when the last connection closes, beside one that is just being opened."""
    log = tmp_path / "a.db-wal"
    log.touch()
    look = Path.stat

    def stat_once(path: Path, **how: bool) -> os.stat_result:
        found = look(path, **how)
        if path == log:
            log.unlink()
        return found

    monkeypatch.setattr(Path, "stat", stat_once)
    assert not is_no_file(log)
    assert not log.exists()
