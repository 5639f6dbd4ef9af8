"""Makes the timelines beside it: both incidents, and jobs that nobody may touch.

    python -m tests.data.timelines.make

They are reconstructed, not recorded: what INCIDENTS.md says of each is kept to the figure, the rest is made up so that
it fits, from a fixed seed. The files are committed; a test makes them again and compares.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

from helix_crawl_otel.timeline import TimelineWriter
from helix_crawl_otel.timeline.events import VERSION

GB = 1_000_000_000
CARD_BYTES = 12 * GB
GENES = 64
RATE = 15.3
"""Healthy rate of the incidents' card, genes/s."""

ENCODER = "BAAI/bge-m3"


class Job:
    """A job on one card, in virtual time.

    Args:
        path: Where its timeline goes.
        source: What it is reconstructed from.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.t = 0.0
        self.random = random.Random(path.name)
        self.writer = TimelineWriter(path, lambda: 0.0)
        # Not `run`: that writes today's date, and nobody knows this one's.
        about = {"encoder": ENCODER, "reconstructed": True, "source": source}
        self.writer.write("run", 0.0, version=VERSION, config={}, **about)
        self.start("first")

    def start(self, reason: str, device: str = "cuda:0", seconds: float = 12.0) -> None:
        """A worker starts and loads its model."""
        self.writer.worker(self.t, device, pid=4711, reason=reason)
        self.device = device
        self.t += seconds

    def batch(
        self, shard: str, rate: float, used: float, *, genes: int = GENES, longest: int = 1200, pause: float = 0.3
    ) -> None:
        """Encode one batch.

        Args:
            shard: Name.
            rate: genes/s for passages of 1,200 characters; longer ones take longer in proportion.
            used: Dedicated memory, GB.
            genes: Passages.
            longest: Characters of the longest; the others are padded to it.
            pause: Seconds for commit and the next read.
        """
        seconds = genes / rate * (longest / 1200) * self.random.uniform(0.94, 1.06)
        begun, self.t = self.t, self.t + seconds
        while (begun := begun + 60.0) < self.t:
            self.memory(begun, used)
        self.memory(self.t, used)
        self.writer.batch(self.t, shard, self.device, genes, seconds, work=genes * longest)
        self.t += pause

    def memory(self, t: float, used: float) -> None:
        """One reading of the card."""
        if self.device != "cpu":
            self.writer.memory(t, self.device, round(used * GB), CARD_BYTES)

    def longest(self) -> int:
        """Characters of an ordinary batch's longest passage."""
        return self.random.randrange(1000, 1401, 10)


def incident_0610(path: Path) -> None:
    """Shard confluence: 15.3 to 2.3 genes/s, 11.85 of 12 GB; over only because the shard ended."""
    job = Job(path, "incident 06-10: confluence fell from 15.3 to 2.3 genes/s at 11.85 of 12 GB until the shard ended")
    for n in range(60):
        job.batch("confluence", RATE, min(5.9 + 0.11 * n, 11.85), longest=job.longest())
    for _ in range(60):
        job.batch("confluence", 2.3, 11.85, longest=job.longest())
    job.start("resume")
    for _ in range(20):
        job.batch("jira", RATE, 6.2, longest=job.longest())
    job.writer.close()


def incident_0611(path: Path) -> None:
    """Shard slack__eng-oncall: 64 genes in 47 minutes, with a release every 64 batches."""
    job = Job(
        path,
        "incident 06-11: slack__eng-oncall did 64 genes in 47 minutes with a cache release every 64 batches and "
        "expandable segments on; then killed and resumed by hand, then the CPU for the rest",
    )
    for n in range(150):
        job.batch("slack__eng-oncall", RATE, min(6.1 + 0.15 * (n % 64), 11.7), longest=job.longest())
    job.batch("slack__eng-oncall", GENES / (47 * 60), 11.94)
    job.start("crash", seconds=40.0)
    for _ in range(6):
        job.batch("slack__eng-oncall", RATE, 6.3, longest=job.longest())
    job.start("demote", device="cpu", seconds=40.0)
    for _ in range(12):
        job.batch("slack__eng-oncall", 3.5, 0.884, longest=job.longest())
    job.writer.close()


def healthy(path: Path) -> None:
    """A shard at full speed on a card that is rightly full; its last batch is small."""
    job = Job(path, "made up: a healthy shard, 15.3 genes/s with 6 % jitter, 11.4 of 12 GB in use throughout")
    for _ in range(120):
        job.batch("handbook", RATE, 11.4, longest=job.longest())
    job.batch("handbook", RATE / 3, 11.4, genes=5)
    job.writer.close()


def long_documents(path: Path) -> None:
    """Short passages, then ones twenty times as long: a twentieth of the genes/s, the same work/s."""
    job = Job(path, "made up: passages of 1,200 characters, then of 24,000, on a full card; the work rate stays")
    for longest in [1200] * 40 + [24_000] * 40 + [1200] * 10:
        job.batch("contracts", RATE, 11.5, longest=longest)
    job.writer.close()


def slow_disk(path: Path) -> None:
    """Reads and commits take ten times as long as the encoding; 0.9 genes/s in all, and no recycle would help."""
    job = Job(path, "made up: a disk that takes 20 to 90 s for a batch's read and commit; the encode stage is healthy")
    for n in range(80):
        pause = 0.3 if n < 20 else job.random.uniform(20, 90)
        job.batch("archive", RATE, 11.4, longest=job.longest(), pause=pause)
    job.writer.close()


def born_crawling(path: Path) -> None:
    """Two healthy shards, then one that crawls from its first batch: it never shows what healthy is."""
    job = Job(path, "made up: wiki and blog at 15.3 genes/s, then mail at 1.5 genes/s and 11.9 of 12 GB from its start")
    for shard in ("wiki", "blog"):
        for n in range(30):
            job.batch(shard, RATE, 6.0 + 0.05 * n, longest=job.longest())
    for _ in range(40):
        job.batch("mail", 1.5, 11.9, longest=job.longest())
    job.writer.close()


TIMELINES: dict[str, Callable[[Path], None]] = {
    "incident-0610-confluence.jsonl": incident_0610,
    "incident-0611-slack.jsonl": incident_0611,
    "healthy.jsonl": healthy,
    "long-documents.jsonl": long_documents,
    "slow-disk.jsonl": slow_disk,
    "born-crawling.jsonl": born_crawling,
}


def main(folder: Path) -> None:
    """Make all of them in a folder."""
    for name, make in TIMELINES.items():
        path = folder / name
        path.unlink(missing_ok=True)
        make(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
