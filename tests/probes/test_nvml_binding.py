"""NvmlProbe against other bindings than the present one: none, an old one, one that fails in its own way."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from types import SimpleNamespace

import pytest

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cards import CardProcess, CardProcesses, describe, device_processes, listed_names
from helix_crawl_otel.probes.nvml import NvmlProbe
from helix_crawl_otel.probes.probe import UNKNOWN
from tests.probes.reader import driver_model
from tests.standins.nvml import NOT_AVAILABLE


class Mismatch(Exception):
    """What a binding raises beside its NVMLError."""


class OldError(Exception):
    """An NVMLError whose text cannot be had."""

    value = 15

    def __str__(self) -> str:
        raise OSError("the library is gone")


def binding(**functions: object) -> SimpleNamespace:
    """A module `pynvml` with one card of 100 bytes, 60 free, by version 1 only."""

    def memory(handle: object) -> SimpleNamespace:
        return SimpleNamespace(total=100, free=60, used=40)

    standard = {
        "NVMLError": OldError,
        "NVMLLibraryMismatchError": Mismatch,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: b"GPU-1",
        "nvmlDeviceGetName": lambda handle: b"card",
        "nvmlDeviceGetMemoryInfo": memory,
    }
    return SimpleNamespace(**{**standard, **functions})


def raising(error: BaseException) -> object:
    """A function that raises."""

    def function(*args: object) -> None:
        raise error

    return function


def test_the_binding_is_nvidias_package_and_imports_without_a_warning() -> None:
    """The package named pynvml is deprecated and makes torch warn; the module of that name is nvidia-ml-py's."""
    assert packages_distributions()["pynvml"] == ["nvidia-ml-py"]
    subprocess.run([sys.executable, "-W", "error", "-c", "import pynvml"], check=True)


def test_no_binding_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the reason names it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    probe = NvmlProbe("cuda", {})
    assert probe() == UNKNOWN
    assert probe.why == "the package nvidia-ml-py is not installed"
    assert describe({}).why == probe.why


def test_a_binding_older_than_version_2_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function takes no version: a TypeError, not an NVMLError."""
    monkeypatch.setitem(sys.modules, "pynvml", binding())
    assert NvmlProbe("cuda", {})() == MemoryReading(40, 100)


@pytest.mark.parametrize("error", [Mismatch("use a versioned function"), AttributeError("no such function")])
def test_a_mismatch_of_library_and_binding_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """NVMLLibraryMismatchError is no NVMLError; it counts as a missing function."""
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetMemoryInfo=raising(error)))
    probe = NvmlProbe("cuda", {})
    assert probe() == UNKNOWN
    assert probe.why == "NVML: this driver or binding has no nvmlDeviceGetMemoryInfo"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OldError(), "NVML: no text (error 15 from nvmlDeviceGetMemoryInfo)"),
        (OSError("access violation\nmore"), "NVML: nvmlDeviceGetMemoryInfo raised OSError: access violation"),
        (ValueError(), "NVML: nvmlDeviceGetMemoryInfo raised ValueError"),
    ],
)
def test_any_exception_of_the_binding_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    """Whatever a binding raises, the caller gets a reading and one line of reason."""
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetMemoryInfo=raising(error)))
    probe = NvmlProbe("cuda", {})
    assert probe() == UNKNOWN
    assert probe.why == why


def test_an_answer_that_is_no_structure_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an answer of another shape reach the caller as an exception."""
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetMemoryInfo=lambda *args: None))
    probe = NvmlProbe("cuda", {})
    assert probe() == UNKNOWN
    assert probe.why is not None
    assert "AttributeError" in probe.why


def test_an_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a reading is the user's, not a failure of the probe."""
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetMemoryInfo=raising(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        NvmlProbe("cuda", {})()


def test_the_version_1_of_the_driver_model_is_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without version 2 of the call still says WDDM."""
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetDriverModel_v1=lambda handle: [0, 1]))
    assert driver_model({}) == "WDDM"


def test_the_driver_model_by_the_oldest_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-ml-py 12.535, the oldest that is accepted, knows the call without a version only."""
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetDriverModel=lambda handle: [1, 1]))
    assert driver_model({}) == "TCC"


@pytest.mark.parametrize("used", [None, NOT_AVAILABLE, 101, "much"])
def test_a_size_that_cannot_be_is_unknown(monkeypatch: pytest.MonkeyPatch, used: object) -> None:
    """A binding may pass 2^64-1 on, and a process cannot hold more than the card has."""
    listed = [SimpleNamespace(pid=7, usedGpuMemory=used)]
    monkeypatch.setitem(sys.modules, "pynvml", binding(nvmlDeviceGetComputeRunningProcesses_v2=lambda handle: listed))
    assert device_processes("cuda:0", {}) == CardProcesses((CardProcess(7, None, None, computes=True),))


def test_processes_without_a_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is that of every other call."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_processes("cuda:0", {}) == CardProcesses((), "the package nvidia-ml-py is not installed")


def test_a_name_in_bytes_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bindings before 11.515 gave bytes, and a name may hold anything."""
    functions = {
        "nvmlDeviceGetComputeRunningProcesses_v2": lambda handle: [SimpleNamespace(pid=7, usedGpuMemory=1)],
        "nvmlSystemGetProcessName": lambda pid: b"/usr/lib/a\xffb\x1b[31m",
    }
    monkeypatch.setitem(sys.modules, "pynvml", binding(**functions))
    assert listed_names(device_processes("cuda:0", {}).processes) == "a\ufffdb\\x1b[31m (pid 7)"
