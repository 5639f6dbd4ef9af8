"""NvmlProbe, with the real pynvml on a stand-in library: values, versions, errors, recovery."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path

import pytest

from helix_crawl_otel.probes.nvml import NvmlProbe
from tests.probes.process import Reader
from tests.standins.nvml import GIB, NOT_AVAILABLE, Answers, Card, library_in

MIB = 1024**2
V1, V2 = "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"


def test_used_is_everything_that_is_not_free(reader: Reader, answers: Answers) -> None:
    """The driver's own share counts as used, and the limit is the size of the card."""
    assert reader.read() == {"used": 1 * GIB + 256 * MIB, "limit": 12 * GIB, "why": None}


def test_both_versions_of_the_call_give_the_same_reading(
    start_reader: Callable[..., Reader], nvml_library: Path, old_nvml_library: Path
) -> None:
    """A fallback must not move the reading, although the two versions mean different things by `used`."""
    assert start_reader(nvml_library).read() == start_reader(old_nvml_library).read()


def test_a_version_2_whose_used_contains_the_reserved_bytes_reads_the_same(reader: Reader, answers: Answers) -> None:
    """The documents of driver 525 say so, drivers differ: the reading depends on neither."""
    before = reader.read()
    answers.change(used=1 * GIB + 256 * MIB, free=12 * GIB - 1 * GIB - 256 * MIB)
    assert reader.read() == before


def test_version_2_is_asked_with_its_number(reader: Reader, answers: Answers) -> None:
    """Without 0x02000028 the stand-in answers 25, as NVML does, and version 1 would have to be asked."""
    reader.read()
    calls = answers.calls()
    assert V2 in calls
    assert V1 not in calls


@pytest.mark.parametrize("error", [25, 13, 3])
def test_version_1_is_used_where_version_2_is_refused(reader: Reader, answers: Answers, error: int) -> None:
    """Version, missing function and "not supported" lead to version 1, and version 2 is not asked again."""
    answers.fail(**{V2: error})
    assert reader.read()["used"] == 1 * GIB + 256 * MIB
    answers.calls()
    assert reader.read()["used"] == 1 * GIB + 256 * MIB
    assert answers.calls() == [V1]


def test_a_driver_without_version_2_is_read(
    start_reader: Callable[..., Reader], old_nvml_library: Path, answers: Answers
) -> None:
    """A function that the library lacks is no different from one that it refuses."""
    old = start_reader(old_nvml_library)
    assert old.read()["limit"] == 12 * GIB
    assert V2 not in answers.calls()


def test_values_change_while_running(reader: Reader, answers: Answers) -> None:
    """Nothing is cached: each reading is the card's present state."""
    seen = []
    for used in (2, 11, 4):
        answers.change(used=used * GIB, reserved=0)
        seen.append(reader.fraction())
    assert seen == [2 / 12, 11 / 12, 4 / 12]


def test_a_reading_is_never_torn(reader: Reader, answers: Answers) -> None:
    """Two states are written in turn while thousands of readings are taken: each is one of them, none a mixture."""
    states = [Card(total=12 * GIB, used=2 * GIB, reserved=0), Card(total=24 * GIB, used=23 * GIB, reserved=0)]
    done = threading.Event()

    def write() -> None:
        for state in cycle(states):
            answers.cards = [state]
            answers.write()
            if done.wait(0.0002):
                return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = reader.ask("read many")
    finally:
        done.set()
        writer.join()
    assert sorted(map(tuple, seen)) == [(2 * GIB, 12 * GIB), (23 * GIB, 24 * GIB)]


def test_a_reading_costs_one_call(reader: Reader, answers: Answers) -> None:
    """NVML is started and the card looked up once, not at each reading."""
    reader.read()
    answers.calls()
    reader.read()
    assert answers.calls() == [V2]


@pytest.mark.parametrize(
    ("function", "error", "reason"),
    [
        ("nvmlInitWithFlags", 9, "NVML: Driver Not Loaded (error 9 from nvmlInit)"),
        ("nvmlInitWithFlags", 12, "NVML: NVML Shared Library Not Found (error 12 from nvmlInit)"),
        ("nvmlInitWithFlags", 13, "NVML: Function Not Found (error 13 from nvmlInit)"),
        ("nvmlDeviceGetCount_v2", 999, "NVML: Unknown Error (error 999 from nvmlDeviceGetCount)"),
        ("nvmlDeviceGetHandleByIndex_v2", 2, "NVML: Invalid Argument (error 2 from nvmlDeviceGetHandleByIndex)"),
        (V2, 1, "NVML: Uninitialized (error 1 from nvmlDeviceGetMemoryInfo)"),
        (V2, 4, "NVML: Insufficient Permissions (error 4 from nvmlDeviceGetMemoryInfo)"),
        (V2, 15, "NVML: GPU is lost (error 15 from nvmlDeviceGetMemoryInfo)"),
        (V2, 4711, "NVML: stand-in error (error 4711 from nvmlDeviceGetMemoryInfo)"),
    ],
)
def test_an_error_is_unknown_with_its_reason(
    reader: Reader, answers: Answers, function: str, error: int, reason: str
) -> None:
    """No error reaches the caller, none reads as 0, and the reason names the error and the call."""
    answers.fail(**{function: error})
    assert reader.read() == {"used": None, "limit": None, "why": reason}


def test_both_versions_missing_is_unknown(reader: Reader, answers: Answers) -> None:
    """A driver that refuses both calls is unknown, with the reason of the second."""
    answers.fail(**{V2: 25, V1: 25})
    answer = reader.read()
    assert answer["used"] is None
    assert "error 25" in answer["why"]


def test_unified_memory_says_that_spill_is_not_applicable(reader: Reader, answers: Answers) -> None:
    """GB10 and Jetson answer "not supported" to both calls."""
    answers.fail(**{V2: 3, V1: 3})
    answer = reader.read()
    assert (answer["used"], answer["limit"]) == (None, None)
    assert answer["why"].startswith("unified memory, spill not applicable")


@pytest.mark.parametrize("field", ["total", "used", "free", "reserved"])
def test_the_value_of_wddm_for_not_available_is_unknown(reader: Reader, answers: Answers, field: str) -> None:
    """2^64-1 in any field is no amount of memory."""
    answers.change(**{"free": 1 * GIB, field: NOT_AVAILABLE})
    answer = reader.read()
    assert answer["used"] is None
    assert "not available" in answer["why"]


@pytest.mark.parametrize("values", [{"total": 0, "free": 0}, {"free": 13 * GIB}, {"used": 13 * GIB, "free": 0}])
def test_an_impossible_answer_is_unknown(reader: Reader, answers: Answers, values: dict[str, int]) -> None:
    """More free or used than there is, or no memory at all, is a fault of the driver, not a reading."""
    answers.change(**values)
    answer = reader.read()
    assert answer["used"] is None
    assert "impossible" in answer["why"]


def test_a_shutdown_by_somebody_else_costs_no_reading(reader: Reader, answers: Answers) -> None:
    """Another library in the process may call nvmlShutdown: NVML is started again within the same call."""
    reader.read()
    reader.ask("shut down")
    answers.calls()
    assert reader.read()["limit"] == 12 * GIB
    assert answers.calls().count("nvmlInitWithFlags") == 1


def test_a_start_that_does_not_help_is_not_repeated_within_a_call(reader: Reader, answers: Answers) -> None:
    """NVML that stays uninitialised is asked again once, not for ever."""
    reader.read()
    answers.calls()
    answers.fail(**{V2: 1})
    assert reader.read()["used"] is None
    assert answers.calls().count(V2) == 2


def test_a_lost_card_is_looked_up_anew_and_comes_back(reader: Reader, answers: Answers) -> None:
    """The handle of a lost card is dropped, so that a card that came back is read again at the next call."""
    reader.read()
    answers.fail(**{V2: 15})
    assert reader.read()["used"] is None
    answers.fail(**{V2: 0})
    answers.calls()
    assert reader.read() == {"used": 1 * GIB + 256 * MIB, "limit": 12 * GIB, "why": None}
    assert "nvmlDeviceGetHandleByIndex_v2" in answers.calls()


def test_failures_are_retried_ever_more_rarely_and_the_reason_stays(reader: Reader, answers: Answers) -> None:
    """The calls left out between two tries are 0, 1, 2, 4 ... 64: a start of a broken driver may cost seconds."""
    answers.fail(nvmlInitWithFlags=9)
    tries = []
    for call in range(300):
        assert "Driver Not Loaded" in reader.read()["why"]
        if answers.calls():
            tries.append(call)
    assert [later - sooner - 1 for sooner, later in pairwise(tries)] == [*(0, 1, 2, 4, 8, 16, 32, 64, 64, 64)]


def test_one_good_reading_ends_the_back_off(reader: Reader, answers: Answers) -> None:
    """After a recovery the next failure is retried at once again."""
    answers.fail(nvmlInitWithFlags=9)
    for _ in range(4):
        reader.read()
    answers.fail(nvmlInitWithFlags=0)
    while reader.read()["used"] is None:
        pass
    answers.fail(**{V2: 15})
    assert reader.read()["used"] is None
    answers.fail(**{V2: 0})
    assert reader.read()["used"] is not None


def test_a_missing_library_is_unknown(start_reader: Callable[..., Reader], tmp_path: Path) -> None:
    """A machine without a driver: no library at all, found or loadable."""
    broken = library_in(tmp_path / "empty")
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"")
    answer = start_reader(broken).read()
    assert answer["used"] is None
    assert "error 12 from nvmlInit" in answer["why"]


def test_a_hung_driver_call_leaves_other_threads_running(reader: Reader, answers: Answers) -> None:
    """The GIL is free while NVML hangs, so a sampler thread that hangs does not stop the job."""
    before = reader.read()
    answers.calls()
    answers.hangs = {V2}
    answers.write()
    assert reader.ask("read beside a thread") == before, "the other thread was held up for as long as NVML hung"


def test_memory_can_be_that_of_a_control_group(reader: Reader, answers: Answers, tmp_path: Path) -> None:
    """The stand-in's answers can follow a real group: what the physical spill test needs."""
    (tmp_path / "memory.limit_in_bytes").write_text("167772160\n")
    (tmp_path / "memory.usage_in_bytes").write_text("150000000\n")
    answers.change(cgroup=tmp_path, reserved=0)
    assert reader.read() == {"used": 150000000, "limit": 167772160, "why": None}


def test_a_probe_loads_nothing_until_it_is_called(reader: Reader) -> None:
    """pynvml is imported at the first reading; torch and opentelemetry never."""
    assert reader.ask("modules") == []
    reader.read()
    assert reader.ask("modules") == ["pynvml"]


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda:x", "gpu", ""])
def test_a_wrong_device_is_refused_at_construction(device: str) -> None:
    """The message shows what was given and what is accepted."""
    with pytest.raises(ValueError, match=r"accepted: .*cuda") as refused:
        NvmlProbe(device, os.environ)
    assert repr(device) in str(refused.value)
