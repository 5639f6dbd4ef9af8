"""The program of the NVML tests: keeps one probe, and does what each line of standard input says.

A library can be loaded only once in a process, and `pynvml` remembers it: so the real `pynvml` meets the stand-in in a
process of its own, and the test changes the answer file between two lines.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from helix_crawl_otel.memory.nvml import NvmlProbe
from helix_crawl_otel.memory.nvml_describe import describe, driver_model
from helix_crawl_otel.memory.nvml_processes import card_processes


def _read(probe: NvmlProbe) -> dict[str, Any]:
    reading = probe()
    return {"used": reading.used_bytes, "limit": reading.limit_bytes, "why": probe.why}


def _read_beside_a_counter(probe: NvmlProbe) -> dict[str, Any]:
    """Read while another thread counts milliseconds: how far it gets tells whether the GIL was free."""
    stop, counted = threading.Event(), [0]

    def count() -> None:
        while not stop.wait(0.001):
            counted[0] += 1

    other = threading.Thread(target=count)
    other.start()
    began = time.monotonic()
    answer = _read(probe)
    seconds = time.monotonic() - began
    stop.set()
    other.join()
    return {**answer, "seconds": seconds, "counted": counted[0]}


def _shutdown(probe: NvmlProbe) -> None:
    import pynvml

    pynvml.nvmlShutdown()


_COMMANDS: dict[str, Callable[[NvmlProbe], Any]] = {
    "read": _read,
    "read many": lambda probe: [_read(probe) for _ in range(2_000)],
    "read beside a counter": _read_beside_a_counter,
    "shut down": _shutdown,
    "describe": lambda probe: dataclasses.asdict(describe(os.environ)),
    "driver model": lambda probe: driver_model(0, os.environ),
    "processes": lambda probe: dataclasses.asdict(card_processes(0)),
    "modules": lambda probe: [name for name in ("pynvml", "torch", "opentelemetry") if name in sys.modules],
}


def main(device: str) -> None:
    """Answer each line with one line of JSON."""
    probe = NvmlProbe(device, os.environ)
    for line in sys.stdin:
        print(json.dumps(_COMMANDS[line.strip()](probe)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
