"""Opens NVML and finds the handle of the card that a process calls `cuda:N`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helix_crawl_otel.probes.cuda_order import CardId, place
from helix_crawl_otel.probes.nvml_api import NvmlFailure, call

__all__ = ["find_card", "list_cards"]


def list_cards() -> list[CardId]:
    """Initialise NVML and list every card, a lost one with what can still be said of it.

    Raises:
        NvmlFailure: NVML itself cannot be used.
    """
    call("nvmlInit")
    return [_card(index) for index in range(int(call("nvmlDeviceGetCount")))]


def find_card(ordinal: int, environ: Mapping[str, str], pinned: str | None = None) -> tuple[Any, str | None]:
    """Initialise NVML and find one card.

    Args:
        ordinal: N of `cuda:N`.
        environ: The environment of the process that encodes.
        pinned: UUID of the card found earlier. When a card falls off the bus the indices of the others may move, and
            a process keeps the card it began with: so that one is looked for, not a new one of its number.

    Returns:
        The handle, and the card's UUID where it has one.

    Raises:
        NvmlFailure: It cannot be found, or not with certainty.
    """
    cards = list_cards()
    if pinned is not None and not pinned.startswith("MIG-"):
        index = next((card.index for card in cards if card.uuid == pinned), None)
        if index is None:
            raise NvmlFailure(None, f"the card {pinned} is gone")
        return call("nvmlDeviceGetHandleByIndex", index), pinned
    found = place(ordinal, cards, environ)
    if found.mig is not None:
        return call("nvmlDeviceGetHandleByUUID", found.mig), found.mig
    if found.index is None:
        raise NvmlFailure(None, found.why or "not found")
    handle = call("nvmlDeviceGetHandleByIndex", found.index)
    if _mig_is_on(handle):
        raise NvmlFailure(
            None,
            f"the card is cut up (MIG), and cuda:{ordinal} is one of its instances: "
            "name that instance by its UUID in CUDA_VISIBLE_DEVICES",
        )
    return handle, cards[found.index].uuid


def _card(index: int) -> CardId:
    try:
        handle = call("nvmlDeviceGetHandleByIndex", index)
    except NvmlFailure:
        return CardId(index, None, None)
    return CardId(index, _text("nvmlDeviceGetUUID", handle), _text("nvmlDeviceGetName", handle))


def _text(function: str, handle: object) -> str | None:
    try:
        answer = call(function, handle)
    except NvmlFailure:
        return None
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)


def _mig_is_on(handle: object) -> bool:
    try:
        current, _pending = call("nvmlDeviceGetMigMode", handle)
    except NvmlFailure:
        return False
    return bool(current == 1)
