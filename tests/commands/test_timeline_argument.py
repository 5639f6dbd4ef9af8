"""Where `replay` and `report` take a timeline from."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.commands.common import add_timeline, timeline_path, timeline_reader
from tests.data.timelines import make
from tests.programs import require_module

TIMELINE = Path(make.__file__).parent / "born-crawling.jsonl"


def found(text: str) -> Path | None:
    """What is read when this is typed."""
    parser = argparse.ArgumentParser()
    add_timeline(parser)
    return timeline_path(parser.parse_args([text]))


def test_the_folder_of_a_build(tmp_path: Path) -> None:
    """Its timeline lies below; one that lies beside the shards is not of the build."""
    (tmp_path / ".helix-crawl").mkdir()
    for place in (tmp_path / ".helix-crawl" / "timeline.jsonl", tmp_path / "timeline.jsonl"):
        place.touch()
    assert found(str(tmp_path)) == tmp_path / ".helix-crawl" / "timeline.jsonl"


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    """`run --state DIR` keeps it in that folder itself."""
    (tmp_path / "timeline.jsonl").touch()
    assert found(str(tmp_path)) == tmp_path / "timeline.jsonl"


def test_a_file_is_that_file(tmp_path: Path) -> None:
    """There or not; and no folder is searched whose name is given with more behind it."""
    assert found(str(tmp_path / "a.jsonl.gz")) == tmp_path / "a.jsonl.gz"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash is no file."""
    assert found("-") is None
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TIMELINE.read_bytes())))
    assert list(timeline_reader(None))


def test_a_job_is_replayed_by_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer names the file."""
    shutil.copy(TIMELINE, tmp_path / "timeline.jsonl")
    assert main(["replay", str(tmp_path)]) == 0
    assert f"timeline  {tmp_path / 'timeline.jsonl'}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["replay", "report"])
def test_a_folder_without_one(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what is accepted."""
    if command == "report":
        require_module("matplotlib", "helix-crawl-otel[plot]")
    out = ["-o", str(tmp_path / "r.html")] if command == "report" else []
    assert main([command, str(tmp_path), *out]) == 2
    assert capsys.readouterr().err == (
        f"helix-crawl: error: {tmp_path} is a folder without a timeline; accepted: a file of JSON lines, or the folder "
        "of a job\n"
    )
