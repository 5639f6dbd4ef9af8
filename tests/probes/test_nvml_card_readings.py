"""What a card says beside its memory: each fact by itself, unknown where it does not answer; the real pynvml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.probes.process import Reader
from tests.standins.nvml import GIB, NOT_AVAILABLE, Answers, Card

CALLS = {
    "utilization": ["nvmlDeviceGetUtilizationRates"],
    "temperature": ["nvmlDeviceGetTemperature"],
    "power": ["nvmlDeviceGetPowerUsage"],
    "clocks": ["nvmlDeviceGetClockInfo"],
    "throttled": ["nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons"],
}
UNKNOWN: dict[str, Any] = {"utilization": None, "temperature": None, "power": None, "clocks": {}, "throttled": {}}
WHOLE = {
    "uuid": "GPU-00000000-0000-0000-0000-000000000000",
    "name": "NVIDIA GeForce RTX 3080 Ti",
    "utilization": 0.97,
    "temperature": 71,
    "power": 305.0,
    "clocks": {"sm": 1.53e9, "memory": 9.501e9},
    "throttled": {"thermal": False, "power": False, "hardware": False},
}

REASONS: dict[int, set[str]] = {
    0x01: set(),  # idle is no reason to worry
    0x04: {"power"},
    0x80: {"power"},
    0x20: {"thermal"},
    0x40 | 0x08: {"thermal", "hardware"},
    0x02 | 0x10 | 0x100: set(),  # clocks that somebody has set
}


def test_all_that_a_card_says(reader: Reader, answers: Answers) -> None:
    """In the units of the semantic conventions: a share, degrees Celsius, watts, hertz."""
    assert reader.ask("read card") == WHOLE


def test_why_it_is_slower_than_it_could_be(reader: Reader, answers: Answers) -> None:
    """Software and hardware count alike; what an operator has set is none."""
    for bits, reasons in REASONS.items():
        answers.change(throttle=bits)
        assert {name for name, is_so in reader.ask("read card")["throttled"].items() if is_so} == reasons


def test_each_failure_is_its_own(reader: Reader, answers: Answers) -> None:
    """What one call does not answer leaves the others, and the memory, as they are."""
    for fact, calls in CALLS.items():
        for error in (3, 4, 13, 15, 18, 999):
            answers.fail(**dict.fromkeys(calls, error))
            assert reader.ask("read card") == {**WHOLE, fact: UNKNOWN[fact]}
        assert reader.read()["used"] is not None
        answers.fail(**dict.fromkeys(calls, 0))


def test_the_newer_name_of_a_function_is_asked_where_the_older_one_is_gone(reader: Reader, answers: Answers) -> None:
    """NVIDIA has renamed the reasons to throttle."""
    answers.fail(nvmlDeviceGetCurrentClocksThrottleReasons=13)
    answers.change(throttle=0x20)
    assert reader.ask("read card")["throttled"]["thermal"] is True


def test_an_instance_of_a_card_that_is_cut_up(
    start_reader: Callable[..., Reader], nvml_library: Path, answers: Answers
) -> None:
    """MIG answers no more than its name: the rest is unknown, never 0."""
    says_nothing: dict[str, Any] = dict.fromkeys(
        ("utilization", "temperature", "power", "sm_clock", "memory_clock", "throttle")
    )
    answers.cards = [Card(mig=1)]
    answers.instances = [Card(name="A100 MIG 1g.5gb", uuid="MIG-1", total=5 * GIB, **says_nothing)]
    answers.write()
    instance = start_reader(nvml_library, CUDA_VISIBLE_DEVICES="MIG-1")
    assert instance.ask("read card") == {**UNKNOWN, "uuid": "MIG-1", "name": "A100 MIG 1g.5gb"}


def test_not_available_is_no_value(reader: Reader, answers: Answers) -> None:
    """The driver's word for it, in as many bits as the field has."""
    value = NOT_AVAILABLE
    answers.change(utilization=value, temperature=value, power=value, sm_clock=value, throttle=value)
    assert reader.ask("read card") == {**WHOLE, **UNKNOWN, "clocks": {"memory": 9.501e9}}


def test_without_nvml_nothing_is_known(reader: Reader, answers: Answers) -> None:
    """A driver that does not fit its library: no card, no name, and nobody raises."""
    answers.fail(nvmlInitWithFlags=18)
    assert reader.ask("read card") == {**UNKNOWN, "uuid": "", "name": ""}
