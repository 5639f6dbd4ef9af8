"""Device names, and the probes chosen for them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.monitor import default_probe
from helix_crawl_otel.probes.probe import UNKNOWN
from tests.standins.nvml import Answers, Card


@pytest.mark.parametrize(
    ("device", "full", "sources"),
    [
        ("cuda", "cuda:0", {"nvml", "torch"}),
        ("cuda:0", "cuda:0", {"nvml", "torch"}),
        ("cuda:11", "cuda:11", {"nvml", "torch"}),
        ("cpu", "cpu", {"cgroup"}),
        ("cpu:0", "cpu", {"cgroup"}),
        ("mps", "mps:0", {"mps"}),
        ("xpu:1", "xpu:1", {"xpu"}),
    ],
)
def test_the_probes_of_a_device(device: str, full: str, sources: set[str]) -> None:
    """A card has NVML and the framework, the CPU its control group; the device is spelled in full."""
    probe = default_probe(device, {})
    assert probe.device == full
    assert set(probe.sources()) == sources


def test_a_device_that_nothing_can_read_is_unknown_with_a_reason() -> None:
    """A Mac is not an error: nothing trips there, and the reason says why."""
    probe = default_probe("mps", {})
    assert probe() == UNKNOWN
    assert probe.why == "mps: no memory probe for mps devices"
    assert probe.sources() == {"mps": False}


def test_the_environment_reaches_the_probe_of_the_card(nvml_environ: dict[str, str]) -> None:
    """A worker on the CPU has no card, whatever the machine has."""
    program = (
        "import os\n"
        "from helix_crawl_otel.probes.monitor import default_probe\n"
        "for environ in (os.environ, {'CUDA_VISIBLE_DEVICES': '-1'}):\n"
        "    probe = default_probe('cuda', environ)\n"
        "    print(probe().limit_bytes, probe.sources()['nvml'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env=nvml_environ, check=True, capture_output=True, text=True)
    assert done.stdout == f"{12 * 1024**3} True\nNone False\n"


OF_PROCESSES = """
import json, os
from helix_crawl_otel.probes.monitor import MemoryMonitor

found = []
deliver = lambda device, reading, sources: found.append((device, reading.used_bytes and reading.used_bytes // 1024**3))
memory = MemoryMonitor(deliver, lambda: 0.0, tick_seconds=5.0, on_error=print, environ=os.environ, has_threads=False)
for visible in ("0", "1", "1,0", "GPU-3", "2"):
    memory.watch(memory.name_of("cuda:0", {"CUDA_VISIBLE_DEVICES": visible}))
memory.tick()
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        (None, [["cuda:0", 2], ["cuda:1", 3], ["cuda:3", 5], ["cuda:2", 4]]),
        ("1,0", [["cuda:1", 2], ["cuda:0", 3], ["cuda:2", 5], ["cuda:3", 4]]),
        ("-1", [["cuda:0", 2], ["cuda:1", 3], ["cuda:2", 5], ["cuda:3", 4]]),
    ],
)
def test_the_card_of_each_process_is_read(
    answers: Answers, nvml_environ: dict[str, str], ours: str | None, found: list[object]
) -> None:
    """Each calls its own `cuda:0`. One that the job itself does not see is read under a number behind the others."""
    answers.cards = [Card(uuid=f"GPU-{number}", used=(number + 2) * 1024**3) for number in range(4)]
    answers.write()
    environ = nvml_environ if ours is None else {**nvml_environ, "CUDA_VISIBLE_DEVICES": ours}
    done = subprocess.run([sys.executable, "-c", OF_PROCESSES], env=environ, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == found


@pytest.mark.parametrize(
    "device",
    ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:1 ", "cuda:0\n", "cuda 1", "0", "tpu:0"],
)
def test_what_is_no_device_name_is_refused(device: str) -> None:
    """The message shows what was given and what is accepted."""
    with pytest.raises(ValueError, match=r"accepted: cpu, cuda, cuda:N .* mps, xpu") as refused:
        default_probe(device, {})
    assert f"device is {device!r}" in str(refused.value)


@pytest.mark.parametrize("device", [None, 0, b"cuda"])
def test_what_is_no_text_is_refused_like_a_wrong_name(device: object) -> None:
    """No TypeError from the depths."""
    with pytest.raises(ValueError, match="accepted"):
        parse_device(device)  # type: ignore[arg-type]  # a caller without a type checker


def test_a_torch_device_is_read_by_its_text() -> None:
    """`torch.device("cuda", 1)` prints as `cuda:1`."""

    class Device:
        def __str__(self) -> str:
            return "cuda:1"

    assert str(parse_device(Device())) == "cuda:1"  # type: ignore[arg-type]  # as torch.device is


@pytest.mark.parametrize("module", ["monitor", "cards", "probe", "cgroup"])
def test_importing_a_probe_loads_nothing_heavy(module: str) -> None:
    """torch and pynvml are imported by the call that needs them; opentelemetry by nothing here."""
    program = (
        f"import sys, helix_crawl_otel.probes.{module}\n"
        "print([name for name in ('torch', 'pynvml', 'opentelemetry', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_reading_a_card_does_not_load_torch() -> None:
    """The supervisor reads cards and must hold no CUDA context."""
    program = (
        "import sys\n"
        "from helix_crawl_otel.probes.monitor import default_probe\n"
        "default_probe('cuda', {})()\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
