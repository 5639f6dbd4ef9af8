"""Decides which shards get a label of their own.

Source: DESIGN.md, section 3.5: asynchronous instruments never forget a label set, and the SDK folds everything past
2,000 of them into one overflow series.
"""

from __future__ import annotations

import logging
import threading

from helix_crawl_otel.policy.instruments import MAX_LABELLED_SHARDS

__all__ = ["MAX_LABEL_SETS", "ShardLabels"]

logger = logging.getLogger("helix_crawl_otel")

MAX_LABEL_SETS = 1900
"""Label sets with a shard that one instrument gets. Two or more a shard are common (two devices, several outcomes), and
what is left of the SDK's 2,000 is for those without a shard."""


class ShardLabels:
    """The first 1,000 shards keep their label; later ones are reported together, without it.

    One a meter provider, since it is the provider's instruments that remember label sets, whichever watch they are of.

    Threads: any.
    """

    def __init__(self, most_shards: int = MAX_LABELLED_SHARDS, most_sets: int = MAX_LABEL_SETS) -> None:
        self._most_shards = most_shards
        self._most_sets = most_sets
        self._lock = threading.Lock()
        self._shards: set[str] = set()  # guarded by _lock
        self._sets: dict[str, set[tuple[str, ...]]] = {}  # by instrument; changed under _lock, looked up by any thread
        self._told = False  # guarded by _lock

    def count(self) -> int:
        """How many shards have a label."""
        return len(self._shards)

    def of(self, instrument: str, shard: str, **others: str) -> dict[str, str]:
        """The attributes of a measurement of this shard on an instrument."""
        if not self._has_label(instrument, (shard, *others.values())):
            return others
        # A file name may hold bytes that are no text; one such label would break every scrape.
        return {"shard": shard.encode("utf-8", "backslashreplace").decode("utf-8"), **others}

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""
        self._lock = threading.Lock()

    def _has_label(self, instrument: str, values: tuple[str, ...]) -> bool:
        if values in self._sets.get(instrument, ()):
            return True
        shard = values[0]
        with self._lock:
            sets = self._sets.setdefault(instrument, set())
            known = shard in self._shards or len(self._shards) < self._most_shards
            if known and (values in sets or len(sets) < self._most_sets):
                self._shards.add(shard)
                sets.add(values)
                return True
            told, self._told = self._told, True
        if not told:
            logger.warning(
                "[crawl-watchdog] more than %d shards in this run: metrics of shard %r and of later ones are exported "
                "without the label 'shard'; detection is not affected",
                self._most_shards if not known else len(self._shards) - 1,
                shard,
            )
        return False
