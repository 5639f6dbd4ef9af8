"""Probes of plain callables, and several together: which reading wins, whose limit counts, what a failure does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.probe import UNKNOWN, CallableProbe, CombinedProbe, Probe, ProbeFailure


class Fixed(Probe):
    """A probe that answers what it is told: a reading, anything else, or an exception."""

    def __init__(self, source: str, answer: object = UNKNOWN, why: str | None = None, device: str = "cuda:0") -> None:
        super().__init__(device)
        self.source = source
        self.answer = answer
        self.reason = why
        self.calls = 0

    def _read(self) -> MemoryReading:
        self.calls += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        if self.reason is not None:
            raise ProbeFailure(self.reason)
        return self.answer  # type: ignore[return-value]  # a probe may answer nonsense: that is what is tested


def nvml(used: int | None, limit: int | None, why: str | None = None) -> Fixed:
    """The device-wide probe."""
    return Fixed("nvml", MemoryReading(used, limit), why)


def torch(used: int | None, limit: int | None, why: str | None = None) -> Fixed:
    """The framework's probe."""
    return Fixed("torch", MemoryReading(used, limit), why)


@pytest.mark.parametrize(
    ("device_wide", "framework", "combined"),
    [
        ((110, 120), (30, 118), (110, 120)),  # another process fills the card
        ((50, 120), (70, 118), (70, 120)),  # NVML lags behind; its limit counts
        ((118, 120), (130, 118), (130, 118)),  # the framework holds more than the card has
        ((118, 120), (119, 118), (119, 118)),  # more than it can get, though less than is printed on the card
        ((119, 120), (118, 118), (119, 120)),  # exactly full is no proof: NVML's limit counts
        ((50, 120), (130, 125), (130, 120)),  # more than either limit: the smaller one counts
        ((None, None), (70, 118), (70, 118)),
        ((110, 120), (None, None), (110, 120)),
        ((110, 120), (70, None), (110, 120)),
        ((50, 120), (70, None), (70, 120)),
        ((None, 120), (70, 118), (70, 120)),
        ((50, None), (None, 118), (50, 118)),
        ((None, None), (None, None), (None, None)),
        ((None, 120), (None, None), (None, 120)),
        ((0, 120), (0, 118), (0, 120)),
    ],
)
def test_which_reading_wins(
    device_wide: tuple[int | None, int | None],
    framework: tuple[int | None, int | None],
    combined: tuple[int | None, int | None],
) -> None:
    """The fuller of the known ones, against NVML's limit, unless the framework holds more than it can have."""
    assert CombinedProbe([nvml(*device_wide), torch(*framework)])() == MemoryReading(*combined)


bytes_or_unknown = st.one_of(st.none(), st.integers(1, 200))


@given(st.lists(st.tuples(bytes_or_unknown, bytes_or_unknown), min_size=1, max_size=4))
def test_the_combination_is_never_emptier_than_any_known_used_of_its_limit(
    pairs: list[tuple[int | None, int | None]],
) -> None:
    """A full reading of any probe is never diluted by another one."""
    probes: list[Probe] = [Fixed(f"p{number}", MemoryReading(*pair)) for number, pair in enumerate(pairs)]
    combined = CombinedProbe(probes)()
    limit = next((known for _, known in pairs if known is not None), None)
    used = [known for known, _ in pairs if known is not None]
    assert (combined.used_bytes is None) == (not used)
    if used and limit is not None:
        assert combined.fraction is not None
        assert combined.fraction >= max(used) / limit
    if any(used is not None and limit is not None and used > limit for used, limit in pairs):
        assert (combined.fraction or 0.0) > 1.0


def test_shared_memory_is_the_first_probes_that_knows_of_any() -> None:
    """Whichever probe wins for the dedicated memory; unknown where none knows."""
    plain, telling = MemoryReading(11, 12), MemoryReading(1, 12, 0, 5)
    late = MemoryReading(None, None, 7, None)
    assert CombinedProbe([Fixed("one", plain), Fixed("two", telling), Fixed("three", late)])() == MemoryReading(
        11, 12, 0, 5
    )
    assert CombinedProbe([Fixed("one", plain)])() == plain
    assert CombinedProbe([Fixed("one", late)])().shared_bytes == 7


def test_what_an_allocator_holds_is_told_beside_the_cards_memory() -> None:
    """NVML is the fuller one and knows nothing of it; what one probe says of it stays together."""
    card, framework = MemoryReading(11, 12), MemoryReading(5, 12, reserved_bytes=5, cap_bytes=10)
    late = MemoryReading(None, None, reserved_bytes=7)
    probes: list[Probe] = [Fixed("one", card), Fixed("two", framework), Fixed("three", late)]
    combined = CombinedProbe(probes)()
    assert combined == MemoryReading(11, 12, reserved_bytes=5, cap_bytes=10)
    assert combined.cap_fraction == 0.5


def test_every_probe_is_asked_at_each_call() -> None:
    """None is skipped because another one already said full."""
    probes = [nvml(119, 120), torch(130, 118)]
    combined = CombinedProbe(probes)
    combined()
    combined()
    assert [probe.calls for probe in probes] == [2, 2]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (RuntimeError("driver gone\nmore"), "nvml: the probe raised RuntimeError: driver gone"),
        (OSError(), "nvml: the probe raised OSError"),
        (0.95, "nvml: the probe answered 0.95, which is no MemoryReading"),
        (None, "nvml: the probe answered None, which is no MemoryReading"),
    ],
)
def test_a_probe_that_breaks_is_unknown_and_the_others_go_on(answer: object, why: str) -> None:
    """No exception reaches the caller; the reason is remembered."""
    combined = CombinedProbe([Fixed("nvml", answer), torch(70, 100)])
    assert combined() == MemoryReading(70, 100)
    assert combined.why == why
    assert combined.sources() == {"nvml": False, "torch": True}


def test_an_interrupt_is_not_swallowed() -> None:
    """Ctrl-C during a reading is the user's."""
    with pytest.raises(KeyboardInterrupt):
        CombinedProbe([Fixed("nvml", KeyboardInterrupt())])()


def test_sources_follow_the_last_reading() -> None:
    """Down before the first reading, then as each probe did last: what the gauge probe_up shows."""
    first, second = nvml(50, 120), torch(None, None, "torch is not loaded")
    combined = CombinedProbe([first, second])
    assert combined.sources() == {"nvml": False, "torch": False}
    combined()
    assert combined.sources() == {"nvml": True, "torch": False}
    first.answer, second.answer, second.reason = UNKNOWN, MemoryReading(1, 2), None
    combined()
    assert combined.sources() == {"nvml": False, "torch": True}


def test_sources_are_a_copy() -> None:
    """A caller that changes what it was given changes nothing here."""
    combined = CombinedProbe([nvml(50, 120)])
    combined.sources().clear()
    assert combined.sources() == {"nvml": False}


def test_the_reasons_of_all_that_are_down_are_told() -> None:
    """Each with its source, once."""
    combined = CombinedProbe([nvml(None, None, "NVML: GPU is lost"), torch(None, None, "not loaded")])
    assert combined() == UNKNOWN
    assert combined.why == "NVML: GPU is lost; torch: not loaded"


def test_an_unknown_reading_without_a_reason_gets_one() -> None:
    """Nobody is left with an unknown value and no word."""
    combined = CombinedProbe([nvml(None, None)])
    combined()
    assert combined.why == "nvml: the probe knows no value"


def test_a_reason_is_forgotten_when_all_is_well_again() -> None:
    """`why` speaks of the last reading only."""
    probe = Fixed("nvml", RuntimeError("once"))
    combined = CombinedProbe([probe])
    combined()
    probe.answer = MemoryReading(1, 2)
    combined()
    assert combined.why is None


def test_the_device_is_that_of_the_probes() -> None:
    """A combination is of one device."""
    assert CombinedProbe([nvml(1, 2)]).device == "cuda:0"


# -- of a plain callable -----------------------------------------------------------------------------------------------


def test_a_plain_callable_becomes_a_probe() -> None:
    """What CrawlWatch takes as `memory`."""
    probe: Probe = CallableProbe(lambda: MemoryReading(1, 2), "cuda:0")
    assert probe() == MemoryReading(1, 2)
    assert (probe.source, probe.device, probe.why) == ("custom", "cuda:0", None)


def _raise() -> MemoryReading:
    raise LookupError("no such sensor\nmore")


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (_raise, "the probe raised LookupError: no such sensor"),
        (lambda: (1, 2), "the probe answered (1, 2), which is no MemoryReading"),
        (lambda: MemoryReading(-1, 2), "the probe raised ValueError: MemoryReading.used_bytes is -1"),
        (lambda: UNKNOWN, "the probe knows no value"),
    ],
)
def test_a_callable_that_fails_is_unknown(read: Callable[[], MemoryReading], why: str) -> None:
    """Somebody's callable may do anything: the job sees a reading and a reason."""
    probe = CallableProbe(read, "cuda:0")
    assert probe() == UNKNOWN
    assert probe.why is not None
    assert probe.why.startswith(why)
