"""Decides which card of NVML is `cuda:N` for a process with a given environment. Pure: cards and variables come in.

CUDA numbers what `CUDA_VISIBLE_DEVICES` leaves, in the order of `CUDA_DEVICE_ORDER`; NVML always sees every card, in
the order of the PCI bus. Reading the wrong card could make a crawl of a healthy one, so what is not certain is unknown.

Source: CUDA Programming Guide, "CUDA Environment Variables"; torch reads the variable the same way
(`torch.cuda._parse_visible_devices`): like strtoul, cut at the first bad entry, nothing at all when one is repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helix_crawl_otel.formats import count
from helix_crawl_otel.probes.probe import ProbeFailure

__all__ = ["VISIBLE", "CardId", "place", "shown_variable", "visible"]

VISIBLE = "CUDA_VISIBLE_DEVICES"

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
    is_sorted_by_speed = environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and (len(names) > 1 or None in names)
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


def _by_number(entry: str, cards: Sequence[CardId]) -> int | None:
    match = _LEADING_NUMBER.match(entry)
    number = int(match[1] + match[2]) if match else -1
    return cards[number].index if 0 <= number < len(cards) else None


def _by_uuid(prefix: str, cards: Sequence[CardId]) -> int | None:
    if not prefix.startswith("GPU-"):
        return None
    found = [card.index for card in cards if card.uuid is not None and card.uuid.startswith(prefix)]
    return found[0] if len(found) == 1 else None
