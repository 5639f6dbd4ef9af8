"""Three real builds on modelled cards, at once and in real time, scraped by a real Prometheus with the shipped rules.

What the pictures of the boards are drawn from. It takes ten minutes; what Prometheus has stored is kept in a folder and
asked as often as somebody draws.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_crawl_otel.cli import main
from tests.build.rig import Rig, prose
from tests.dashboards.servers import Prometheus, server
from tests.ports import HERE, free_port
from tests.programs import require_program

__all__ = ["JOBS", "SCRAPE_SECONDS", "Job", "Run", "asked", "recorded"]

SCRAPE_SECONDS = 5
LONGEST_SECONDS = 1500.0


@dataclass(frozen=True)
class Job:
    """A build on one modelled card.

    Args:
        instance: How Prometheus names it.
        shards: Name and files of each; a file makes 20 genes.
        fault: The card.
    """

    instance: str
    shards: tuple[tuple[str, int], ...]
    fault: str


# What each batch leaves fills the first card in a minute and a half, the third in four and a half; the second never.
JOBS = (
    Job(
        "rig-1:9464",
        (("confluence", 280), ("slack__eng-oncall", 100)),
        "card:fragment_gib=0.05,cpu_tokens_per_second=1000",
    ),
    Job("rig-2:9464", (("git__notes", 180), ("mail", 180), ("tickets", 400)), "card:fragment_gib=0.001"),
    Job("rig-3:9464", (("drive", 60), ("jira", 500)), "card:fragment_gib=0.0185"),
)


@dataclass(frozen=True)
class Run:
    """When it was, in seconds since 1970."""

    begun: float
    ended: float


def recorded(folder: Path) -> Run:
    """The run whose data a folder holds; made if there is none.

    Args:
        folder: Kept for as long as somebody draws from it.
    """
    kept = folder / "run.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(_run(folder))), encoding="utf-8")
    return Run(**json.loads(kept.read_text(encoding="utf-8")))


def _run(folder: Path) -> Run:
    ports = {job.instance: free_port() for job in JOBS}
    assert main(["dashboards", str(folder / "files")]) == 0
    config = folder / "files" / "prometheus" / "prometheus.yml"
    text = config.read_text(encoding="utf-8").replace("15s", f"{SCRAPE_SECONDS}s")
    own = '      - targets: ["127.0.0.1:9464"]\n'
    assert own in text
    targets = (
        f'      - targets: ["{HERE}:{port}"]\n        labels: {{instance: "{instance}"}}\n'
        for instance, port in ports.items()
    )
    config.write_text(text.replace(own, "".join(targets)), encoding="utf-8")
    with _prometheus(folder), ExitStack() as stack:
        readers = stack.enter_context(ThreadPoolExecutor())
        begun = time.time()
        running = []
        for job in JOBS:
            rig = Rig(folder / job.instance.partition(":")[0], ("--model", "hashing"))
            for number, (shard, files) in enumerate(job.shards):
                rig.write({f"{shard}/file-{n:03}.txt": prose(number * 1000 + n, 60) for n in range(files)})
            port = str(ports[job.instance])
            command = rig.build_command("--batch-size", "16", "--metrics-port", port, "--fault", job.fault)
            process = stack.enter_context(rig.started(command, HELIX_DENSE_VRAM_RELEASE_EVERY="0"))
            running.append((process, readers.submit(rig.ended, process, LONGEST_SECONDS)))
        summary = running[0][1].result().summary
        assert {"DETECT", "EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"} <= set(summary["actions"]), summary
        ended = time.time()
        for process, _ in running:
            process.terminate()
        for _, done in running:
            done.result()
    return Run(begun, ended)


@contextmanager
def _prometheus(folder: Path) -> Iterator[Prometheus]:
    port = free_port()
    command = [
        require_program("prometheus"),
        f"--config.file={folder / 'files' / 'prometheus' / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={HERE}:{port}",
    ]
    with server(command, f"http://{HERE}:{port}/-/ready", folder / "prometheus.log"):
        yield Prometheus(port)


@contextmanager
def asked(folder: Path) -> Iterator[Prometheus]:
    """A Prometheus on the data of a run that is over."""
    with _prometheus(folder) as prometheus:
        yield prometheus
