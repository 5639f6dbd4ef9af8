"""Which card is `cuda:N`: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER, as CUDA and torch read them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.probes.cuda_order import CardId, card_variables, place, same_card, visible, without_cards
from helix_crawl_otel.probes.probe import ProbeFailure

SAME = [CardId(index, f"GPU-{index}aaa-bbb", "RTX 3090") for index in range(3)]
MIXED = [CardId(0, "GPU-0aaa", "GTX 1060"), CardId(1, "GPU-1aaa", "RTX 3080 Ti")]
PCI = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def leaving(value: str) -> dict[str, str]:
    """An environment with this CUDA_VISIBLE_DEVICES."""
    return {"CUDA_VISIBLE_DEVICES": value}


@pytest.mark.parametrize("ordinal", [0, 1, 2])
def test_without_variables_the_numbers_are_nvmls(ordinal: int) -> None:
    """Cards of one kind stand in the order of the bus, for CUDA and for NVML."""
    assert place(ordinal, SAME, {}) == ordinal


@pytest.mark.parametrize(
    ("value", "ordinal", "index"),
    [
        ("2,0", 0, 2),
        ("2,0", 1, 0),
        (" 1 , 2 ", 0, 1),
        ("+1", 0, 1),
        ("1gpu,2card", 1, 2),
        ("0,-1,2", 0, 0),
        ("0,9,2", 0, 0),
        ("0,GPU-1aaa", 0, 0),
        ("GPU-2aaa-bbb,GPU-0aaa-bbb", 0, 2),
        ("GPU-2,GPU-0", 1, 0),
        ("GPU-1,1,GPU-2", 0, 1),
    ],
)
def test_a_listed_card_is_found(value: str, ordinal: int, index: int) -> None:
    """Indices, UUIDs and the beginnings of UUIDs, in the order given."""
    assert place(ordinal, SAME, leaving(value)) == index


@pytest.mark.parametrize(
    ("value", "ordinal"),
    [
        ("", 0),
        ("-1", 0),
        ("none", 0),
        ("NoDevFiles", 0),
        ("0", 1),
        ("0,-1,2", 1),
        ("0,9,2", 1),
        ("0,,2", 1),
        ("0,GPU-1aaa", 1),
        ("1,1", 0),
        ("GPU-2,2", 1),
        ("GPU-9", 0),
        ("GPU-", 0),
        ("GPU-0,GPU-9,GPU-1", 1),
        ("GPU-0,GPU-0", 0),
        ("GPU-0,GPU-0aaa", 0),
        ("MIG-x,GPU-0", 1),
        ("MIG-x,MIG-x", 0),
    ],
)
def test_a_hidden_card_is_unknown_and_the_reason_shows_the_variable(value: str, ordinal: int) -> None:
    """The list ends at its first bad entry; a repeated or ambiguous one is no card; nothing else is guessed."""
    with pytest.raises(ProbeFailure) as absent:
        place(ordinal, SAME, leaving(value))
    assert f"cuda:{ordinal}" in str(absent.value)
    assert f"CUDA_VISIBLE_DEVICES={value!r}" in str(absent.value)


@pytest.mark.parametrize(("cards", "left"), [([], "no card"), (SAME[:1], "1 card"), (SAME, "3 cards")])
def test_an_ordinal_beyond_the_cards_is_unknown(cards: list[CardId], left: str) -> None:
    """The reason says how many there are."""
    with pytest.raises(ProbeFailure, match=f"^there is no cuda:7: NVML lists {left}$"):
        place(7, cards, {})


@pytest.mark.parametrize("environ", [{}, leaving("0"), {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}])
def test_the_order_of_different_cards_is_unknown_and_the_reason_says_what_to_set(environ: dict[str, str]) -> None:
    """CUDA puts the fastest card first and NVML cannot say which that is: reading the other one would be worse."""
    with pytest.raises(ProbeFailure, match="CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        place(0, MIXED, environ)


@pytest.mark.parametrize("environ", [PCI, {**PCI, **leaving("0")}, leaving("GPU-0")])
def test_the_order_of_the_bus_or_a_uuid_settles_which_of_different_cards(environ: dict[str, str]) -> None:
    """What the reason recommends works."""
    assert place(0, MIXED, environ) == 0


def test_one_card_needs_no_order() -> None:
    """There is nothing to confuse it with, also when its name cannot be read."""
    assert place(0, [CardId(0, None, None)], {}) == 0


def test_a_card_without_a_name_counts_as_a_different_one() -> None:
    """Two nameless cards may be two kinds."""
    with pytest.raises(ProbeFailure, match="which of 2 cards, of which not all answer, is cuda:0 is not known"):
        place(0, [CardId(0, None, None), CardId(1, None, None)], {})


def test_a_mig_instance_is_named_by_its_uuid() -> None:
    """Both spellings are passed on to NVML as they are."""
    listed = "MIG-GPU-0aaa/1/0,MIG-4f6c"
    assert place(0, SAME, leaving(listed)) == "MIG-GPU-0aaa/1/0"
    assert place(1, SAME, leaving(listed)) == "MIG-4f6c"


@given(
    value=st.one_of(
        st.none(), st.text(max_size=20), st.from_regex(r"((GPU-|MIG-)?[0-9a-]{0,3},?){0,5}", fullmatch=True)
    ),
    count=st.integers(0, 4),
    pci=st.booleans(),
)
def test_any_text_leaves_some_of_the_cards(value: str | None, count: int, pci: bool) -> None:
    """No value of the variable raises, what is found exists, and nothing is found twice."""
    cards = [CardId(index, f"GPU-{index}0", f"card {index % 2}") for index in range(count)]
    environ = {**({} if value is None else leaving(value)), **(PCI if pci else {})}
    found = visible(cards, environ)
    assert len(set(found)) == len(found)
    for ordinal, one in enumerate(found):
        assert one.startswith("MIG-") if isinstance(one, str) else 0 <= one < count
        with contextlib.suppress(ProbeFailure):
            assert place(ordinal, cards, environ) == one


def test_a_number_without_an_end_is_no_card() -> None:
    """Python refuses to read one of thousands of digits, with an exception of its own."""
    assert visible(SAME, leaving("9" * 5000)) == []
    assert visible(SAME, leaving("0" * 5000 + "2")) == [2]


HIP, ROCR = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("ordinal", "theirs", "ours", "cards", "number"),
    [
        pytest.param(0, leaving("1"), {}, [], 1, id="each process a card of its own"),
        pytest.param(0, leaving("1"), {}, SAME, 1, id="the same with NVML"),
        pytest.param(0, leaving("2,0,1"), {}, [], 2, id="a list that is turned"),
        pytest.param(2, leaving("2,0,1"), {}, [], 1, id="its last one"),
        pytest.param(0, leaving("2"), leaving("0,2"), [], 1, id="some of ours"),
        pytest.param(0, leaving("1"), leaving("0"), SAME, None, id="hidden from us"),
        pytest.param(0, leaving("1"), leaving("-1"), [], None, id="we see none"),
        pytest.param(1, leaving("1"), {}, SAME, 1, id="a number that it does not see is no card"),
        pytest.param(0, leaving("GPU-2"), {}, SAME, 2, id="by the beginning of its UUID"),
        pytest.param(0, leaving("GPU-2"), leaving("0,2"), SAME, 1, id="which we name by number"),
        pytest.param(0, leaving("1"), leaving("GPU-2aaa,GPU-1aaa"), SAME, 1, id="and the other way round"),
        pytest.param(0, leaving("GPU-2"), {}, [], None, id="where nobody knows the number"),
        pytest.param(0, leaving("GPU-2"), leaving("GPU-1,GPU-2"), [], 1, id="but we name it so"),
        pytest.param(0, leaving("MIG-5"), {}, SAME, None, id="a part of a card"),
        pytest.param(0, leaving("GPU-1"), {}, MIXED, None, id="CUDA alone knows our numbers"),
        pytest.param(0, leaving("GPU-1"), PCI, MIXED, 1, id="NVML knows them"),
        pytest.param(0, leaving("1"), {}, MIXED, 1, id="both numbered alike, whatever the order"),
        pytest.param(0, {**PCI, **leaving("1")}, {}, MIXED, None, id="numbered in two ways"),
        pytest.param(0, {**PCI, **leaving("1")}, {}, SAME, 1, id="which comes to the same"),
        pytest.param(0, {HIP: "1"}, {}, [], 1, id="AMD"),
        pytest.param(0, {HIP: "1", **leaving("0")}, {}, [], 1, id="HIP's own goes first"),
        pytest.param(0, {HIP: "1", **leaving("0")}, {}, SAME, 0, id="and is nothing to CUDA"),
        pytest.param(0, {ROCR: "3,2", HIP: "1"}, {}, [], 2, id="HIP counts what ROCR leaves"),
        pytest.param(1, {ROCR: "3,2"}, {ROCR: "2,3"}, [], 0, id="ROCR alone"),
    ],
)
def test_what_we_call_the_card_of_another_process(
    ordinal: int, theirs: dict[str, str], ours: dict[str, str], cards: list[CardId], number: int | None
) -> None:
    """By the variables of both where those tell, else by NVML; what is not certain is none of ours."""
    assert same_card(ordinal, theirs, ours, cards) == number


def test_the_variables_of_cards() -> None:
    """What concerns no card is nobody's business; HIP would go on with a variable of its own."""
    assert card_variables({"PATH": "x", **PCI, HIP: ""}) == {**PCI, HIP: ""}
    assert without_cards({HIP: "0", "PATH": "x"}) == {**leaving("-1"), HIP: "-1"}
    assert without_cards({}) == leaving("-1")
