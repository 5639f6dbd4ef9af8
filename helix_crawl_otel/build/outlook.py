"""What a look at the tree means for a run: how much is to be encoded, and how long that may take.

The time is what the last run in the same folder came to, with the same model on the same machine: of its genes and its
seconds, with all that lay between its batches. Where there was none, there is no time.
"""

from __future__ import annotations

import json
import math
import platform
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_crawl_otel.corpus.look import TreeLook
from helix_crawl_otel.supervise import events

__all__ = ["EarlierRate", "earlier_rate", "tree_looked"]

MOST_BATCHES = 2000
"""Of the end of a run: its beginning may have been on another device, or before a crawl."""

LEAST_BATCHES = 3


@dataclass(frozen=True)
class EarlierRate:
    """What a run came to.

    Args:
        genes_per_second: All workers together.
        device: Where most of its batches were encoded.
    """

    genes_per_second: float
    device: str


def earlier_rate(timeline: Path, encoder: str) -> EarlierRate | None:
    """What the last run of a folder came to that encoded with a model on this machine, `None` where there was none.

    Args:
        timeline: Of the folder; it need not be there.
        encoder: The model.
    """
    found: EarlierRate | None = None
    batches: deque[bytes] = deque(maxlen=MOST_BATCHES)
    is_wanted = False
    try:
        with timeline.open("rb") as file:
            for line in file:
                if line.startswith(b'{"event":"run"') or b'"event": "run"' in line:
                    found = _rate(batches) or found
                    batches.clear()
                    run = _parsed(line)
                    is_wanted = run.get("encoder") == encoder and run.get("host") == platform.node()
                elif is_wanted and b'"batch"' in line:
                    batches.append(line)
    except OSError:
        return found
    return _rate(batches) or found


def _rate(lines: Sequence[bytes]) -> EarlierRate | None:
    batches = [batch for line in lines if (batch := _parsed(line)).get("event") == "batch"]
    known = [row for row in map(_numbers, batches) if row is not None]
    if len(known) < LEAST_BATCHES:
        return None
    began, ended = min(t - seconds for t, seconds, _ in known), max(t for t, _, _ in known)
    genes = sum(genes for _, _, genes in known)
    if not ended > began or not genes > 0:
        return None
    device = Counter(str(batch.get("device")) for batch in batches).most_common(1)[0][0]
    return EarlierRate(genes / (ended - began), device)


def _numbers(batch: dict[str, Any]) -> tuple[float, float, float] | None:
    values = [batch.get(key) for key in ("t", "seconds", "genes")]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return None
    t, seconds, genes = map(float, values)  # type: ignore[arg-type]  # they are numbers
    return t, seconds, genes


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def tree_looked(
    t: float,
    looked: TreeLook,
    sources: Sequence[str],
    rate: EarlierRate | None,
    *,
    complete: int,
    pending: int,
    exclude: Sequence[str],
) -> events.TreeLooked:
    """What is told of a look.

    Args:
        t: Of the event.
        looked: At all sources.
        sources: The trees.
        rate: See `earlier_rate`.
        complete: Shards that need nothing.
        pending: Genes that are to be encoded, as far as anybody knows.
        exclude: Patterns of the command.
    """
    first = looked.dominating()
    return events.TreeLooked(
        t,
        sources=tuple(sources),
        files=looked.files,
        bytes=looked.bytes,
        passages=looked.passages,
        shards=sum(not shard.is_empty for shard in looked.shards.values()),
        complete=complete,
        pending=pending,
        rate=None if rate is None else round(rate.genes_per_second, 3),
        rate_device="" if rate is None else rate.device,
        seconds=None if rate is None else round(pending / rate.genes_per_second, 1),
        left_out=looked.reasons(),
        unreadable=sum(shard.problems for shard in looked.shards.values()),
        no_text=looked.no_text,
        no_text_bytes=looked.no_text_bytes,
        largest=list(_largest(looked)),
        dominating=None if first is None else first.source,
        unused=looked.unused(exclude),
    )


def _largest(looked: TreeLook) -> Iterator[dict[str, Any]]:
    for file in looked.largest:
        share = round(looked.share(file), 4)
        yield {"source": file.source, "bytes": file.bytes, "passages": file.passages, "share": share}
