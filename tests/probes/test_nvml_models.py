"""What follows from the driver model: the real pynvml on a stand-in that answers as WDDM, TCC, MCDM or Linux do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.probes.process import Reader
from tests.standins.nvml import GIB, MCDM, TCC, WDDM, Answers, Process, build

MIB = 1024**2
MODELS = [WDDM, TCC, MCDM, None]
Start = Callable[..., Reader]

HOLDERS = (
    Process(4711, 2900 * MIB, r"D:\someone\venv\python.exe", "C"),
    Process(812, 35 * MIB, "/usr/lib/xorg/Xorg", "G"),
    Process(90, 300 * MIB, "", "CG"),
)


@pytest.fixture(scope="module")
def library_without_version_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of a driver that lists processes by version 2 of the calls."""
    return build(tmp_path_factory.mktemp("nvml"), ["-DNO_V3"])


@pytest.mark.parametrize("model", MODELS)
def test_a_reading_is_that_of_the_whole_card_under_every_model(
    reader: Reader, answers: Answers, model: int | None
) -> None:
    """Used and total, whatever is known of single processes; and no process is asked for on the way."""
    answers.change(model=model, used=3 * GIB, reserved=0, processes=HOLDERS)
    assert reader.read() == {"used": 3 * GIB, "limit": 12 * GIB, "why": None}
    assert not [name for name in answers.calls() if "Process" in name]


@pytest.mark.parametrize("model", MODELS)
def test_a_reading_by_version_1_is_that_of_the_whole_card_too(
    start_reader: Start, old_nvml_library: Path, answers: Answers, model: int | None
) -> None:
    """Nor does it depend on the age of the driver."""
    answers.change(model=model, used=3 * GIB, reserved=0, processes=HOLDERS)
    assert start_reader(old_nvml_library).read() == {"used": 3 * GIB, "limit": 12 * GIB, "why": None}


@pytest.mark.parametrize(("model", "name"), [(WDDM, "WDDM"), (TCC, "TCC"), (MCDM, "MCDM"), (None, None)])
def test_the_driver_model_of_an_older_driver(
    start_reader: Start, old_nvml_library: Path, answers: Answers, model: int | None, name: str | None
) -> None:
    """It has version 1 of the call only."""
    answers.change(model=model)
    assert start_reader(old_nvml_library).ask("driver model") == name


@pytest.mark.parametrize("model", [TCC, None])
def test_processes_are_listed_by_size(reader: Reader, answers: Answers, model: int | None) -> None:
    """Those that compute and those that draw, each once, by the name of the program's file and no more."""
    answers.change(model=model, processes=HOLDERS)
    assert reader.ask("processes") == {
        "processes": [
            {"pid": 4711, "name": "python.exe", "used_bytes": 2900 * MIB, "computes": True},
            {"pid": 90, "name": None, "used_bytes": 300 * MIB, "computes": True},
            {"pid": 812, "name": "Xorg", "used_bytes": 35 * MIB, "computes": False},
        ],
        "why": None,
    }


def test_processes_under_wddm_have_no_size(reader: Reader, answers: Answers) -> None:
    """NVML answers 2^64-1 for each: unknown, neither a number nor 16 EiB. Those that compute come first."""
    answers.change(model=WDDM, processes=HOLDERS)
    listed = reader.ask("processes")["processes"]
    assert [(one["pid"], one["used_bytes"]) for one in listed] == [(90, None), (4711, None), (812, None)]


def test_a_size_is_unknown_for_one_process_only(reader: Reader, answers: Answers) -> None:
    """What is known of the others stands; the unknown one comes last."""
    answers.change(processes=(Process(1, None), Process(2, 5 * MIB)))
    listed = reader.ask("processes")["processes"]
    assert [(one["pid"], one["used_bytes"]) for one in listed] == [(2, 5 * MIB), (1, None)]


def test_a_process_on_two_parts_of_a_card_counts_once(reader: Reader, answers: Answers) -> None:
    """A card that is cut up (MIG) lists it for each part."""
    answers.change(processes=(Process(1, 5 * MIB), Process(1, 6 * MIB)))
    assert [one["used_bytes"] for one in reader.ask("processes")["processes"]] == [11 * MIB]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/usr/lib/app/encode --token secret", "encode"),
        (r"C:\Program Files\App\app.exe", "app.exe"),
        ("python3", "python3"),
        ("/" + "n" * 90, "n" * 40),
        ("/usr/bin/", "bin"),
        ("/", None),
    ],
)
def test_a_name_is_that_of_the_file(reader: Reader, answers: Answers, name: str, shown: str | None) -> None:
    """Folders name people, arguments may hold secrets, and the doctor's output goes into bug reports."""
    answers.change(processes=(Process(1, name=name),))
    assert [one["name"] for one in reader.ask("processes")["processes"]] == [shown]


def test_nobody_on_a_card(reader: Reader) -> None:
    """An empty list is an answer."""
    assert reader.ask("processes") == {"processes": [], "why": None}


def test_version_2_of_the_lists(start_reader: Start, library_without_version_3: Path, answers: Answers) -> None:
    """An older driver is asked by the older call."""
    answers.change(processes=HOLDERS)
    listed = start_reader(library_without_version_3).ask("processes")["processes"]
    assert [one["pid"] for one in listed] == [4711, 90, 812]


def test_no_list_is_a_reason(start_reader: Start, old_nvml_library: Path, reader: Reader, answers: Answers) -> None:
    """A driver that has none of the calls, or refuses them, says so instead of "nobody"."""
    reason = "NVML: this driver or binding has no nvmlDeviceGetComputeRunningProcesses"
    answers.change(processes=HOLDERS)
    assert start_reader(old_nvml_library).ask("processes") == {"processes": [], "why": reason}
    answers.fail(nvmlDeviceGetComputeRunningProcesses_v3=4)
    assert "Insufficient Permissions" in reader.ask("processes")["why"]


def test_a_card_that_cannot_draw_lists_those_that_compute(reader: Reader, answers: Answers) -> None:
    """The second list is refused there, and the first one stands."""
    answers.change(processes=HOLDERS)
    answers.fail(nvmlDeviceGetGraphicsRunningProcesses_v3=3)
    assert [one["pid"] for one in reader.ask("processes")["processes"]] == [4711, 90]


def test_processes_of_a_card_whose_memory_is_unknown(reader: Reader, answers: Answers) -> None:
    """Unified memory has no size, and 2^64-1 is unknown there too."""
    answers.change(processes=(Process(1, None), Process(2, 5 * MIB)))
    answers.fail(nvmlDeviceGetMemoryInfo_v2=3, nvmlDeviceGetMemoryInfo=3)
    assert [one["used_bytes"] for one in reader.ask("processes")["processes"]] == [5 * MIB, None]


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: runs under Wine")
def test_the_folder_of_older_drivers(start_reader: Start, nvml_library: Path, tmp_path: Path) -> None:
    """Where System32 has no nvml.dll, the one in the folder of their own is read."""
    nothing = {"WINDIR": str(tmp_path)}
    assert "error 12 from nvmlInit" in start_reader(nvml_library, **nothing).read()["why"]
    own = Path(os.environ["PROGRAMFILES"]) / "NVIDIA Corporation"  # Wine gives every process its own value
    if own.exists():
        pytest.skip("there is a real driver here")
    (own / "NVSMI").mkdir(parents=True)
    try:
        shutil.copyfile(nvml_library, own / "NVSMI" / "nvml.dll")
        reader = start_reader(nvml_library, **nothing)
        assert reader.read()["limit"] == 12 * GIB
        reader.end()  # a library that is loaded cannot be removed
    finally:
        shutil.rmtree(own)
