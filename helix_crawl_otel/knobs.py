"""The one table of knobs: variables, options, defaults, what is accepted, what they do.

The options of the commands, the messages and the reference page are all made from it. It reads no environment: that is
`config`'s.

Source: DESIGN.md, section 3.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from helix_crawl_otel.policy.settings import ACTION_MODES, Settings

__all__ = ["KNOBS", "RULE_KNOBS", "Knob", "Value", "knob"]

Value = float | int | str | bool

# -- what is accepted -------------------------------------------------------------------------------------------------
# Each parser takes text without outer white space and raises ValueError; what is accepted stands in the knob's row.

_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_BOOLEANS = {"on": True, "true": True, "yes": True, "1": True, "off": False, "false": False, "no": False, "0": False}
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


def _must(accepted: bool) -> None:
    if not accepted:
        raise ValueError


def _float(is_accepted: Callable[[float], bool]) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        _must(_FLOAT.fullmatch(text) is not None)  # float() also takes nan, inf and 1_000
        value = float(text)
        _must(math.isfinite(value) and is_accepted(value))
        return value

    return parse


def _integer(least: int, most: float = math.inf) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        _must(_INTEGER.fullmatch(text) is not None)  # int() also takes 1_000 and other scripts' digits
        _must(least <= int(text) <= most)
        return int(text)

    return parse


def _boolean(text: str) -> Value:
    _must(text.lower() in _BOOLEANS)
    return _BOOLEANS[text.lower()]


def _action(text: str) -> Value:
    _must(text.lower() in ACTION_MODES)
    return text.lower()


def _device(text: str) -> Value:
    _must(_DEVICE.fullmatch(text.lower()) is not None)
    return text.lower()


def _host(text: str) -> Value:
    _must(not any(letter.isspace() or not letter.isprintable() for letter in text))
    return text


# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knob:
    """One row of the table of knobs. The reference page is made from it.

    Args:
        variable: Environment variable.
        option: Command-line option; it wins over the variable.
        default: Used when neither is given.
        accepted: What is accepted, for messages and the reference.
        meaning: What it does, in one phrase.
        parse: Makes the value from trimmed text; raises `ValueError`.
        field: Field of `CrawlConfig`, `None` for a knob that is not part of the rule.
        aliases: Older names of the variable; `variable` wins.
        metavar: What stands for a value in the help of a command.
    """

    variable: str
    option: str
    default: Value
    accepted: str
    meaning: str
    parse: Callable[[str], Value]
    field: str | None = None
    aliases: tuple[str, ...] = ()
    metavar: str = "N"

    @property
    def shown_default(self) -> str:
        """The default as one would write it."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


def _rule(
    name: str,
    field: str,
    accepted: str,
    meaning: str,
    parse: Callable[[str], Value],
    *,
    alias: bool = False,
    option: str | None = None,
    metavar: str = "N",
) -> Knob:
    """A knob of the rule: its default is the field's."""
    default: Value = getattr(_DEFAULTS, field)
    aliases = (f"CYMATIX_BFM_CRAWL_{name}",) if alias else ()
    option = option or "--" + name.lower().replace("_", "-")
    return Knob(f"HELIX_BFM_CRAWL_{name}", option, default, accepted, meaning, parse, field, aliases, metavar)


_DEFAULTS = Settings()
_ABOVE_ONE = _float(lambda value: value > 1)
_FRACTION = _float(lambda value: 0 < value <= 1)
_NOT_NEGATIVE = _float(lambda value: value >= 0)

KNOBS: tuple[Knob, ...] = (
    _rule("FACTOR", "factor", "a number > 1", "crawl limit = baseline / factor", _ABOVE_ONE, alias=True),
    _rule(
        "WINDOW",
        "window",
        "an integer >= 1",
        "consecutive observations of a trip, batches of a baseline",
        _integer(1),
        alias=True,
    ),
    _rule(
        "ACTION",
        "action",
        ", ".join(ACTION_MODES),
        "ladder, or cpu (the first trip goes to DEMOTE_CPU), or off (DETECT only)",
        _action,
        alias=True,
        metavar="WHAT",
    ),
    _rule(
        "VRAM",
        "vram_full",
        "a number in (0, 1]",
        "fraction of dedicated memory that counts as full",
        _FRACTION,
        metavar="FRACTION",
    ),
    _rule(
        "EMA_ALPHA",
        "ema_alpha",
        "a number in (0, 1]",
        "weight of the newest observation",
        _FRACTION,
        metavar="FRACTION",
    ),
    _rule(
        "WARMUP",
        "warmup",
        "an integer >= 0",
        "first batches of a worker that enter neither baseline nor EMA",
        _integer(0),
    ),
    _rule(
        "INFLIGHT",
        "inflight",
        "on, off, true, false, yes, no, 1, 0",
        "judge batches in flight as well",
        _boolean,
        metavar="on|off",
    ),
    _rule(
        "SHARED",
        "shared",
        "on, off, true, false, yes, no, 1, 0",
        "a rise of the worker's shared GPU memory by more than 512 MiB since its first batches counts as full as well",
        _boolean,
        metavar="on|off",
    ),
    Knob(
        "HELIX_DENSE_CPU_BELOW_GIB",
        "--cpu-below-gib",
        12.0,
        "a number >= 0",
        "`--device auto` takes the CPU on a card of this size or smaller",
        _NOT_NEGATIVE,
        metavar="GIB",
    ),
    Knob(
        "BGEM3_DEVICE",
        "--device",
        "auto",
        "auto, cpu, cuda, cuda:N",
        "device of the encoder; what DEMOTE_CPU sets to `cpu`",
        _device,
        metavar="DEVICE",
    ),
    Knob(
        "HELIX_DENSE_VRAM_RELEASE_EVERY",
        "--release-every",
        256,
        "an integer >= 0",
        "release the CUDA cache every so many batches, 0 = never",
        _integer(0),
    ),
    Knob(
        "OTEL_EXPORTER_PROMETHEUS_HOST",
        "--metrics-host",
        "127.0.0.1",
        "a host name or address",
        "where the metrics endpoint listens",
        _host,
        metavar="HOST",
    ),
    Knob(
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "--metrics-port",
        9464,
        "an integer from 0 to 65535",
        "its port, 0 = any free one",
        _integer(0, 65535),
        metavar="PORT",
    ),
)

RULE_KNOBS = tuple(row for row in KNOBS if row.field is not None)
"""The knobs of the rule: the fields of `CrawlConfig`."""

_BY_VARIABLE = {name: row for row in KNOBS for name in (row.variable, *row.aliases)}


def knob(variable: str) -> Knob:
    """The row of a variable, or of one of its aliases. Raises `KeyError` for an unknown one."""
    return _BY_VARIABLE[variable]
