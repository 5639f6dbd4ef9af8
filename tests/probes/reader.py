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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helix_crawl_otel.probes.cards import describe, device_processes
from helix_crawl_otel.probes.nvml import NvmlProbe
from tests.standins.answers import AnswerFile


def _read(probe: NvmlProbe) -> dict[str, Any]:
    reading = probe()
    return {"used": reading.used_bytes, "limit": reading.limit_bytes, "why": probe.why}


def _read_card(probe: NvmlProbe) -> dict[str, Any]:
    """What the card says beside its memory, which is read first."""
    probe()
    return dataclasses.asdict(probe.read_card())


def _read_many(probe: NvmlProbe) -> list[tuple[int | None, int | None]]:
    """Read thousands of times, and on until two states have been seen; which ones were."""
    seen: set[tuple[int | None, int | None]] = set()
    readings, until = 0, time.monotonic() + 50
    while readings < 2_000 or (len(seen) < 2 and time.monotonic() < until):
        reading = probe()
        seen.add((reading.used_bytes, reading.limit_bytes))
        readings += 1
    return list(seen)


def _read_beside_a_thread(probe: NvmlProbe) -> dict[str, Any]:
    """Read a driver that hangs until another thread of this process has gone on, and changed its answer file."""
    answers = AnswerFile(Path(os.environ["NVML_STANDIN_FILE"]))

    def end_the_hang() -> None:
        while not answers.calls():
            time.sleep(0.005)
        lines = answers.path.read_text(encoding="utf-8").splitlines()
        answers.put(line for line in lines if not line.startswith("hang."))

    other = threading.Thread(target=end_the_hang)
    other.start()
    answer = _read(probe)
    other.join()
    return answer


def driver_model(environ: Mapping[str, str]) -> str | None:
    """That of cuda:0; `None` as well where there is no such card."""
    return next((card.model for card in describe(environ).cards if card.device == "cuda:0"), None)


def _shutdown(probe: NvmlProbe) -> None:
    import pynvml

    pynvml.nvmlShutdown()


_COMMANDS: dict[str, Callable[[NvmlProbe], Any]] = {
    "read": _read,
    "read many": _read_many,
    "read card": _read_card,
    "read beside a thread": _read_beside_a_thread,
    "shut down": _shutdown,
    "describe": lambda probe: dataclasses.asdict(describe(os.environ)),
    "driver model": lambda probe: driver_model(os.environ),
    "processes": lambda probe: dataclasses.asdict(device_processes("cuda:0", os.environ)),
    "modules": lambda probe: [name for name in ("pynvml", "torch", "opentelemetry") if name in sys.modules],
}


def main(device: str) -> None:
    """Answer each line with one line of JSON."""
    probe = NvmlProbe(device, os.environ)
    for line in sys.stdin:
        print(json.dumps(_COMMANDS[line.strip()](probe)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
