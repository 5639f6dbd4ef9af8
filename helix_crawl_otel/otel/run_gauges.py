"""Says of a run what it is, and how it stands: running, paused, done or failed.

A run is what the same command resumes; each start of it has an id of its own, which is the resource's
`service.instance.id` as well.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector

from helix_crawl_otel._version import __version__
from helix_crawl_otel.exit_codes import DONE, INTERRUPTED, PAUSED
from helix_crawl_otel.otel.instruments import Instruments, Rows
from helix_crawl_otel.otel.resource import instance_id
from helix_crawl_otel.policy.settings import Settings

__all__ = ["RUN_STATES", "RunGauges", "embedded_run", "job_name", "state_of"]

RUN_STATES = ("running", "paused", "done", "failed")

_PYTHON = re.compile(r"(python|pypy)w?[0-9.]*(\.exe)?", re.IGNORECASE)


def job_name(words: Sequence[str]) -> str:
    """What a job of the user's own is called: its service's name, or else its script's, module's or program's.

    Args:
        words: Its command.
    """
    return _service() or _script(words)


def _service() -> str:
    return str(OTELResourceDetector().detect().attributes.get(SERVICE_NAME) or "")


def _script(words: Sequence[str]) -> str:
    """Of a Python's command what it runs; of another one the program."""
    program = Path(words[0]).name
    if not _PYTHON.fullmatch(program):
        return program
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-"):
            return Path(word).name
        option = word[1:2]
        if option == "m":  # a module's name, apart or not
            return word[2:] or next(rest, program)
        if option in ("c", ""):
            break
        if word[1:] in ("W", "X"):
            next(rest, None)
    return program


def _this_script() -> str:
    """What this process runs, by the same name as `_script` would give it."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return str(spec.name).removesuffix(".__main__")
    return Path(sys.argv[0]).name if sys.argv and not sys.argv[0].startswith("-") and sys.argv[0] else "python"


def state_of(exit_code: int) -> str:
    """The state in which a run has ended."""
    if exit_code == DONE:
        return "done"
    return "paused" if exit_code in (PAUSED, INTERRUPTED) else "failed"


class RunGauges:
    """Answers for the gauges of one run; see `GaugeSource`.

    Args:
        hub: Where they are shown, once it has begun.
        run: What the same command resumes.
        command: `build`, `backfill`, `demo`, `run` or `embedded`.
        folder: What `helix-crawl status` takes; empty without one.

    Threads: any. `_lock` guards how many watches are in it.
    """

    def __init__(self, hub: Instruments, run: str, command: str, folder: str = "") -> None:
        self.model = ""
        """That encodes, as far as anybody has said."""
        self._state = "running"
        self._hub = hub
        self._id = {"run": run, "run_id": instance_id()}
        self._how = {"command": command, "folder": folder, "version": __version__}
        self._knobs: dict[str, str] = {}
        self._lock = threading.Lock()
        self._going_on = 0

    def begin(self, settings: Settings, model: str) -> None:
        """It runs, or another watch of it does, with these knobs."""
        with self._lock:
            self._going_on += 1
            self._state = "running"
        self.model = model
        self._knobs = {
            "policy": settings.action,
            "factor": f"{settings.factor:g}",
            "window": f"{settings.window:g}",
            "vram_full": f"{settings.vram_full:g}",
        }
        self._hub.add(self)

    def end(self, state: str) -> None:
        """It has ended so, or a watch of it has, of which the last one says how the run has ended. It stays shown."""
        with self._lock:
            self._going_on -= 1
            if self._going_on <= 0:
                self._state = state

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge."""
        if gauge == "helix_dense_run_info":
            return [(1, {**self._id, **self._how, "model": self.model, **self._knobs})]
        if gauge == "helix_dense_run_state":
            now = self._state
            return [(int(state == now), {**self._id, "state": state}) for state in RUN_STATES]
        return ()

    def hide(self) -> None:
        """They are shown no longer."""
        self._hub.remove(self)


def embedded_run(hub: Instruments) -> RunGauges:
    """The run that the watches of this process are in, which outlives them: it says how they ended."""
    if not isinstance(hub.run, RunGauges):
        hub.run = RunGauges(hub, _service() or _this_script(), "embedded")
    return hub.run
