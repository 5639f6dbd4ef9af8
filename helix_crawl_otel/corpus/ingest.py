"""Brings the sources of a shard into its file: reads what is new or changed, cuts it, and writes it, a source at once.

A source that cannot be read is named and left out; the others are taken in.

In the order of the sources' ids, so that rows lie the same however often the worker was ended in between.

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from helix_crawl_otel.corpus.cut import ChunkRule, chunks
from helix_crawl_otel.corpus.decode import READER, NotText, detector, taking_rule
from helix_crawl_otel.corpus.text import CannotRead, SourceText, read_text
from helix_crawl_otel.corpus.tree import (
    LINKED,
    NO_FILE,
    NOWHERE,
    ROOT_SHARD,
    SAME_FILE,
    TOO_LARGE,
    LeftOut,
    ShardPlan,
    Source,
    SourceProblem,
    UnreadableSource,
    entries_of,
    fingerprint,
    in_order,
    is_unwanted,
)
from helix_crawl_otel.paths import on_disk
from helix_crawl_otel.shards.genes import SourceMark, SourceNote
from helix_crawl_otel.shards.schema import INGESTING, RULE_NOTE, TREE_NOTE
from helix_crawl_otel.shards.sources import SourceTable
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["IngestReport", "ingest"]

_READ = f"read-{READER}:"
"""In the digest of a source. The first version wrote none: such a source is read again, and kept if it is the same."""

_NOTED: Mapping[str, Callable[[str], SourceNote]] = {
    LINKED: lambda _: SourceNote("linked folder", "it is a link to a folder, which is not followed"),
    NOWHERE: lambda _: SourceNote("dead link", "it is a link to nothing"),
    NO_FILE: lambda sort: SourceNote(sort, f"it is no file, but a {sort}"),
    SAME_FILE: lambda first: SourceNote("second name", f"it is the same file as {first}"),
    TOO_LARGE: lambda _: SourceNote("large file", "it is larger than --max-file-size"),
}
"""What of a tree is named though it is no source. What a rule for whole folders leaves out is not."""

TOGETHER_SOURCES = 256
TOGETHER_CHARS = 1_000_000
"""A transaction takes sources until there are so many, or so much text."""


@dataclass
class IngestReport:
    """What an ingest did.

    Args:
        sources: That there are.
        unchanged: That were not read.
        added_genes: New.
        removed_genes: Of changed sources, or pruned.
        kept_genes: Of changed sources, with their vectors.
        notes: What is to be said of sources that were left out, and of those that were not read as they stand, by id;
            those of earlier runs among them.
        problems: Sources that cannot be read, with the reason.
        gone: Ids of sources that are there no longer.
        stopped: It ended early, because it was asked to.
    """

    sources: int = 0
    unchanged: int = 0
    added_genes: int = 0
    removed_genes: int = 0
    kept_genes: int = 0
    notes: dict[str, SourceNote] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    stopped: bool = False


def ingest(
    store: ShardStore,
    plan: ShardPlan,
    rule: ChunkRule,
    *,
    prune: bool,
    recheck: bool = False,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> IngestReport:
    """Bring a shard's file up to its sources.

    Args:
        store: Open, under its lease.
        plan: The shard.
        rule: How text is cut.
        prune: Remove the genes of sources that are gone.
        recheck: Read a source again as well when the content or the id of a gene of it is not what was written.
        progress: Called after each transaction: sources looked at so far, genes added so far.
        should_stop: Asked after each transaction, and in the middle of a large source; that is begun anew next time.

    Raises:
        StoreError: The file cannot be written; what was committed stays.
        UnreadableSource: All of its genes are to be removed, and its folder is there.
    """
    try:
        return _Ingest(store, rule, progress, should_stop).run(plan, prune, recheck)
    except _Stopped:
        return IngestReport(stopped=True)


class _Stopped(Exception):
    """In the middle of a source."""


class _Ingest:
    def __init__(
        self,
        store: ShardStore,
        rule: ChunkRule,
        progress: Callable[[int, int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._store = store
        self._table = SourceTable(store)
        self._rule = rule
        self._progress = progress
        self._should_stop = should_stop
        self._report = IngestReport()
        self._waiting: list[tuple[str, SourceMark, Iterator[str]]] = []
        self._touched: list[tuple[str, SourceMark]] = []
        self._chars = 0

    def run(self, plan: ShardPlan, prune: bool, recheck: bool) -> IngestReport:
        report = self._report
        wanted = fingerprint(plan, taking_rule(self._rule.fingerprint))
        with self._store.writing():
            self._store.set_meta(TREE_NOTE, [str(plan.root), plan.name])
            self._store.set_meta(RULE_NOTE, self._rule.fingerprint)
            self._store.set_meta(INGESTING, True)
        marks = self._table.marks()
        left = set(marks)
        for source_id in self._table.unlike_marks(deep=recheck):
            marks.pop(source_id, None)
        entries = list(entries_of(plan))
        no_sources = {item.source_id: item for item in entries if isinstance(item, LeftOut) and item.why in _NOTED}
        for item in in_order(plan, (item for item in entries if not isinstance(item, LeftOut))):
            report.sources += 1
            left.discard(item.source_id)
            if isinstance(item, SourceProblem):
                report.problems.append((item.source_id, item.reason))
            else:
                self._look_at(item, marks.get(item.source_id))
            together = len(self._waiting) + len(self._touched)
            if together >= TOGETHER_SOURCES or self._chars >= TOGETHER_CHARS:
                self._write()
                self._stop_if_asked()
        self._write()
        unread = {source_id for source_id, _ in report.problems}
        # What gave no gene has none to lose, and those of a second name are there by the first.
        seconds = {source_id for source_id, item in no_sources.items() if item.why == SAME_FILE}
        has_none = {source_id for source_id, mark in marks.items() if not mark.genes}
        over = left & (seconds | has_none)
        report.removed_genes += self._table.drop(over)
        self._table.note((source_id, _NOTED[item.why](item.about)) for source_id, item in sorted(no_sources.items()))
        report.gone = sorted(source_id for source_id in left - over if not _lies_in(source_id, unread))
        if prune and report.gone:
            folder = plan.root / plan.folder
            is_empty = report.sources == 0 and plan.folder != ROOT_SHARD and on_disk(folder).exists()
            if is_empty and not is_unwanted(plan):
                raise UnreadableSource(
                    f"{folder} holds no file any more, so that nothing was pruned: is a disk not mounted? where all of "
                    "it is meant to go, remove the folder as well"
                )
            report.removed_genes += self._table.drop(report.gone)
        report.notes = self._table.notes()
        is_as_it_was = fingerprint(plan, taking_rule(self._rule.fingerprint)) == wanted
        with self._store.writing():
            self._store.set_meta(INGESTING, False)
            # Only now: a shard whose fingerprint is right is not looked into by the next run.
            if not report.problems:
                self._store.set_meta("fingerprint", wanted if is_as_it_was else None)
        return report

    def _look_at(self, source: Source, mark: SourceMark | None) -> None:
        rule = f"{self._rule.fingerprint}:"
        if (
            mark is not None
            and self._is_valid(mark, rule)
            and (mark.size, mark.mtime_ns) == (source.size, source.mtime_ns)
        ):
            self._report.unchanged += 1
            return
        note = None
        try:
            read = read_text(source.path, self._stop_if_asked)
        except FileNotFoundError:
            return  # it has gone since the folder was listed
        except NotText as error:
            note = SourceNote(error.kind, error.reason)
            read = SourceText((), 0, True, f"no text:{detector()}", "", source.size, source.mtime_ns)
        except (CannotRead, MemoryError) as error:
            self._leave_out(source.source_id, error)
            return
        if read.read_as:
            note = SourceNote(read.read_as, "")
        # Genes are counted when they are written.
        new = SourceMark(read.size, read.mtime_ns, f"{rule}{_READ}{read.digest}", genes=0, note=note)
        if mark is not None and mark.digest in (new.digest, rule + read.digest):
            self._touched.append((source.source_id, replace(new, genes=mark.genes)))
            return
        if read.is_kept:
            self._waiting.append((source.source_id, new, chunks(read.pieces, self._rule)))
            self._chars += read.chars
            return
        # By itself, for it is read again meanwhile, and that may fail.
        self._write()
        self._waiting = [(source.source_id, new, chunks(read.pieces, self._rule))]
        try:
            self._write()
        except CannotRead as error:
            self._waiting = []
            self._leave_out(source.source_id, error)

    def _is_valid(self, mark: SourceMark, rule: str) -> bool:
        """Whether a source would be read and cut today as it was then, if it is as it was."""
        is_of_this_detector = "chardet " not in mark.digest or detector() in mark.digest
        return mark.digest.startswith(rule + _READ) and is_of_this_detector

    def _leave_out(self, source_id: str, error: Exception) -> None:
        self._report.problems.append((source_id, f"it cannot be read: {str(error) or type(error).__name__}"))

    def _stop_if_asked(self) -> None:
        if self._should_stop():
            raise _Stopped

    def _write(self) -> None:
        if self._touched:
            self._table.touch(self._touched)
        if self._waiting:
            if self._rule.tokens is not None:
                self._rule.tokens.prepare()
            added, removed, kept = self._table.put(self._waiting)
            self._report.added_genes += added
            self._report.removed_genes += removed
            self._report.kept_genes += kept
        self._waiting, self._touched, self._chars = [], [], 0
        self._progress(self._report.sources, self._report.added_genes)


def _lies_in(source_id: str, folders: set[str]) -> bool:
    """What lies in a folder that cannot be read is not known to be gone."""
    if not folders:
        return False
    parts = source_id.split("/")
    return any("/".join(parts[:depth]) in folders for depth in range(len(parts)))
