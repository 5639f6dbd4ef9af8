"""How a command adds itself to the command line: the same for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Commands", "add_command"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns."""


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    description: str,
    epilog: str | None = None,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """Add one command.

    Args:
        commands: Of the command line.
        name: As it is typed.
        run: Takes the parsed arguments, and returns the exit code; they carry it as `func`.
        help: One line for the list of commands.
        description: What `--help` begins with; printed as it stands.
        epilog: What it ends with; printed as it stands.
        usage: Only where it cannot be made from the arguments.

    Returns:
        Its parser. It takes no abbreviated options: a script that uses one would break with the next option.
    """
    parser = commands.add_parser(
        name,
        help=help,
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(func=run)
    return parser
