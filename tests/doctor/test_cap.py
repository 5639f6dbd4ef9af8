"""What the doctor says of the cap on torch's memory: what it would be, in bytes, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_crawl_otel.config import Value
from helix_crawl_otel.doctor.checks import Severity
from helix_crawl_otel.doctor.facts import Facts
from tests.doctor.machines import CPU_ONLY, GIB, LINUX_80, WINDOWS_12, about, checks_of, with_card

WSL = replace(with_card(CPU_ONLY, 12.0, 1.0, None), is_wsl=True)
UNKNOWN_MODEL = with_card(WINDOWS_12, 12.0, 1.0, None)
TCC = with_card(WINDOWS_12, 12.0, 1.0, "TCC")

CAP = int(0.95 * 11 * GIB) - 6 * GIB // 10


@pytest.mark.parametrize("model", ["WDDM", "MCDM"])
def test_what_auto_comes_to_where_a_card_may_spill(model: str) -> None:
    """In bytes, with the reason, and how to take it away."""
    found = about(with_card(WINDOWS_12, 12.0, 1.0, model), "cuda:0 cap")
    assert found.verdict is Severity.NOTE
    assert found.fact == (
        f"a worker's torch may take 9.8 GiB ({CAP} bytes): 0.95 of the 11.0 GiB that are free, less 0.6 GiB for its "
        f"context (HELIX_DENSE_VRAM_CAP=auto, {model})"
    )
    assert "not been seen on a real card under WDDM" in found.advice
    assert '$env:HELIX_DENSE_VRAM_CAP = "off"' in found.advice


def test_the_budget_of_windows_where_it_is_less() -> None:
    """One that is more changes nothing."""
    tight = replace(WINDOWS_12, budgets={"cuda:0": 9 * GIB})
    cap = 9 * GIB - 6 * GIB // 10
    assert f"({cap} bytes): Windows' budget of 9.0 GiB for a process, less" in about(tight, "cuda:0 cap").fact
    wide = replace(WINDOWS_12, budgets={"cuda:0": 11 * GIB})
    assert about(wide, "cuda:0 cap") == about(WINDOWS_12, "cuda:0 cap")


@pytest.mark.parametrize(
    ("facts", "setting", "verdict", "says"),
    [
        (
            LINUX_80,
            "auto",
            Severity.OK,
            "none: HELIX_DENSE_VRAM_CAP=auto caps under WDDM and MCDM alone; 0.95 would be",
        ),
        (TCC, "auto", Severity.OK, "none: HELIX_DENSE_VRAM_CAP=auto caps under WDDM and MCDM alone; 0.95 would be"),
        (UNKNOWN_MODEL, "auto", Severity.NOTE, "none: HELIX_DENSE_VRAM_CAP=auto caps under WDDM and MCDM alone; 0.95"),
        (WSL, "auto", Severity.NOTE, "none: HELIX_DENSE_VRAM_CAP=auto caps under WDDM and MCDM alone; 0.95 would be"),
        (WINDOWS_12, "off", Severity.NOTE, "none: HELIX_DENSE_VRAM_CAP=off; 0.95 would be 9.8 GiB"),
        (LINUX_80, "off", Severity.OK, "none: HELIX_DENSE_VRAM_CAP=off; 0.95 would be"),
        (LINUX_80, 0.5, Severity.NOTE, "a worker's torch may take 38.9 GiB"),
    ],
)
def test_what_the_knob_comes_to(facts: Facts, setting: Value, verdict: Severity, says: str) -> None:
    """Where a full card may spill, none is worth a note with the way to one."""
    found = about(facts, "cuda:0 cap", setting)
    assert (found.verdict, found.fact[: len(says)]) == (verdict, says)
    assert ("may spill" in found.advice) == (verdict is Severity.NOTE and says.startswith("none"))


def test_torchs_own_setting_is_left_alone() -> None:
    """It is named, and it is said that ours has no effect."""
    environ = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,per_process_memory_fraction:0.90"}
    found = about(replace(WINDOWS_12, environ=environ), "cuda:0 cap")
    assert found.verdict is Severity.OK
    assert "PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.90" in found.fact


def test_nothing_is_said_where_nothing_could_be_set() -> None:
    """No card, or a torch that can use none."""
    for facts in (CPU_ONLY, replace(WINDOWS_12, torch_build="")):
        assert not [check for check in checks_of(facts) if check.topic.endswith(" cap")]


def test_a_card_whose_memory_is_not_known() -> None:
    """Then there is no cap either."""
    facts = with_card(WINDOWS_12, 12.0, 0.0, "WDDM", why="NVML: error", code=999)
    assert about(facts, "cuda:0 cap").fact == "none: what is free is not known"
