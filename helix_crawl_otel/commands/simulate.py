"""The command `helix-crawl simulate`: the closed loop on a modelled card, ladder against no ladder, in seconds.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from helix_crawl_otel.charts import ChartError
from helix_crawl_otel.commands.common import Commands, add_command, say, say_json, say_over, terminal_columns
from helix_crawl_otel.config import ConfigError, CrawlConfig, add_options, config_from_options, option_values
from helix_crawl_otel.formats import count, nearest
from helix_crawl_otel.paths import typed_path
from helix_crawl_otel.simulate.compare import (
    DRAWS,
    compare,
    compare_draws,
    compare_random,
    legend,
    order_table,
    random_table,
    table,
)
from helix_crawl_otel.simulate.families import FAMILIES, random_scenario
from helix_crawl_otel.simulate.picture import check_picture, draw_into
from helix_crawl_otel.simulate.policies import DEFINITIONS
from helix_crawl_otel.simulate.recording import write_timeline
from helix_crawl_otel.simulate.scenario import ORDERS, SCENARIOS, Scenario, by_name
from helix_crawl_otel.simulate.scenario_file import EXAMPLE, ScenarioFileError, load_scenario

__all__ = ["register", "run"]

MOST_DRAWS = 1000

FIRST_SEED = 1
"""Of random scenarios, where --seed does not say."""

_FOR_SCENARIOS = ("plot", "record", "draws")

BOTH = "both"
"""Of --order."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "simulate",
        run,
        "what the ladder is worth on a modelled card",
        "Runs a job on a modelled card in virtual time, under each policy side by side. A model, not a "
        "measurement; its parameters and where they come from stand in helix_crawl_otel/modelled_card.py.",
        legend(),
    )
    parser.add_argument(
        "scenario", nargs="?", metavar="SCENARIO", help="one of --list, or a FILE.toml of your own; default: all"
    )
    parser.add_argument(
        "--random", metavar="N", help="so many random scenarios instead, of all families in turn; 220 take a minute"
    )
    parser.add_argument(
        "--order",
        metavar="WAY",
        help="of the batches: files, as the passages come; tokens, the longest first, at most 16,384 padded "
        "tokens, as build makes them; both, side by side with the memory that each takes. Default: files, or what a "
        "FILE.toml says",
    )
    parser.add_argument("--list", action="store_true", help="say which scenarios there are, and what they model")
    parser.add_argument("--example", action="store_true", help="print an example of a FILE.toml, with every key")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON list")
    parser.add_argument("--plot", metavar="FILE", help="draw the scenario over time into a .png or .html")
    parser.add_argument("--record", metavar="FILE", help="write one policy's run as a timeline (.jsonl)")
    parser.add_argument("--policy", default="ladder", metavar="NAME", help="whose run --record writes; default: ladder")
    parser.add_argument(
        "--seed", metavar="N", help="of the first draw, a whole number (default: the scenario's); the next ones follow"
    )
    parser.add_argument("--draws", metavar="N", help=f"of each scenario (default {DRAWS})")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command. Returns its exit code.

    Raises:
        ConfigError: Wrong usage or configuration, or a file that cannot be read or written.
    """
    try:
        return _run(args)
    except (ChartError, ScenarioFileError) as error:
        raise ConfigError(str(error)) from error


def _run(args: argparse.Namespace) -> int:
    if args.example:
        say(*EXAMPLE.splitlines())
        return 0
    if args.list:
        for scenario in SCENARIOS:
            say(f"{scenario.name:17} {scenario.text}")
        say("", "Families of random scenarios (--random N, or a name):")
        for name, (text, _) in FAMILIES.items():
            say(f"{name:17} {text}")
        return 0
    settings = config_from_options(option_values(args))
    if args.order not in (None, *ORDERS, BOTH):
        accepted = (*ORDERS, BOTH)
        raise ConfigError(
            f"--order is {args.order[:80]!r}; accepted: {', '.join(accepted)}{nearest(args.order, accepted)}"
        )
    if args.random is not None:
        return _run_random(args, settings)
    scenarios, draws = _scenarios(args.scenario, _seed(args.seed)), _count("--draws", args.draws, DRAWS)
    if args.order in ORDERS:
        scenarios = _in_order(scenarios, args.order)
    plot = None if args.plot is None else typed_path(args.plot, "--plot")
    record = None if args.record is None else typed_path(args.record, "--record")
    for option, path in (("--plot", plot), ("--record", record)):
        if path is not None and len(scenarios) > 1:
            raise ConfigError(f"{option} is for one scenario; name one of --list, or a FILE.toml")
        if path is not None and args.order == BOTH:
            raise ConfigError(f"{option} is for one order of the batches; accepted for --order: {' or '.join(ORDERS)}")
    if plot is not None and plot == record:
        raise ConfigError(f"--plot and --record are both {str(plot)!r}; accepted: two files")
    if args.policy not in DEFINITIONS:
        near = nearest(args.policy, DEFINITIONS)
        raise ConfigError(f"--policy is {args.policy!r}; accepted: {', '.join(DEFINITIONS)}{near}")
    if plot is not None:
        check_picture(plot)
    played = [each for order in ORDERS for each in _in_order(scenarios, order)] if args.order == BOTH else scenarios
    rows = []
    for number, scenario in enumerate(played):
        rows.append(compare_draws(scenario, settings, draws, functools.partial(_drawing, number, len(played))))
    say_over("")
    if args.json:
        say_json([row.as_json() for each in rows for row in each], indent=1)
    else:
        if args.order == BOTH:
            say(*order_table([rows[: len(scenarios)], rows[len(scenarios) :]], terminal_columns()), "")
            shown_draws = "the middle one"
        else:
            say(*table(rows, terminal_columns()), "")
            shown_draws = "the middle one, and the worst"
        say("A model in virtual time, not a measurement. `helix-crawl simulate --help` says what the policies are.")
        say(f"Of {count(draws, 'draw')} of each scenario: {shown_draws}.")
    shown = {row.policy: scenarios[0].drawn(row.seed) for row in rows[0]}
    if plot is not None:
        drawn = shown["ladder"]
        with _writing("--plot", plot):
            draw_into(plot, compare(drawn, settings), rows[0])
        say(f"picture: {plot}, of seed {drawn.seed}, the middle draw of ladder", to_stderr=True)
    if record is not None:
        drawn = shown[args.policy]
        with _writing("--record", record):
            write_timeline(record, drawn, compare(drawn, settings).runs[args.policy], settings)
        say(f"timeline of {args.policy}: {record}, of seed {drawn.seed}, its middle draw", to_stderr=True)
    return 0


def _run_random(args: argparse.Namespace, settings: CrawlConfig) -> int:
    count_asked, seed = _count("--random", args.random, 0), _seed(args.seed)
    for option, value in (("SCENARIO", args.scenario), *((f"--{name}", vars(args)[name]) for name in _FOR_SCENARIOS)):
        if value is not None:
            raise ConfigError(f"{option} is {value[:80]!r}; accepted: none beside --random, which draws its scenarios")
    if args.order == BOTH:
        raise ConfigError(f"--order is {BOTH!r}; accepted beside --random: {' or '.join(ORDERS)}")
    first = FIRST_SEED if seed is None else seed

    def progress(done: int) -> None:
        say_over(f"scenario {done} of {count_asked}")

    rows = compare_random(count_asked, first, settings, progress, args.order or ORDERS[0])
    say_over("")
    if args.json:
        say_json([row.as_json() for row in rows], indent=1)
    else:
        say(*random_table(rows, terminal_columns()), "")
        say("A model in virtual time, not a measurement. `helix-crawl simulate --help` says what the policies are.")
        say(
            f"Of {count(count_asked, 'random scenario')}, seeds from {first} on: the middle one, the 95th percentile "
            "and the worst.",
            "`helix-crawl simulate FAMILY --seed SEED --draws 1` runs one of them again.",
        )
    return 0


def _drawing(number: int, scenarios: int, done: int) -> None:
    """On a terminal: all of them take seconds."""
    say_over(f"scenario {number + 1} of {scenarios}: {count(done, 'draw')}")


def _count(option: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    digits = len(str(MOST_DRAWS))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[: digits + 1]) <= MOST_DRAWS and len(text) <= digits):
        raise ConfigError(f"{option} is {text[:80]!r}; accepted: a whole number from 1 to {MOST_DRAWS}")
    return int(text)


def _seed(text: str | None) -> int | None:
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ConfigError(f"--seed is {text[:80]!r}; accepted: a whole number from 0 to 999999999")
    return None if text is None else int(text)


@contextmanager
def _writing(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{option} is {str(path)!r}, which cannot be written: {error.strerror or error}") from error


def _in_order(scenarios: Sequence[Scenario], order: str) -> list[Scenario]:
    """The same jobs with their batches in another order.

    Raises:
        ConfigError: One has too many batches so.
    """
    try:
        return [replace(scenario, order=order) for scenario in scenarios]
    except ValueError as error:
        raise ConfigError(f"--order {order}: {error}") from error


def _scenarios(name: str | None, seed: int | None) -> list[Scenario]:
    if name is None:
        chosen = list(SCENARIOS)
    elif name.endswith(".toml"):
        chosen = [load_scenario(typed_path(name, "SCENARIO"))]
    elif name in FAMILIES:
        chosen = [random_scenario(name, FIRST_SEED)]
    else:
        scenario = by_name(name)
        if scenario is None:
            names = ", ".join((*(item.name for item in SCENARIOS), *FAMILIES))
            near = nearest(name, (*(item.name for item in SCENARIOS), *FAMILIES))
            raise ConfigError(f"no scenario {name!r}; accepted: {names}, or a FILE.toml{near}")
        chosen = [scenario]
    return chosen if seed is None else [scenario.drawn(seed) for scenario in chosen]
