"""TorchProbe against a stand-in of torch's CUDA module, and against the real one where it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cards import Description
from helix_crawl_otel.probes.probe import UNKNOWN
from helix_crawl_otel.probes.torch_cuda import TorchProbe, may_have_card
from tests.programs import require_installed


class Cuda:
    """What the probe may ask of `torch.cuda`. Any other function is missing: asking for it is an error."""

    def __init__(self, total: int = 100) -> None:
        self.initialized = True
        self.reserved = self.allocated = self.peak = 0
        self.total = total
        self.fraction = 1.0
        self.asked: list[tuple[str, int]] = []

    def hold(self, reserved: int, allocated: int = 0) -> None:
        self.reserved, self.allocated = reserved, allocated
        self.peak = max(self.peak, reserved)

    def is_initialized(self) -> bool:
        return self.initialized

    def memory_stats(self, device: int) -> dict[str, int]:
        self.asked.append(("memory_stats", device))
        return {
            "reserved_bytes.all.current": self.reserved,
            "reserved_bytes.all.peak": self.peak,
            "allocated_bytes.all.current": self.allocated,
            "allocated_bytes.all.peak": 1_000,
        }

    def get_per_process_memory_fraction(self, device: int) -> float:
        self.asked.append(("get_per_process_memory_fraction", device))
        return self.fraction

    def get_device_properties(self, device: int) -> SimpleNamespace:
        self.asked.append(("get_device_properties", device))
        return SimpleNamespace(total_memory=self.total)


@pytest.fixture
def cuda() -> Cuda:
    """A card of 100 bytes in use."""
    return Cuda()


@pytest.fixture
def probe(cuda: Cuda) -> TorchProbe:
    """A probe in a process that has loaded that torch."""
    return TorchProbe("cuda:0", modules={"torch": SimpleNamespace(cuda=cuda)})


def test_reserved_is_used_and_the_card_is_the_limit(probe: TorchProbe, cuda: Cuda) -> None:
    """The cache counts: it is what the card gives up."""
    cuda.hold(60, allocated=20)
    assert probe() == MemoryReading(60, 100, reserved_bytes=60)
    assert probe.why is None


def test_more_than_the_card_has_is_read_as_such(probe: TorchProbe, cuda: Cuda) -> None:
    """10 of 8 GiB is the near-proof of a spill, and must not be cut off at the limit."""
    cuda.hold(125)
    assert probe().fraction == 1.25


def test_the_card_of_the_probe_is_asked(cuda: Cuda) -> None:
    """`cuda:3` asks for card 3, and once a reading: figures of two moments would not fit each other."""
    TorchProbe("cuda:3", modules={"torch": SimpleNamespace(cuda=cuda)})()
    assert cuda.asked == [
        ("get_device_properties", 3),
        ("memory_stats", 3),
        ("get_per_process_memory_fraction", 3),
    ]


@pytest.mark.parametrize(("fraction", "cap"), [(1.0, None), (0.57, 57), (0.0, 1)])
def test_the_allocators_cap_is_read_whoever_has_set_it(
    probe: TorchProbe, cuda: Cuda, fraction: float, cap: int | None
) -> None:
    """By us, by the job, or by PYTORCH_CUDA_ALLOC_CONF; all of the card is no cap."""
    cuda.fraction = fraction
    cuda.hold(40)
    reading = probe()
    assert (reading.reserved_bytes, reading.cap_bytes) == (40, cap)
    assert reading.limit_bytes == 100


def test_a_torch_that_cannot_tell_its_cap_is_read_all_the_same(
    probe: TorchProbe, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions can set it and not tell it."""
    monkeypatch.delattr(Cuda, "get_per_process_memory_fraction")
    cuda.hold(40)
    assert probe() == MemoryReading(40, 100, reserved_bytes=40)


def test_a_peak_between_two_readings_is_seen(probe: TorchProbe, cuda: Cuda) -> None:
    """A release just before the reading does not hide what was reserved a moment earlier."""
    cuda.hold(40)
    probe()
    cuda.hold(95)
    cuda.hold(10)
    assert probe().used_bytes == 95


def test_a_peak_is_seen_once(probe: TorchProbe, cuda: Cuda) -> None:
    """The peak counter never falls by itself: an old peak is not a new reading."""
    probe()
    cuda.hold(95)
    cuda.hold(10)
    probe()
    assert probe().used_bytes == 10


def test_a_peak_of_before_the_first_reading_is_not_seen(probe: TorchProbe, cuda: Cuda) -> None:
    """It may be from an hour ago."""
    cuda.hold(95)
    cuda.hold(10)
    assert probe().used_bytes == 10


def test_a_peak_after_the_job_reset_its_statistics_is_seen(probe: TorchProbe, cuda: Cuda) -> None:
    """The job may reset its peaks; a counter that fell shows what was reached since."""
    cuda.hold(95)
    probe()
    cuda.hold(10)
    cuda.peak = cuda.reserved
    cuda.hold(50)
    cuda.hold(20)
    assert probe().used_bytes == 50


def test_the_jobs_statistics_are_left_alone(probe: TorchProbe, cuda: Cuda) -> None:
    """The peak belongs to the job: reading it changes nothing, and the stand-in has no function to reset it."""
    cuda.hold(95)
    cuda.hold(10)
    probe()
    probe()
    assert cuda.peak == 95
    assert not hasattr(cuda, "reset_peak_memory_stats")


@pytest.mark.parametrize("modules", [{}, {"torch": None}, {"torch": SimpleNamespace()}])
def test_a_process_without_torch_is_unknown(modules: dict[str, Any]) -> None:
    """Not loaded, refused, or half loaded by another thread."""
    probe = TorchProbe("cuda", modules=modules)
    assert probe() == UNKNOWN
    assert probe.why == "torch is not loaded in this process"


def test_a_process_that_does_not_use_cuda_is_unknown_and_stays_so(probe: TorchProbe, cuda: Cuda) -> None:
    """Asking for properties would start CUDA: nothing is asked before the job has."""
    cuda.initialized = False
    assert probe() == UNKNOWN
    assert probe.why == "torch does not use CUDA in this process"
    assert cuda.asked == []


def test_a_job_that_starts_cuda_later_is_read_from_then_on(probe: TorchProbe, cuda: Cuda) -> None:
    """Unknown is not for ever."""
    cuda.initialized = False
    probe()
    cuda.initialized = True
    cuda.hold(30)
    assert probe() == MemoryReading(30, 100, reserved_bytes=30)
    assert probe.why is None


def test_an_error_of_torch_is_unknown_and_the_last_value_is_forgotten(
    probe: TorchProbe, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken context raises from every call: no exception reaches the job, no old value stands."""
    cuda.hold(60, allocated=20)
    probe()

    def broken(device: int) -> dict[str, int]:
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronous")

    monkeypatch.setattr(cuda, "memory_stats", broken)
    assert probe() == UNKNOWN
    assert probe.why == "torch: RuntimeError: CUDA error: unspecified launch failure"


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda:-1", "gpu0", ""])
def test_a_wrong_device_is_refused_at_construction(device: str) -> None:
    """The message shows what was given."""
    with pytest.raises(ValueError, match="accepted") as refused:
        TorchProbe(device)
    assert repr(device) in str(refused.value)


def test_statistics_without_the_figures_are_unknown(
    probe: TorchProbe, cuda: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch answers with an empty table where CUDA has ended meanwhile: unknown, not 0."""
    monkeypatch.setattr(cuda, "memory_stats", lambda device: {})
    assert probe() == UNKNOWN
    assert probe.why == "torch: KeyError: 'reserved_bytes.all.current'"


def test_the_real_torch_without_cuda_in_use_is_unknown() -> None:
    """What is asked exists in the real torch, and asking starts nothing."""
    require_installed("torch", "helix-crawl-otel[torch]")
    program = (
        "import inspect, torch\n"
        "from helix_crawl_otel.build.devices import torch_build\n"
        "from helix_crawl_otel.probes.torch_cuda import TorchProbe\n"
        "probe = TorchProbe('cuda:0')\n"
        "reading = probe()\n"
        "assert callable(torch.cuda.get_device_properties)\n"
        "assert torch_build() == (f'CUDA {torch.version.cuda}' if torch.version.cuda else '')\n"
        "for name in ('set_per_process_memory_fraction', 'get_per_process_memory_fraction', 'memory_reserved'):\n"
        "    assert list(inspect.signature(getattr(torch.cuda, name)).parameters)[-1] == 'device', name\n"
        "assert torch.cuda.memory_stats(0) == {}\n"
        "for function, key in (('memory_reserved', 'reserved_bytes.all.current'),\n"
        "                      ('max_memory_reserved', 'reserved_bytes.all.peak')):\n"
        "    assert key in inspect.getsource(getattr(torch.cuda, function)), key\n"
        "assert not torch.cuda.is_initialized()\n"
        "print(reading.used_bytes, reading.limit_bytes, probe.why)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "None None torch does not use CUDA in this process\n"


@pytest.mark.parametrize("is_there", [False, True])
def test_whether_a_process_may_be_on_a_card(is_there: bool) -> None:
    """Where NVML sees one, or the torch that is loaded can use one; a torch that fails knows of none."""

    def fails() -> bool:
        raise RuntimeError("no driver")

    card: Any = SimpleNamespace(visible=["a card"] if is_there else [])
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: is_there))
    broken = SimpleNamespace(cuda=SimpleNamespace(is_available=fails))
    if not Path("/dev/kfd").exists():
        assert may_have_card({}, {}, lambda _: card) is is_there
        assert may_have_card({}, {"torch": torch}, lambda _: Description()) is is_there
        assert not may_have_card({}, {"torch": broken}, lambda _: Description())
