"""Graphics memory from Windows' performance counters: the real ctypes code, against a stand-in of `pdh.dll`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.probes.gpu_counters import (
    PATHS,
    PROCESS_DEDICATED,
    PROCESS_SHARED,
    RENEWED_AFTER,
    AdapterUsage,
    GpuCounters,
    GpuUsage,
    ProcessUsage,
    usage_of,
)
from helix_crawl_otel.probes.probe import ProbeFailure
from tests.standins.pdh import CARD, GIB, OTHER_CARD, VARIABLE, Answers, Library, Use, build

windows = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: runs under Wine")
elsewhere = pytest.mark.skipif(sys.platform == "win32", reason="Windows has performance counters")

WORKER = Use(pid=4711, dedicated=11 * GIB, shared=3 * GIB)
DESKTOP = Use(pid=900, dedicated=GIB, shared=GIB // 2)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The stand-in of a present Windows."""
    return Library(build(tmp_path_factory.mktemp("pdh")))


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """The answer file: a worker that has spilled, and the desktop, on one card."""
    answers = Answers(tmp_path / "answers.txt")
    answers.usage([WORKER, DESKTOP])
    monkeypatch.setenv(VARIABLE, str(answers.path))
    return answers


@pytest.fixture
def counters(library: Library, answers: Answers) -> Iterator[GpuCounters]:
    """What is tested. After the test nothing may be left open in the library."""
    counters = GpuCounters(str(library.path))
    yield counters
    for kind in ("PdhOpenQueryW", "PdhCloseQuery"):
        answers.set(f"error.{kind}", None)
    counters.close()
    assert library.open() == (0, 0)


def pids(usage: GpuUsage | None) -> list[int]:
    """Who is in a reading."""
    assert usage is not None
    return [process.pid for process in usage.processes]


# -- what the names and values mean -----------------------------------------------------------------------------------


def of_processes(*values: tuple[str, int | None]) -> GpuUsage:
    """A reading of process values alone: the same in dedicated and shared memory."""
    return usage_of(list(values), list(values), [], [])


def test_names_are_taken_apart() -> None:
    """A process and its adapter are in the instance's name; upper and lower case are the same."""
    usage = of_processes(("pid_4711_luid_0x00000000_0x0000D1C5_phys_0", 7), ("PID_900_LUID_0x0_0x0000abcd_PHYS_12", 8))
    assert usage.processes == (ProcessUsage(900, "0x0_0x0000ABCD", 8, 8), ProcessUsage(4711, CARD, 7, 7))


@pytest.mark.parametrize(
    "name",
    [
        "_Total",
        "",
        "pid_4711",
        "pid_x_luid_0x0_0x1_phys_0",
        "pid_4711_luid_0x0_0x1_phys_0_engtype_3D",
        "pid_4711_luid_0x0_0x1_phys_0\n",
        "pid_४७_luid_0x0_0x1_phys_0",
        "luid_0x0_0x1_phys_0",
    ],
)
def test_a_name_of_an_unknown_shape_is_left_out(name: str) -> None:
    """What a later Windows lists besides is not taken for a process."""
    assert pids(of_processes((name, 5), ("pid_1_luid_0x0_0x1_phys_0", 6))) == [1]


def test_when_every_name_is_unknown_the_reason_shows_one() -> None:
    """So that a report from a Windows that names them otherwise says how."""
    with pytest.raises(ProbeFailure, match="in a way that is not known: 'process 1 on card 0'"):
        of_processes(("process 1 on card 0", 5))


@pytest.mark.parametrize(
    "second", ["pid_1_luid_0x0_0x1_phys_0#1", "pid_1_luid_0x0_0x1_phys_0", "pid_1_luid_0x0_0x1_phys_1"]
)
def test_instances_of_one_process_and_adapter_are_summed_up(second: str) -> None:
    """Duplicates, with and without their index, and the parts of linked cards."""
    usage = of_processes(("pid_1_luid_0x0_0x1_phys_0", 5), (second, 6))
    assert usage.processes == (ProcessUsage(1, "0x0_0x1", 11, 11),)


def test_half_a_value_is_unknown() -> None:
    """A process whose shared usage is not valid, or missing, is left out; it has not 0 bytes there."""
    one, two, three = (f"pid_{pid}_luid_0x0_0x1_phys_0" for pid in (1, 2, 3))
    usage = usage_of([(one, 5), (two, 5), (three, 5)], [(one, None), (three, 6)], [], [])
    assert usage.processes == (ProcessUsage(3, "0x0_0x1", 5, 6),)


def test_nothing_listed_and_nothing_valid_are_told_apart() -> None:
    """A machine without a card, and one whose values cannot be used."""
    with pytest.raises(ProbeFailure, match="list no graphics adapter"):
        usage_of([], [], [], [])
    with pytest.raises(ProbeFailure, match="no valid value"):
        of_processes(("pid_1_luid_0x0_0x1_phys_0", None))


names = st.builds(
    "pid_{}_luid_0x0_0x{}_phys_{}{}".format,
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from(["", "#1"]),
)


@given(st.dictionaries(names, st.tuples(st.integers(0, 2**50), st.integers(0, 2**50))))
def test_no_byte_is_lost_or_counted_twice(values: dict[str, tuple[int, int]]) -> None:
    """The sums over all processes are those over all valid instances, and every pair comes once, in order."""
    adapter: list[tuple[str, int | None]] = [("luid_0x0_0x0_phys_0", 1)]
    lists: list[list[tuple[str, int | None]]] = [
        [(name, value[index]) for name, value in values.items()] for index in range(2)
    ]
    usage = usage_of(lists[0], lists[1], adapter, adapter)
    assert usage.adapters == (AdapterUsage("0x0_0x0", 1, 1),)
    assert sum(process.dedicated_bytes for process in usage.processes) == sum(first for first, _ in values.values())
    assert sum(process.shared_bytes for process in usage.processes) == sum(second for _, second in values.values())
    pairs = [(process.pid, process.adapter) for process in usage.processes]
    assert pairs == sorted(set(pairs))


# -- reading ----------------------------------------------------------------------------------------------------------


@elsewhere
def test_elsewhere_nothing_is_known() -> None:
    """Not an exception, and one sentence that says why."""
    counters = GpuCounters()
    assert counters.read() is None
    assert counters.why == "performance counters are of Windows only"
    counters.close()


@windows
def test_a_full_reading(counters: GpuCounters, answers: Answers) -> None:
    """Every process and every adapter, values over 4 GiB among them, as 64-bit numbers."""
    answers.usage([WORKER, DESKTOP, Use(pid=4711, dedicated=5 * GIB, adapter=OTHER_CARD)])
    assert counters.read() == GpuUsage(
        processes=(
            ProcessUsage(900, CARD, GIB, GIB // 2),
            ProcessUsage(4711, CARD, 11 * GIB, 3 * GIB),
            ProcessUsage(4711, OTHER_CARD, 5 * GIB, 0),
        ),
        adapters=(AdapterUsage(CARD, 12 * GIB, 3 * GIB + GIB // 2), AdapterUsage(OTHER_CARD, 5 * GIB, 0)),
    )
    assert counters.why is None


@windows
def test_counters_are_added_by_their_english_names(counters: GpuCounters, answers: Answers) -> None:
    """On a Windows of another language PdhAddCounterW does not find them; the stand-in is such a one."""
    assert counters.read() is not None
    calls = answers.calls()
    assert calls.count("PdhAddEnglishCounterW") == len(PATHS)
    assert "PdhAddCounterW" not in calls


@windows
def test_instances_come_and_go(counters: GpuCounters, answers: Answers) -> None:
    """Each reading has the processes of its moment, by one open query."""
    assert pids(counters.read()) == [900, 4711]
    answers.usage([DESKTOP, Use(pid=4712, shared=1)])
    assert pids(counters.read()) == [900, 4712]
    answers.usage([WORKER])
    assert pids(counters.read()) == [4711]
    answers.usage([Use(None, dedicated=1)])
    assert counters.read() == GpuUsage((), (AdapterUsage(CARD, 1, 0),))
    assert answers.calls().count("PdhOpenQueryW") == 1


@windows
def test_new_instances_are_seen_by_a_renewed_query_at_the_latest(counters: GpuCounters, answers: Answers) -> None:
    """Even of a Windows that shows only what was there when the counter was added."""
    answers.set("frozen", "1")
    answers.usage([DESKTOP])
    assert pids(counters.read()) == [900]
    answers.usage([DESKTOP, WORKER])
    assert [pids(counters.read()) for _ in range(RENEWED_AFTER)] == [[900]] * (RENEWED_AFTER - 1) + [[900, 4711]]


@windows
def test_a_value_that_is_not_valid_is_left_out(counters: GpuCounters, answers: Answers) -> None:
    """By its own status: an error, data that are new (valid), and the "not available" that reads as -1."""
    answers.usage(
        [
            DESKTOP,
            Use(pid=1, dedicated=5, shared=6, shared_status=0xC0000BBA),
            Use(pid=2, dedicated=5, shared=6, dedicated_status=0x800007D1),
            Use(pid=3, dedicated=5, shared=6, dedicated_status=1, shared_status=1),
            Use(pid=4, dedicated=-1, shared=-1),
        ]
    )
    assert pids(counters.read()) == [3, 900]


@windows
@pytest.mark.parametrize("small", [None, 0xC0000BBD], ids=["more data", "invalid argument"])
def test_instances_that_grow_between_sizing_and_reading(
    counters: GpuCounters, answers: Answers, small: int | None
) -> None:
    """The size is asked for anew, whichever of the two answers this release has for a buffer that is too small."""
    answers.set("more", "2")
    answers.set("small", small)
    assert pids(counters.read()) == [900, 4711]
    assert answers.calls().count("PdhGetFormattedCounterArrayW") == 6 * len(PATHS)


@windows
def test_instances_that_never_stop_growing(counters: GpuCounters, answers: Answers) -> None:
    """It is given up after some tries, not tried for ever."""
    answers.set("more", "1000000")
    assert counters.read() is None
    assert counters.why == f"PdhGetFormattedCounterArrayW of {PROCESS_DEDICATED} answered 0x800007D2"


@windows
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xC0000BB8, "no such object; the counters of graphics memory came with version 1709 of Windows 10"),
        (0xC0000BB9, "no such counter; the counters of graphics memory came with version 1709 of Windows 10"),
        (0xC0000BD4, "the name is not found; the performance counters of this Windows are damaged or disabled"),
    ],
)
def test_missing_counters(counters: GpuCounters, answers: Answers, status: int, words: str) -> None:
    """An old Windows, an old driver, damaged counters: one sentence with what can be done; nothing stays open."""
    answers.set(f"missing.{PROCESS_SHARED}", status)
    assert counters.read() is None
    assert counters.why is not None
    assert counters.why.startswith(f"PdhAddEnglishCounterW of {PROCESS_SHARED} answered 0x{status:08X}: {words}")


@windows
@pytest.mark.parametrize("function", ["PdhOpenQueryW", "PdhAddEnglishCounterW", "PdhCollectQueryData"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0x800007D5, ": no data; the account may have to be in the group Performance Monitor Users"),
        (0xC0000BBC, ": the handle is not valid"),
        (5, ""),
    ],
)
def test_a_call_that_fails(
    counters: GpuCounters, answers: Answers, library: Library, function: str, status: int, words: str
) -> None:
    """The reason names the call and its answer; nothing is left open, and the next reading starts anew."""
    answers.set(f"error.{function}", status)
    assert counters.read() is None
    assert counters.why is not None
    assert counters.why.startswith(function)
    assert counters.why.endswith(f"answered 0x{status:08X}{words}")
    assert library.open() == (0, 0)
    answers.set(f"error.{function}", None)
    assert pids(counters.read()) == [900, 4711]
    assert counters.why is None


@windows
@pytest.mark.parametrize("status", [0xC0000BC6, 0x800007D5])
def test_an_array_that_cannot_be_had(counters: GpuCounters, answers: Answers, status: int) -> None:
    """Invalid data, no data: unknown."""
    answers.set(f"array.{PROCESS_SHARED}", status)
    assert counters.read() is None
    assert counters.why is not None
    assert counters.why.startswith(f"PdhGetFormattedCounterArrayW of {PROCESS_SHARED} answered 0x{status:08X}: ")


@windows
def test_no_instance_is_an_empty_list(counters: GpuCounters, answers: Answers) -> None:
    """No process uses a card, says the status; the adapters are known."""
    for path in (PROCESS_DEDICATED, PROCESS_SHARED):
        answers.set(f"array.{path}", 0x800007D1)
    usage = counters.read()
    assert usage is not None
    assert usage.processes == ()
    assert usage.adapters != ()


@windows
def test_no_card(counters: GpuCounters, answers: Answers) -> None:
    """Counters without any instance are unknown, not a usage of 0."""
    answers.usage([])
    assert counters.read() is None
    assert counters.why == "the performance counters list no graphics adapter"


@windows
def test_a_failure_is_not_asked_for_again_at_every_reading(counters: GpuCounters, answers: Answers) -> None:
    """Once at the next reading, then with 1, 2, 4 ... left out; the reason stays."""
    answers.set("error.PdhOpenQueryW", 0xC0000BB8)
    asked = []
    for _ in range(20):
        assert counters.read() is None
        assert counters.why is not None
        asked.append(len(answers.calls()))
    assert [index for index, calls in enumerate(asked) if calls] == [0, 1, 3, 6, 11]


@windows
def test_a_close_that_fails_is_not_an_error(counters: GpuCounters, answers: Answers, library: Library) -> None:
    """There is nobody who could do anything about it."""
    assert counters.read() is not None
    answers.set("error.PdhCloseQuery", 0xC0000BBC)
    counters.close()
    counters.close()
    answers.set("error.PdhCloseQuery", None)
    assert library.open() == (1, len(PATHS))
    library.close_all()


@windows
def test_a_reading_after_a_close_opens_a_query_again(counters: GpuCounters, library: Library) -> None:
    """Close gives the query back and is no end."""
    assert counters.read() is not None
    counters.close()
    assert library.open() == (0, 0)
    assert counters.read() is not None
    assert library.open() == (1, len(PATHS))


@windows
def test_a_library_that_is_missing(tmp_path: Path) -> None:
    """One sentence."""
    counters = GpuCounters(str(tmp_path / "pdh.dll"))
    assert counters.read() is None
    assert counters.why == f"{tmp_path / 'pdh.dll'} cannot be loaded: it is not there, or something that it needs"


@windows
def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    """Another reason, with the system's number."""
    (tmp_path / "pdh.dll").write_bytes(b"no library")
    counters = GpuCounters(str(tmp_path / "pdh.dll"))
    assert counters.read() is None
    assert counters.why is not None
    assert counters.why.startswith(f"{tmp_path / 'pdh.dll'} cannot be loaded (OSError: [WinError 193]")


@windows
def test_a_library_without_english_counters(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An old or foreign library: no other way is tried, because names in another language would not be found."""
    library = build(tmp_path_factory.mktemp("pdh"), ["-DNO_ENGLISH"])
    counters = GpuCounters(str(library))
    assert counters.read() is None
    assert counters.why == f"{library} has no PdhAddEnglishCounterW"


@windows
def test_the_systems_own_library_answers_or_says_why() -> None:
    """The one in System32, whatever this machine has: Wine's knows no counters of graphics memory."""
    counters = GpuCounters()
    usage = counters.read()
    counters.close()
    assert (usage is None) == (counters.why is not None)
    if usage is None:
        assert counters.why is not None
        assert "graphics" in counters.why


@windows
def test_an_interrupt_is_not_swallowed(counters: GpuCounters, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a reading is the user's, not a failure of the counters; the query can be given back after it."""
    assert counters.read() is not None

    def interrupted(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(counters._query, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        counters.read()


@windows
@pytest.mark.parametrize("readings", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_readings_leave_nothing_open(counters: GpuCounters, answers: Answers, library: Library, readings: int) -> None:
    """One query and its counters, however often it was renewed."""
    answers.set("log", None)
    assert counters.read() is not None
    for _ in range(readings):
        assert counters.read() is not None
    assert library.open() == (1, len(PATHS))
