"""What the doctor says of cards: driver model, memory, the driver's fallback, the device that `auto` takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_crawl_otel.commands.doctor import lines
from helix_crawl_otel.doctor.checks import Severity
from helix_crawl_otel.doctor.facts import Facts
from helix_crawl_otel.probes.cards import Description
from helix_crawl_otel.probes.nvml import CUT_UP, UNIFIED
from tests.doctor.machines import CPU_ONLY, LINUX_80, WINDOWS_12, about, checks_of, with_card


def with_driver(facts: Facts, version: str | None) -> Facts:
    """The same machine with another driver."""
    return replace(facts, nvml=replace(facts.nvml, driver=version))


def test_a_machine_without_a_card_has_no_problem() -> None:
    """The CPU does the work; what NVML said is told all the same."""
    checks = checks_of(CPU_ONLY)
    assert {check.verdict for check in checks} <= {Severity.OK, Severity.NOTE}
    assert "error 12" in about(CPU_ONLY, "nvml").fact
    assert about(CPU_ONLY, "device").fact == "--device auto takes cpu: no NVIDIA card is seen"


@pytest.mark.parametrize(
    ("code", "verdict", "says"),
    [
        (18, Severity.PROBLEM, "restart the machine"),
        (4, Severity.PROBLEM, "give it the right"),
        (999, Severity.PROBLEM, "install the driver anew"),
        (13, Severity.PROBLEM, "restart the machine"),
        (10, Severity.PROBLEM, "restart the machine"),
        (None, Severity.PROBLEM, "install what is missing"),
        (9, Severity.WARN, "load the driver"),
        (12, Severity.NOTE, "without a card there is nothing to do"),
    ],
)
def test_nvml_that_fails(code: int | None, verdict: Severity, says: str) -> None:
    """A problem with NVML's own words, unless there may well be no card; jobs would run on the CPU, and it is said."""
    nvml = Description(why="NVML: its own words", code=code)
    facts = replace(CPU_ONLY, nvml=nvml, workers=nvml)
    found = about(facts, "nvml")
    assert (found.verdict, found.fact) == (verdict, "no card can be asked: NVML: its own words")
    assert says in found.advice
    assert about(facts, "device").fact.startswith("--device auto takes cpu: no ")


def test_a_card_that_is_lost() -> None:
    """Named as far as it can still be named."""
    lost = with_card(CPU_ONLY, 24.0, 0.0, None, why="NVML: GPU is lost (error 15)", code=15, is_usable=False)
    found = about(lost, "cuda:0")
    assert (found.verdict, found.fact) == (
        Severity.PROBLEM,
        "NVIDIA GeForce RTX 3080 Ti: NVML: GPU is lost (error 15)",
    )
    assert not [check for check in checks_of(lost) if check.topic == "cuda:0 memory"]


def test_a_card_that_is_cut_up() -> None:
    """What to name, and that it may hide others; its memory on the whole says nothing."""
    cut_up = with_card(CPU_ONLY, 24.0, 0.0, None, why=CUT_UP, is_usable=False)
    found = about(cut_up, "cuda:0")
    assert (found.verdict, found.fact) == (Severity.WARN, "NVIDIA GeForce RTX 3080 Ti, MIG")
    assert "name one of its instances by its UUID in CUDA_VISIBLE_DEVICES" in found.advice


def test_a_variable_that_names_no_card() -> None:
    """Somebody wanted one, and every job goes to the CPU."""
    hidden = replace(LINUX_80.nvml, hidden="CUDA_VISIBLE_DEVICES='7' leaves no card", is_misnamed=True)
    found = about(replace(LINUX_80, nvml=hidden), "nvml")
    assert (found.verdict, found.fact) == (Severity.PROBLEM, "driver 610.43, 1 card")
    assert found.advice.startswith("CUDA_VISIBLE_DEVICES='7' leaves no card of the 1 that NVML lists")


def test_what_comes_from_outside_moves_no_cursor() -> None:
    """A variable, a path or the name of a card may hold anything."""
    environ = {"PYTORCH_CUDA_ALLOC_CONF": "a\x1b[31m\nb"}
    shown = "\n".join(lines(checks_of(replace(LINUX_80, environ=environ))))
    assert r"PYTORCH_CUDA_ALLOC_CONF=a\x1b[31m\nb" in shown


def test_a_driver_without_a_card() -> None:
    """NVML works and lists nothing."""
    facts = replace(CPU_ONLY, nvml=Description((), "610.43"))
    assert about(facts, "nvml").fact == "driver 610.43, which sees no card"


def test_a_small_card_under_windows_gets_the_warnings_it_needs() -> None:
    """It crawls instead of failing, `auto` leaves it alone and says why, and the fallback can be turned off."""
    card = about(WINDOWS_12, "cuda:0")
    assert card.verdict is Severity.WARN
    assert card.fact == "NVIDIA GeForce RTX 3080 Ti, 12.0 GiB, WDDM"
    assert "a full card does not fail, it crawls" in card.advice
    device = about(WINDOWS_12, "device").fact
    assert device.startswith("--device auto takes cpu: cuda:0 has 12.0 GiB, and up to 12 GiB the CPU is the safer")
    assert "Prefer No Sysmem Fallback" in about(WINDOWS_12, "sysmem fallback").advice
    assert "HELIX_BFM_CRAWL_VRAM lower" in about(WINDOWS_12, "cuda:0 memory").advice


def test_tcc_does_not_spill() -> None:
    """Nothing is warned of there, and nothing is said of the fallback."""
    facts = with_card(replace(CPU_ONLY, platform="win32"), 24.0, 1.0, "TCC")
    card = about(facts, "cuda:0")
    assert (card.verdict, card.advice) == (Severity.OK, "")
    assert card.fact.endswith("24.0 GiB, TCC: it does not spill, a full card raises out-of-memory")
    assert not [check for check in checks_of(facts) if check.topic == "sysmem fallback"]


def test_of_mcdm_nothing_is_promised() -> None:
    """Microsoft describes it as a part of WDDM; that it does not spill stands nowhere."""
    facts = with_card(replace(CPU_ONLY, platform="win32"), 24.0, 1.0, "MCDM")
    card = about(facts, "cuda:0")
    assert card.verdict is Severity.NOTE
    assert card.fact == "NVIDIA GeForce RTX 3080 Ti, 24.0 GiB, MCDM"
    assert "not documented" in card.advice
    assert card.source.startswith("https://learn.microsoft.com/")
    assert not [check for check in checks_of(facts) if check.topic == "sysmem fallback"]


def test_an_unknown_driver_model_is_taken_for_wddm() -> None:
    """That of nearly every card under Windows; elsewhere there is none to be known."""
    card = about(with_card(replace(CPU_ONLY, platform="win32"), 24.0, 1.0, None), "cuda:0")
    assert card.verdict is Severity.WARN
    assert card.fact.endswith("24.0 GiB, driver model unknown")
    assert about(LINUX_80, "cuda:0").fact == "NVIDIA GeForce RTX 3080 Ti, 79.6 GiB"


@pytest.mark.parametrize(
    ("driver", "verdict", "says"),
    [
        ("531.79", Severity.OK, "older than 536.40"),
        ("536.39", Severity.OK, "older than 536.40"),
        ("536.40", Severity.WARN, "has no setting against it"),
        ("545.92", Severity.WARN, "has no setting against it"),
        ("546.01", Severity.WARN, "cannot be read from here"),
        ("610.43", Severity.WARN, "cannot be read from here"),
        (None, Severity.WARN, "of unknown version"),
    ],
)
def test_the_fallback_depends_on_the_driver(driver: str | None, verdict: Severity, says: str) -> None:
    """536.40 began it, 546.01 brought the setting."""
    found = about(with_driver(WINDOWS_12, driver), "sysmem fallback")
    assert found.verdict is verdict
    assert says in found.fact


def test_linux_inside_windows_spills_too() -> None:
    """NVML says nothing of a driver model there, the kernel's name does."""
    found = about(replace(LINUX_80, is_wsl=True), "sysmem fallback")
    assert found.verdict is Severity.WARN
    assert not [check for check in checks_of(LINUX_80) if check.topic == "sysmem fallback"]


@pytest.mark.parametrize(
    ("used_gib", "verdict", "says"),
    [
        (1.0, Severity.OK, ""),
        (20.0, Severity.WARN, "little is left"),
        (23.0, Severity.WARN, "full before the job begins"),
    ],
)
def test_memory_in_use_before_the_job(used_gib: float, verdict: Severity, says: str) -> None:
    """Somebody else's memory is the commonest reason for a crawl from the start."""
    found = about(with_card(CPU_ONLY, 24.0, used_gib, None), "cuda:0 memory")
    assert found.verdict is verdict
    assert says in found.advice
    assert "22.1 GiB count as full (--vram 0.92)" in found.fact


def test_a_memory_that_cannot_be_read_is_a_problem() -> None:
    """Without it nothing ever trips; unified memory is another matter."""
    blind = with_card(CPU_ONLY, 80, 0, None, why="NVML: Unknown Error (error 999)", code=999)
    found = about(blind, "cuda:0 memory")
    assert found.verdict is Severity.PROBLEM
    assert "Unknown Error" in found.fact
    unified = with_card(CPU_ONLY, 80, 0, None, why=f"{UNIFIED} (error 3)", code=3)
    assert about(unified, "cuda:0 memory").verdict is Severity.OK


def test_a_card_whose_name_in_cuda_is_not_known() -> None:
    """Hidden, or one of several different cards without a fixed order."""
    card = replace(LINUX_80.nvml.cards[0], device=None)
    facts = replace(LINUX_80, nvml=replace(LINUX_80.nvml, cards=(card,)), workers=Description())
    found = about(facts, "card 0")
    assert found.verdict is Severity.NOTE
    assert "export CUDA_DEVICE_ORDER=PCI_BUS_ID" in found.advice
    told = about(replace(facts, platform="win32"), "card 0").advice
    assert '$env:CUDA_DEVICE_ORDER = "PCI_BUS_ID"' in told


def test_a_card_that_torch_cannot_use_is_said_loudly() -> None:
    """PyPI's torch for Windows has no CUDA: a job would run on the CPU and nobody would know why."""
    facts = with_card(replace(CPU_ONLY, platform="win32"), 24.0, 1.0, "WDDM", torch_build="")
    assert about(facts, "device").verdict is Severity.PROBLEM
    torch = about(facts, "torch")
    assert torch.verdict is Severity.PROBLEM
    assert torch.fact == "2.13.0, built without CUDA"
