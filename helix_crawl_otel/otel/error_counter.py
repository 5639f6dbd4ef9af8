"""Counts and tells what must not reach the job: errors of our own, and batches that cannot be judged.

Each kind is told in full once; further ones are only counted, so that a log does not fill with them.
"""

from __future__ import annotations

import logging

from helix_crawl_otel.otel.gauges import ExportedMetrics
from helix_crawl_otel.otel.logline import PREFIX
from helix_crawl_otel.policy.batch import BatchInfo

__all__ = ["ErrorCounter"]

logger = logging.getLogger("helix_crawl_otel")


class ErrorCounter:
    """What has gone wrong.

    Args:
        exported: Where it is counted.

    Threads: any; single operations only.
    """

    def __init__(self, exported: ExportedMetrics) -> None:
        self._exported = exported
        self._told: set[tuple[str, str]] = set()  # bounded by the kinds there are

    def error(self, place: str, error: Exception) -> None:
        """Count and log an error of our own; it goes no further."""
        self._exported.error(place)
        kind = (place, type(error).__name__)
        level = logging.DEBUG if kind in self._told else logging.WARNING
        self._told.add(kind)
        # A file that cannot be written is the world's fault, not a bug: its message says all.
        trace = None if isinstance(error, OSError) else error
        logger.log(level, "%s internal error in %s, the job goes on: %r", PREFIX, place, error, exc_info=trace)

    def not_judged(self, problem: str, info: BatchInfo, seconds: object) -> None:
        """Count a sample that cannot be judged, and say once of each kind that there are such.

        Args:
            problem: Which of its numbers it is: `genes`, `work` or `seconds`.
            info: The batch.
            seconds: What it took.
        """
        self._exported.ignored(problem)
        if ("ignored", problem) in self._told:
            return
        self._told.add(("ignored", problem))
        given = repr({"genes": info.genes, "work": info.work, "seconds": seconds}[problem])[:80]
        logger.warning(
            "%s a batch of shard %r is not judged: %s is %s; accepted: a number > 0. Further ones are only counted",
            PREFIX,
            info.shard,
            problem,
            given,
        )
