"""A process that reads one NVML probe (reader.py), as the tests see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]


class Reader:
    """One process with one `NvmlProbe`, told line by line what to do."""

    def __init__(self, environ: dict[str, str], device: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "tests.probes.reader", device]
        self.process = subprocess.Popen(
            command, env=environ, cwd=_ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, command: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def read(self) -> dict[str, Any]:
        answer = self.ask("read")
        assert isinstance(answer, dict)
        return answer

    def fraction(self) -> float | None:
        answer = self.read()
        return None if answer["used"] is None else answer["used"] / answer["limit"]

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
