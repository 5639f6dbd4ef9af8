"""Decides which card of NVML is `cuda:N` for a process with a given environment. Pure: cards and variables come in.

CUDA numbers what `CUDA_VISIBLE_DEVICES` leaves, in the order of `CUDA_DEVICE_ORDER`; NVML always sees every card, in
the order of the PCI bus. Reading the wrong card could make a crawl of a healthy one, so what is not certain is unknown.

A job may give each of its processes a card of its own by these variables: then each calls its own card `cuda:0`, and
`same_card` says what the job calls it.

Source: CUDA Programming Guide, "CUDA Environment Variables"; torch reads the variable the same way
(`torch.cuda._parse_visible_devices`): like strtoul, cut at the first bad entry, nothing at all when one is repeated.
ROCm, "GPU isolation techniques": HIP reads its own variable and else CUDA's, and counts what ROCR's has left.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from helix_crawl_otel.formats import count
from helix_crawl_otel.probes.probe import ProbeFailure

__all__ = [
    "VISIBLE",
    "CardId",
    "card_variables",
    "place",
    "same_card",
    "shown_count",
    "shown_variable",
    "visible",
    "without_cards",
]

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
HIP_VISIBLE, ROCR_VISIBLE = "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"

_LEADING_NUMBER = re.compile(r"\s*([+-]?)0*(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class CardId:
    """A card as NVML lists it.

    Args:
        index: NVML's index, 0 or more; its place in a list is its number for CUDA.
        uuid: `GPU-...`; `None` where it cannot be read (a lost card).
        name: Marketing name; `None` where it cannot be read.
    """

    index: int
    uuid: str | None
    name: str | None


def visible(cards: Sequence[CardId], environ: Mapping[str, str]) -> list[int | str]:
    """What a process with `environ` sees, by CUDA ordinal: NVML's index of a card, or the UUID of a MIG instance.

    Args:
        cards: What NVML lists, in its order.
        environ: The environment of the process that encodes.
    """
    value = environ.get(VISIBLE)
    if value is None:
        return [card.index for card in cards]
    found: list[int | str] = []
    for entry in value.split(","):
        if value.startswith("MIG-"):
            one: int | str | None = entry if entry.startswith("MIG-") else None
        elif value.startswith("GPU-"):
            one = _by_uuid(entry, cards)
        else:
            one = _by_number(entry, cards)
        if one is None:
            break
        if one in found:
            return []
        found.append(one)
    return found


def place(ordinal: int, cards: Sequence[CardId], environ: Mapping[str, str]) -> int | str:
    """Find what a process with `environ` calls `cuda:<ordinal>`; see `visible`.

    With several different cards and no `CUDA_DEVICE_ORDER=PCI_BUS_ID`, CUDA puts the fastest first by a rule of its
    own that NVML does not know: unknown, and the reason says what to set. Cards of one name count as equally fast, and
    CUDA leaves those in the order of the bus.

    Args:
        ordinal: N of `cuda:N`, 0 or more.
        cards: What NVML lists, in its order.
        environ: The environment of the process that encodes.

    Raises:
        ProbeFailure: There is none of this number, or it is not known which one it is.
    """
    found = visible(cards, environ)
    if ordinal >= len(found):
        left = count(len(found), "card") if found else "no card"
        raise ProbeFailure(f"there is no cuda:{ordinal}: {shown_variable(environ) or 'NVML lists'} {left}")
    names = {card.name for card in cards}
    is_sorted_by_speed = environ.get(ORDER) != "PCI_BUS_ID" and (len(names) > 1 or None in names)
    if len(cards) > 1 and is_sorted_by_speed and not environ.get(VISIBLE, "").startswith(("GPU-", "MIG-")):
        kind = "cards, of which not all answer," if None in names else "different cards"
        raise ProbeFailure(
            f"which of {len(cards)} {kind} is cuda:{ordinal} is not known: "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card by its UUID in CUDA_VISIBLE_DEVICES"
        )
    return found[ordinal]


def shown_variable(environ: Mapping[str, str]) -> str:
    """Such as `CUDA_VISIBLE_DEVICES='-1' leaves`, for what it leaves to be put behind; empty when it is not set."""
    return f"{VISIBLE}={environ[VISIBLE]!r} leaves" if VISIBLE in environ else ""


def card_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What of an environment says which cards a process sees, and how it numbers them."""
    return {name: environ[name] for name in (VISIBLE, ORDER, HIP_VISIBLE, ROCR_VISIBLE) if name in environ}


def without_cards(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables with which a process that has this environment otherwise sees no card."""
    return dict.fromkeys([VISIBLE, *({HIP_VISIBLE} & environ.keys())], "-1")


def same_card(
    ordinal: int, theirs: Mapping[str, str], ours: Mapping[str, str], cards: Sequence[CardId] = ()
) -> int | None:
    """What we call the card that another process on this machine calls `cuda:<ordinal>`.

    Args:
        ordinal: N of its `cuda:N`, 0 or more.
        theirs: Its environment.
        ours: Ours.
        cards: What NVML lists, in its order; empty where nothing does: with AMD's cards the variables alone are known.

    Returns:
        Our ordinal; `None` for a card that ours does not show, or of which it is not certain. A number that theirs does
        not show is no card, and stays what it is.
    """
    shown, ours_shown = _shown(theirs, cards), _shown(ours, cards)
    if shown is not None and ordinal >= len(shown):
        return ordinal
    card = ordinal if shown is None else shown[ordinal]
    if isinstance(card, str) or theirs.get(ORDER) == ours.get(ORDER):
        if ours_shown is not None and card in ours_shown:
            return ours_shown.index(card)
        if ours_shown is None and isinstance(card, int):
            return card
    with suppress(ProbeFailure):
        at = place(ordinal, cards, theirs)
        for number in range(len(visible(cards, ours))):
            with suppress(ProbeFailure):
                if place(number, cards, ours) == at:
                    return number
    return None


def shown_count(environ: Mapping[str, str], cards: Sequence[CardId] = ()) -> int:
    """How many cards a process sees, as far as its environment and NVML tell."""
    shown = _shown(environ, cards)
    return len(cards) if shown is None else len(shown)


def _shown(environ: Mapping[str, str], cards: Sequence[CardId]) -> list[int | str] | None:
    """The cards that variables leave, as they name them; `None` for all. Where NVML lists cards they are NVIDIA's."""
    cuda = _entries(environ.get(VISIBLE))
    if cards:
        return cuda
    hip, below = _entries(environ.get(HIP_VISIBLE)), _entries(environ.get(ROCR_VISIBLE))
    shown = cuda if hip is None else hip
    if shown is None or below is None:
        return below if shown is None else shown
    return [below[entry] for entry in shown if isinstance(entry, int) and entry < len(below)]


def _entries(value: str | None) -> list[int | str] | None:
    if value is None:
        return None
    found: list[int | str] = []
    for entry in value.split(","):
        match = _LEADING_NUMBER.match(entry)
        is_named = entry.startswith(("GPU-", "MIG-"))
        if not is_named and (match is None or match[1] == "-"):
            break
        found.append(entry if match is None else int(match[2]))
    return found if len(set(found)) == len(found) else []


def _by_number(entry: str, cards: Sequence[CardId]) -> int | None:
    match = _LEADING_NUMBER.match(entry)
    number = int(match[1] + match[2]) if match else -1
    return cards[number].index if 0 <= number < len(cards) else None


def _by_uuid(prefix: str, cards: Sequence[CardId]) -> int | None:
    if not prefix.startswith("GPU-"):
        return None
    found = [card.index for card in cards if card.uuid is not None and card.uuid.startswith(prefix)]
    return found[0] if len(found) == 1 else None
