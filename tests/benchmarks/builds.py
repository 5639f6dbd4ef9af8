"""Runs the commands that the benchmarks of the main job measure, and reads what they said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.build.rig import COMMAND

__all__ = ["at", "build_command", "events", "output_of"]


def build_command(source: Path, out: Path, *more: str) -> list[str]:
    """A build that says what it does."""
    return [*COMMAND, "build", str(source), "--out", str(out), "--json", "--metrics-port", "0", *more]


def events(source: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    """Build, and what was said."""
    done = subprocess.run(build_command(source, out, *more), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def at(said: list[dict[str, Any]], kind: str) -> list[float]:
    """When each event of a kind came."""
    return [float(event["t"]) for event in said if event["event"] == kind]


def output_of(program: str, *arguments: object) -> dict[str, Any]:
    """Run a few lines of Python, and read the one object that they print."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found
