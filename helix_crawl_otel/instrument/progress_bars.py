"""Reads progress bars, as tqdm and rich draw them: what a program that nobody wrote for us tells on standard error.

Pure: bytes come in, counts go out. A bar is a line, or what is drawn over a line, with `done/total` in it; tqdm ends it
with its rate in brackets. The count is what is read: rates are smoothed, counts are not.

Source: tqdm 4.70, `format_meter`; rich 15, `MofNCompleteColumn`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["BarReader", "BarState", "without_numbers"]

LONGEST_LINE = 4096
"""Bytes. What is longer is no bar."""

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")

_TQDM = re.compile(
    r"^(?:(?P<name>[^|]*?):\s*)?(?:\s*[0-9]+%\|[^|]*\|\s*)?(?P<done>[0-9][0-9,.]*[kMGT]?)(?:/(?P<total>[0-9?][0-9,.]*[kMGT]?))?"
    r"\s*(?P<unit>[A-Za-z]*)\s*\[(?P<spent>[0-9:]+)[<,]",
)
_RICH = re.compile(
    r"^(?P<name>.*?)\s*[━╸╺╶╴─ -]{4,}.*?(?<![0-9.:])(?P<done>[0-9]+)\s*/\s*(?P<total>[0-9]+)(?![0-9:/]|\.[0-9])"
)
_PERCENT = re.compile(r"^(?P<name>.*?)\s*[━╸╺╶╴─]{4,}.*?(?P<done>[0-9]{1,3})%")
"""As rich draws one that is asked for no counts."""
_NUMBERS = re.compile(r"(?<![\w.])[-+]?[0-9][0-9.,:/eE+%-]*(?!\w)|\b(?:nan|inf)\b")

_SCALES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class BarState:
    """A bar as it was just drawn.

    Args:
        name: What stands before it; empty for nothing.
        done: Steps.
        total: Steps in all, `None` where it does not say.
    """

    name: str
    done: float
    total: float | None


class BarReader:
    """Finds bars in what a program writes, in pieces of any size.

    Threads: one.
    """

    def __init__(self) -> None:
        self._line = b""

    def feed(self, piece: bytes) -> list[BarState]:
        """Take what was written next.

        Returns:
            The bars that were drawn, in order. One that is drawn without an end of its line is there with the next
            piece at the latest.
        """
        parts = re.split(rb"[\r\n]", self._line + piece)
        self._line = parts[-1][-LONGEST_LINE:]
        found = [state for part in parts[:-1] if part and (state := read_bar(part)) is not None]
        last = read_bar(self._line)  # tqdm leaves the line open until it draws again
        return found if last is None else [*found, last]


def read_bar(line: bytes) -> BarState | None:
    """The bar in a line, `None` for none."""
    if not line or len(line) > LONGEST_LINE:
        return None
    text = _ESCAPES.sub("", line.decode("utf-8", "replace")).strip()
    found = _TQDM.match(text) or _RICH.match(text)
    if found is None:
        found = _PERCENT.match(text)
        return None if found is None else BarState(found["name"].strip(), float(found["done"]), 100.0)
    total = found["total"]
    done = _number(found["done"])
    if done is None:
        return None
    return BarState((found["name"] or "").strip(), done, _number(total) if total and total != "?" else None)


def without_numbers(name: str) -> str:
    """What stands before a bar, without what may change in it from one drawing to the next.

    >>> without_numbers("Epoch 3/10 loss=0.0912")
    'Epoch loss'
    >>> without_numbers("my_lora_v1")
    'my_lora_v1'
    """
    words = (word.strip("=:,;[]()|-") for word in _NUMBERS.sub(" ", name).split())
    return " ".join(word for word in words if word)


def _number(text: str) -> float | None:
    scale = _SCALES.get(text[-1:], 1.0)
    try:
        return float(text.rstrip("kMGT").replace(",", "")) * scale
    except ValueError:
        return None
