"""Several cards, MIG, lost cards, and what `describe` says of them: the real pynvml on the stand-in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.probes.nvml import within
from helix_crawl_otel.probes.probe import ProbeFailure
from tests.probes.process import Reader
from tests.standins.nvml import GIB, Answers, Card

Start = Callable[..., Reader]


def card(number: int, name: str = "RTX 3090", **values: Any) -> Card:
    """A card that is known by its size: `number` times 10 GiB."""
    return Card(name=name, uuid=f"GPU-{number}aaa", total=number * 10 * GIB, used=GIB, reserved=0, **values)


@pytest.fixture
def three(answers: Answers) -> Answers:
    """Cards of 10, 20 and 30 GiB, of one name."""
    answers.cards = [card(1), card(2), card(3)]
    answers.write()
    return answers


@pytest.mark.parametrize(
    ("device", "variables", "tens"),
    [
        ("cuda", {}, 1),
        ("cuda:2", {}, 3),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "2,0"}, 3),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "2,0"}, 1),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-2"}, 2),
    ],
)
def test_the_card_that_cuda_means_is_read(
    start_reader: Start, nvml_library: Path, three: Answers, device: str, variables: dict[str, str], tens: int
) -> None:
    """The environment of the process decides which card `cuda:N` is."""
    assert start_reader(nvml_library, device, **variables).read()["limit"] == tens * 10 * GIB


@pytest.mark.parametrize(
    ("device", "variables"),
    [("cuda:0", {"CUDA_VISIBLE_DEVICES": "-1"}), ("cuda:0", {"CUDA_VISIBLE_DEVICES": ""}), ("cuda:3", {})],
)
def test_a_card_that_cuda_does_not_see_is_unknown(
    start_reader: Start, nvml_library: Path, three: Answers, device: str, variables: dict[str, str]
) -> None:
    """A demoted worker (CUDA_VISIBLE_DEVICES=-1) has no card, though NVML sees three."""
    answer = start_reader(nvml_library, device, **variables).read()
    assert answer["used"] is None
    assert f"there is no {device}" in answer["why"]


def test_different_cards_without_an_order_are_unknown(
    start_reader: Start, nvml_library: Path, answers: Answers
) -> None:
    """Unknown with the advice, and read once the advice is taken."""
    answers.cards = [card(1, "GTX 1060"), card(2, "RTX 3080 Ti")]
    answers.write()
    assert "PCI_BUS_ID" in start_reader(nvml_library).read()["why"]
    assert start_reader(nvml_library, CUDA_DEVICE_ORDER="PCI_BUS_ID").read()["limit"] == 10 * GIB


def test_a_mig_instance_is_read_by_its_uuid(start_reader: Start, nvml_library: Path, answers: Answers) -> None:
    """The instance's own memory, not that of the whole card."""
    answers.instances = [Card(uuid="MIG-4f6c", total=5 * GIB, used=4 * GIB, reserved=0)]
    answers.write()
    reader = start_reader(nvml_library, CUDA_VISIBLE_DEVICES="MIG-4f6c")
    assert reader.read() == {"used": 4 * GIB, "limit": 5 * GIB, "why": None}


def test_an_unknown_mig_instance_is_unknown(start_reader: Start, nvml_library: Path) -> None:
    """NVML's answer "not found" is the reason."""
    answer = start_reader(nvml_library, CUDA_VISIBLE_DEVICES="MIG-9").read()
    assert answer["used"] is None
    assert "error 6 from nvmlDeviceGetHandleByUUID" in answer["why"]


def test_a_card_that_is_cut_up_is_not_read_as_a_whole(reader: Reader, answers: Answers) -> None:
    """With MIG on, cuda:0 is an instance; the sum of all instances would hide that it is full."""
    answers.change(mig=1)
    answer = reader.read()
    assert answer["used"] is None
    assert "MIG" in answer["why"]


def test_a_card_that_could_be_cut_up_but_is_not_is_read(reader: Reader, answers: Answers) -> None:
    """MIG mode 0 is an ordinary card."""
    answers.change(mig=0)
    assert reader.read()["limit"] == 12 * GIB


def test_a_lost_neighbour_does_not_hide_a_card(start_reader: Start, nvml_library: Path, three: Answers) -> None:
    """A card that fell off the bus is listed without a name; the one that a UUID names is read."""
    three.change(0, lost=1)
    assert start_reader(nvml_library, CUDA_VISIBLE_DEVICES="GPU-3").read()["limit"] == 30 * GIB


def test_a_card_keeps_its_identity_when_the_numbers_move(
    start_reader: Start, nvml_library: Path, three: Answers
) -> None:
    """After the first card is gone, index 0 is another one: the process still means its own."""
    reader = start_reader(nvml_library, "cuda:0")
    assert reader.read()["limit"] == 10 * GIB
    three.cards = [card(2), card(3)]
    three.fail(nvmlDeviceGetMemoryInfo_v2=15)
    assert reader.read()["used"] is None
    three.fail(nvmlDeviceGetMemoryInfo_v2=0)
    answer = reader.read()
    assert (answer["used"], answer["why"]) == (None, "the card GPU-1aaa is gone")


def test_a_card_is_found_at_its_new_number(start_reader: Start, nvml_library: Path, three: Answers) -> None:
    """The same the other way round: the card is still there, under another index."""
    reader = start_reader(nvml_library, "cuda:2")
    reader.read()
    three.fail(nvmlDeviceGetMemoryInfo_v2=15)
    reader.read()
    three.cards = [card(2), card(3)]
    three.fail(nvmlDeviceGetMemoryInfo_v2=0)
    assert reader.read()["limit"] == 30 * GIB


def test_describe_lists_every_card_and_what_cuda_calls_it(
    start_reader: Start, nvml_library: Path, answers: Answers
) -> None:
    """Name, UUID, size, driver model; a hidden card has no CUDA name, a lost one nothing but its index."""
    answers.cards = [card(1, model=0), card(2, model=1), card(3, lost=1)]
    answers.write()
    said = start_reader(nvml_library, CUDA_VISIBLE_DEVICES="GPU-2").ask("describe")
    assert (said["driver"], said["why"]) == ("610.43", None)
    keys = ("index", "device", "name", "uuid", "model", "is_usable")
    assert [tuple(one[key] for key in keys) for one in said["cards"]] == [
        (0, None, "RTX 3090", "GPU-1aaa", "WDDM", True),
        (1, "cuda:0", "RTX 3090", "GPU-2aaa", "TCC", True),
        (2, None, None, None, None, False),
    ]
    assert [one["memory"]["limit_bytes"] for one in said["cards"]] == [10 * GIB, 20 * GIB, None]
    assert said["cards"][2]["why"] == "NVML: GPU is lost (error 15 from nvmlDeviceGetHandleByIndex)"


def test_describe_numbers_cards_in_cudas_order(start_reader: Start, nvml_library: Path, three: Answers) -> None:
    """The list is in NVML's order, the names are CUDA's."""
    said = start_reader(nvml_library, CUDA_VISIBLE_DEVICES="2,0").ask("describe")
    assert [one["device"] for one in said["cards"]] == ["cuda:1", None, "cuda:0"]


def test_describe_goes_on_where_a_value_is_missing(reader: Reader, answers: Answers) -> None:
    """Unified memory has no size here, and a driver may not say its version: the card is listed all the same."""
    answers.fail(nvmlDeviceGetMemoryInfo_v2=3, nvmlDeviceGetMemoryInfo=3, nvmlSystemGetDriverVersion=999)
    said = reader.ask("describe")
    assert said["driver"] is None
    assert said["cards"][0]["name"] == "NVIDIA GeForce RTX 3080 Ti"
    assert said["cards"][0]["memory"]["limit_bytes"] is None


def test_a_driver_that_hangs_is_waited_for_no_longer_than_told() -> None:
    """Whoever asks goes on; what hangs keeps a thread of its own."""
    answer, asked = threading.Event(), threading.Event()

    def hang() -> str:
        asked.set()
        answer.wait(60)
        return "late"

    with pytest.raises(ProbeFailure, match=r"^NVML: no answer within 0\.01 s$") as late:
        within(0.01, hang)
    assert late.value.code == 10
    answer.set()
    assert asked.is_set()
    assert within(50, hang) == "late"
    with pytest.raises(ProbeFailure, match=r"^NVML: ZeroDivisionError: division by zero$"):
        within(50, lambda: 1 / 0)


def test_describe_says_why_there_is_nothing(reader: Reader, answers: Answers) -> None:
    """A driver that is not loaded is a reason, not an exception."""
    answers.fail(nvmlInitWithFlags=9)
    said = reader.ask("describe")
    assert said["cards"] == []
    assert "Driver Not Loaded" in said["why"]


@pytest.mark.parametrize(("number", "model"), [(0, "WDDM"), (1, "TCC"), (2, "MCDM"), (7, None), (None, None)])
def test_the_driver_model(reader: Reader, answers: Answers, number: int | None, model: str | None) -> None:
    """Only WDDM spills without a word; outside Windows NVML answers "not supported", and a new number is unknown."""
    answers.change(model=number)
    assert reader.ask("driver model") == model


def test_the_driver_model_of_a_missing_card_is_unknown(reader: Reader, answers: Answers) -> None:
    """Nothing is raised when the card cannot be found."""
    answers.cards = []
    answers.write()
    assert reader.ask("driver model") is None
