"""The only reader of the environment: the knobs, where they come from, and what is said about a bad value.

The options of the commands, the messages and the reference page are all made from the one table of knobs. The command
line refuses a bad value before it starts anything; embedded in somebody's job a bad value warns once and
the default is used.

Source: DESIGN.md, section 3.2.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.formats import nearest
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.settings import ACTION_MODES, Settings

__all__ = [
    "CHANNEL_VARIABLE",
    "KNOBS",
    "NOTIFY_VARIABLE",
    "OTHER_VARIABLES",
    "PROGRESS_VARIABLE",
    "RESUMABLE_VARIABLE",
    "RULE_KNOBS",
    "SHARD_VARIABLE",
    "SLOTS_VARIABLE",
    "SLOT_VARIABLE",
    "ConfigError",
    "CrawlConfig",
    "Knob",
    "Value",
    "add_options",
    "change_environment",
    "config_from_options",
    "doubtful_variables",
    "environment",
    "job_resumes",
    "knob",
    "option_or_knob",
    "option_values",
    "otel_disabled",
    "read_knob",
    "take_channel",
    "take_progress_job",
]


Value = float | int | str | bool


class ConfigError(Refusal, ValueError):
    """A knob has a value that is not accepted. The message names the knob, the value and what is accepted."""


# -- what is accepted -------------------------------------------------------------------------------------------------

_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_BOOLEANS = {"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_DTYPES = ("auto", "float32", "float16", "bfloat16")
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")


@dataclass(frozen=True)
class Accepted:
    """What a knob takes.

    Args:
        text: For messages and the reference page.
        parse: Makes the value from text without outer white space; raises `ValueError`.
        metavar: What stands for a value in the help of a command.
    """

    text: str
    parse: Callable[[str], Value]
    metavar: str = "N"


def _must(accepted: bool) -> None:
    if not accepted:
        raise ValueError


def _float(text: str, is_accepted: Callable[[float], bool], metavar: str = "N") -> Accepted:
    def parse(given: str) -> Value:
        _must(_FLOAT.fullmatch(given) is not None)  # float() also takes nan, inf and 1_000
        value = float(given)
        _must(math.isfinite(value) and is_accepted(value))
        return value

    return Accepted(text, parse, metavar)


def _integer(text: str, least: int, most: float = math.inf, metavar: str = "N") -> Accepted:
    def parse(given: str) -> Value:
        _must(_INTEGER.fullmatch(given) is not None)  # int() also takes 1_000 and other scripts' digits
        _must(least <= int(given) <= most)
        return int(given)

    return Accepted(text, parse, metavar)


def _tokens(given: str) -> Value:
    return "auto" if given.lower() == "auto" else _POSITIVE.parse(given)


def _cap(given: str) -> Value:
    word = given.lower()
    return word if word in ("auto", "off") else _FRACTION.parse(given)


def _every(given: str) -> Value:
    return "auto" if given.lower() == "auto" else _COUNT.parse(given)


def _boolean(given: str) -> Value:
    _must(given.lower() in _BOOLEANS)
    return _BOOLEANS[given.lower()]


def _action(given: str) -> Value:
    _must(given.lower() in ACTION_MODES)
    return given.lower()


def _device(given: str) -> Value:
    _must(_DEVICE.fullmatch(given.lower()) is not None)
    return given.lower()


def _dtype(given: str) -> Value:
    _must(given.lower() in _DTYPES)
    return given.lower()


def _host(given: str) -> Value:
    _must(not any(letter.isspace() or not letter.isprintable() for letter in given))
    return given


_ABOVE_ONE = _float("a number > 1", lambda value: value > 1)
_FRACTION = _float("a number in (0, 1]", lambda value: 0 < value <= 1, "FRACTION")
_GIB = _float("a number >= 0", lambda value: value >= 0, "GIB")
_COUNT = _integer("an integer >= 0", 0)
_POSITIVE = _integer("an integer >= 1", 1)
_PORT = _integer("an integer from 0 to 65535", 0, 65535, "PORT")
_SWITCH = Accepted(", ".join(_BOOLEANS), _boolean, "on|off")
_MODE = Accepted(", ".join(ACTION_MODES), _action, "WHAT")

# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Knob:
    """One row of the table of knobs. The reference page is made from it.

    Args:
        variable: Environment variable.
        option: Command-line option; it wins over the variable.
        default: Used when neither is given.
        accepted: What it takes.
        meaning: What it does, in one phrase.
        field: Field of `CrawlConfig`, `None` for a knob that is not part of the rule.
        aliases: Older names of the variable; `variable` wins.
    """

    variable: str
    option: str
    default: Value
    accepted: Accepted
    meaning: str
    field: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def shown_default(self) -> str:
        """The default as one would write it."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def parse(self, name: str, text: str) -> Value:
        """The value of what `name`, the variable or the option, was given.

        Raises:
            ConfigError: It is not accepted.
        """
        try:
            return self.accepted.parse(text.strip())
        except ValueError:
            words = [word for word in re.split(", | or ", self.accepted.text) if " " not in word]
            near = nearest(text.strip()[:80], words)
            raise ConfigError(f"{name} is {text[:80]!r}; accepted: {self.accepted.text}{near}") from None


def _rule(name: str, field: str, accepted: Accepted, meaning: str, *, alias: bool = False) -> Knob:
    """A knob of the rule: its default is the field's."""
    aliases = (f"CYMATIX_BFM_CRAWL_{name}",) if alias else ()
    option = "--" + name.lower().replace("_", "-")
    return Knob(f"HELIX_BFM_CRAWL_{name}", option, getattr(Settings(), field), accepted, meaning, field, aliases)


KNOBS: tuple[Knob, ...] = (
    _rule("FACTOR", "factor", _ABOVE_ONE, "crawl limit = baseline / factor", alias=True),
    _rule("WINDOW", "window", _POSITIVE, "consecutive observations of a trip, batches of a baseline", alias=True),
    _rule(
        "ACTION",
        "action",
        _MODE,
        "ladder, or cpu (the first trip goes to DEMOTE_CPU), or adaptive (what finishes the shard sooner by measured "
        "costs: for a card that crawls again and again), or off (DETECT only)",
        alias=True,
    ),
    _rule("VRAM", "vram_full", _FRACTION, "fraction of dedicated memory that counts as full"),
    _rule("EMA_ALPHA", "ema_alpha", _FRACTION, "weight of the newest observation"),
    _rule("WARMUP", "warmup", _COUNT, "first batches of a worker that enter neither baseline nor EMA"),
    _rule("INFLIGHT", "inflight", _SWITCH, "judge batches in flight as well"),
    _rule(
        "SHARED",
        "shared",
        _SWITCH,
        "a rise of the worker's shared GPU memory by more than 512 MiB since its first batches counts as full as well",
    ),
    Knob(
        "HELIX_DENSE_CPU_BELOW_GIB",
        "--cpu-below-gib",
        12.0,
        _GIB,
        "`--device auto` takes the CPU on a card of this size or smaller",
    ),
    Knob(
        "BGEM3_DEVICE",
        "--device",
        "auto",
        Accepted("auto, cpu, cuda, cuda:N", _device, "DEVICE"),
        "device of the encoder; what DEMOTE_CPU sets to `cpu`",
    ),
    Knob(
        "HELIX_DENSE_DTYPE",
        "--dtype",
        "auto",
        Accepted(", ".join(_DTYPES), _dtype, "DTYPE"),
        "what the encoder computes in; `auto` is full precision on the CPU, and on a card the half that it is fast in "
        "where vectors agree to a cosine of 0.9999. Vectors are stored as float32",
    ),
    Knob(
        "HELIX_DENSE_BATCH_TOKENS",
        "--batch-tokens",
        "auto",
        Accepted("auto, or an integer >= 1", _tokens),
        "most tokens of a batch with padding, its genes times the longest; a longer text goes alone; auto is 16384, or "
        "32768 on a card of 16 GB and more; on the CPU never more than a slow core does in a minute",
    ),
    Knob(
        "HELIX_DENSE_VRAM_RELEASE_EVERY",
        "--release-every",
        "auto",
        Accepted("auto, or an integer >= 0", _every, "N"),
        "release the CUDA cache every so many batches, 0 = never; auto: when it leaves the next batch no room, and "
        "every 256 batches where the memory cannot be read",
        aliases=("CYMATIX_DENSE_VRAM_RELEASE_EVERY",),
    ),
    Knob(
        "HELIX_DENSE_VRAM_CAP",
        "--vram-cap",
        "auto",
        Accepted("a number in (0, 1], auto, off", _cap, "FRACTION"),
        "fraction of the free dedicated memory that a worker's torch may take; auto is 0.95 under WDDM and MCDM, and "
        "off elsewhere",
    ),
    Knob(
        "OTEL_EXPORTER_PROMETHEUS_HOST",
        "--metrics-host",
        "127.0.0.1",
        Accepted("a host name or address", _host, "HOST"),
        "where the metrics endpoint listens",
    ),
    Knob("OTEL_EXPORTER_PROMETHEUS_PORT", "--metrics-port", 9464, _PORT, "its port, 0 = any free one"),
    Knob(
        "HELIX_CRAWL_LINGER",
        "--linger",
        20.0,
        _float("a number of seconds from 0 to 3600", lambda value: 0 <= value <= 3600, "SECONDS"),
        "how long a run that has ended waits at most for one more scrape by whoever has scraped it, who sees then how "
        "it ended; 0 = never; nobody else is waited for",
    ),
)

RULE_KNOBS = tuple(row for row in KNOBS if row.field is not None)
"""The knobs of the rule: the fields of `CrawlConfig`."""

_BY_VARIABLE = {name: row for row in KNOBS for name in (row.variable, *row.aliases)}


def knob(variable: str) -> Knob:
    """The row of a variable, or of one of its aliases. Raises `KeyError` for an unknown one."""
    return _BY_VARIABLE[variable]


CHANNEL_VARIABLE = "HELIX_CRAWL_CHANNEL"
"""Tells a worker where its end of the channel is: `fd:N:INODE` on POSIX, `handle:N:PID` on Windows; and every process
of a driver of the user's own, `file:PATH`, where it comes to a channel of its own. Set by the supervisor."""

JOB_FILE = "file:"

SHARD_VARIABLE = "HELIX_CRAWL_SHARD"
"""The shard of a job that is watched without a line of its own; else it is the line that encodes."""

RESUMABLE_VARIABLE = "HELIX_CRAWL_RESUMABLE"
"""Tells such a job's process that it may be ended, for it resumes. Set by the supervisor."""

PROGRESS_VARIABLE = "HELIX_CRAWL_PROGRESS_JOB"
"""What the process that watches a progress bar is to start, as JSON. Set by the supervisor."""

SLOT_VARIABLE, SLOTS_VARIABLE = "HELIX_CRAWL_SLOT", "HELIX_CRAWL_SLOTS"
"""Which copy of a job under `run --ray` a process is, and of how many. Set by the supervisor."""

NOTIFY_VARIABLE = "HELIX_CRAWL_NOTIFY"
"""Who is told of a run's end. It may be a secret, so that no child has it."""

OTHER_VARIABLES = (
    *(CHANNEL_VARIABLE, NOTIFY_VARIABLE, SHARD_VARIABLE, RESUMABLE_VARIABLE, PROGRESS_VARIABLE),
    *(SLOT_VARIABLE, SLOTS_VARIABLE),
)
"""Variables of ours that are no knobs."""

_PREFIXES = ("DENSE_", "BFM_CRAWL_", "CRAWL_")
"""How our variables and their aliases begin behind the name of the app, today's or the older one, and no other
program's but for the few below."""

_APPS = ("HELIX_", "CYMATIX_")

_SIMILAR = 0.9
"""So much alike is the name of ours that was meant, where the beginning is misspelt: 1 is the same."""

_OF_THE_APP = "DENSE_MATRIX_DTYPE"
"""The variable of the Helix/Cymatix app that begins like ours, behind the name of the app."""

_warned: set[tuple[str, str]] = set()
"""Variables and values warned about. Any thread adds to it, single operations only."""


# -- reading ----------------------------------------------------------------------------------------------------------


def environment() -> Mapping[str, str]:
    """The environment of this process, for whoever has to pass one on."""
    return os.environ


def change_environment(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Change variables of this process, for the processes that it starts and for a library that reads them.

    Args:
        values: By name; `None` removes one.

    Returns:
        What they were before, to be given to this once more.
    """
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before


def read_knob(variable: str, environ: Mapping[str, str] | None = None, *, strict: bool = False) -> Value:
    """The value of one knob in an environment.

    Args:
        variable: Its name in the table.
        environ: `None` is the environment of this process. Outer white space is ignored; empty means unset.
        strict: Refuse a bad value; otherwise it warns once and gives way to the default.

    Raises:
        ConfigError: The value is not accepted, and `strict`.
    """
    row, environ = knob(variable), environment() if environ is None else environ
    name, text = next(
        ((name, text) for name in (row.variable, *row.aliases) if (text := environ.get(name, "").strip())), ("", "")
    )
    if not text:
        return row.default
    try:
        return row.parse(name, text)
    except ConfigError as error:
        if strict:
            raise
        if (name, text) not in _warned:
            _warned.add((name, text))
            watchdog.warning("%s; using the default, %s", error, row.shown_default)
        return row.default


def doubtful_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each variable that is nearly one of ours and is none, so that a slip of the pen does not pass for
    a setting; and for each of which an alias says another thing.

    Args:
        environ: `None` is the environment of this process. Empty means unset.
    """
    environ = environment() if environ is None else environ
    found = []
    for name in sorted(name for name, value in environ.items() if value.strip()):
        app = next((app for app in _APPS if name.upper().startswith(app)), "")
        if name in _BY_VARIABLE or name in OTHER_VARIABLES or name == _APPS[1] + _OF_THE_APP:
            continue
        if name == _APPS[0] + _OF_THE_APP:
            found.append(f"{name} is set, which the application reads and this package does not")
        elif (app and name[len(app) :].startswith(_PREFIXES)) or _is_misspelt(name):
            newer = name.upper().replace("CYMATIX_", "HELIX_", 1)  # of a knob that the app does not have
            near = nearest(newer if newer in _BY_VARIABLE else name.upper(), [*_BY_VARIABLE, *OTHER_VARIABLES[1:]])
            found.append(f"{name} is set, which is no variable of helix-crawl and changes nothing{near}")
    for row in KNOBS:
        given = {name: text for name in (row.variable, *row.aliases) if (text := environ.get(name, "").strip())}
        if len({_meant(row, name, text) for name, text in given.items()}) > 1:
            first, *others = given
            said = " and ".join(f"{name} is {given[name][:80]!r}" for name in others)
            found.append(f"{first} is {given[first][:80]!r} and {said}; {first} holds")
    return found


def _meant(row: Knob, name: str, text: str) -> Value:
    """The value of a variable; of one that is not accepted its text."""
    try:
        return row.parse(name, text)
    except ConfigError:
        return text


def _is_misspelt(name: str) -> bool:
    """Whether a name that begins otherwise is nearly one of ours, such as with a letter too few."""
    ours = (*_BY_VARIABLE, *OTHER_VARIABLES[1:])
    if name.startswith("OTEL_") or name[:3].upper() not in {own[:3] for own in ours}:
        return False
    from difflib import get_close_matches  # late: few environments have such a name

    return bool(get_close_matches(name.upper(), ours, n=1, cutoff=_SIMILAR))


@dataclass(frozen=True)
class CrawlConfig(Settings):
    """The knobs of the rule: `Settings` that can be read from an environment. A bad argument raises `ValueError`."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, strict: bool = False) -> CrawlConfig:
        """Read the knobs of the rule, see `read_knob`. What begins like one and is none is told of, once."""
        for sentence in doubtful_variables(environ):
            if (sentence, "") not in _warned:
                _warned.add((sentence, ""))
                watchdog.warning("%s", sentence)
        return cls(**{str(row.field): read_knob(row.variable, environ, strict=strict) for row in RULE_KNOBS})  # type: ignore[arg-type]  # each row parses its own field


def option_or_knob(variable: str, options: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Value:
    """One knob for a command: its option, else the environment, else the default.

    Args:
        variable: Its name in the table.
        options: Text by variable, see `option_values`.
        environ: `None` is the environment of this process.

    Raises:
        ConfigError: The value is not accepted; the message names the option or the variable.
    """
    row = knob(variable)
    if variable in options:
        return row.parse(row.option, options[variable])
    return read_knob(variable, environ, strict=True)


def take_channel() -> str | None:
    """What a supervisor has told this process of its channel, `None` for nothing. Where that is this process's alone,
    it is told once: what it starts must not see it."""
    text = os.environ.get(CHANNEL_VARIABLE, "").strip()
    if text and not text.startswith(JOB_FILE):
        del os.environ[CHANNEL_VARIABLE]
    return text or None


def job_resumes() -> bool:
    """Whether who has started this process has said that it resumes; see `RESUMABLE_VARIABLE`."""
    return os.environ.get(RESUMABLE_VARIABLE) == "1"


def take_progress_job() -> str:
    """See `PROGRESS_VARIABLE`; empty where there is none. What this process starts does not see it."""
    return os.environ.pop(PROGRESS_VARIABLE, "")


def otel_disabled(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `OTEL_SDK_DISABLED` is true: only the word itself, in any case, as OpenTelemetry specifies booleans."""
    environ = environment() if environ is None else environ
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


# -- options of the command line --------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser, variables: tuple[str, ...] | None = None) -> None:
    """Offer knobs as options, as plain text: what is wrong with a value is said by `ConfigError`.

    Args:
        parser: Where they go, in a group of their own.
        variables: Which; `None` means the knobs of the rule.
    """
    group = parser.add_argument_group("knobs", "An option wins over the environment variable named beside it.")
    for row in RULE_KNOBS if variables is None else [knob(name) for name in variables]:
        named = " or ".join((row.variable, *row.aliases))
        text = f"{row.meaning}; {row.accepted.text} ({named}, default {row.shown_default})".replace("%", "%%")
        group.add_argument(row.option, dest=_dest(row), metavar=row.accepted.metavar, help=text)


def option_values(args: argparse.Namespace) -> dict[str, str]:
    """The knobs given as options, by variable: what `config_from_options` takes."""
    given = {row.variable: getattr(args, _dest(row), None) for row in KNOBS}
    return {variable: text for variable, text in given.items() if text is not None}


def _dest(row: Knob) -> str:
    return f"knob_{row.variable}"


def config_from_options(options: Mapping[str, str], environ: Mapping[str, str] | None = None) -> CrawlConfig:
    """The knobs of the rule for a command: options, else the environment, else the defaults.

    Args:
        options: Text by variable. A variable that an option overrides is not looked at.
        environ: `None` is the environment of this process.

    Raises:
        ConfigError: A value is not accepted; the message names the option or the variable.
    """
    values = {str(row.field): option_or_knob(row.variable, options, environ) for row in RULE_KNOBS}
    return dataclasses.replace(CrawlConfig(), **values)  # type: ignore[arg-type]  # each row parses its own field
