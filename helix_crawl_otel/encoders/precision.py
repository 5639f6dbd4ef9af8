"""The numbers that a model computes in: as it is saved, nearly always float32, or a half that the card is fast in.

A half is taken where a few passages agree with the model as it is saved. They are fixed ones, and not the shard's: a
worker goes through many shards, and what it makes must not depend on which came first. Vectors that agree are the same
encoder's, as those of the CPU and of a card are; a half that was asked for and does not agree is part of the encoder's
identity, so that its vectors are mixed with no others.

Weights are converted on the CPU, where the passages are encoded as a reference, and only then put on the card: it never
holds the whole model in full precision, which on a small card would be what fills it. Pooling, dense layers and
normalisation stay in full precision: a mean over 8,192 tokens can be too large for float16.

Source: CUDA C++ Programming Guide, throughput of native arithmetic instructions. In float16 a multiprocessor does in a
cycle 256 additions against 128 in float32 on compute capability 5.3 and 6.2, 128 against 64 on 6.0 and 7.x, 2 against
128 on 6.1 (GTX 10xx), at least as many from 8.0 on; 5.0 and 5.2 have none. bfloat16 begins with 8.0: torch emulates it
below (`torch.cuda.is_bf16_supported`).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.encoders.base import BadVector, ModelError, first_line, is_device_error, is_out_of_memory

__all__ = ["AUTO", "FULL", "HALVES", "LEAST_COSINE", "DtypeWish", "Precision", "but_dtype", "halves_of", "load_in"]

LEAST_COSINE = 0.9999
"""Vectors of the same text that agree so far may stand in one shard, whatever made them."""

AUTO, FULL = "auto", "float32"

HALVES = ("float16", "bfloat16")
"""In the order in which `auto` tries them: as fast as each other where a card has both, and float16 has 11 bits of
precision where bfloat16 has 8."""

PASSAGES = (
    "The card is full.",
    "On a small card the driver moves allocations to system memory without a word, and the job goes on at a fifth of "
    "its speed. A fresh process is fast again, and so is the CPU; releasing the cache is not enough.",
    "def cosine(a, b):\n    return sum(x * y for x, y in zip(a, b)) / (norm(a) * norm(b))  # -1.0 <= result <= 1.0",
    "2026-11-28 23:59:59.999 ERROR [worker-3] 0x7f3a9c: retry 17/64 in 4,096 ms; 12.5 % of 11.85 GiB in use",
    "Über Nacht rechnete die Karte weiter, obwohl niemand davon wusste. Où sont passés les gènes de la forêt brûlée ?",
    "机器学习模型把文本变成向量: 相近的文本得到相近的向量。Быстрая лисица прыгает через ленивую собаку. "
    "الذاكرة ممتلئة والعمل مستمر",
    " ".join(f"Passage {n} of a long text says nothing new, but it is read to its end." for n in range(8)),
)
"""Encoded one by one: short and long, prose, program, numbers, other scripts."""


@dataclass(frozen=True)
class DtypeWish:
    """What is asked of an encoder.

    Args:
        asked: `auto`, `float32`, `float16` or `bfloat16`.
        stored: What the vectors were made in that its own go beside, on such a device: empty for as the model is
            saved, `None` where there are none.
        is_apart: Those are mixed with no others, see `Precision`; `None` where there are none.
        must_agree: There are vectors of the model as it is saved, though not in this shard.
        full_if_alike: The CPU stands in for a card: full precision, which is faster there, where vectors agree.
    """

    asked: str = AUTO
    stored: str | None = None
    is_apart: bool | None = None
    must_agree: bool = False
    full_if_alike: bool = False


@dataclass(frozen=True)
class Precision:
    """What an encoder computes in.

    Args:
        dtype: As torch calls it.
        is_apart: Its vectors do not agree with those of the model as it is saved.
        why: For people, empty where there was nothing to choose.
    """

    dtype: str
    is_apart: bool = False
    why: str = ""


@dataclass(frozen=True)
class Halves:
    """What a device can do.

    Args:
        name: Of the device, for people.
        has: The halves that it computes in.
        fast: Those in which it is faster than in full precision, in the order in which they are tried.
    """

    name: str
    has: tuple[str, ...]
    fast: tuple[str, ...]


def but_dtype(identity: Mapping[str, object]) -> dict[str, object]:
    """An encoder's identity, whatever it computed in: whether such vectors agree can be found out."""
    return {key: value for key, value in identity.items() if key != "dtype"}


_FAST_BEFORE_7 = ((5, 3), (6, 0), (6, 2))


def halves_of(device: str, torch: Any) -> Halves:
    """Look a device up. Raises what torch does where it cannot use it."""
    if device == "cpu":
        return Halves("the CPU", HALVES, ())
    card = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return Halves(f"{device} ({card.name})", HALVES, HALVES)  # as torch itself answers there
    capability = card.major, card.minor
    name = f"{device} ({card.name}, compute capability {card.major}.{card.minor})"
    has = tuple(half for half in HALVES if half != "bfloat16" or capability >= (8, 0))
    return Halves(name, has, has if capability >= (7, 0) or capability in _FAST_BEFORE_7 else ())


def load_in(
    wish: DtypeWish,
    device: str,
    torch: Any,
    load: Callable[[str], Any],
    encode: Callable[[Any, str], bytes],
) -> tuple[Any, Precision]:
    """Load a model in the precision that fits.

    Args:
        wish: What is asked for.
        device: Where it is to be.
        torch: The library.
        load: Loads the model as it is saved, on a device.
        encode: Encodes one text with it. Raises what the encoder does.

    Returns:
        The model, and what it computes in.

    Raises:
        ModelError: The device lacks what was asked for, or vectors would be mixed that do not agree.
    """
    halves = halves_of(device, torch)
    asked = _asked(wish, device, halves)
    fast = () if wish.stored == "" else halves.fast
    if (asked == AUTO and not fast) or (wish.full_if_alike and wish.is_apart is False):
        slow = "" if device == "cpu" or halves.fast else f"full precision: {halves.name} is fast in no half"
        model = load(device)
        return model, Precision(_dtype(model), why=slow)
    reference: list[bytes | None] = []
    failed, unknown = [], ""
    for dtype in [asked] if asked != AUTO else fast:
        model = load("cpu")
        if _dtype(model) == dtype:
            return model.to(device), Precision(dtype)
        if dtype == wish.stored and wish.is_apart is not None:
            # Tried when the first of them was made: a worker that takes over begins at once.
            _convert(model, dtype, torch)
            return model.to(device), Precision(dtype, wish.is_apart, f"{dtype}, as the vectors that are there")
        if not reference:
            reference, unknown = _reference(model, encode)
            if unknown and asked == AUTO:
                failed.append(unknown)
                break
        _convert(model, dtype, torch)
        model = model.to(device)
        agreement, how = (0.0, unknown) if unknown else _agreement(reference, model, encode)
        if agreement is not None and agreement >= LEAST_COSINE:
            if not wish.full_if_alike:
                return model, Precision(dtype, why=f"{dtype}, which agrees with full precision ({how})")
            model = load(device)
            return model, Precision(_dtype(model))
        if asked != AUTO:
            return model, _apart(wish, dtype, halves.name, how, is_possible=agreement is not None)
        failed.append(f"{dtype} does not agree ({how})")
        del model
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
    model = load(device)
    return model, Precision(_dtype(model), why=f"full precision: {', '.join(failed)}")


def _asked(wish: DtypeWish, device: str, halves: Halves) -> str:
    """What is asked for, where what is stored decides as well.

    Raises:
        ModelError: The device lacks it.
    """
    asked = wish.asked
    if asked == AUTO and wish.stored and (wish.is_apart or device != "cpu"):
        asked = wish.stored if wish.is_apart or wish.stored in (FULL, *halves.has) else AUTO
    if asked in HALVES and asked not in halves.has:
        has = " and ".join((FULL, *halves.has))
        ways = "another card or the CPU, or --reencode" if wish.is_apart else "--dtype auto, or one that it has"
        raise ModelError(f"--dtype is {asked}, and {halves.name} has none: it has {has}; accepted: {ways}")
    return asked


def _apart(wish: DtypeWish, dtype: str, device: str, how: str, *, is_possible: bool) -> Precision:
    """Of a precision that was asked for, and does not agree.

    Raises:
        ModelError: The model does not compute in it, or it would be mixed with full precision.
    """
    if not is_possible:
        raise ModelError(f"--dtype is {dtype}, and {device} cannot encode in it: {how}; accepted: --dtype auto")
    needed = f"{LEAST_COSINE} or more"
    if wish.must_agree:
        raise ModelError(
            f"--dtype is {dtype}, which on {device} makes other vectors than those that are there ({how}, accepted: "
            f"{needed}); accepted: --dtype auto, another output folder, or --reencode, which encodes everything again"
        )
    why = f"{dtype} as asked; it does not agree with full precision ({how}, {needed} would): its vectors stay apart"
    return Precision(dtype, is_apart=True, why=why)


def _dtype(model: Any) -> str:
    kinds = (str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters())
    return next((kind for kind in kinds if "float" in kind), FULL)


def _convert(model: Any, dtype: str, torch: Any) -> None:
    """Have the module that reads texts compute so, and what comes after it in full precision."""
    model.float()
    if dtype == FULL:
        return
    first = model[0]
    first.to(getattr(torch, dtype))

    def widen(module: object, arguments: object, features: Any) -> Any:
        return {
            name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in features.items()
        }

    first.register_forward_hook(widen)


def _reference(model: Any, encode: Callable[[Any, str], bytes]) -> tuple[list[bytes | None], str]:
    """The vectors of the passages, of the model as it is saved, on the CPU; and why there are none, where it computes
    on a card alone: such as attention of a library that is written for cards."""
    try:
        return [_tried(model, text, encode) for text in PASSAGES], ""
    except Exception as error:
        if is_out_of_memory(error) or is_device_error(error):
            raise
        return [], f"the CPU cannot encode what a half is compared with, {first_line(error)}"


def _tried(model: Any, text: str, encode: Callable[[Any, str], bytes]) -> bytes | None:
    """Its vector; `None` where it makes none, such as of numbers that are none."""
    try:
        return encode(model, text)
    except BadVector:
        return None


def _agreement(
    reference: Sequence[bytes | None], model: Any, encode: Callable[[Any, str], bytes]
) -> tuple[float | None, str]:
    """The least cosine of the passages, `None` where the model does not compute so at all; and the same in words."""
    found = []
    for text, full in zip(PASSAGES, reference, strict=True):
        if full is None:
            continue
        try:
            half = _tried(model, text, encode)
        except Exception as error:
            if is_out_of_memory(error) or is_device_error(error):
                raise
            return None, first_line(error)
        if half is None:
            return 0.0, "a vector is not finite"
        found.append(_cosine(full, half))
    if not found:
        return 0.0, "it makes no vector of the passages that would tell"
    return min(found), f"cosine {min(found):.6f}"


def _cosine(one: bytes, other: bytes) -> float:
    """Of two vectors of length 1."""
    import numpy

    a, b = (numpy.frombuffer(vector, dtype="<f4").astype("f8") for vector in (one, other))
    return float(a @ b)
