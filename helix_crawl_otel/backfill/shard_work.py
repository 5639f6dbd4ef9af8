"""What a worker does with one shard: ingest its sources, then encode what lacks a vector, batch by batch.

Each batch is encoded first and written in one short transaction after; then comes the boundary, where the ladder's
actions apply. So a worker that is ended at any moment loses the batch in flight and nothing else.

Source: DESIGN.md, sections 7 and 8.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.backfill.agreement import adopt_or_refuse, check_other_device, refuse_another
from helix_crawl_otel.backfill.careful_encode import encode_carefully
from helix_crawl_otel.backfill.chunk import ChunkRule
from helix_crawl_otel.backfill.encoders.base import Encoder
from helix_crawl_otel.backfill.genes import PendingGene
from helix_crawl_otel.backfill.ingest import IngestProgress, ingest
from helix_crawl_otel.backfill.pieces import pieces
from helix_crawl_otel.backfill.store import ShardStore
from helix_crawl_otel.backfill.task import Assignment, Settings
from helix_crawl_otel.backfill.walk import plan_named
from helix_crawl_otel.core.model import ActionKind
from helix_crawl_otel.embedded.shard import ShardWatch
from helix_crawl_otel.release import release_cache
from helix_crawl_otel.watch import CrawlWatch

__all__ = ["Reporter", "work_on"]

logger = logging.getLogger("helix_crawl_otel")

PAGE = 16
"""Batches of pending genes read at once."""


class Reporter(Protocol):
    """Tells the supervisor what happened, as messages of the job's own."""

    def __call__(self, what: str, **content: object) -> None:
        """Send one."""


def work_on(
    assignment: Assignment,
    settings: Settings,
    encoder: Callable[[], Encoder],
    watch: CrawlWatch,
    report: Reporter,
    pausing: Callable[[], bool],
) -> None:
    """Bring one shard to its end.

    Args:
        assignment: Which.
        settings: Of the worker.
        encoder: Loads the encoder when it is first called. Not called when every gene has its vector.
        watch: Linked to the supervisor.
        report: Tells the supervisor.
        pausing: Whether the operator has asked for a pause.

    Raises:
        StoreError: The file cannot be worked on; the message says why.
        PauseRequested: A pause was asked for; everything encoded is committed.
    """
    path = Path(assignment.path)
    is_ingested = assignment.source is not None
    opened = ShardStore.open(path, epoch=assignment.epoch, create=is_ingested, lock_seconds=settings.lock_seconds)
    with closing(opened) as store:
        if not assignment.reencode:
            # First of all, and also where nothing lacks a vector: a shard that is refused stays as it is.
            refuse_another(store, settings.model)
        if assignment.retry_quarantined:
            store.retry_quarantined()
        for gene_id, reason in assignment.quarantine.items():
            store.quarantine(gene_id, reason)
        if assignment.source is not None:
            _ingest(store, assignment, report, pausing)
        if assignment.reencode:
            store.claim(encoder().identity, reencode=True)
        pending = store.pending_count()
        if pending:
            _encode(store, assignment, settings, encoder(), watch, report, pending)


def _ingest(store: ShardStore, assignment: Assignment, report: Reporter, pausing: Callable[[], bool]) -> None:
    assert assignment.source is not None
    output = Path(assignment.output) if assignment.output else None
    plan = plan_named(Path(assignment.source), output, assignment.shard, may_be_gone=assignment.prune)

    def progress(so_far: IngestProgress) -> None:
        report("ingesting", shard=assignment.shard, sources=so_far.sources, genes=so_far.genes)

    done = ingest(store, plan, ChunkRule(), prune=assignment.prune, progress=progress, should_stop=pausing)
    if done.stopped:
        raise PauseRequested(None)
    report(
        "ingested",
        shard=assignment.shard,
        sources=done.sources,
        added=done.added_genes,
        removed=done.removed_genes,
        skipped=done.skipped[:100],
        skipped_count=len(done.skipped),
        problems=done.problems[:100],
        problem_count=len(done.problems),
        gone=len(done.gone),
    )


def _encode(
    store: ShardStore,
    assignment: Assignment,
    settings: Settings,
    encoder: Encoder,
    watch: CrawlWatch,
    report: Reporter,
    pending: int,
) -> None:
    if store.has_foreign_vectors() and not assignment.reencode:
        adopt_or_refuse(store, encoder)
    store.claim(encoder.identity, reencode=assignment.reencode)
    check_other_device(store, encoder)
    store.note_session(encoder.device, encoder.versions, encoder.threads, settings.batch_size)
    report("encoding", shard=assignment.shard, label=settings.label, pending=pending)
    with watch.shard(assignment.shard, device=settings.label) as shard:
        session = _Session(store, encoder, shard, report)
        for number, batch in enumerate(_batches(store, settings.batch_size), start=1):
            for piece in pieces(batch, assignment.limits):
                session.encode(piece)
            if settings.release_every and number % settings.release_every == 0:
                session.release()


def _batches(store: ShardStore, size: int) -> Iterator[list[PendingGene]]:
    """Pending genes in the shard's order, in batches on the same grid however often the worker is replaced."""
    after: int | str | None = None
    while page := store.pending(after, PAGE * size):
        after = page[-1].key
        for start in range(0, len(page), size):
            yield page[start : start + size]


class _Session:
    """One shard being encoded.

    Args:
        store: Open, under the lease.
        encoder: Loaded.
        shard: Watched.
        report: Tells the supervisor.
    """

    def __init__(self, store: ShardStore, encoder: Encoder, shard: ShardWatch, report: Reporter) -> None:
        self._store = store
        self._encoder = encoder
        self._shard = shard
        self._report = report

    def encode(self, genes: Sequence[PendingGene]) -> None:
        """Encode, commit, and be at a boundary."""
        encode_carefully(genes, self._watched, self._commit, self._quarantine, self.release)

    def release(self) -> None:
        """Give cached memory back."""
        release_cache()
        self._encoder.release()

    def _watched(self, genes: Sequence[PendingGene]) -> list[bytes]:
        texts = [gene.content for gene in genes]
        work = self._encoder.work(texts)
        # Told before the work, so that the supervisor knows which batch it was that killed its worker.
        self._report("batch", shard=self._shard.name, first=genes[0].gene_id, genes=len(genes))
        with self._shard.batch(genes=len(genes), work=work):
            return self._encoder.encode(texts)

    def _commit(self, vectors: Sequence[tuple[PendingGene, bytes]]) -> None:
        written = self._store.commit(vectors)
        first = vectors[0][0].gene_id
        self._report("committed", shard=self._shard.name, label=self._shard.device, genes=written, first=first)
        for action in self._shard.boundary():
            if action.kind is ActionKind.EMPTY_CACHE:
                self._encoder.release()

    def _quarantine(self, gene: PendingGene, reason: str) -> None:
        self._store.quarantine(gene.gene_id, reason)
        logger.error("[crawl-watchdog] gene %s of shard %s is quarantined: %s", gene.gene_id, self._shard.name, reason)
        self._report("quarantined", shard=self._shard.name, gene=gene.gene_id, reason=reason)
