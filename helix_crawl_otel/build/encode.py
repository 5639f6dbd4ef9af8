"""What a worker does with one shard: ingest its sources, then encode what lacks a vector, batch by batch.

Each batch is encoded first and written in one short transaction after; then comes the boundary, where the ladder's
actions apply. So a worker that is ended at any moment loses the batch in flight and nothing else.

Source: DESIGN.md, sections 7 and 8.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.build.agreement import adopt_or_refuse, check_other_device, refuse_another
from helix_crawl_otel.build.assignment import Assignment, WorkerSettings
from helix_crawl_otel.build.careful_encode import (
    CheckedEncoder,
    EncoderBroken,
    EncodingFailed,
    LacksMemory,
    NeedsCpu,
    encode_carefully,
)
from helix_crawl_otel.build.pieces import pieces
from helix_crawl_otel.corpus.chunk import ChunkRule
from helix_crawl_otel.corpus.ingest import IngestProgress, ingest
from helix_crawl_otel.corpus.tree import plan_named
from helix_crawl_otel.encoders.base import is_device_error
from helix_crawl_otel.encoders.libraries import first_line
from helix_crawl_otel.formats import count
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.release import release_cache
from helix_crawl_otel.watch.shard import ShardWatch

__all__ = ["Reporter", "work_on"]

logger = logging.getLogger("helix_crawl_otel")

MOST_TOO_LARGE = 3
"""Genes of a shard for which there may be no memory, each alone, before it is the memory and not they."""

PAGE = 16
"""Batches of pending genes read at once."""


class Reporter(Protocol):
    """Tells the supervisor what happened, as messages of the job's own."""

    def __call__(self, what: str, **content: object) -> None:
        """Send one."""


def work_on(
    assignment: Assignment,
    settings: WorkerSettings,
    encoder: Callable[[], CheckedEncoder],
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
        EncodingFailed: The encoder cannot encode anything.
        LeaveShard: Another process has to go on with the shard, see its kinds.
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
    settings: WorkerSettings,
    encoder: CheckedEncoder,
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
        session = _Session(store, assignment, encoder, shard, report)
        for number, batch in enumerate(_batches(store, settings.batch_size, session.left_out), start=1):
            for piece in pieces(batch, assignment.limits):
                session.encode(piece)
            if settings.release_every and number % settings.release_every == 0:
                session.release()
        session.finish()


def _batches(store: ShardStore, size: int, left_out: Container[str]) -> Iterator[list[PendingGene]]:
    """Pending genes in the shard's order, in batches on the same grid however often the worker is replaced.

    Args:
        store: Of the shard.
        size: Of a batch.
        left_out: Genes that are not to be encoded, by id.
    """
    after: int | str | None = None
    while page := store.pending(after, PAGE * size):
        after = page[-1].key
        genes = [gene for gene in page if gene.gene_id not in left_out]
        for start in range(0, len(genes), size):
            yield genes[start : start + size]


class _Session:
    """One shard being encoded.

    A gene is blamed for nothing that a card or this process may be to blame for. What fails on a card is left for the
    CPU; there a gene is quarantined after the encoder has proved itself with another text. One that killed workers, or
    found no memory in a fresh process, is left out, and quarantined once another gene of the shard has been encoded.

    Args:
        store: Open, under the lease.
        assignment: Of this shard.
        encoder: Loaded.
        shard: Watched.
        report: Tells the supervisor.
    """

    def __init__(
        self, store: ShardStore, assignment: Assignment, encoder: CheckedEncoder, shard: ShardWatch, report: Reporter
    ) -> None:
        self.left_out: Mapping[str, str] = dict(assignment.quarantine)
        """Genes that killed workers, by id, with the reason."""
        self._killers = dict(self.left_out)  # those of them that are not yet quarantined
        self._too_large: dict[str, str] = {}  # genes for which there was no memory since the last commit
        self._store = store
        self._encoder = encoder
        self._shard = shard
        self._report = report
        self._has_lacked_memory = assignment.shortages > 0
        self._for_cpu: list[str] = []  # why a gene cannot be encoded on this card

    @property
    def _is_on_card(self) -> bool:
        return self._shard.device != "cpu"

    def encode(self, genes: Sequence[PendingGene]) -> None:
        """Encode, commit, and be at a boundary."""
        encode_carefully(genes, self._watched, self._commit, self._blame, self.release)

    def release(self) -> None:
        """Give cached memory back.

        Raises:
            EncoderBroken: The device's context is gone.
        """
        try:
            release_cache()
            self._encoder.release()
        except RuntimeError as error:
            if is_device_error(error):
                raise EncoderBroken(f"the device fails: {first_line(error)}", is_device=True) from error
            raise

    def finish(self) -> None:
        """All genes have been tried: say what becomes of those that could not be encoded.

        Raises:
            NeedsCpu: A card could not encode them.
            EncodingFailed: There was no memory for so many of them that it is not their fault.
        """
        found = {**self._killers, **self._too_large}
        if found:
            reason = next(iter(found.values()))
            if len(self._too_large) > MOST_TOO_LARGE:
                genes = count(len(self._too_large), "gene")
                raise EncodingFailed(f"there is no memory for any of {genes}, each alone: {reason}")
            self._check(reason)
            self._quarantine_found()
        if self._for_cpu:
            genes = count(len(self._for_cpu), "gene")
            raise NeedsCpu(f"{genes} cannot be encoded on {self._shard.device}: {self._for_cpu[0]}")

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
        self._quarantine_found()
        for action in self._shard.boundary():
            if action.kind is ActionKind.EMPTY_CACHE:
                self._encoder.release()

    def _blame(self, gene: PendingGene, reason: str, *, lacks_memory: bool) -> None:
        if lacks_memory:
            if self._is_on_card or not self._has_lacked_memory:
                raise LacksMemory(reason)
            self._too_large[gene.gene_id] = reason
            return
        self._check(reason)
        if self._is_on_card:
            self._for_cpu.append(reason)
        else:
            self._quarantine(gene.gene_id, reason)

    def _check(self, reason: str) -> None:
        self._encoder.check(reason, (content for _, content, _ in self._store.sample(1)))

    def _quarantine_found(self) -> None:
        """A gene has just been encoded: it is not the encoder that fails."""
        for found in (self._killers, self._too_large):
            while found:
                self._quarantine(*found.popitem())

    def _quarantine(self, gene_id: str, reason: str) -> None:
        self._store.quarantine(gene_id, reason)
        logger.error("[crawl-watchdog] gene %s of shard %s is quarantined: %s", gene_id, self._shard.name, reason)
        self._report("quarantined", shard=self._shard.name, gene=gene_id, reason=reason)
