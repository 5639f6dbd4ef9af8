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

__all__ = ["CardId", "CardLocation", "place"]

_LEADING_NUMBER = re.compile(r"\s*([+-]?\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class CardId:
    """A card as NVML lists it.

    Args:
        index: NVML's index, 0 or more.
        uuid: `GPU-...`; `None` where it cannot be read (a lost card).
        name: Marketing name; `None` where it cannot be read.
    """

    index: int
    uuid: str | None
    name: str | None


@dataclass(frozen=True, slots=True)
class CardLocation:
    """Where a CUDA ordinal lies. Exactly one field is set.

    Args:
        index: NVML's index of the card.
        mig: UUID of a MIG instance.
        why: One sentence: why it is not known.
    """

    index: int | None = None
    mig: str | None = None
    why: str | None = None


def place(ordinal: int, cards: Sequence[CardId], environ: Mapping[str, str]) -> CardLocation:
    """Find the card that a process with `environ` calls `cuda:<ordinal>`.

    With several different cards and no `CUDA_DEVICE_ORDER=PCI_BUS_ID`, CUDA puts the fastest first by a rule of its
    own that NVML does not know: unknown, and the reason says what to set. Cards of one name count as equally fast, and
    CUDA leaves those in the order of the bus.

    Args:
        ordinal: N of `cuda:N`, 0 or more.
        cards: What NVML lists, in its order, without gaps.
        environ: The environment of the process that encodes.

    Returns:
        The place, or the reason why it is unknown.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return _by_number(ordinal, list(range(len(cards))), cards, environ, "NVML lists")
    seen = f"CUDA_VISIBLE_DEVICES={value!r} leaves"
    if value.startswith("MIG-"):
        instances = _entries(value, "MIG-")
        return (
            CardLocation(mig=instances[ordinal]) if ordinal < len(instances) else _absent(ordinal, len(instances), seen)
        )
    if value.startswith("GPU-"):
        found = _unique([_by_uuid(entry, cards) for entry in _entries(value, "GPU-")])
        return CardLocation(index=found[ordinal]) if ordinal < len(found) else _absent(ordinal, len(found), seen)
    numbers = _unique([_number(entry, len(cards)) for entry in value.split(",")])
    return _by_number(ordinal, numbers, cards, environ, seen)


def _by_number(
    ordinal: int, numbers: Sequence[int], cards: Sequence[CardId], environ: Mapping[str, str], seen: str
) -> CardLocation:
    if ordinal >= len(numbers):
        return _absent(ordinal, len(numbers), seen)
    names = {card.name for card in cards}
    if len(cards) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and (len(names) > 1 or None in names):
        return CardLocation(
            why=f"which of {len(cards)} different cards is cuda:{ordinal} is not known: "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card by its UUID in CUDA_VISIBLE_DEVICES"
        )
    return CardLocation(index=cards[numbers[ordinal]].index)


def _absent(ordinal: int, count: int, seen: str) -> CardLocation:
    left = {0: "no card", 1: "1 card"}.get(count, f"{count} cards")
    return CardLocation(why=f"there is no cuda:{ordinal}: {seen} {left}")


def _entries(value: str, prefix: str) -> list[str]:
    """Entries up to the first of another kind; none at all when one is repeated."""
    entries: list[str] = []
    for entry in value.split(","):
        if entry in entries:
            return []
        if not entry.startswith(prefix):
            break
        entries.append(entry)
    return entries


def _number(entry: str, count: int) -> int | None:
    match = _LEADING_NUMBER.match(entry)
    number = int(match[1]) if match else -1
    return number if 0 <= number < count else None


def _by_uuid(prefix: str, cards: Sequence[CardId]) -> int | None:
    found = [card.index for card in cards if card.uuid is not None and card.uuid.startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _unique(found: Sequence[int | None]) -> list[int]:
    """Numbers up to the first that is no card; none at all when one is repeated."""
    kept: list[int] = []
    for number in found:
        if number is None:
            break
        if number in kept:
            return []
        kept.append(number)
    return kept
