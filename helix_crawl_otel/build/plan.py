"""Finds out what a run has to do: which shards there are, which are complete, which need a worker. No model is loaded.

Source: DESIGN.md, section 8, "Salvage".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from helix_crawl_otel.build.job import ShardWork
from helix_crawl_otel.build.options import EncodeOptions
from helix_crawl_otel.build.resume import NotThisBuild, absolute_model, settle_model, settle_sources
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.decode import taking_rule
from helix_crawl_otel.corpus.tree import ShardPlan, fingerprint, plan_shards
from helix_crawl_otel.encoders.load import is_of
from helix_crawl_otel.formats import count
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.shards.build_record import (
    BuildRecord,
    RecordUnusable,
    label_of,
    read_record,
    recovered,
)
from helix_crawl_otel.shards.damage import judge, set_aside
from helix_crawl_otel.shards.errors import CannotSetAside, EmptyFile, ShardCorrupt, StoreError
from helix_crawl_otel.shards.inspect import (
    Salvage,
    Unread,
    lease_of_sources,
    names_by_file,
    notes_of_links,
    salvage,
    stored_identity,
)

__all__ = ["BuildPlan", "name_in_folder", "plan_backfill", "plan_build", "shard_of"]

SUFFIX = ".db"


@dataclass
class BuildPlan:
    """What a run has to do.

    Args:
        model: That encodes.
        works: Shards that need a worker, in order.
        complete: Files of shards that need none.
        complete_genes: Genes in those.
        quarantined: Genes in those that are left out.
        unread: What the encoder has not read of those.
        can_cut: Sources are there, to be cut anew.
        old: Shards in `works` whose passages an earlier version has cut, and that go on so.
        notes: What should be said about the rest.
        failures: Shards that cannot be worked on, with the reason.
        record: What the folder is to hold, to be written before anything is encoded; `None` for shards that are there.
    """

    model: str
    works: list[ShardWork] = field(default_factory=list)
    complete: list[Path] = field(default_factory=list)
    complete_genes: int = 0
    quarantined: int = 0
    unread: Unread = field(default_factory=Unread)
    can_cut: bool = False
    old: int = 0
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    record: BuildRecord | None = None

    def skip(self, path: Path, found: Salvage) -> None:
        """This shard needs no worker."""
        self.complete.append(path)
        self.complete_genes += found.genes
        self.quarantined += found.quarantined
        self.unread += found.unread

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.works) + len(self.complete) + len(self.failures)


def plan_build(
    sources: Sequence[Path],
    output: Path,
    options: EncodeOptions,
    *,
    prune: bool = False,
    moved: bool = False,
    words: Sequence[str] = (),
) -> BuildPlan:
    """The shards of trees.

    Args:
        sources: The trees, absolute.
        output: Folder of the shards' files, absolute.
        options: Of the command.
        prune: Genes of sources that are gone are to be removed. A tree that is not named is not gone.
        moved: See `settle_sources`.
        words: Of the command, for the record: see `BuildRecord.options`.

    Raises:
        NotThisBuild: The folder was built of other trees, or with another model.
        RecordUnusable: A newer version has built it.
        UnreadableSource: A tree cannot be read.
    """
    known, notes = _record(output, options.lock_seconds)
    settled = settle_sources(sources, known, output, moved=moved)
    before, begun = (known.shards, known.model) if known else ({}, None)
    files = [output / file for file in before.values()]
    model, said = _model(options, files, begun, str(output), "another --out")
    plans = []
    for label, root in sorted(settled.taken.items()):
        found = plan_shards(root, output, label=label, known=before)
        if label in settled.moved and not {plan.name for plan in found} & set(before):
            raise NotThisBuild(
                f"--moved: {root} has none of the folders that {output} was built of; accepted: the same tree in "
                "another place"
            )
        plans += found
    shards = {plan.name: plan.file for plan in plans}
    gone = {}
    for name, file in before.items():
        if label_of(name) not in settled.taken:
            shards[name] = file
        elif name not in shards and (epoch := lease_of_sources(output / file, options.lock_seconds)) is not None:
            gone[name] = output / file, epoch
    shards |= {name: path.name for name, (path, _) in gone.items()}
    places = {**settled.left, **{label: str(root) for label, root in settled.taken.items()}}
    record = BuildRecord(dict(sorted(places.items())), shards, absolute_model(model), tuple(words))
    planned = BuildPlan(model, notes=[*notes, *settled.notes, *said], record=record, can_cut=True)
    planned.failures.update(_linked([(name, output / file) for name, file in shards.items()]))
    assigned = functools.partial(Assignment, output=str(output), prune=prune)
    for plan in plans:
        if plan.name not in planned.failures:
            _plan_shard(planned, plan, options, assigned, prune=prune)
    if planned.old:
        planned.notes.append(
            f"{count(planned.old, 'shard')} cut by an earlier version, which counted no tokens, go on so; --reencode "
            "cuts them anew, so that no passage is longer than the model reads"
        )
    for name, (path, epoch) in gone.items():
        root = settled.taken[label_of(name)]
        if name in planned.failures:
            continue
        if prune:
            planned.works.append(ShardWork(assigned(name, str(path), epoch, str(root))))
        else:
            planned.notes.append(f"{path.name} is of {name!r}, which is gone from {root}; --prune removes its genes")
    return planned


def _record(output: Path, lock_seconds: float) -> tuple[BuildRecord | None, list[str]]:
    """What the folder was built of, and what is to be said of that.

    Raises:
        RecordUnusable: A newer version knows.
    """
    try:
        return read_record(output) or recovered(output, lock_seconds), []
    except RecordUnusable as error:
        if error.is_newer:
            raise
        return recovered(output, lock_seconds), [f"{error}; it is made anew from what the shards say"]


def _model(
    options: EncodeOptions, paths: Sequence[Path], begun: str | None, place: str, elsewhere: str = ""
) -> tuple[str, list[str]]:
    """The model of a run, by what the shards that are there say of theirs."""
    identities = []
    for path in paths:
        with suppress(StoreError):  # the plan says what is wrong with it
            if (identity := stored_identity(path, options.lock_seconds)) is not None:
                identities.append(identity)
    return settle_model(options.model, identities, begun, place, reencode=options.reencode, elsewhere=elsewhere)


def _plan_shard(
    planned: BuildPlan, plan: ShardPlan, options: EncodeOptions, assigned: Callable[..., Assignment], *, prune: bool
) -> None:
    """Find out what one shard of a tree needs."""
    path = Path(str(plan.output)) / plan.file
    pending, epoch = None, 0
    if path.exists():
        planned.notes += notes_of_links(path)
        try:
            found = salvage(path, options.lock_seconds, is_built=True)
        except EmptyFile:
            pass
        except ShardCorrupt as error:
            judged = judge(error, path, is_built=True, lock_seconds=options.lock_seconds)
            if not judged.may_set_aside:
                planned.failures[plan.name] = judged.reason
                return
            try:
                kept = set_aside(path)
            except CannotSetAside as failure:
                planned.failures[plan.name] = f"{error}; {failure}"
                return
            planned.notes.append(f"{error}; it was set aside as {kept.name}, and is built again from its sources")
        except StoreError as error:
            planned.failures[plan.name] = str(error)
            return
        else:
            rule = ChunkRule.of(found.rule or ChunkRule(version=1).fingerprint)
            is_old = rule is not None and rule.version < ChunkRule().version
            unchanged = (
                rule is not None
                and not (is_old and options.reencode)
                and found.fingerprint == fingerprint(plan, taking_rule(rule.fingerprint))
            )
            if unchanged and not prune and _is_done(found, options, planned.model):
                planned.skip(path, found)
                return
            pending, epoch = found.pending if unchanged and not options.reencode else None, found.epoch
            planned.old += is_old and found.identity is not None and not options.reencode
    again = {"reencode": options.reencode, "retry_quarantined": options.retry_quarantined}
    assignment = assigned(plan.name, str(path), epoch, str(plan.root), **again)
    planned.works.append(ShardWork(assignment, pending))


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
        paths: Their files, each once and absolute.
        options: Of the command.
        notes: What should be said of them.

    Raises:
        NotThisBuild: Some are of another model.
    """
    folders = list(dict.fromkeys(path.parent for path in paths))
    begun = {known.model for folder in folders for known in [_known(folder)] if known and known.model}
    place = str(paths[0] if len(paths) == 1 else " and ".join(map(str, folders)))
    model, said = _model(options, paths, begun.pop() if len(begun) == 1 else None, place)
    planned = BuildPlan(model, notes=[*notes, *said])
    for path in paths:
        name = shard_of(path, is_alone=len(folders) == 1)
        try:
            found = salvage(path, options.lock_seconds)
        except ShardCorrupt as error:
            planned.failures[name] = judge(error, path, is_built=False, lock_seconds=options.lock_seconds).reason
            continue
        except StoreError as error:
            planned.failures[name] = str(error)
            continue
        if _is_done(found, options, model):
            planned.skip(path, found)
            continue
        assignment = Assignment(
            name, str(path), found.epoch, reencode=options.reencode, retry_quarantined=options.retry_quarantined
        )
        planned.works.append(ShardWork(assignment, None if options.reencode else found.pending))
    return planned


def _known(folder: Path) -> BuildRecord | None:
    """The record of a folder whose shards are only encoded: what is wrong with it is for `build` to say."""
    try:
        return read_record(folder)
    except RecordUnusable:
        return None


def _is_done(found: Salvage, options: EncodeOptions, model: str) -> bool:
    if not found.is_complete or (options.retry_quarantined and found.quarantined):
        return False
    if found.identity is None:
        # Complete, and nobody has written down by whom: nothing is missing, unless all is to be encoded again.
        return not options.reencode
    return is_of(found.identity, model)


def name_in_folder(path: Path) -> str:
    """The name of a shard among those of its folder, by which its rung and its baseline are kept there: its file's."""
    if path.suffix == SUFFIX:
        return path.stem
    return f"./{path.name}" if path.with_name(path.name + SUFFIX).exists() else path.name


def shard_of(path: Path, *, is_alone: bool) -> str:
    """The name of an existing shard in messages and metrics: one file, one name, whichever is named first.

    Args:
        path: Its file, absolute.
        is_alone: All shards of the run are in its folder. Then the name is the file's, else it tells the folder too.
    """
    name = name_in_folder(path)
    return name if is_alone else f"{path.parent.as_posix()}/{name}"
