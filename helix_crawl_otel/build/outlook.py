"""What a look at the tree means for a run: how much is to be encoded, and how long that may take.

The time is what the last run in the same folder came to, with the same model on the same machine: of its genes and its
seconds, with all that lay between its batches. Where there was none, there is no time.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from helix_crawl_otel.console.progress import tells_speed
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.filters import Filters
from helix_crawl_otel.corpus.look import ShardLook, TreeLook
from helix_crawl_otel.corpus.tree import is_wish
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import STATE_FOLDER, TIMELINE
from helix_crawl_otel.policy.model import is_number, sample_problem
from helix_crawl_otel.shards.build_record import BuildRecord
from helix_crawl_otel.shards.inspect import Held, Salvage, held
from helix_crawl_otel.supervise import events

__all__ = ["EarlierRate", "Look", "earlier_rate", "expected", "rule_of", "settle_filters"]

MOST_BATCHES = 2000
"""Of the end of a run: its beginning may have been on another device, or before a crawl."""

LEAST_BATCHES = 3

LAST_BYTES = 4 * 1024**2
"""Of a timeline that are looked at first: it may hold the runs of a year, and a build waits for this."""


@dataclass(frozen=True)
class EarlierRate:
    """What a run came to.

    Args:
        genes_per_second: All workers together.
        device: Where most of its batches were encoded.
        genes: How many they were.
    """

    genes_per_second: float
    device: str
    genes: int


def earlier_rate(timeline: Path, encoder: str) -> EarlierRate | None:
    """What the last run of a folder came to that encoded with a model on this machine, `None` where there was none.

    Args:
        timeline: Of the folder; it need not be there.
        encoder: The model.
    """
    window = LAST_BYTES
    try:
        with timeline.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            while True:
                file.seek(max(0, size - window))
                # Batches before the first `run` line in the window are of a run that nobody knows: none is counted.
                found = _last_rate(file, encoder)
                if found is not None or window >= size:
                    return found
                window *= 8
    except OSError:
        return None


def _last_rate(lines: Iterable[bytes], encoder: str) -> EarlierRate | None:
    found: EarlierRate | None = None
    batches = _RunBatches()
    is_wanted = False
    for line in lines:
        if line.startswith(b'{"event":"run"') or b'"event": "run"' in line:
            found = _rate(batches) or found
            batches = _RunBatches()
            run = _parsed(line)
            is_wanted = run.get("encoder") == encoder and run.get("host") == platform.node()
        elif is_wanted and b'"batch"' in line:
            batches.add(line)
    return _rate(batches) or found


class _RunBatches:
    """Lines of the batches of a run: the newest ones, and some of all of it, evenly."""

    def __init__(self) -> None:
        self.newest: deque[bytes] = deque(maxlen=MOST_BATCHES)
        self.spread: list[bytes] = []
        self._seen, self._every = 0, 1

    def add(self, line: bytes) -> None:
        """Take the next one."""
        self.newest.append(line)
        if self._seen % self._every == 0:
            self.spread.append(line)
        self._seen += 1
        if len(self.spread) > MOST_BATCHES:
            del self.spread[1::2]
            self._every *= 2


class _Numbers(NamedTuple):
    """Of a batch; `work` is NaN where it is not known."""

    t: float
    seconds: float
    genes: float
    work: float
    device: str


def _rate(batches: _RunBatches) -> EarlierRate | None:
    """Work a second of the newest batches, as genes of the whole run: a shard ends with its shortest genes."""
    newest = list(_numbers(batches.newest))
    if len(newest) < LEAST_BATCHES:
        return None
    began, ended = min(row.t - row.seconds for row in newest), max(row.t for row in newest)
    genes = sum(row.genes for row in newest)
    if not ended > began or not genes > 0:
        return None
    typical = _work_each(newest) / _work_each(list(_numbers(batches.spread)))
    rate = genes / (ended - began) * (typical if math.isfinite(typical) else 1.0)
    device = Counter(row.device for row in newest).most_common(1)[0][0]
    return EarlierRate(rate, device, round(genes))


def _work_each(rows: Sequence[_Numbers]) -> float:
    """Of a gene; NaN where it is not known of all."""
    work, genes = sum(row.work for row in rows), sum(row.genes for row in rows)
    return work / genes if work > 0 and genes > 0 else math.nan


def _numbers(lines: Iterable[bytes]) -> Iterator[_Numbers]:
    """Of the lines that have them."""
    for line in lines:
        batch = _parsed(line)
        values: Any = [batch.get(key) for key in ("t", "seconds", "genes", "work")]
        t, seconds, genes, work = values
        if batch.get("event") == "batch" and is_number(t) and sample_problem(genes, seconds, work) is None:
            yield _Numbers(t, seconds, genes, math.nan if work is None else work, str(batch.get("device")))


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass
class Look:
    """What is told of a look at the trees of a build, before it begins.

    Args:
        tree: What was seen.
        sources: The trees.
        filters: What of them is not wanted.
        rate: What the last run came to, see `earlier_rate`.
        complete: Shards that need nothing.
        pending: Genes that are to be encoded, as far as anybody can say.
    """

    tree: TreeLook
    sources: tuple[str, ...]
    filters: Filters
    rate: EarlierRate | None = None
    complete: int = 0
    pending: int = 0

    def measure(self, folder: Path, model: str) -> None:
        """Look how fast the last run in a folder of shards was."""
        self.rate = earlier_rate(folder / STATE_FOLDER / TIMELINE, model)

    def count(self, shard: str, path: Path, *, reencode: bool) -> None:
        """Look what the file of a shard holds already, where nobody plans it."""
        genes = expected(self.tree.shards[shard], held(path), reencode=reencode)
        self.complete += genes == 0 and path.is_file()
        self.pending += genes or 0

    def event(
        self,
        t: float,
        *,
        complete: int | None = None,
        pending: int | None = None,
        devices: Collection[str] | None = None,
    ) -> events.TreeLooked:
        """As the displays take it.

        Args:
            t: When.
            complete: Shards that need nothing, where somebody has planned them.
            pending: Genes likewise.
            devices: Where this run encodes; the rate of another device says nothing. `None` while unknown.
        """
        looked, rate, first = self.tree, self.rate, self.tree.dominating()
        if rate is not None and devices is not None and rate.device not in devices:
            rate = None
        left = self.pending if pending is None else pending
        if rate is not None and not tells_speed(rate.genes, left):
            rate = None
        return events.TreeLooked(
            t,
            sources=self.sources,
            files=looked.files,
            bytes=looked.bytes,
            passages=looked.passages,
            shards=sum(not shard.is_empty for shard in looked.shards.values()),
            complete=self.complete if complete is None else complete,
            pending=left,
            rate=None if rate is None else round(rate.genes_per_second, 3),
            rate_device="" if rate is None else rate.device,
            seconds=None if rate is None else round(left / rate.genes_per_second, 1),
            left_out=looked.reasons(),
            unreadable=sum(shard.problems for shard in looked.shards.values()),
            no_text=looked.no_text,
            no_text_bytes=looked.no_text_bytes,
            largest=list(_largest(looked)),
            dominating=None if first is None else first.pattern,
            unused=looked.unused(self.filters.exclude),
        )

    def unwanted(self) -> list[dict[str, Any]]:
        """What is left out by the user's wish, by reason."""
        return [row for row in self.tree.reasons() if is_wish(row["why"])]

    def to_json(self) -> dict[str, Any]:
        """Of a look alone: what the displays take, and each shard."""
        told = self.event(0.0).to_json()
        by_shard = [
            {"shard": name, "files": shard.files, "bytes": shard.bytes, "passages": shard.passages}
            for name, shard in self.tree.shards.items()
            if not shard.is_empty
        ]
        return {key: value for key, value in told.items() if key not in ("event", "t")} | {"by_shard": by_shard}


def rule_of(known: Salvage | Held | None) -> str | None:
    """By which rule a shard was cut that says so or is older than that, `None` for one that is not there."""
    return None if known is None else known.rule or ChunkRule(version=1).fingerprint


def expected(seen: ShardLook, known: Held | None, *, reencode: bool) -> int | None:
    """About how many genes of a shard are to be encoded, by what its file holds already; `None` where the file is too
    large to count them. What the shard was seen to hold is put right by it.

    Args:
        seen: The shard's files.
        known: What its file holds, as far as that can be told.
        reencode: Everything is encoded again.
    """
    if known is None:
        return seen.passages
    kept, new = known.genes, 0
    if known.fingerprint != seen.fingerprint and seen.bytes > known.source_bytes:
        new = round(seen.passages * (1 - known.source_bytes / seen.bytes))
    elif known.source_bytes > seen.bytes:
        kept = round(known.genes * seen.bytes / known.source_bytes)  # of files that are gone, or left out by now
    seen.passages = kept + new
    if reencode:
        return seen.passages
    return None if known.pending is None else known.pending + new


def settle_filters(asked: Filters | None, record: BuildRecord | None) -> tuple[Filters, list[str]]:
    """What of the trees is not wanted: what the command says, all of it, or what held the last time.

    Args:
        asked: Of the command; `None` where it says nothing.
        record: Of the folder.

    Returns:
        That, and what is to be said of it.
    """
    before = Filters()
    with suppress(ValueError):  # somebody has written into the record
        before = Filters.of_json(record.filters if record else None)
    was = shown_command(before.words()) or "no filter"
    if asked is None:
        again = f"{was}, as the last time; name a filter to change that, --include '*' takes in all"
        return before, [again] if before.words() else []
    if record is None or asked == before:
        return asked, []
    return asked, [f"{shown_command(asked.words())}; the last time it was {was}"]


def _largest(looked: TreeLook) -> Iterator[dict[str, Any]]:
    for file in looked.largest:
        share = round(looked.share(file), 4)
        yield {"source": file.source, "bytes": file.bytes, "passages": file.passages, "share": share}
