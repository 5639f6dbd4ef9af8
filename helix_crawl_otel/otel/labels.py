"""Decides which shards get a label of their own.

Source: DESIGN.md, section 3.5: asynchronous instruments never forget a label set, and the SDK folds everything past
2,000 of them into one overflow series.
"""

from __future__ import annotations

import logging
import threading

from helix_crawl_otel.core.instruments import MAX_LABELLED_SHARDS

__all__ = ["ShardLabels"]

logger = logging.getLogger("helix_crawl_otel")


class ShardLabels:
    """The first 1,000 shards of a run keep their label; later ones are reported together, without it.

    Threads: any.
    """

    def __init__(self, most: int = MAX_LABELLED_SHARDS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._labelled: set[str] = set()  # guarded by _lock
        self._told = False  # guarded by _lock

    def count(self) -> int:
        """How many shards have a label."""
        return len(self._labelled)

    def of(self, shard: str, **others: str) -> dict[str, str]:
        """The attributes of a measurement of this shard."""
        return {"shard": shard, **others} if self._has_label(shard) else others

    def _has_label(self, shard: str) -> bool:
        if shard in self._labelled:
            return True
        with self._lock:
            if len(self._labelled) < self._most:
                self._labelled.add(shard)
                return True
            told, self._told = self._told, True
        if not told:
            logger.warning(
                "[crawl-watchdog] more than %d shards in this run: the metrics of shard %r and of later ones are "
                "exported without the label 'shard'; detection is not affected",
                self._most,
                shard,
            )
        return False
