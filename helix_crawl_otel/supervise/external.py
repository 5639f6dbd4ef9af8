"""The work of `helix-crawl run`: one driver of the user's own, started again when the ladder or a crash asks for it.

Source: DESIGN.md, section 3.3: under `run`, a demoted job exits 79 again when it enters its next shard and is started
on the card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helix_crawl_otel.supervise.job import JobWorker, Launch, WorkerStart

__all__ = ["RunJob"]


class RunJob:
    """See `Job`.

    Args:
        argv: The command.
        environ: Its environment.

    Threads: see `Job`; nothing here changes.
    """

    keeps_account = False

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self._argv = list(argv)
        self._environ = environ

    def next_start(self, slot: str, device: str, is_first: bool) -> WorkerStart | None:
        """See `Job`: a command that has ended well is done."""
        return WorkerStart("first", device) if is_first else None

    def has_work(self, slot: str) -> bool:
        """See `Job`. Asked after an end with code 0."""
        return False

    def next_shard(self, slot: str) -> str | None:
        """See `Job`: the driver knows."""
        return None

    def has_finished(self, slot: str, code: int | None) -> bool:
        """See `Job`: its code is all that a driver of the user's own says of it."""
        return code == 0

    def launch(self, slot: str, start: WorkerStart, number: int) -> Launch:
        """See `Job`: the CPU is asked for by the variable that drivers read, and the cards are hidden."""
        environ = dict(self._environ)
        if start.demoted_shard is not None:
            environ.update(BGEM3_DEVICE="cpu", CUDA_VISIBLE_DEVICES="-1")
        return Launch(self._argv, environ)

    def said(self, slot: str, worker: JobWorker, payload: Mapping[str, Any]) -> bool:
        """See `Job`: a driver of the user's own has nothing to say to us beside what its watch says."""
        return False

    def crashed(self, slot: str, why: str) -> bool:
        """See `Job`: nothing is known of the driver's batches."""
        return False

    def gave_up_card(self, slot: str, why: str) -> str | None:
        """See `Job`: nothing is known of the driver's shards."""
        return None

    def gave_up(self, slot: str, why: str) -> bool:
        """See `Job`: that is the end."""
        return False
