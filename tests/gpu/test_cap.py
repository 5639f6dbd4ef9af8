"""The cap on a real allocator: under Linux, where a full card raises anyway, so the cap is set far below the card."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gpu.card import MIB, python

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]

PROGRAM = """
import json, os
import torch
from helix_crawl_otel import cap_vram
from helix_crawl_otel.encoders.base import is_device_error, is_out_of_memory
from helix_crawl_otel.probes.nvml import NvmlProbe
from helix_crawl_otel.probes.torch_cuda import TorchProbe
from helix_crawl_otel.probes.vram_cap import CONTEXT_BYTES

MIB, GIB = 1024**2, 1024**3
found = {"auto": cap_vram("cuda:0"), "started": torch.cuda.is_initialized()}
read = NvmlProbe("cuda:0", os.environ)()
found["cap"] = cap_vram("cuda:0", (GIB + CONTEXT_BYTES) / (read.limit_bytes - read.used_bytes))
total = torch.cuda.get_device_properties(0).total_memory
found["allowed"] = torch.cuda.get_per_process_memory_fraction(0) * total

def block(mebibytes):
    return torch.empty(mebibytes * MIB, dtype=torch.uint8, device="cuda:0")

held = []
try:
    while len(held) < 64:
        held.append(block(100))
except RuntimeError as error:
    found["raised"] = [type(error).__name__, is_out_of_memory(error), is_device_error(error)]
found["reserved"], found["blocks"] = torch.cuda.memory_reserved(0), len(held)
held.clear()
found["cached"] = torch.cuda.memory_reserved(0)
big = block(700)  # no cached block is as large, and there is no room beside them: they are given back
found["flushed"] = torch.cuda.memory_reserved(0)
reading = TorchProbe("cuda:0")()
found["reading"] = [reading.reserved_bytes, reading.cap_bytes]
del big
free = NvmlProbe("cuda:0", os.environ)()
found["late"] = cap_vram("cuda:0", 0.5)
found["late_should_be"] = 0.5 * (free.limit_bytes - free.used_bytes + found["flushed"] + CONTEXT_BYTES) - CONTEXT_BYTES
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What one process under a cap of 1 GiB has seen."""
    found: dict[str, Any] = json.loads(python("-c", PROGRAM))
    return found


def test_auto_is_no_cap_here_and_starts_nothing(seen: dict[str, Any]) -> None:
    """Linux raises by itself."""
    assert (seen["auto"], seen["started"]) == (None, False)


def test_a_request_beyond_the_cap_raises_and_what_is_reserved_stays_below(seen: dict[str, Any]) -> None:
    """Torch's own class, which is halved and never taken for the end of the device."""
    assert seen["cap"] == pytest.approx(1024 * MIB, abs=64 * MIB)
    assert seen["allowed"] == pytest.approx(seen["cap"], abs=1)
    assert seen["raised"] == ["OutOfMemoryError", True, False]
    assert 800 * MIB <= seen["reserved"] <= seen["cap"]
    assert 8 <= seen["blocks"] <= 10


def test_what_is_cached_is_given_back_before_it_raises(seen: dict[str, Any]) -> None:
    """The flush that WDDM never triggers by itself; and the reading tells both figures."""
    assert seen["cached"] == seen["reserved"]
    assert 700 * MIB <= seen["flushed"] <= seen["cap"]
    assert seen["reading"] == [seen["flushed"], pytest.approx(seen["cap"], abs=1)]


def test_a_cap_that_is_set_late_counts_what_is_its_own(seen: dict[str, Any]) -> None:
    """By NVML's free memory and the allocator's; other programs may have moved meanwhile."""
    assert seen["late"] == pytest.approx(seen["late_should_be"], abs=256 * MIB)
