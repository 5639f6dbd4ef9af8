"""The cap on torch's allocator: its formula, who sets it, how it follows what others hold. On a modelled allocator."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel import CrawlWatch, cap_vram
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes import vram_cap
from helix_crawl_otel.probes.device import DeviceName
from helix_crawl_otel.probes.probe import ProbeFailure
from helix_crawl_otel.probes.torch_cuda import TorchProbe, allocator_cap, set_allocator_cap
from helix_crawl_otel.probes.vram_cap import (
    CONTEXT_BYTES,
    CapKeeper,
    CardRoom,
    cap_bytes,
    cap_for_worker,
    fraction_of,
    refresh_cap,
    set_by_user,
)
from tests.standins.allocator import GIB, Card, CardProbe, Cuda, OutOfMemoryError, torch_of

MIB = 1024**2
NAME = DeviceName("cuda", 0)


# -- the formula -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fraction", "room", "workers", "most"),
    [
        (0.95, CardRoom(10 * GIB), 1, 9.5),
        (0.95, CardRoom(10 * GIB, budget_bytes=9 * GIB), 1, 9.0),
        (0.95, CardRoom(10 * GIB, budget_bytes=11 * GIB), 1, 9.5),
        (1.0, CardRoom(4 * GIB, own_bytes=6 * GIB), 1, 10.0),
        (0.5, CardRoom(4 * GIB, own_bytes=6 * GIB), 1, 5.0),
        (1.0, CardRoom(4 * GIB, own_bytes=6 * GIB), 2, 8.0),
    ],
)
def test_the_cap(fraction: float, room: CardRoom, workers: int, most: float) -> None:
    """A fraction of what is free or its own, at most the driver's budget, less the context; what is free is shared."""
    assert cap_bytes(fraction, room, workers) == int(most * GIB) - CONTEXT_BYTES


def test_a_card_without_room_has_a_cap_that_nothing_fits_under() -> None:
    """Every request raises, and is answered; without a cap it would spill."""
    assert cap_bytes(0.95, CardRoom(CONTEXT_BYTES // 2)) == 1
    assert cap_bytes(0.95, CardRoom(10 * GIB, budget_bytes=0)) == 1


@pytest.mark.parametrize(
    ("setting", "model", "fraction"),
    [
        ("auto", "WDDM", 0.95),
        ("auto", "MCDM", 0.95),
        ("auto", "TCC", None),
        ("auto", None, None),
        ("off", "WDDM", None),
        (0.8, None, 0.8),
        (1.0, "TCC", 1.0),
    ],
)
def test_what_the_knob_comes_to(setting: float | str, model: str | None, fraction: float | None) -> None:
    """`auto` caps where a full card may spill; a number caps everywhere."""
    assert fraction_of(setting, model) == fraction


@given(cap=st.integers(1, 200 * GIB), more=st.integers(1, 100 * GIB))
def test_torch_comes_to_the_same_byte(cap: int, more: int) -> None:
    """It takes a fraction of its own total, and cuts the product down: never beyond the cap, and not below it."""
    cuda = Cuda(Card(cap + more))
    set_allocator_cap(cuda, 0, cap + more, cap)
    assert cuda.allowed(0) == cap
    assert allocator_cap(cuda, 0, cap + more) == cap


def test_a_torch_that_cannot_tell_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.6: what this process has set is what holds."""
    monkeypatch.setattr("helix_crawl_otel.probes.torch_cuda._set_here", {})
    monkeypatch.delattr(Cuda, "get_per_process_memory_fraction")
    cuda = Cuda(Card(), Card())
    cuda.initialized = True
    set_allocator_cap(cuda, 1, 12 * GIB, 7 * GIB)
    probes = [TorchProbe(f"cuda:{index}", {"torch": torch_of(cuda)}) for index in (0, 1)]
    assert [probe().cap_bytes for probe in probes] == [None, 7 * GIB]


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, None),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, None),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True, per_process_memory_fraction:0.90"},
            "PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.90",
        ),
        (
            {"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.5"},
            "PYTORCH_ALLOC_CONF=per_process_memory_fraction:0.5",
        ),
    ],
)
def test_the_users_own_setting_is_found(environ: dict[str, str], told: str | None) -> None:
    """By either name of the variable."""
    assert set_by_user(environ) == told


# -- how it is kept ----------------------------------------------------------------------------------------------------


class Job:
    """A process that encodes under a cap, on a card that others use; looks happen at once, time by hand."""

    def __init__(self, card: Card | None = None, budget: int | None = None, **cuda: Any) -> None:
        self.card = card or Card()
        self.cuda = Cuda(self.card, **cuda)
        self.probe = CardProbe(self.card)
        self.budget = budget
        self.now = 0.0
        self.waiting: list[Callable[[], None]] = []
        self.keeper = CapKeeper(NAME, self.probe, self.cuda, lambda: self.now, self.waiting.append, self._budget)

    def _budget(self, ordinal: int) -> int:
        assert ordinal == 0
        if self.budget is None:
            raise ProbeFailure("none")
        return self.budget

    def later(self, seconds: float = 30.0) -> int | None:
        """Two boundaries with a look between them. Returns the cap."""
        self.now += seconds
        self.keeper.refresh()
        while self.waiting:
            self.waiting.pop()()
        self.keeper.refresh()
        return self.cuda.allowed(0)


def test_a_worker_that_would_spill_raises() -> None:
    """Without the cap the card holds more than it has; under it what is cached goes back first, then it raises."""
    free = Job()
    for size in (5, 6, 7):
        free.cuda.allocate(size * GIB)
        free.cuda.free(size * GIB)
    assert free.card.used > free.card.total

    capped = Job()
    assert capped.keeper.begin(0.95, 1) == int(0.95 * 11 * GIB) - CONTEXT_BYTES
    for size in (5, 6, 7):
        capped.cuda.allocate(size * GIB)
        capped.cuda.free(size * GIB)
    assert capped.cuda.flushes == 2
    with pytest.raises(OutOfMemoryError):
        capped.cuda.allocate(10 * GIB)
    assert capped.card.used < capped.card.total
    capped.cuda.allocate(5 * GIB)


def test_the_cap_is_of_the_cards_memory_and_not_of_torchs_idea_of_it() -> None:
    """NVML's total holds what the driver keeps for itself, torch's does not: bytes are converted, not fractions."""
    job = Job(Card(reserved_by_driver=GIB // 2))
    assert job.keeper.begin(0.95, 1) == int(0.95 * 11 * GIB) - CONTEXT_BYTES == job.cuda.allowed(0)


def test_the_drivers_budget_counts_where_it_is_less() -> None:
    """Windows' for this process."""
    job = Job(budget=8 * GIB)
    assert job.keeper.begin(0.95, 1) == 8 * GIB - CONTEXT_BYTES
    job.budget = 6 * GIB
    assert job.later() == 6 * GIB - CONTEXT_BYTES


def test_a_job_that_holds_memory_already_keeps_it() -> None:
    """What is its own counts as free: a cap that is set late is the one that was set early."""
    early, late = Job(), Job()
    late.cuda.allocate(4 * GIB)
    late_cap, early_cap = late.keeper.begin(0.95, 1), early.keeper.begin(0.95, 1)
    assert abs(late_cap - early_cap) < MIB * 100


def test_a_cap_that_the_job_has_set_itself_stays() -> None:
    """By the function, or by the variable of torch: it is told, and nothing is moved later either."""
    job = Job(fraction=0.25)
    assert job.keeper.begin(0.95, 1) == 3 * GIB
    job.card.others = 11 * GIB
    assert job.later() == 3 * GIB


def test_a_cap_that_the_job_changes_later_is_the_jobs_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    """It has its reasons."""
    job = Job()
    job.keeper.begin(0.95, 1)
    job.cuda.set_per_process_memory_fraction(0.5, 0)
    job.card.others = 8 * GIB
    assert job.later() == 6 * GIB
    assert "was changed by the job" in caplog.text
    assert job.later() == 6 * GIB
    assert job.waiting == []


def test_others_that_take_memory_lower_it_at_the_next_boundary(caplog: pytest.LogCaptureFixture) -> None:
    """And what is cached beyond the new cap goes back first: torch would keep it, and refuse all that is new."""
    job = Job()
    job.keeper.begin(0.95, 1)
    job.cuda.allocate(2 * GIB)
    job.cuda.allocate(5 * GIB)
    job.cuda.free(5 * GIB)
    job.card.others = 4 * GIB + 400 * MIB
    assert job.card.used < job.card.total
    cap = job.later()
    assert cap is not None
    assert cap < 7 * GIB
    assert (job.cuda.flushes, job.cuda.memory_reserved(0)) == (1, 2 * GIB)
    assert "others hold more of cuda:0: torch may take" in caplog.text
    with pytest.raises(OutOfMemoryError):
        job.cuda.allocate(cap - GIB)
    job.cuda.allocate(cap - 2 * GIB)
    assert job.card.used <= job.card.total


def test_others_that_leave_raise_it_after_two_looks() -> None:
    """One that comes back at once finds the card as it was."""
    job = Job(Card(others=6 * GIB))
    low = job.keeper.begin(0.95, 1)
    job.card.others = GIB
    assert job.later() == low
    job.card.others = 6 * GIB
    assert job.later() == low
    job.card.others = 2 * GIB
    assert job.later() == low
    job.card.others = GIB
    assert job.later() == int(0.95 * 10 * GIB) - CONTEXT_BYTES, "the lower of the two"


@pytest.mark.parametrize("others", [GIB + 200 * MIB, GIB - 200 * MIB])
def test_small_changes_are_none(others: int) -> None:
    """A window that opens moves nothing."""
    job = Job()
    cap = job.keeper.begin(0.95, 1)
    job.card.others = others
    assert (job.later(), job.later()) == (cap, cap)


def test_nothing_is_read_between_two_looks() -> None:
    """A boundary costs nothing; every 30 s one look is begun, in the background, and its answer taken later."""
    job = Job()
    cap = job.keeper.begin(0.95, 1)
    job.card.others = 6 * GIB
    for second in range(30):
        job.now = float(second)
        job.keeper.refresh()
    assert (job.probe.reads, job.waiting) == (1, [])
    for now in (30.0, 31.0, 90.0):  # a driver that hangs: nothing waits, and no second look is begun
        job.now = now
        job.keeper.refresh()
    assert (job.probe.reads, len(job.waiting), job.cuda.allowed(0)) == (1, 1, cap)
    job.waiting.pop()()
    job.keeper.refresh()
    assert job.cuda.allowed(0) == int(0.95 * 6 * GIB) - CONTEXT_BYTES


def test_a_card_that_cannot_be_read_leaves_the_cap_as_it_is() -> None:
    """Unknown is neither more nor less, and it is looked again."""
    job = Job()
    cap = job.keeper.begin(0.95, 1)
    job.probe.broken = "NVML: GPU is lost"
    assert job.later() == cap
    job.probe.broken, job.card.others = None, 6 * GIB
    assert job.later() != cap


def test_a_reading_between_two_allocations_is_no_reading() -> None:
    """It would count a batch's memory twice, or not at all."""
    job = Job()
    cap = job.keeper.begin(0.95, 1)
    read = job.probe._read

    def reading() -> MemoryReading:
        found = read()
        job.cuda.allocate(GIB // 2)
        return found

    job.probe._read = reading  # type: ignore[method-assign]  # the encode goes on beside the look
    job.card.others = 6 * GIB
    assert job.later() == cap
    job.probe._read = read  # type: ignore[method-assign]  # and is over
    assert job.later() != cap


def test_several_workers_share_what_is_free() -> None:
    """Each keeps its own; together they never hold more than the card has."""
    card = Card()
    one, other = Job(card), Job(card)
    for job in (one, other):
        job.keeper.begin(0.95, 2)
    for job in (one, other):
        cap = job.cuda.allowed(0)
        assert cap is not None
        job.cuda.allocate(cap)
    assert card.used <= card.total


# -- who sets it -------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Job:
    """This process, with two such cards, of which the job is on the second; nothing of it is left behind."""
    job = Job()
    job.cuda = Cuda(Card(others=11 * GIB), job.card)
    job.card.processes = [job.cuda]
    monkeypatch.setitem(sys.modules, "torch", torch_of(job.cuda))
    monkeypatch.setattr(vram_cap, "_kept", {})
    monkeypatch.setattr(vram_cap, "_told", set())
    monkeypatch.setattr(vram_cap, "NvmlProbe", lambda device, environ: {"cuda:1": job.probe}[device])
    monkeypatch.setattr(vram_cap, "driver_model", lambda device, environ: {"cuda:1": "WDDM"}[device])
    for name in (vram_cap.VRAM_CAP, *vram_cap.ALLOCATOR):
        monkeypatch.delenv(name, raising=False)
    return job


CAP = int(0.95 * 11 * GIB) - CONTEXT_BYTES


@pytest.mark.parametrize("device", ["cuda:1", " CUDA:1", 1, SimpleNamespace(type="cuda", index=1)])
def test_a_job_caps_its_card(here: Job, device: Any) -> None:
    """By any of the names that `CrawlWatch.shard` takes; the other card is left alone."""
    assert cap_vram(device) == CAP
    assert (here.cuda.allowed(0), here.cuda.allowed(1)) == (None, CAP)
    assert cap_vram(device, 0.5) == int(0.5 * 11 * GIB) - CONTEXT_BYTES, "and again, with another fraction"


def test_the_knob_and_the_model_decide_without_a_fraction(here: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument wins over both."""
    monkeypatch.setenv(vram_cap.VRAM_CAP, "off")
    assert cap_vram("cuda:1") is None
    assert cap_vram("cuda:1", 0.95) == CAP
    monkeypatch.setenv(vram_cap.VRAM_CAP, "0.5")
    assert cap_vram("cuda:1") == int(0.5 * 11 * GIB) - CONTEXT_BYTES
    monkeypatch.delenv(vram_cap.VRAM_CAP)
    monkeypatch.setattr(vram_cap, "driver_model", lambda device, environ: None)
    assert cap_vram("cuda:1") is None


def test_a_workers_cap_is_the_knobs(here: Job) -> None:
    """Of several on the card each takes its share."""
    assert cap_for_worker("cuda:1", "auto", 1) == CAP
    assert cap_for_worker("cuda:1", 0.5, 2) == int(0.5 * 11 * GIB / 2) - CONTEXT_BYTES
    assert cap_for_worker("cuda:1", "off", 1) is None
    assert cap_for_worker("cpu", "auto", 1) is None


def test_the_boundary_moves_it(here: Job) -> None:
    """Of this device, and of no other."""
    assert cap_vram("cuda:1") == CAP
    keeper = vram_cap._kept["cuda:1"]
    keeper._clock, keeper._start = (lambda: 1e9), (lambda look: look())
    here.card.others = 6 * GIB
    for device in ("cuda:0", "cpu", "cuda:1", "cuda:1"):
        refresh_cap(device)
    assert here.cuda.allowed(1) == int(0.95 * 6 * GIB) - CONTEXT_BYTES


def test_every_boundary_of_a_watch_comes_by(here: Job) -> None:
    """Of the shard's own device; what goes wrong is counted, and does not reach the job."""
    assert cap_vram("cuda:1") == CAP
    keeper = vram_cap._kept["cuda:1"]
    came: list[str] = []

    def refresh() -> None:
        came.append("by")
        raise RuntimeError("CUDA error: unspecified launch failure")

    keeper.refresh = refresh  # type: ignore[method-assign]  # the device is in trouble
    with CrawlWatch(memory=lambda: MemoryReading(1, 2), tick_seconds=None) as watch:
        with watch.shard("a", device="cuda:1") as shard:
            assert (shard.boundary(), shard.boundary(), came) == ([], [], ["by", "by"])
        with watch.shard("b", device="cuda:0") as shard:
            shard.boundary()
    assert came == ["by", "by"]


def test_two_threads_at_a_boundary_do_not_wait_for_each_other(here: Job) -> None:
    """While one moves the cap, the other goes on."""
    job = Job()
    job.keeper.begin(0.95, 1)
    job.now = 1e9
    job.keeper._start = lambda look: job.keeper.refresh()
    job.keeper.refresh()
    assert job.probe.reads == 1


def test_what_is_no_card_has_no_cap(here: Job, caplog: pytest.LogCaptureFixture) -> None:
    """A job passes its device, whatever that is."""
    assert cap_vram("cpu") is None
    assert cap_vram("mps") is None
    assert caplog.text == ""


@pytest.mark.parametrize(("device", "fraction"), [("gpu", None), (-1, None), ("cuda:1", 0), ("cuda:1", 1.5), (1, "x")])
def test_a_wrong_argument_is_refused(device: Any, fraction: Any) -> None:
    """Before anything is asked; the message has what was given and what is accepted."""
    with pytest.raises(ValueError, match="accepted") as refused:
        cap_vram(device, fraction)
    assert repr(device if fraction is None else fraction) in str(refused.value)


def _without_torch(job: Job, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "torch", None)


def _without_cuda(job: Job, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "torch", torch_of(Cuda()))


def _with_one_card(job: Job, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "torch", torch_of(Cuda(Card())))


def _with_broken_nvml(job: Job, patch: pytest.MonkeyPatch) -> None:
    job.probe.broken = "NVML: GPU is lost (error 15)"


def _with_broken_torch(job: Job, patch: pytest.MonkeyPatch) -> None:
    def broken(index: int) -> None:
        raise RuntimeError("CUDA error: out of memory\nand more")

    patch.setattr(job.cuda, "get_device_properties", broken)


def _with_own_variable(job: Job, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PYTORCH_CUDA_ALLOC_CONF", "per_process_memory_fraction:0.90")


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (_without_torch, "torch is not installed"),
        (_without_cuda, "this torch can use no CUDA card"),
        (_with_one_card, "torch sees no cuda:1"),
        (_with_broken_nvml, "NVML: GPU is lost (error 15)"),
        (_with_broken_torch, "RuntimeError: CUDA error: out of memory"),
        (_with_own_variable, "PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.90"),
    ],
)
def test_where_it_cannot_be_set_the_job_goes_on_and_is_told_once(
    here: Job,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[Job, pytest.MonkeyPatch], None],
    why: str,
) -> None:
    """Nothing is raised into a loop of somebody else's."""
    trouble(here, monkeypatch)
    assert (cap_vram("cuda:1"), cap_vram("cuda:1")) == (None, None)
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "cuda:1" in line.getMessage()
    assert why in line.getMessage()
    assert here.cuda.allowed(1) is None
