"""The exit codes of the commands and of a worker, and what ends a command with one. Scripts rely on them.

Source: DESIGN.md, section 3.3.
"""

__all__ = ["DEMOTED", "DONE", "FAILED", "INTERRUPTED", "NEVER", "PAUSED", "USAGE", "Refusal"]

DONE = 0

FAILED = 1
"""Finished, with something failed. On Windows a killed process returns it as well."""

USAGE = 2
"""Wrong usage or configuration; argparse's own code."""

PAUSED = 75
"""The same command goes on. EX_TEMPFAIL of sysexits.h."""

NEVER = 78
"""It can never start: no such model, an unreadable source. EX_CONFIG of sysexits.h."""

DEMOTED = 79
"""Of a worker: the shard belongs on another device."""

INTERRUPTED = 130
"""As a shell has it after Ctrl-C."""


class Refusal(Exception):
    """Ends a command: the message is for the user as it stands, and the exit code is that of the class."""

    exit_code = USAGE
