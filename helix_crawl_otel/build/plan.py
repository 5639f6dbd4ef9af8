"""Finds out what a run has to do: which shards there are, which are complete, which need a worker. No model is loaded.

Source: DESIGN.md, section 8, "Salvage".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helix_crawl_otel.build.job import ShardWork
from helix_crawl_otel.build.options import EncodeOptions
from helix_crawl_otel.corpus.text import ChunkRule
from helix_crawl_otel.corpus.tree import fingerprint, plan_shards
from helix_crawl_otel.encoders.load import is_of
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.shards.damage import judge, set_aside
from helix_crawl_otel.shards.errors import CannotSetAside, EmptyFile, ShardCorrupt, StoreError
from helix_crawl_otel.shards.inspect import Salvage, gone_shards, names_by_file, notes_of_links, salvage

__all__ = ["BuildPlan", "plan_backfill", "plan_build", "shard_of"]

SUFFIX = ".db"


@dataclass
class BuildPlan:
    """What a run has to do.

    Args:
        works: Shards that need a worker, in order.
        complete: Files of shards that need none.
        complete_genes: Genes in those.
        quarantined: Genes in those that are left out.
        notes: What should be said about the rest.
        failures: Shards that cannot be worked on, with the reason.
    """

    works: list[ShardWork] = field(default_factory=list)
    complete: list[Path] = field(default_factory=list)
    complete_genes: int = 0
    quarantined: int = 0
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def skip(self, path: Path, found: Salvage) -> None:
        """This shard needs no worker."""
        self.complete.append(path)
        self.complete_genes += found.genes
        self.quarantined += found.quarantined

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.works) + len(self.complete) + len(self.failures)


def plan_build(root: Path, output: Path, options: EncodeOptions, *, prune: bool) -> BuildPlan:
    """The shards of a tree.

    Args:
        root: The tree, absolute.
        output: Folder of the shards' files, absolute.
        options: Of the command.
        prune: Genes of sources that are gone are to be removed.

    Raises:
        UnreadableSource: The tree cannot be read.
    """
    planned = BuildPlan()
    rule = ChunkRule().fingerprint
    plans = plan_shards(root, output)
    assigned = functools.partial(Assignment, source=str(root), output=str(output), prune=prune)
    gone = gone_shards(root, output, {plan.file for plan in plans}, options.lock_seconds)
    planned.failures.update(_linked([*((plan.name, output / plan.file) for plan in plans), *(one[:2] for one in gone)]))
    for plan in plans:
        path = output / plan.file
        pending, epoch = None, 0
        if plan.name in planned.failures:
            continue
        if path.exists():
            planned.notes += notes_of_links(path)
            try:
                found = salvage(path, options.lock_seconds, is_built=True, deep=options.reencode)
            except EmptyFile:
                pass
            except ShardCorrupt as error:
                judged = judge(error, path, is_built=True, lock_seconds=options.lock_seconds)
                if not judged.may_set_aside:
                    planned.failures[plan.name] = judged.reason
                    continue
                try:
                    kept = set_aside(path)
                except CannotSetAside as failure:
                    planned.failures[plan.name] = f"{error}; {failure}"
                    continue
                planned.notes.append(f"{error}; it was set aside as {kept.name}, and is built again from its sources")
            except StoreError as error:
                planned.failures[plan.name] = str(error)
                continue
            else:
                unchanged = found.fingerprint is not None and found.fingerprint == fingerprint(plan, rule)
                if unchanged and not prune and _is_done(found, options):
                    planned.skip(path, found)
                    continue
                pending, epoch = found.pending if unchanged and not options.reencode else None, found.epoch
        assignment = assigned(
            plan.name, str(path), epoch, reencode=options.reencode, retry_quarantined=options.retry_quarantined
        )
        planned.works.append(ShardWork(assignment, pending))
    for name, path, epoch in gone:
        if name in planned.failures:
            continue
        if prune:
            planned.works.append(ShardWork(assigned(name, str(path), epoch)))
        else:
            planned.notes.append(f"{path.name} is of {name!r}, which is gone from {root}; --prune removes its genes")
    return planned


def _linked(shards: Sequence[tuple[str, Path]]) -> dict[str, str]:
    """The shards, by name, whose files are one file by a link, with the reason why none of them is written to."""
    name_of = {path: name for name, path in shards if path.exists()}
    failures = {}
    for same in names_by_file(list(name_of)):
        if len(same) > 1:
            files = " and ".join(map(str, same))
            reason = f"{files} are one file, by a link; it was left as it is: each shard needs a file of its own"
            failures.update({name_of[path]: f"{reason}, so remove all but one of these names" for path in same})
    return failures


def plan_backfill(paths: Sequence[Path], options: EncodeOptions, notes: Sequence[str] = ()) -> BuildPlan:
    """Existing shards.

    Args:
        paths: Their files, each once and absolute; the folder of the first keeps the state.
        options: Of the command.
        notes: What should be said of them.
    """
    planned = BuildPlan(notes=list(notes))
    for path in paths:
        name = shard_of(path, paths[0].parent)
        try:
            found = salvage(path, options.lock_seconds, deep=options.reencode)
        except ShardCorrupt as error:
            planned.failures[name] = judge(error, path, is_built=False, lock_seconds=options.lock_seconds).reason
            continue
        except StoreError as error:
            planned.failures[name] = str(error)
            continue
        if _is_done(found, options):
            planned.skip(path, found)
            continue
        assignment = Assignment(
            name, str(path), found.epoch, reencode=options.reencode, retry_quarantined=options.retry_quarantined
        )
        planned.works.append(ShardWork(assignment, None if options.reencode else found.pending))
    return planned


def _is_done(found: Salvage, options: EncodeOptions) -> bool:
    if not found.is_complete or (options.retry_quarantined and found.quarantined):
        return False
    if found.identity is None:
        # Complete, and nobody has written down by whom: nothing is missing, unless all is to be encoded again.
        return not options.reencode
    return is_of(found.identity, options.model)


def shard_of(path: Path, home: Path) -> str:
    """The name of an existing shard, in messages, metrics and the ladder's state: one file, one name.

    It depends on nothing but the two: whatever else a command names, a shard finds its own rung and baseline again.

    Args:
        path: Its file, absolute.
        home: The folder that keeps the state. There a name is the file's, as it is in what `build` has made there.
    """
    name = path.stem if path.suffix == SUFFIX else path.name
    is_plain = path.suffix == SUFFIX or not path.with_name(path.name + SUFFIX).exists()
    return name if path.parent == home and is_plain else path.with_name(name if is_plain else path.name).as_posix()
