"""The probes against a real card: NVML, torch, both together, and the release of the cache."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from helix_crawl_otel.build.devices import choose_devices, torch_build, worker_cards
from helix_crawl_otel.probes.nvml import NvmlProbe, list_cards
from tests.gpu.card import MIB, python

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]

PROGRAM = """
import gc, json, os
import torch
from helix_crawl_otel.probes.probe import CombinedProbe
from helix_crawl_otel.probes.nvml import NvmlProbe
from helix_crawl_otel.probes.torch_cuda import TorchProbe
from helix_crawl_otel.watch.release import release_cache

MIB = 1024**2
found = {}
nvml, of_torch = NvmlProbe("cuda:0", os.environ), TorchProbe("cuda:0")
both = CombinedProbe([NvmlProbe("cuda:0", os.environ), TorchProbe("cuda:0")])
found["before_cuda"] = [of_torch().used_bytes, of_torch.why, release_cache(), torch.cuda.is_initialized()]

found["uuid"] = str(getattr(torch.cuda.get_device_properties(0), "uuid", ""))  # starts CUDA

def look(name):
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info(0)
    read, own, combined = nvml(), of_torch(), both()
    found[name] = {
        "free": free, "total": total, "nvml_used": read.used_bytes, "nvml_limit": read.limit_bytes, "why": nvml.why,
        "torch_used": own.used_bytes, "torch_limit": own.limit_bytes, "allocated": torch.cuda.memory_allocated(0),
        "reserved": torch.cuda.memory_reserved(0), "combined": [combined.used_bytes, combined.limit_bytes],
        "sources": both.sources(),
    }

small = torch.ones(1, device="cuda:0")
look("small")
big = [torch.empty(256 * MIB, dtype=torch.uint8, device="cuda:0") for _ in range(4)]
look("big")
del big
look("cached")
found["freed"] = release_cache()
look("released")
found["freed_again"] = release_cache()
big = torch.empty(1536 * MIB, dtype=torch.uint8, device="cuda:0")
del big
torch.cuda.empty_cache()
look("between")
look("after")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What one process with CUDA has seen: with nothing, with 1 GiB, after giving it up, after the release."""
    found: dict[str, Any] = json.loads(python("-c", PROGRAM))
    return found


def test_a_process_without_cuda_is_left_alone(seen: dict[str, Any]) -> None:
    """Neither the probe nor the release makes a context."""
    used, why, freed, started = seen["before_cuda"]
    assert (used, freed, started) == (None, None, False)
    assert why == "torch does not use CUDA in this process"


@pytest.mark.parametrize("moment", ["small", "big", "cached", "released"])
def test_nvml_reads_what_the_driver_says(seen: dict[str, Any], moment: str) -> None:
    """`torch.cuda.mem_get_info` asks the driver from inside a context; the probe sees the same from anywhere."""
    at = seen[moment]
    nvml_free = at["nvml_limit"] - at["nvml_used"]
    print(f"\n  {moment}: free {nvml_free / MIB:.0f} MiB by NVML, {at['free'] / MIB:.0f} MiB by the driver")
    assert abs(nvml_free - at["free"]) < 640 * MIB, at["why"]  # what the driver sets aside is counted either way
    assert 0.95 < at["total"] / at["nvml_limit"] < 1.05


def test_torchs_probe_reads_the_allocator(seen: dict[str, Any]) -> None:
    """Reserved memory, and what of it is in tensors; the card's size is torch's."""
    big, cached = seen["big"], seen["cached"]
    assert big["torch_used"] >= big["reserved"] >= 1024 * MIB
    assert big["allocated"] >= 1024 * MIB
    assert cached["torch_used"] >= cached["reserved"] >= 1024 * MIB
    assert cached["allocated"] < 64 * MIB
    assert big["torch_limit"] == pytest.approx(big["total"], rel=0.05)


def test_a_peak_between_two_readings_is_seen(seen: dict[str, Any]) -> None:
    """1.5 GiB that came and went; the reading after that is the present again."""
    assert seen["between"]["reserved"] < 64 * MIB
    assert seen["between"]["torch_used"] >= 1536 * MIB
    assert seen["after"]["torch_used"] == seen["after"]["reserved"]


def test_the_fuller_reading_counts(seen: dict[str, Any]) -> None:
    """NVML sees the context as well, so it is never less than torch's; both sources are up."""
    at = seen["big"]
    used, limit = at["combined"]
    assert at["sources"] == {"nvml": True, "torch": True}
    assert limit == at["nvml_limit"]
    assert abs(used - at["nvml_used"]) < 64 * MIB
    assert used > at["reserved"]


def test_the_release_gives_the_cache_back_to_the_card(seen: dict[str, Any]) -> None:
    """As many bytes as it says, seen by NVML; a second one finds nothing."""
    cached, released = seen["cached"], seen["released"]
    print(f"\n  freed {seen['freed'] / MIB:.0f} MiB")
    assert seen["freed"] == cached["reserved"] - released["reserved"]
    assert seen["freed"] >= 1024 * MIB
    assert cached["nvml_used"] - released["nvml_used"] >= 900 * MIB
    assert seen["freed_again"] == 0


def test_auto_takes_the_card(seen: dict[str, Any]) -> None:
    """A card of more than 12 GiB, with its size in the sentence."""
    cards = worker_cards(os.environ)
    plan = choose_devices("auto", None, 12.0, cards, 8, torch_build())
    print(f"\n  {plan.why}")
    assert cards.usable[0].memory.limit_bytes == pytest.approx(seen["small"]["total"], rel=0.05)
    assert [device for _, device in plan.slots][:1] == ["cuda:0"]
    assert plan.warnings == ()
    small = choose_devices("auto", None, 100_000.0, cards, 8, torch_build())
    assert {device for _, device in small.slots} == {"cpu"}


@pytest.mark.parametrize("order", ["PCI_BUS_ID", "FASTEST_FIRST", None])
@pytest.mark.parametrize("how", ["number", "uuid", "start of uuid"])
def test_cards_are_numbered_as_cuda_numbers_them(seen: dict[str, Any], order: str | None, how: str) -> None:
    """Every way to name a card leads to the one that torch calls cuda:0."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("CUDA_")}
    cards = list_cards()
    wanted = next((card for card in cards if seen["uuid"] and seen["uuid"] in (card.uuid or "")), cards[0])
    if len(cards) > 1 and order != "PCI_BUS_ID" and len({card.name for card in cards}) > 1:
        pytest.skip("several different cards, and CUDA alone knows which is the fastest")
    assert wanted.uuid is not None
    names = {"number": str(wanted.index), "uuid": wanted.uuid, "start of uuid": wanted.uuid[:12]}
    environ["CUDA_VISIBLE_DEVICES"] = names[how]
    if order is not None:
        environ["CUDA_DEVICE_ORDER"] = order
    probe = NvmlProbe("cuda:0", environ)
    assert probe().fraction is not None, probe.why
    assert [card.device for card in worker_cards(environ).usable] == ["cuda:0"]
    assert NvmlProbe("cuda:1", environ)().used_bytes is None


def test_torch_sees_the_card_under_the_same_names(seen: dict[str, Any]) -> None:
    """The same UUID by number and by name; nothing when it is hidden."""
    if not seen["uuid"]:
        pytest.skip("this torch does not tell the UUID of a card")
    uuid = next(card.uuid for card in list_cards() if seen["uuid"] in (card.uuid or ""))
    program = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_properties(0).uuid)"
    assert uuid is not None
    count, found = python("-c", program, CUDA_VISIBLE_DEVICES=uuid, CUDA_DEVICE_ORDER="PCI_BUS_ID").split()
    assert (count, found) == ("1", seen["uuid"])
    hidden = python("-c", "import torch; print(torch.cuda.device_count())", CUDA_VISIBLE_DEVICES="-1")
    assert hidden.strip() == "0"
    assert worker_cards({**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}).usable == []


def test_what_else_the_card_says_of_itself() -> None:
    """In the units of the semantic conventions, and within what a card can be; an instance of MIG may say nothing."""
    probe = NvmlProbe("cuda:0", os.environ)
    assert probe().fraction is not None, probe.why
    card = probe.read_card()
    print(f"\n  {card}")
    assert card.uuid in {each.uuid for each in list_cards()} or card.uuid.startswith("MIG-")
    assert card.name
    if card.uuid.startswith("MIG-"):
        return
    assert card.utilization is not None
    assert 0 <= card.utilization <= 1
    assert card.temperature is not None
    assert 10 < card.temperature < 110
    assert card.power is not None
    assert 3 < card.power < 2000
    assert set(card.clocks) == {"sm", "memory"}
    assert all(1e8 < hertz < 2e10 for hertz in card.clocks.values())
    assert set(card.throttled) == {"thermal", "power", "hardware"}
