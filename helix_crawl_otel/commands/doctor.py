"""The command `helix-crawl doctor`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from helix_crawl_otel.commands.common import Commands, add_command, heard, say, say_json
from helix_crawl_otel.config import Value, add_options, environment, option_or_knob, option_values
from helix_crawl_otel.doctor.cards import card_checks, device_check
from helix_crawl_otel.doctor.checks import Check, Severity, worst
from helix_crawl_otel.doctor.facts import Facts, gather
from helix_crawl_otel.doctor.spill import shared_check
from helix_crawl_otel.doctor.system import allocator_checks, knob_checks, place_checks, system_checks, torch_checks
from helix_crawl_otel.exit_codes import DONE, FAILED
from helix_crawl_otel.formats import count, printable
from helix_crawl_otel.paths import typed_path
from helix_crawl_otel.probes.vram_cap import VRAM_CAP

__all__ = ["examine", "register"]

WIDTH = 110

HOST, PORT = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
VRAM, CPU_BELOW = "HELIX_BFM_CRAWL_VRAM", "HELIX_DENSE_CPU_BELOW_GIB"

_DESCRIPTION = """\
Says what this machine can see and what it should set: driver model, memory probe, torch's build, allocator settings,
the device that `auto` takes and why. Nothing is changed, no model is loaded, no memory of a card is taken."""

_EPILOG = """\
examples:
  helix-crawl doctor
  helix-crawl doctor --out ~/notes.shards     and whether shards can be written there, and what made them slow
  helix-crawl doctor --json                   for a bug report

exit codes: 0 nothing is wrong, 1 at least one problem."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands, "doctor", _command, "what this machine can see, and what it should set", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("--out", metavar="DIR", help="a folder for shards: can it be written, what made them slow?")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    add_options(parser, (VRAM, VRAM_CAP, CPU_BELOW, HOST, PORT))


def _command(args: argparse.Namespace) -> int:
    options, environ = option_values(args), environment()
    # A bad variable is a finding here, not a reason to say nothing: a line tells, and the defaults stand in.
    usable = {} if worst(list(knob_checks(environ, sys.platform))) is Severity.PROBLEM else environ
    host = str(option_or_knob(HOST, options, usable))
    port = int(option_or_knob(PORT, options, usable))
    out = typed_path(args.out, "--out").absolute() if args.out else None
    facts = heard(lambda: gather(environ, host, port, out))
    checks = examine(
        facts,
        host,
        port,
        vram_full=float(option_or_knob(VRAM, options, usable)),
        vram_cap=option_or_knob(VRAM_CAP, options, usable),
        cpu_below_gib=float(option_or_knob(CPU_BELOW, options, usable)),
    )
    verdict = worst(checks)
    if args.json:
        say_json({"verdict": verdict.value, "checks": [check.to_json() for check in checks]}, indent=2)
    else:
        say(*lines(checks))
    return FAILED if verdict is Severity.PROBLEM else DONE


def examine(
    facts: Facts, host: str, port: int, *, vram_full: float, vram_cap: Value, cpu_below_gib: float
) -> list[Check]:
    """Every line, in the order in which they are shown. Pure.

    Args:
        facts: Gathered.
        host: Where metrics would be served.
        port: Likewise.
        vram_full: Fraction of a card's memory that counts as full.
        vram_cap: What of its free memory a worker's torch may take: a fraction, `auto` or `off`.
        cpu_below_gib: `auto` takes the CPU on a card of this size or smaller.
    """
    return [
        *system_checks(facts),
        *card_checks(facts, vram_full, vram_cap),
        *([] if facts.shared is None else [shared_check(facts.shared, facts.environ, facts.platform)]),
        *torch_checks(facts),
        device_check(facts, cpu_below_gib),
        *allocator_checks(facts),
        *knob_checks(facts.environ, facts.platform),
        *place_checks(facts, host, port),
    ]


def lines(checks: Sequence[Check]) -> list[str]:
    """The lines for people: verdict, topic, fact; below it the advice, with its source."""
    topics = max(len(check.topic) for check in checks)
    indent = " " * (9 + topics + 2)
    shown: list[str] = []
    for check in checks:
        first = f"{check.verdict.value:<9}{check.topic:<{topics}}  "
        shown += _wrap(check.fact, first, indent)
        if check.advice:
            shown += _wrap(f"-> {check.advice} ({check.source})", indent, f"{indent}   ")
    verdicts = [check.verdict for check in checks]
    found = (verdicts.count(Severity.PROBLEM), "problem"), (verdicts.count(Severity.WARN), "warning")
    trouble = ", ".join(count(number, what) if number else f"no {what}s" for number, what in found)
    return [*shown, "", trouble if any(number for number, _ in found) else "nothing is wrong"]


def _wrap(text: str, first: str, others: str) -> list[str]:
    """Lines of a sentence. Addresses, options and paths stay whole, so that they can be copied."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
