"""Another program on the card: takes memory until so much is in use, and holds it until its standard input ends.

python -m tests.gpu.hog FRACTION
"""

from __future__ import annotations

import json
import os
import sys
import time

from helix_crawl_otel.probes.nvml import NvmlProbe

MIB = 1024**2
LARGEST = 2048 * MIB
SMALLEST = 16 * MIB


def main(wanted: float) -> None:
    """Take, tell the reading, and wait."""
    import torch

    probe = NvmlProbe("cuda:0", os.environ)
    held = [torch.empty(SMALLEST, dtype=torch.uint8, device="cuda:0")]
    while True:
        reading = probe()
        if reading.fraction is None or reading.used_bytes is None or reading.limit_bytes is None:
            sys.exit(f"NVML reads nothing: {probe.why}")
        missing = int(wanted * reading.limit_bytes) - reading.used_bytes
        if missing <= 0:
            break
        held.append(torch.empty(max(SMALLEST, min(LARGEST, missing)), dtype=torch.uint8, device="cuda:0"))
        time.sleep(0.01)
    print(json.dumps({"used_bytes": reading.used_bytes, "limit_bytes": reading.limit_bytes}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(float(sys.argv[1]))
