"""What a worker does with one shard: ingest its sources, then encode what lacks a vector, batch by batch.

Each batch is encoded first and written in one short transaction after; then comes the boundary, where the ladder's
actions apply. So a worker that is ended at any moment loses the batch in flight and nothing else.

Source: DESIGN.md, sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel._version import __version__
from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.build.agreement import (
    adopt_or_refuse,
    claim_as_made,
    dtype_wish,
    known_truncation,
    refuse_another,
    told_of_truncation,
)
from helix_crawl_otel.build.batches import ShardBatches, pieces
from helix_crawl_otel.build.begun_shards import BegunShards
from helix_crawl_otel.build.careful_encode import (
    CheckedEncoder,
    EncoderBroken,
    EncodingFailed,
    LacksMemory,
    LeaveShard,
    NeedsCpu,
    encode_carefully,
)
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.filters import Filters
from helix_crawl_otel.corpus.ingest import ingest
from helix_crawl_otel.corpus.tree import plan_named
from helix_crawl_otel.encoders.base import first_line, is_device_error
from helix_crawl_otel.encoders.load import tokens_id
from helix_crawl_otel.encoders.precision import DtypeWish
from helix_crawl_otel.encoders.tokens import TokenRoom
from helix_crawl_otel.encoders.truncation import TruncationWish
from helix_crawl_otel.formats import count, mib
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.messages import Assignment, Message, WorkerSettings
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.batch_limits import BatchLimits
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.shards.batch_plan import BatchPlan, SeenGenes
from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.shards.inspect import Unread, count_unread
from helix_crawl_otel.shards.schema import RULE_NOTE, VECTOR
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.release import CacheReleases, release_cache
from helix_crawl_otel.watch.shard import ShardWatch, batch_from, boundary_after

__all__ = ["work_on"]

MOST_UNPROVEN = 64
"""Genes that may fail one after the other in a process that has encoded nothing: then it is the encoder, not they."""

ROUNDS = 3
"""How often a gene has to lack memory between two texts that cost as much and do not: others come and go."""

MOST_PROBLEMS = 100
"""Sources that cannot be read, are left out or are read otherwise which are named one by one."""


def work_on(
    assignment: Assignment,
    settings: WorkerSettings,
    load: Callable[[DtypeWish], CheckedEncoder],
    others: BegunShards,
    watch: CrawlWatch,
    releases: CacheReleases,
    report: Callable[[Message], None],
    pausing: Callable[[], bool],
) -> None:
    """Bring one shard to its end.

    Args:
        assignment: Which.
        settings: Of the worker.
        load: Loads the encoder, or gives the one that is loaded. Not called when every gene has its vector.
        others: Shards of the run that say how much of a text is encoded.
        watch: Linked to the supervisor.
        releases: When the worker gives its cache back.
        report: Tells the supervisor what happened.
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
    cut = TruncationWish(settings.max_chars, settings.dim)
    with closing(opened) as store:
        if not assignment.reencode:
            # First of all, and also where nothing lacks a vector: a shard that is refused stays as it is.
            refuse_another(store, settings.model, cut)
        if assignment.retry_quarantined:
            store.retry_quarantined()
        wish = dtype_wish(store, settings, is_anew=assignment.reencode)

        def encoder() -> CheckedEncoder:
            loaded = load(wish)
            loaded.truncate(known_truncation(store, cut, loaded, others, is_anew=assignment.reencode))
            return loaded

        room = TokenRoom(encoder)
        is_cut = False
        if assignment.source is not None:
            rule = _rule(store, settings.model, room, anew=assignment.reencode)
            is_cut = rule.tokens is not None
            _ingest(store, assignment, rule, report, pausing)
        notes: list[str] = []
        if assignment.reencode:
            again = encoder()
            notes = told_of_truncation(store, again, cut, others)  # as soon as it is claimed, nothing is left to tell
            claim_as_made(store, again, reencode=True)
        plan = BatchPlan(store)
        seen = plan.look()
        if seen.pending:
            unread = None if is_cut else room
            _encode(store, assignment, settings, encoder(), others, watch, releases, report, plan, seen, unread, notes)
        else:
            plan.drop()  # of a worker that was killed before it could
            counts = 0, seen.vectors, 0.0, store.quarantined_count()
            report(messages.Encoding(assignment.shard, settings.label, *counts))  # they count as well


def _rule(store: ShardStore, model: str, room: TokenRoom, *, anew: bool) -> ChunkRule:
    """How the shard's sources are cut: as before where it has vectors, which would go with their passages.

    Args:
        store: Open. The model that it names, if any, is this one.
        model: As given to `--model`.
        room: Of that model.
        anew: As this version does it, whatever was before.
    """
    if not anew and store.identity() is not None:
        known = ChunkRule.of(str(store.meta(RULE_NOTE) or ChunkRule(version=1).fingerprint), room)
        if known is not None:
            return known
    return ChunkRule(model=tokens_id(model), tokens=room)


def _ingest(
    store: ShardStore,
    assignment: Assignment,
    rule: ChunkRule,
    report: Callable[[Message], None],
    pausing: Callable[[], bool],
) -> None:
    assert assignment.source is not None
    output = Path(assignment.output) if assignment.output else None
    filters = Filters(
        tuple(assignment.exclude), tuple(assignment.include), assignment.gitignore, assignment.max_file_bytes
    )
    root, shard = Path(assignment.source), assignment.shard
    plan = plan_named(root, output, shard, may_be_gone=assignment.prune, filters=filters)

    def progress(sources: int, genes: int) -> None:
        report(messages.IngestProgress(assignment.shard, sources, genes))

    done = ingest(
        store,
        plan,
        rule,
        prune=assignment.prune,
        recheck=assignment.reencode,
        progress=progress,
        should_stop=pausing,
    )
    if done.stopped:
        raise PauseRequested(None)
    left_out = [(source, note.kind, note.reason) for source, note in done.notes.items() if note.reason]
    report(
        messages.IngestEnd(
            assignment.shard,
            sources=done.sources,
            added=done.added_genes,
            removed=done.removed_genes,
            skipped=len(left_out),
            left_out=left_out[:MOST_PROBLEMS],
            read_as=[(source, note.kind) for source, note in done.notes.items() if not note.reason][:MOST_PROBLEMS],
            problems=done.problems[:MOST_PROBLEMS],
            problem_count=len(done.problems),
            gone=0 if assignment.prune else len(done.gone),
        )
    )


def _encode(
    store: ShardStore,
    assignment: Assignment,
    settings: WorkerSettings,
    encoder: CheckedEncoder,
    others: BegunShards,
    watch: CrawlWatch,
    releases: CacheReleases,
    report: Callable[[Message], None],
    plan: BatchPlan,
    seen: SeenGenes,
    room: TokenRoom | None,
    notes: Sequence[str],
) -> None:
    cut = TruncationWish(settings.max_chars, settings.dim)
    if store.has_foreign_vectors() and not assignment.reencode:
        told = adopt_or_refuse(store, encoder, cut, others)
        store.adopt(encoder.identity)
    else:
        told = told_of_truncation(store, encoder, cut, others)
    claim_as_made(store, encoder, reencode=False)
    limits = BatchLimits(settings.batch_size, settings.batch_tokens)
    if settings.label == "cpu":
        limits = limits.on_cpu(encoder.operations)
    plan.prepare(settings.batch_size)
    made_with = encoder.device, encoder.versions, encoder.threads, settings.batch_size, encoder.dtype
    store.note_session(*made_with, batch_tokens=int(limits.tokens))
    told = [*notes, *told, *_note_provenance(store, encoder, settings, seen.pending)]

    def look_at(genes: Sequence[PendingGene]) -> None:
        # A worker has died of a text before its batch had begun: of counting its tokens, perhaps.
        if assignment.is_wary:
            report(messages.NextBatch(assignment.shard, str(genes[0].gene_id), len(genes)))

    batches = ShardBatches(plan, encoder, limits, assignment, look_at)
    waiting = batches.work_pending()
    counts = seen.pending, seen.vectors, waiting, store.quarantined_count()
    report(messages.Encoding(assignment.shard, settings.label, *counts, told))
    with watch.shard(assignment.shard, device=settings.label) as shard:
        session = _Session(store, assignment, encoder, shard, releases, report, seen.pending, room, batches, look_at)
        try:
            for batch in batches:
                for piece in pieces([gene for gene in batch if not session.leaves_out(gene)], assignment.limits):
                    session.encode(piece)
                if releases.is_due(lambda: shard.status().streak):
                    session.release()
            session.finish()
        except LeaveShard:
            shard.leave_open()
            raise
    if session.is_done:
        plan.drop()  # it would only grow old: sources change


def _note_provenance(store: ShardStore, encoder: CheckedEncoder, settings: WorkerSettings, pending: int) -> list[str]:
    """Where the application writes down with what its vectors were made, say it of ours. Returns what is to be told."""
    values = {
        "cap": encoder.truncation.max_chars,
        "dim": encoder.identity["dim"],
        "model": encoder.identity["model"],
        "batch": settings.batch_size,
        "device": encoder.device,
        "genes": pending,
        "writer": f"helix-crawl-otel {__version__}",
        "column": VECTOR,
    }
    trouble = store.note_app_provenance(values)
    return [f"{store.path}: no row of provenance was added: {trouble}"] if trouble else []


@dataclass
class _Short:
    """A gene for which there was no memory alone, in a fresh process on the CPU.

    Args:
        gene: Which.
        reason: What the encoder said.
        work: What it costs, in the encoder's unit.
    """

    gene: PendingGene
    reason: str
    work: float


class _Session:
    """One shard being encoded.

    A gene is blamed for nothing that a card, this process or other programs may be to blame for. What fails on a card
    is left for the CPU. There a gene is quarantined after the encoder has proved itself with another text, and one for
    which there was no memory only beside a text that costs as much and is encoded. Where nothing proves it, the shard
    fails and the gene goes on lacking its vector.

    Args:
        store: Open, under the lease.
        assignment: Of this shard.
        encoder: Loaded.
        shard: Watched.
        releases: Told of each release.
        report: Tells the supervisor.
        pending: Genes that lack a vector, as the store counts them. Who shows how many are left reads it of here.
        room: What the encoder reads of a gene; `None` where all of them are known to fit.
        batches: That are encoded; knows what they cost.
        look_at: Told of genes before anything is done with them.
    """

    def __init__(
        self,
        store: ShardStore,
        assignment: Assignment,
        encoder: CheckedEncoder,
        shard: ShardWatch,
        releases: CacheReleases,
        report: Callable[[Message], None],
        pending: int,
        room: TokenRoom | None,
        batches: ShardBatches,
        look_at: Callable[[Sequence[PendingGene]], None],
    ) -> None:
        self._batches = batches
        self._look_at = look_at
        self._store = store
        self._room = room
        self._encoder = encoder
        self._shard = shard
        self._releases = releases
        self._report = report
        self._pending = pending
        self._suspects = assignment.quarantine
        self._has_lacked_memory = assignment.shortages > 0
        self._unproven: dict[str, str] = {}  # to be quarantined when another gene is encoded, with the reason
        self._short: list[_Short] = []
        self._longest = ""  # of the texts that have a vector; looked up where memory is short
        self._for_cpu: list[str] = []  # why a gene cannot be encoded on this card

    @property
    def _is_on_card(self) -> bool:
        return self._shard.device != "cpu"

    @property
    def is_done(self) -> bool:
        """Whether each gene has its vector, or never can have one."""
        return self._pending == 0

    def leaves_out(self, gene: PendingGene) -> bool:
        """Whether it has killed workers, alone."""
        reason = self._suspects.get(str(gene.gene_id))
        if reason is not None:
            self._unproven[gene.gene_id] = reason
        return reason is not None

    def encode(self, genes: Sequence[PendingGene]) -> None:
        """Encode, commit, and be at a boundary."""
        encode_carefully(genes, self._watched, self._commit, self._blame, self.release, self._lack)

    def release(self) -> None:
        """Give cached memory back.

        Raises:
            EncoderBroken: The device's context is gone.
        """
        began = self._releases.clock()
        try:
            freed = release_cache()
            self._encoder.release()
            seconds = self._releases.clock() - began
            self._releases.released(seconds)
            given_back = "" if freed is None else f", {mib(freed)} of it"
            watchdog.info("shard %s: the cache was released%s, in %.2f s", self._shard.name, given_back, seconds)
        except RuntimeError as error:
            if is_device_error(error):
                raise EncoderBroken(f"the device fails: {first_line(error)}", is_device=True) from error
            raise

    def finish(self) -> None:
        """All genes have been tried: say what becomes of those that could not be encoded.

        Raises:
            NeedsCpu: A card could not encode them.
            EncodingFailed: Nobody knows whether it is their fault: no other gene was encoded, or there was no memory.
                Or the file does not keep their vectors, or SQLite does not find them.
        """
        left = self._try_short_again()
        if self._unproven:
            self._check(next(iter(self._unproven.values())))
            self._quarantine_unproven()
        if left:
            genes = count(len(left), "gene")
            raise EncodingFailed(f"there is no memory for {genes}, each alone: {left[0].reason}")
        if self._store.kept_out:
            genes, first = count(len(self._store.kept_out), "gene"), str(self._store.kept_out[0])
            raise EncodingFailed(
                f"{self._store.path} keeps no vector of {genes}, the first of them {first!r}, and SQLite says nothing: "
                "a trigger that the application has put on its table `genes` undoes it, by RAISE(IGNORE) or by an "
                "update of its own"
            )
        if self._batches.unreached:
            genes, first = count(len(self._batches.unreached), "gene"), self._batches.unreached[0]
            raise EncodingFailed(
                f"{genes} of {self._store.path} cannot get a vector, the first of them {first!r}: SQLite does not find "
                "them again by their gene_id, which is NULL or no valid text; accepted: such ids in a table `genes` "
                "with a rowid, and any others"
            )
        unread = Unread() if self._room is None else count_unread(self._store.path)
        if unread.genes:
            watchdog.warning("shard %s: %s", self._shard.name, unread)
        if self._for_cpu:
            genes = count(len(self._for_cpu), "gene")
            raise NeedsCpu(f"{genes} cannot be encoded on {self._shard.device}: {self._for_cpu[0]}")

    def _try_short_again(self) -> list[_Short]:
        """The memory may be back, also meanwhile: go round for as long as that changes anything.

        Returns:
            Those of which nobody knows whether it is their fault.
        """
        left, before = self._short, 0
        while left and len(left) != before:
            before = len(left)
            self._longest = self._store.longest_encoded()
            left = [one for one in left if self._lacks_memory_still(one)]
        return left

    def _lacks_memory_still(self, one: _Short) -> bool:
        """Encode it. Where there is memory for a text that costs as much, before and after, the gene is to blame."""
        for _ in range(ROUNDS):
            had_room, self._short = self._has_room(one.work), []
            self.encode([one.gene])
            if not self._short:
                return False
            if not had_room or not self._has_room(one.work):
                return True
        self._quarantine(one.gene.gene_id, one.reason)
        return False

    def _has_room(self, work: float) -> bool:
        """Whether there is memory now for a text that has a vector and costs so much."""
        try:
            if not self._longest or self._encoder.work([self._longest]) < work:
                return False
            self._encoder.encode([self._longest])
        except Exception as error:  # noqa: BLE001 - whatever it is, it proves nothing
            watchdog.info("a gene that has a vector cannot be encoded now: %s", first_line(error))
            return False
        return True

    def _watched(self, genes: Sequence[PendingGene]) -> list[bytes]:
        texts, first = [gene.content for gene in genes], str(genes[0].gene_id)
        self._look_at(genes)
        with batch_from(self._shard, len(genes), *self._batches.cost(genes), first):
            return self._encoder.encode(texts)

    def _commit(self, vectors: Sequence[tuple[PendingGene, bytes]]) -> None:
        written = self._store.commit(vectors, self._unread([gene for gene, _ in vectors]))
        self._pending = max(0, self._pending - written)
        self._quarantine_unproven()
        waiting = self._batches.work_pending([gene for gene, _ in vectors])
        for action in boundary_after(self._shard, written, self._pending, waiting):
            if action.kind is ActionKind.EMPTY_CACHE:
                self._encoder.release()
                self._releases.released(None)

    def _unread(self, genes: Sequence[PendingGene]) -> dict[int | str, int] | None:
        """Characters that the encoder has not read, by the key of the gene; `None` where there can be none."""
        if self._room is None:
            return None
        fills = self._room.fills([gene.content for gene in genes])
        longer = [(gene, fill) for gene, fill in zip(genes, fills, strict=True) if fill > 1]
        return {gene.key: max(1, round(len(gene.content) * (1 - 1 / fill))) for gene, fill in longer}

    def _blame(self, gene: PendingGene, reason: str, *, lacks_memory: bool) -> None:
        if lacks_memory:
            if self._is_on_card or not self._has_lacked_memory:
                raise LacksMemory(reason)
            self._short.append(_Short(gene, reason, self._encoder.work([gene.content])))
            return
        try:
            self._check(reason)
        except EncodingFailed as error:
            if self._is_on_card:
                raise NeedsCpu(f"on {self._shard.device} {error}") from error
            self._unproven[gene.gene_id] = reason
            if len(self._unproven) > MOST_UNPROVEN:
                raise
            return
        if self._is_on_card:
            self._for_cpu.append(reason)
        else:
            self._quarantine(gene.gene_id, reason)

    def _lack(self, reason: str) -> None:
        """An eighth of a batch does not fit on a card. A fresh process has its memory in one piece, and nothing cached.

        Raises:
            LacksMemory: This one is not fresh, nor was one before it that had to go as far down.
        """
        if self._has_lacked_memory or self._encoder.is_fresh:
            self._encoder.is_tight = True
        elif self._is_on_card and not self._encoder.is_tight:
            raise LacksMemory(reason)

    def _check(self, reason: str) -> None:
        try:
            self._encoder.check(reason, lambda: (content for _, content, _ in self._store.sample(1)))
        except EncoderBroken as error:
            raise EncoderBroken(str(error), is_device=error.is_device or self._is_on_card) from error

    def _quarantine_unproven(self) -> None:
        """A gene has just been encoded: it is not the encoder that fails."""
        while self._unproven:
            self._quarantine(*self._unproven.popitem())

    def _quarantine(self, gene_id: str, reason: str) -> None:
        self._store.quarantine(gene_id, reason)
        self._pending = max(0, self._pending - 1)
        source, begins = self._store.place_of(gene_id)
        watchdog.error(
            "gene %s of shard %s (%s: %s) is quarantined: %s", gene_id, self._shard.name, source, begins, reason
        )
        self._report(messages.QuarantineGene(self._shard.name, str(gene_id), source, begins, reason))
