"""Says of a run what it is, and how it stands: running, paused, done or failed.

A run is what the same command resumes; each start of it has an id of its own, which is the resource's
`service.instance.id` as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector

from helix_crawl_otel._version import __version__
from helix_crawl_otel.exit_codes import DONE, INTERRUPTED, PAUSED
from helix_crawl_otel.otel.instruments import Instruments, Rows
from helix_crawl_otel.otel.resource import instance_id
from helix_crawl_otel.policy.settings import Settings

__all__ = ["RUN_STATES", "RunGauges", "job_name", "state_of", "this_script"]

RUN_STATES = ("running", "paused", "done", "failed")


def job_name(script: str) -> str:
    """What a job of the user's own is called: its service's name, or its script's."""
    given = OTELResourceDetector().detect().attributes.get(SERVICE_NAME)
    return str(given or script)


def this_script() -> str:
    """Name of the script that this process runs, of a package run by `-m` the package's."""
    path = Path(sys.argv[0] if sys.argv else "")
    return (path.parent.name if path.stem == "__main__" else path.name) or "python"


def state_of(exit_code: int) -> str:
    """The state in which a run has ended."""
    if exit_code == DONE:
        return "done"
    return "paused" if exit_code in (PAUSED, INTERRUPTED) else "failed"


class RunGauges:
    """Answers for the gauges of one run; see `GaugeSource`.

    Args:
        hub: Where they are shown, from now on.
        run: What the same command resumes.
        command: `build`, `backfill`, `demo`, `run` or `embedded`.
        folder: What `helix-crawl status` takes; empty without one.
        settings: The knobs.
        model: That encodes; empty when unknown.

    Threads: any; each change is a single operation.
    """

    def __init__(self, hub: Instruments, run: str, command: str, folder: str, settings: Settings, model: str) -> None:
        self.state = "running"
        self.model = model
        self._hub = hub
        self._id = {"run": run, "run_id": instance_id()}
        self._how = {"command": command, "folder": folder, "version": __version__}
        self._knobs = {
            "policy": settings.action,
            "factor": f"{settings.factor:g}",
            "window": f"{settings.window:g}",
            "vram_full": f"{settings.vram_full:g}",
        }
        hub.add(self)

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge."""
        if gauge == "helix_dense_run_info":
            return [(1, {**self._id, **self._how, "model": self.model, **self._knobs})]
        if gauge == "helix_dense_run_state":
            return [(int(state == self.state), {**self._id, "state": state}) for state in RUN_STATES]
        return ()

    def close(self) -> None:
        """They are shown no longer."""
        self._hub.remove(self)
