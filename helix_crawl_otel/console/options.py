"""Options that every supervised command takes: the metrics endpoint, how progress is shown, what is told at the end."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helix_crawl_otel.config import (
    NOTIFY_VARIABLE,
    RULE_KNOBS,
    CrawlConfig,
    add_options,
    config_from_options,
    environment,
    option_or_knob,
    option_values,
)
from helix_crawl_otel.console.notify import check_target

if TYPE_CHECKING:
    from helix_crawl_otel.otel.exporters import Exporters

__all__ = ["CommonOptions", "add_common_options", "read_common_options"]

HOST, PORT = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
LINGER = "HELIX_CRAWL_LINGER"


@dataclass(frozen=True)
class CommonOptions:
    """What `add_common_options` offers, checked.

    Args:
        config: The knobs of the rule.
        knobs: The knobs given as options, as text, by variable.
        environ: Of this process, for its children: without `HELIX_CRAWL_NOTIFY`.
        metrics_host: Where the endpoint listens.
        metrics_port: Its port, 0 for a free one.
        insists_on_port: The port was asked for: in use, it ends the run.
        exporters: What is sent beside that, or instead.
        serves_metrics: Nobody says that there is to be no endpoint: `--no-metrics`, `OTEL_METRICS_EXPORTER` without
            `prometheus` in it and without an option that asks for one, `OTEL_SDK_DISABLED`.
        linger: Seconds that the endpoint waits at most, at the end, for who has scraped before; 0 for not at all.
        as_json: Progress as JSON lines on standard output.
        is_plain: Progress as plain lines even on a terminal.
        keep_awake: Hold off the computer's sleep.
        notify: URL or command that is told of the end.
    """

    config: CrawlConfig
    knobs: Mapping[str, str]
    environ: Mapping[str, str]
    metrics_host: str
    metrics_port: int
    insists_on_port: bool
    exporters: Exporters
    serves_metrics: bool
    linger: float
    as_json: bool
    is_plain: bool
    keep_awake: bool
    notify: str | None


def add_common_options(parser: argparse.ArgumentParser, knobs: Sequence[str] = ()) -> None:
    """Offer them, the knobs of the rule, and further ones named by their variable."""
    group = parser.add_argument_group("progress")
    group.add_argument("--json", action="store_true", help="one JSON object a line on standard output, for scripts")
    group.add_argument("--plain", action="store_true", help="plain lines, no bars, on a terminal too")
    group.add_argument(
        "--keep-awake",
        action="store_true",
        help="hold off the computer's sleep while the run lasts (needs the extra `awake`)",
    )
    group.add_argument(
        "--notify",
        metavar="URL_OR_COMMAND",
        help="told of the end: an http(s) URL gets the summary by POST, a command gets it on standard input, as JSON; "
        f"{NOTIFY_VARIABLE} is the same, and in no list of processes",
    )
    group.add_argument("--no-metrics", action="store_true", help="serve no metrics endpoint")
    add_options(parser, (*knobs, HOST, PORT, LINGER, *(row.variable for row in RULE_KNOBS)))


def read_common_options(args: argparse.Namespace) -> CommonOptions:
    """Check what was given.

    Raises:
        ConfigError: A value is not accepted; the message names the option or the variable.
    """
    from helix_crawl_otel.otel.exporters import read_exporters  # late: with OpenTelemetry, which no help needs

    environ = dict(environment())
    knobs = option_values(args)
    kept = environ.pop(NOTIFY_VARIABLE, None) or None  # a secret may be in it: it is no child's affair
    notify = args.notify if args.notify is not None else kept
    check_target(notify, "--notify" if args.notify is not None else NOTIFY_VARIABLE)
    exporters = read_exporters(environ)
    asks = "prometheus" in exporters.metrics or HOST in knobs or PORT in knobs
    return CommonOptions(
        config=config_from_options(knobs, environ),
        knobs=knobs,
        environ=environ,
        metrics_host=str(option_or_knob(HOST, knobs, environ)),
        metrics_port=int(option_or_knob(PORT, knobs, environ)),
        insists_on_port=PORT in knobs or bool(environ.get(PORT, "").strip()),
        exporters=exporters,
        serves_metrics=asks and not args.no_metrics and not exporters.is_disabled,
        linger=float(option_or_knob(LINGER, knobs, environ)),
        as_json=args.json,
        is_plain=args.plain,
        keep_awake=args.keep_awake,
        notify=notify,
    )
