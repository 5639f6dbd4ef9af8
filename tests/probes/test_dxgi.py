"""The driver's budget by DXGI: the real ctypes code on a stand-in made of Microsoft's headers; elsewhere nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.probes.dxgi import driver_budget
from helix_crawl_otel.probes.probe import ProbeFailure
from tests.standins import dxgi

GIB = 1024**3

windows = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: runs under Wine")


@pytest.fixture
def library(tmp_path: Path) -> Any:
    """The second card of CUDA's, with a budget of 8 GiB."""
    loaded = dxgi.load(tmp_path)
    dxgi.answer(loaded, ordinal=1, init=0, factory=0, query=0, budget=8 * GIB, open=0)
    return loaded


@pytest.mark.skipif(sys.platform == "win32", reason="elsewhere than Windows")
def test_elsewhere_there_is_none() -> None:
    """No library is looked for."""
    with pytest.raises(ProbeFailure, match="a driver's budget is told under Windows only"):
        driver_budget(0)


@windows
def test_the_budget_of_the_card_that_cuda_means(library: Any) -> None:
    """Found by its LUID, whatever the order of the adapters is; nothing stays open."""
    assert driver_budget(1, lambda name: library) == 8 * GIB
    dxgi.answer(library, budget=11 * GIB + 1)
    assert driver_budget(1, lambda name: library) == 11 * GIB + 1
    assert dxgi.open_objects(library) == 0


@windows
@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"init": 100}, "cuInit of CUDA's driver answered 100"),
        ({"ordinal": 0}, "cuDeviceGet of CUDA's driver answered 101"),
        ({"factory": -0x7785FFFC}, "CreateDXGIFactory1 answered 0x887A0004"),
        ({"query": -0x7FFFBFFF}, "QueryVideoMemoryInfo answered 0x80004001"),
        ({"budget": 0}, "the adapter has no budget of its own memory"),
    ],
)
def test_what_does_not_answer_is_unknown(library: Any, told: dict[str, int], why: str) -> None:
    """With the function and its number; nothing stays open."""
    dxgi.answer(library, **told)
    with pytest.raises(ProbeFailure, match=f"DXGI: {why}"):
        driver_budget(1, lambda name: library)
    assert dxgi.open_objects(library) == 0


@windows
def test_a_machine_without_cuda_has_none() -> None:
    """The system's own libraries: nothing but a `ProbeFailure` comes out."""
    with pytest.raises(ProbeFailure, match="DXGI: "):
        driver_budget(63)
