"""A process that encodes three batches with one fault laid over its encoder, and says what happens.

python -m tests.faults.child FAULT WHAT

WHAT is `quiet`; `ticking`, with a thread that counts the greatest gap between its own turns; `leaving`, with a thread
that ends the process as soon as it runs during the second batch; or `handling`, with a handler of SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from types import FrameType

from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.faults.faults import apply_faults, parse_fault

BATCHES = (["one passage", "another passage"], ["a passage", "of the second batch"], ["here is a gremlin", "the last"])
LEFT_CODE = 7
TURN_SECONDS = 0.01


def say(word: str, **content: object) -> None:
    """Tell the test."""
    print(json.dumps({"said": word, **content}), flush=True)


def tick(gaps: list[float], done: threading.Event) -> None:
    """Take turns, and note the time between each two of them."""
    last = time.monotonic()
    while not done.is_set():
        time.sleep(0.001)
        now = time.monotonic()
        gaps.append(now - last)
        last = now


def leave(second: threading.Event) -> None:
    """End the process once the second batch has been running for a turn."""
    second.wait()
    time.sleep(TURN_SECONDS)
    os._exit(LEFT_CODE)


def handled(number: int, frame: FrameType | None) -> None:
    """A handler that Python runs between two of its instructions."""
    say("handled")


def main(fault: str, what: str) -> None:
    """Encode."""
    gaps: list[float] = []
    done, second = threading.Event(), threading.Event()
    if what == "ticking":
        threading.Thread(target=tick, args=(gaps, done), daemon=True).start()
        while not gaps:  # its first turn must not be in a batch that holds the interpreter
            time.sleep(TURN_SECONDS)
    elif what == "leaving":
        threading.Thread(target=leave, args=(second,), daemon=True).start()
    elif what == "handling":
        signal.signal(signal.SIGTERM, handled)
    encoder = apply_faults(HashingEncoder(), [parse_fault(fault)], 1, time.monotonic, time.sleep)
    try:
        for number, texts in enumerate(BATCHES, 1):
            if number == 2:
                second.set()
            is_right = encoder.encode(texts) == HashingEncoder().encode(texts)
            say("encoded", batch=number, is_right=is_right)
    finally:
        done.set()
        say("left", longest_gap=max(gaps, default=0.0))


if __name__ == "__main__":
    main(*sys.argv[1:])
