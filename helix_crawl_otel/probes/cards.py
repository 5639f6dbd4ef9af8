"""Says which cards there are, for `doctor` and for choosing a device: slower than a reading, asked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from helix_crawl_otel.probes.cuda_order import CardId, place
from helix_crawl_otel.probes.nvml import read_memory
from helix_crawl_otel.probes.nvml_api import NvmlFailure, call
from helix_crawl_otel.probes.nvml_cards import find_card, list_cards

__all__ = ["CardInfo", "Description", "describe", "driver_model"]

_MODELS = {0: "WDDM", 1: "TCC", 2: "MCDM"}
"""NVML_DRIVER_WDDM, _WDM (which every tool shows as TCC) and _MCDM."""

_MODEL_CALLS = ("nvmlDeviceGetDriverModel_v2", "nvmlDeviceGetDriverModel_v1", "nvmlDeviceGetDriverModel")
"""Version 2 knows MCDM. A binding without versions has the last one only."""


@dataclass(frozen=True, slots=True)
class CardInfo:
    """One card.

    Args:
        index: NVML's index.
        device: What a process with the given environment calls it; `None` when hidden from it or not certain.
        name: Marketing name, `None` when unreadable.
        uuid: `GPU-...`, `None` when unreadable.
        total_bytes: Physical memory, `None` when unreadable or unified.
        model: `WDDM`, `TCC` or `MCDM`; `None` outside Windows.
    """

    index: int
    device: str | None
    name: str | None
    uuid: str | None
    total_bytes: int | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Description:
    """What NVML says of this machine.

    Args:
        cards: Every card, in NVML's order; empty when there is none or NVML cannot be used.
        driver: Version of the driver, `None` when unknown.
        why: One sentence: why NVML cannot be used; `None` when it can.
    """

    cards: tuple[CardInfo, ...]
    driver: str | None
    why: str | None


def describe(environ: Mapping[str, str]) -> Description:
    """List the cards of this machine and what a process with `environ` calls them. Never raises.

    Args:
        environ: The environment of the process that encodes.

    Threads: any. May block as NVML does.
    """
    try:
        cards = list_cards()
        driver = _driver()
    except NvmlFailure as failure:
        return Description((), None, str(failure))
    names = {place(ordinal, cards, environ).index: f"cuda:{ordinal}" for ordinal in reversed(range(len(cards)))}
    return Description(tuple(_info(card, names.get(card.index)) for card in cards), driver, None)


def driver_model(device_ordinal: int, environ: Mapping[str, str]) -> str | None:
    """Driver model of `cuda:<device_ordinal>`. Never raises.

    WDDM moves memory to the system without a word, TCC does not; MCDM is a subset of WDDM for cards that only compute,
    and what it does is not documented. So this decides how loudly to warn.

    Returns:
        `WDDM`, `TCC` or `MCDM`; `None` outside Windows (NVML answers "not supported") and when it cannot be read.

    Threads: any. May block as NVML does.
    """
    try:
        handle, _uuid = find_card(device_ordinal, environ)
    except NvmlFailure:
        return None
    return _model(handle)


def _info(card: CardId, device: str | None) -> CardInfo:
    try:
        handle = call("nvmlDeviceGetHandleByIndex", card.index)
    except NvmlFailure:
        return CardInfo(card.index, device, card.name, card.uuid, None, None)
    try:
        total: int | None = read_memory(handle)[0].total
    except NvmlFailure:
        total = None
    return CardInfo(card.index, device, card.name, card.uuid, total, _model(handle))


def _model(handle: object) -> str | None:
    for function in _MODEL_CALLS:
        try:
            return _MODELS.get(int(call(function, handle)[0]))
        except NvmlFailure:
            continue
    return None


def _driver() -> str | None:
    try:
        return str(call("nvmlSystemGetDriverVersion"))
    except NvmlFailure:
        return None
