"""The command `helix-crawl simulate`: the closed loop on a modelled card, ladder against no ladder, in seconds.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from helix_crawl_otel.charts import ChartError
from helix_crawl_otel.commands.common import Commands, add_command, say, say_json
from helix_crawl_otel.config import ConfigError, add_options, config_from_options, option_values
from helix_crawl_otel.paths import typed_path
from helix_crawl_otel.simulate.compare import compare, legend, table
from helix_crawl_otel.simulate.picture import check_picture, draw_into
from helix_crawl_otel.simulate.policies import DEFINITIONS
from helix_crawl_otel.simulate.recording import write_timeline
from helix_crawl_otel.simulate.scenario import SCENARIOS, Scenario, by_name
from helix_crawl_otel.simulate.scenario_file import EXAMPLE, ScenarioFileError, load_scenario

__all__ = ["register", "run"]


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
    parser.add_argument("--list", action="store_true", help="say which scenarios there are, and what they model")
    parser.add_argument("--example", action="store_true", help="print an example of a FILE.toml, with every key")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON list")
    parser.add_argument("--plot", metavar="FILE", help="draw the scenario over time into a .png or .html")
    parser.add_argument("--record", metavar="FILE", help="write one policy's run as a timeline (.jsonl)")
    parser.add_argument("--policy", default="ladder", metavar="NAME", help="whose run --record writes; default: ladder")
    parser.add_argument(
        "--seed", metavar="N", help="another draw of the batches, a whole number (default: the scenario's)"
    )
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
            say(f"{scenario.name:16} {scenario.text}")
        return 0
    settings = config_from_options(option_values(args))
    scenarios = _scenarios(args.scenario, args.seed)
    plot = None if args.plot is None else typed_path(args.plot, "--plot")
    record = None if args.record is None else typed_path(args.record, "--record")
    for option, path in (("--plot", plot), ("--record", record)):
        if path is not None and len(scenarios) > 1:
            raise ConfigError(f"{option} is for one scenario; name one of --list, or a FILE.toml")
    if plot is not None and plot == record:
        raise ConfigError(f"--plot and --record are both {str(plot)!r}; accepted: two files")
    if args.policy not in DEFINITIONS:
        raise ConfigError(f"--policy is {args.policy!r}; accepted: {', '.join(DEFINITIONS)}")
    if plot is not None:
        check_picture(plot)
    comparisons = [compare(scenario, settings) for scenario in scenarios]
    if args.json:
        say_json([row.as_json() for item in comparisons for row in item.rows], indent=1)
    else:
        say(*table(comparisons).split("\n"), "")
        say("A model in virtual time, not a measurement. `helix-crawl simulate --help` says what the policies are.")
    if plot is not None:
        with _writing("--plot", plot):
            draw_into(plot, comparisons[0])
        say(f"picture: {plot}", to_stderr=True)
    if record is not None:
        with _writing("--record", record):
            write_timeline(record, scenarios[0], comparisons[0].runs[args.policy], settings)
        say(f"timeline of {args.policy}: {record}", to_stderr=True)
    return 0


@contextmanager
def _writing(option: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{option} is {str(path)!r}, which cannot be written: {error.strerror or error}") from error


def _scenarios(name: str | None, seed: str | None) -> list[Scenario]:
    if name is None:
        chosen = list(SCENARIOS)
    elif name.endswith(".toml"):
        chosen = [load_scenario(typed_path(name, "SCENARIO"))]
    else:
        scenario = by_name(name)
        if scenario is None:
            names = ", ".join(item.name for item in SCENARIOS)
            raise ConfigError(f"no scenario {name!r}; accepted: {names}, or a FILE.toml")
        chosen = [scenario]
    if seed is None:
        return chosen
    if not (seed.isascii() and seed.isdigit() and len(seed) <= 9):
        raise ConfigError(f"--seed is {seed!r}; accepted: a whole number from 0 to 999999999")
    return [replace(scenario, seed=int(seed)) for scenario in chosen]
