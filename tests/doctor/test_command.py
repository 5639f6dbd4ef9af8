"""`helix-crawl doctor`, typed on this machine, without a card and with the stand-in for NVML."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.standins.nvml import GIB, TCC, WDDM, Answers, Card, Process, build

MIB = 1024**2


def doctor(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "helix_crawl_otel", "doctor", *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, env={**os.environ, **environ}
    )


def by_topic(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What `--json` says, by topic."""
    found = json.loads(done.stdout)
    return {check["topic"]: check for check in found["checks"]}


def test_it_works_on_this_machine(tmp_path: Path) -> None:
    """Every line has the keys that scripts rely on, and the exit code says whether there is a problem."""
    done = doctor("--json", "--metrics-port", "0", "--out", str(tmp_path / "not" / "there"))
    found = json.loads(done.stdout)
    assert done.returncode == (1 if found["verdict"] == "problem" else 0), done.stderr
    assert all(set(check) == {"topic", "fact", "verdict", "advice", "source"} for check in found["checks"])
    assert by_topic(done)["output"]["verdict"] in ("ok", "warn")
    assert not (tmp_path / "not").exists(), "nothing is made"


def test_the_lines_for_people(tmp_path: Path) -> None:
    """A verdict and a topic at the start of a line, the advice below, a count at the end."""
    done = doctor("--out", str(tmp_path), HELIX_BFM_CRAWL_FACTOR="0.5")
    assert done.returncode == 1
    assert "HELIX_BFM_CRAWL_FACTOR is '0.5'; accepted: a number > 1" in " ".join(done.stdout.split())
    assert done.stdout.strip().splitlines()[-1].startswith("1 problem, ")
    # An address is not cut.
    assert all(len(line) <= 130 for line in done.stdout.splitlines() if "(https://" not in line)


def test_a_port_that_is_taken() -> None:
    """The real port of this machine is tried."""

    def verdict(port: int) -> object:
        return by_topic(doctor("--json", "--metrics-port", str(port)))["metrics"]["verdict"]

    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert verdict(port) == "warn"
    assert verdict(port) == "ok"


def test_a_card_behind_the_real_pynvml(tmp_path: Path) -> None:
    """Size, model and memory as the library says them; with a driver that spills, the way out."""
    library = build(tmp_path)
    card = Card(total=24 * GIB, used=3 * GIB, reserved=0, model=0)
    environ = Answers(tmp_path / "answers", [card]).environ(library)
    done = doctor("--json", **environ)
    found = by_topic(done)
    assert done.returncode == (1 if "problem" in {one["verdict"] for one in found.values()} else 0), done.stderr
    assert found["nvml"]["fact"] == "driver 610.43, 1 card"
    assert found["cuda:0"]["fact"] == "NVIDIA GeForce RTX 3080 Ti, 24.0 GiB, WDDM"
    assert found["cuda:0"]["verdict"] == "warn"
    assert found["cuda:0 memory"]["fact"].startswith("3.0 of 24.0 GiB in use; 22.1 GiB count as full")


@pytest.mark.parametrize(
    ("model", "fact"),
    [
        (
            WDDM,
            "per-process values are not available under WDDM; on the card: python.exe (pid 4711), dwm.exe (pid 812)",
        ),
        (TCC, "python.exe (pid 4711) 2900 MiB, dwm.exe (pid 812) 35 MiB"),
        (None, "python.exe (pid 4711) 2900 MiB, dwm.exe (pid 812) 35 MiB"),
    ],
)
def test_who_holds_a_card(tmp_path: Path, model: int | None, fact: str) -> None:
    """By name and size where the driver tells; 2^64-1 is nowhere shown as a number."""
    library = build(tmp_path)
    holders = (Process(4711, 2900 * MIB, r"C:\venv\python.exe"), Process(812, 35 * MIB, r"C:\Windows\dwm.exe", "G"))
    environ = Answers(tmp_path / "answers", [Card(model=model, processes=holders)]).environ(library)
    done = doctor("--json", **environ)
    assert by_topic(done)["cuda:0 processes"]["fact"] == fact
    assert "18446744073709551615" not in done.stdout
    assert "17592186044416" not in done.stdout, "the same in MiB"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Nothing can be made below a file; the sentence is the system's."""
    (tmp_path / "file").write_text("")
    done = doctor("--json", "--out", str(tmp_path / "file" / "out"))
    assert done.returncode == 1
    assert by_topic(done)["output"]["verdict"] == "problem"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"], "and nothing is left behind"


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: runs under Wine")
def test_a_drive_that_is_not_there() -> None:
    """Its name, instead of a file that was not found."""
    drive = next(f"{letter}:\\" for letter in "QRSTUVWX" if not Path(f"{letter}:\\").exists())
    found = by_topic(doctor("--json", "--out", f"{drive}shards"))["output"]
    assert found["fact"] == f"{drive}shards cannot be written: there is no {drive}"


def test_words_that_are_copied_stay_whole(tmp_path: Path) -> None:
    """An address or an option that is cut by the end of a line leads nowhere."""
    library = build(tmp_path)
    card = Card(total=12 * GIB, model=WDDM, processes=(Process(4711),))
    shown = doctor(**Answers(tmp_path / "answers", [card]).environ(library)).stdout.split()
    assert "--cpu-below-gib" in shown
    assert "(https://nvidia.custhelp.com/app/answers/detail/a_id/5490)" in shown
    assert not [word for word in shown if word.endswith("-") and word != "-"]


def test_a_lost_card_and_one_with_unified_memory(tmp_path: Path) -> None:
    """The first is a problem, the second has nothing to spill to."""
    library = build(tmp_path)
    answers = Answers(tmp_path / "answers", [Card()])
    answers.fail(nvmlDeviceGetMemoryInfo_v2=3, nvmlDeviceGetMemoryInfo=3)
    assert by_topic(doctor("--json", **answers.environ(library)))["cuda:0 memory"]["verdict"] == "ok"
    answers.fail(nvmlDeviceGetMemoryInfo_v2=15, nvmlDeviceGetMemoryInfo=15)
    done = doctor("--json", **answers.environ(library))
    lost = by_topic(done)["cuda:0"]
    assert (lost["verdict"], done.returncode) == ("problem", 1)
    assert lost["fact"].endswith("NVML: GPU is lost (error 15 from nvmlDeviceGetMemoryInfo)")
    assert "restart the machine" in lost["advice"]
