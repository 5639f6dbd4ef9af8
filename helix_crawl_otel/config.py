"""The only reader of the environment: the knobs, where they come from, and what is said about a bad value.

The command line refuses a bad value before it starts anything; embedded in somebody's job a bad value warns once and
the default is used.

Source: DESIGN.md, section 3.2.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from helix_crawl_otel.knobs import KNOBS, RULE_KNOBS, Knob, Value, knob
from helix_crawl_otel.policy.settings import Settings

__all__ = [
    "CHANNEL_VARIABLE",
    "KNOBS",
    "ConfigError",
    "CrawlConfig",
    "Knob",
    "Value",
    "add_options",
    "config_from_options",
    "environment",
    "knob",
    "metrics_address",
    "option_or_knob",
    "option_values",
    "otel_disabled",
    "read_knob",
    "take_channel",
]

logger = logging.getLogger("helix_crawl_otel")


class ConfigError(ValueError):
    """A knob has a value that is not accepted. The message names the knob, the value and what is accepted."""


CHANNEL_VARIABLE = "HELIX_CRAWL_CHANNEL"
"""Tells a worker where its end of the channel is: `fd:N` on POSIX, `handle:N` on Windows. Set by the supervisor."""

_warned: set[tuple[str, str]] = set()
"""Variables and values warned about. Any thread adds to it, single operations only."""


# -- reading ----------------------------------------------------------------------------------------------------------


def environment() -> Mapping[str, str]:
    """The environment of this process, for whoever has to pass one on."""
    return os.environ


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
        return _parse(row, name, text)
    except ConfigError as error:
        if strict:
            raise
        if (name, text) not in _warned:
            _warned.add((name, text))
            logger.warning("[crawl-watchdog] %s; using the default, %s", error, row.shown_default)
        return row.default


def _parse(row: Knob, name: str, text: str) -> Value:
    try:
        return row.parse(text.strip())
    except ValueError:
        raise ConfigError(f"{name} is {text[:80]!r}; accepted: {row.accepted}") from None


@dataclass(frozen=True)
class CrawlConfig(Settings):
    """The knobs of the rule: `Settings` that can be read from an environment. A bad argument raises `ValueError`."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, strict: bool = False) -> CrawlConfig:
        """Read the knobs of the rule, see `read_knob`."""
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
        return _parse(row, row.option, options[variable])
    return read_knob(variable, environ, strict=True)


def metrics_address(environ: Mapping[str, str] | None = None, *, strict: bool = False) -> tuple[str, int]:
    """Host and port of the metrics endpoint. Loopback unless told otherwise."""
    host = read_knob("OTEL_EXPORTER_PROMETHEUS_HOST", environ, strict=strict)
    return str(host), int(read_knob("OTEL_EXPORTER_PROMETHEUS_PORT", environ, strict=strict))


def take_channel() -> str | None:
    """What a supervisor has told this process of its channel, once: what this process starts must not see it."""
    return os.environ.pop(CHANNEL_VARIABLE, None)


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
        text = f"{row.meaning}; {row.accepted} ({row.variable}, default {row.shown_default})".replace("%", "%%")
        group.add_argument(row.option, dest=_dest(row), metavar=row.metavar, help=text)


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
