"""The tutorial runs as written: its files are saved, its commands typed, and what it says one sees is seen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

MOST_RUNS = 3
"""Its ladder goes by tenths of a second: on a machine that stands still for one, a batch is stuck as well as slow."""

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
FILE_BLOCK = re.compile(r"^```python file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT_BLOCK = re.compile(r"^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files() -> list[tuple[str, str]]:
    """Name and content of each file that the tutorial has its reader save, in order."""
    return FILE_BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))


def shown() -> list[list[str]]:
    """What the tutorial says one sees, as the fixed parts of each line, block by block."""
    blocks = TEXT_BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    return [[part.strip() for part in re.split("…|\n", block) if part.strip()] for block in blocks]


def missing(parts: list[str], text: str) -> str | None:
    """The first part that is not in the text after the one before it, `None` when all are."""
    at = 0
    for part in parts:
        found = text.find(part, at)
        if found < 0:
            return part
        at = found + len(part)
    return None


def start(folder: Path, name: str) -> subprocess.Popen[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "HELIX_"))}
    environ["PYTHONPATH"] = str(TUTORIAL.parents[1])
    return subprocess.Popen(
        [sys.executable, "-u", name],
        cwd=folder,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def replay(folder: Path, *options: str) -> str:
    """The output of `helix-crawl replay job.jsonl`."""
    done = subprocess.run(
        [sys.executable, "-m", "helix_crawl_otel", "replay", "job.jsonl", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TUTORIAL.parents[1]), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    return done.stdout


def summary(lines: str) -> dict[str, Any]:
    """The last line of `replay --json`."""
    found: dict[str, Any] = json.loads(lines.splitlines()[-1])
    return found


def test_a_missing_part_is_found() -> None:
    """The check of this file can fail: parts out of order or absent are named."""
    assert missing(["a", "b"], "a b") is None
    assert missing(["b", "a"], "a b") == "a"
    assert missing(["c"], "a b") == "c"


@pytest.mark.timeout(400)
def test_the_tutorial_runs_as_written(tmp_path: Path) -> None:
    """The second job detects the crawl, moves to the CPU, is scraped, and its timeline is replayed."""
    named = files()
    assert [name for name, _ in named] == ["encoder.py", "job.py", "job.py"]
    for name, content in named:  # the last job.py, with the four lines, stands at the end
        (tmp_path / name).write_text(content.replace("serve_metrics()", "serve_metrics(port=0)"), encoding="utf-8")
    log, metrics = shown()
    text, scraped = watched_job(tmp_path)
    for _ in range(MOST_RUNS - 1):
        if missing(log, text) is None:
            break
        text, scraped = watched_job(tmp_path)
    assert missing(log, text) is None, text
    assert missing(metrics, scraped) is None
    assert summary(replay(tmp_path, "--json"))["actions"]["DETECT"] == 1
    assert summary(replay(tmp_path, "--json", "--factor", "30"))["trips"] == 0
    assert "No crawl" in replay(tmp_path, "--factor", "30")


def watched_job(folder: Path) -> tuple[str, str]:
    """Run the second job to its end. Returns what it said, and what was scraped of it."""
    (folder / "job.jsonl").unlink(missing_ok=True)
    process = start(folder, "job.py")
    try:
        assert process.stdout is not None
        text = ""
        while "press Enter" not in text:
            letter = process.stdout.read(1)
            assert letter, f"the job ended early:\n{text}"
            text += letter
        url = re.search(r"http://\S+/metrics", text)
        assert url is not None
        with urllib.request.urlopen(url.group(), timeout=60) as answer:
            scraped = answer.read().decode()
        process.communicate("\n", timeout=100)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == 0
    return text, scraped


@pytest.mark.timeout(180)
def test_the_first_job_runs_as_written(tmp_path: Path) -> None:
    """The loop before the four lines is a whole program: it encodes and says where."""
    (encoder_name, encoder), (job_name, job), _ = files()
    (tmp_path / encoder_name).write_text(re.sub(r"time\.sleep\(.*?\)", "pass", encoder), encoding="utf-8")
    (tmp_path / job_name).write_text(job, encoding="utf-8")
    process = start(tmp_path, job_name)
    try:
        text, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, text
    assert "done on cuda:0" in text
