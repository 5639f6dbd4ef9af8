"""`helix-crawl report` as a command: what it writes, what it refuses, on a run of the product itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from tests.build.conftest import rig
from tests.build.rig import COMMAND, Done, Rig
from tests.ladder.test_ladder import QUICK, SPILLS, small_second_shard
from tests.report.stories import FOLDER, job_with_a_recycle, lines

__all__ = ["rig"]

INCIDENT = str(FOLDER / "incident-0610-confluence.jsonl")


MOST_BUILDS = 3
"""Its clock is fast: on a machine that stands still for seconds a batch is stuck as well, and the ladder another."""


def remedies(done: Done) -> list[tuple[str, str]]:
    """What was done about crawls, in order, and what became of it."""
    return [(event["action"], event["outcome"]) for event in done.of("action") if event["action"] != "DETECT"]


def down_the_ladder(rig: Rig) -> Done:
    """A build that takes every rung, each at a boundary."""
    rungs = [(kind, "applied") for kind in ("EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU")]
    small_second_shard(rig)
    done = rig.build(*QUICK, "--fault", SPILLS, seconds=120)
    for _ in range(MOST_BUILDS - 1):
        if remedies(done) == rungs:
            break
        shutil.rmtree(rig.out)
        done = rig.build(*QUICK, "--fault", SPILLS, seconds=120)
    assert done.code == 0, done.errors
    assert remedies(done) == rungs
    return done


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said when the command ends with 2."""
    assert main(["report", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line.removeprefix("helix-crawl: error: ")


def test_it_writes_a_page_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says in a line what the page says first."""
    page, png = tmp_path / "r.html", tmp_path / "r.png"
    assert main(["report", INCIDENT, "-o", str(page), "--png", str(png)]) == 0
    assert capsys.readouterr().out.splitlines() == ["1 crawl in 1 of 2 shards.", f"report: {page}", f"report: {png}"]
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 1000 <= int.from_bytes(content[16:20], "big") <= 2400


def test_without_a_file_to_write_nothing_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says what is accepted."""
    assert refused(capsys, "not there") == "where to? accepted: -o FILE.html, --png FILE.png, or both"


def test_what_is_no_timeline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Missing, empty, junk, without a batch: one sentence, exit code 2, no file."""
    page = tmp_path / "r.html"
    for name, content, complaint in (
        ("missing", None, "cannot be read"),
        ("empty", b"", "is empty"),
        ("junk", b"junk\n", "is not a timeline"),
        ("run", b'{"event":"run","version":1}\n', "has no batch, so there is nothing to report"),
    ):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        assert complaint in refused(capsys, str(file), "-o", str(page))
    assert not page.exists()


def test_what_cannot_be_written_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The timeline itself, a folder, a folder that is not there, a picture as a page."""
    own = tmp_path / "timeline.jsonl"
    own.write_bytes(lines(job_with_a_recycle()))
    assert "which is the timeline itself" in refused(capsys, str(own), "-o", str(own))
    assert "which is a folder" in refused(capsys, str(own), "-o", str(tmp_path))
    assert "a folder that exists" in refused(capsys, str(own), "--png", str(tmp_path / "no" / "r.png"))
    assert "made by --png" in refused(capsys, str(own), "-o", str(tmp_path / "r.png"))


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is optional: the message says how to get it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = refused(capsys, INCIDENT, "-o", str(tmp_path / "r.html"))
    assert said == "report needs matplotlib: pip install 'helix-crawl-otel[plot]'"


def test_a_torn_end_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A killed job leaves one: the report is made all the same, and says so."""
    own, page = tmp_path / "timeline.jsonl", tmp_path / "r.html"
    own.write_bytes(lines(job_with_a_recycle()) + b'{"event":"ba')
    assert main(["report", str(own), "-o", str(page)]) == 0
    assert "is cut short" in capsys.readouterr().err
    assert "is cut short" in page.read_text(encoding="utf-8")


def test_the_knobs_of_the_run_are_used_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    """A report is about what happened; a recorded value that is not accepted does not count."""
    own, page = tmp_path / "timeline.jsonl", tmp_path / "r.html"
    events = job_with_a_recycle()
    events[0]["config"] = {"factor": 4.0, "window": 6, "ema_alpha": "much"}
    own.write_bytes(lines(events))
    assert main(["report", str(own), "-o", str(page)]) == 0
    assert "factor 4, window 6, action ladder, vram_full 0.92, ema_alpha 0.3" in page.read_text(encoding="utf-8")
    assert main(["report", str(own), "-o", str(page), "--factor", "3"]) == 0
    assert "factor 3, window 6" in page.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc, which is Linux's")
@pytest.mark.timeout(600)
def test_a_report_of_a_real_build(rig: Rig, tmp_path: Path) -> None:
    """All rungs on the modelled card: each recorded action is a row, each new worker too, and the numbers are there."""
    done = down_the_ladder(rig)
    page = tmp_path / "r.html"
    timeline = rig.out / ".helix-crawl" / "timeline.jsonl"
    command = [*COMMAND, "report", str(timeline), "-o", str(page)]
    said = subprocess.run(command, capture_output=True, env=rig.environ, timeout=60, check=True)
    events = [json.loads(line) for line in timeline.read_text().splitlines()]
    actions = [event for event in events if event["event"] == "action"]
    crawls = sum(event["kind"] == "DETECT" for event in actions)
    assert said.stdout.decode().splitlines()[0] == f"{crawls} crawls in 1 of 2 shards."
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r'<tr><td data-is="#">(\d+)</td>.*?<td data-is="what">([^<]*)</td>', text)
    assert [int(number) for number, _ in rows] == list(range(1, len(actions) + 1))
    what = [text for _, text in rows]
    assert what.count("crawl detected") == crawls
    assert [word for word in what if word != "crawl detected"] == [
        "cache released",
        "worker recycled",
        "moved to the CPU",
    ]
    assert re.findall(r"new worker on (\S+) \((\w+)\)", text) == [("cuda:0", "recycle"), ("cpu", "demote")]
    assert f"{done.summary['encoded']} genes in" in text
    assert "window 4" in text
