"""Finds out what a run has to do: which shards there are, which are complete, which need a worker. No model is loaded.

Source: DESIGN.md, section 8, "Salvage".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from helix_crawl_otel.build.job import ShardWork
from helix_crawl_otel.build.options import EncodeOptions
from helix_crawl_otel.build.outlook import Look, expected, rule_of, settle_filters
from helix_crawl_otel.build.resume import (
    NotThisBuild,
    TakenSources,
    absolute_model,
    settle_dtype,
    settle_model,
    settle_sources,
)
from helix_crawl_otel.build.shard_files import ShardFiles
from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.filters import Filters
from helix_crawl_otel.corpus.look import ShardLook, TreeLook
from helix_crawl_otel.corpus.tree import ROOT_SHARD, ShardPlan, plan_tree
from helix_crawl_otel.encoders.load import is_of
from helix_crawl_otel.encoders.precision import AUTO, FULL
from helix_crawl_otel.encoders.truncation import Truncation
from helix_crawl_otel.formats import count
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.paths import on_disk, same_place
from helix_crawl_otel.shards.build_record import BuildRecord, RecordUnusable, label_of, read_record
from helix_crawl_otel.shards.damage import judge, set_aside
from helix_crawl_otel.shards.errors import CannotSetAside, EmptyFile, ShardCorrupt, StoreError
from helix_crawl_otel.shards.find import names_by_file, notes_of_links
from helix_crawl_otel.shards.inspect import Salvage, Unread
from helix_crawl_otel.shards.schema import LOCK_SECONDS, beside

__all__ = ["BuildPlan", "is_one_folder", "name_in_folder", "plan_backfill", "plan_build", "shard_of"]

SUFFIX = ".db"

MOST_LOOKED_INTO = 16
"""Shards whose vectors are compared before the first gene is encoded; of each some texts are encoded for that."""

ANOTHER_OUT = "another --out"

ON_DISK = ShardFiles()


@dataclass
class BuildPlan:
    """What a run has to do.

    Args:
        model: That encodes.
        dtype: What it is to compute in, or `auto`.
        must_agree: Vectors are there that those of `dtype` would stand beside, of the model as it is saved.
        works: Shards that need a worker, in order.
        complete: Files of shards that need none.
        complete_genes: Genes in those.
        quarantined: Genes that are left out, of those that have some, by shard.
        unread: What the encoder has not read of those.
        can_cut: Sources are there, to be cut anew.
        old: Shards in `works` whose passages an earlier version has cut, and that go on so.
        begun: Files of shards that say how much of a text is encoded, see `begun_shards`.
        notes: What should be said about the rest.
        failures: Shards that cannot be worked on, with the reason.
        record: What the folder is to hold, to be written before anything is encoded; `None` for shards that are there.
        look: What the trees were seen to hold, `None` for shards that are there.
    """

    model: str
    dtype: str = AUTO
    must_agree: bool = False
    works: list[ShardWork] = field(default_factory=list)
    complete: list[Path] = field(default_factory=list)
    complete_genes: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    unread: Unread = field(default_factory=Unread)
    can_cut: bool = False
    old: int = 0
    begun: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    record: BuildRecord | None = None
    look: Look | None = None

    def skip(self, shard: str, path: Path, found: Salvage) -> None:
        """This shard needs no worker."""
        self.complete.append(path)
        self.complete_genes += found.genes
        if found.quarantined:
            self.quarantined[shard] = found.quarantined
        self.unread += found.unread

    @property
    def encoder(self) -> str:
        """Of the baselines: one of one precision says nothing of the pace of another."""
        return self.model if self.dtype == AUTO else f"{self.model} in {self.dtype}"

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
    filters: Filters | None = None,
    progress: Callable[[int, int], None] = lambda files, size: None,
    files: ShardFiles = ON_DISK,
) -> BuildPlan:
    """The shards of trees.

    Args:
        sources: The trees, absolute.
        output: Folder of the shards' files, absolute.
        options: Of the command.
        prune: Genes of sources that are gone are to be removed. A tree that is not named is not gone.
        moved: See `settle_sources`.
        words: Of the command, for the record: see `BuildRecord.options`.
        filters: What of the trees is not wanted; `None` for what was not the last time.
        progress: See `TreeLook`.
        files: How the shards are looked at.

    Raises:
        NotThisBuild: The folder was built of other trees, or with another model.
        RecordUnusable: A newer version has built it.
        UnreadableSource: A tree cannot be read.
    """
    again = options.reencode
    begun = _settle(sources, output, options.lock_seconds, moved, options.model, filters, again, files)
    settled, before, model, wanted = begun.sources, begun.before, begun.model, begun.filters
    dtype, must_agree = settle_dtype(
        options.dtype, begun.identities, str(output), reencode=again, elsewhere=ANOTHER_OUT
    )
    salvaged: dict[str, Salvage | StoreError] = {}
    looked = TreeLook(lambda plan: _rule_of(plan, salvaged, options, files), progress)
    plans = []
    for label, root in sorted(settled.taken.items()):
        loose, found = plan_tree(root, output, wanted, label=label, known=before)
        if label in settled.moved and not _is_alike([plan.name for plan in found], before, label):
            raise NotThisBuild(
                f"--moved: {root} has none of the folders that {output} was built of; accepted: the same tree in "
                "another place"
            )
        looked.take(loose, found)
        plans += [plan for plan in found if not looked.shards[plan.name].is_empty]
    shards = {plan.name: plan.file for plan in plans}
    gone = {}
    for name, file in before.items():
        if label_of(name) not in settled.taken:
            shards[name] = file
        elif name not in shards and (epoch := files.lease_of_sources(output / file, options.lock_seconds)) is not None:
            gone[name] = output / file, epoch
    shards |= {name: path.name for name, (path, _) in gone.items()}
    places = {**settled.left, **{label: str(root) for label, root in settled.taken.items()}}
    record = BuildRecord(dict(sorted(places.items())), shards, absolute_model(model), tuple(words), wanted.to_json())
    planned = BuildPlan(model, dtype, must_agree, notes=begun.notes, record=record, can_cut=True)
    planned.look = Look(looked, tuple(map(str, settled.taken.values())), wanted)
    planned.failures.update(_linked([(name, output / file) for name, file in shards.items()]))

    kept = wanted.to_json()

    def assigned(name: str, path: str, epoch: int = 0, source: str | None = None, **again: Any) -> Assignment:
        return Assignment(name, path, epoch, source, str(output), prune=prune, **kept, **again)

    for plan in plans:
        if plan.name not in planned.failures:
            _plan_shard(planned, plan, looked.shards[plan.name], salvaged, options, assigned, files, looks_into=prune)
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
            is_there = on_disk(root / name.rpartition("/")[2]).exists()
            why = f"whose folder in {root} holds no file that is taken" if is_there else f"which is gone from {root}"
            planned.notes.append(f"{path.name} is of {name!r}, {why}; --prune removes its genes")
    return planned


def _is_alike(found: Sequence[str], before: Iterable[str], label: str) -> bool:
    """Whether a tree has one of the folders that its shards were cut from; loose files are in any."""
    known = {name for name in before if label_of(name) == label}
    loose = f"{label}/{ROOT_SHARD}" if label else ROOT_SHARD
    return bool(set(found) & (known - {loose} or known))


def look_before(
    sources: Sequence[Path],
    output: Path,
    *,
    moved: bool = False,
    model: str | None = None,
    filters: Filters | None = None,
    progress: Callable[[int, int], None] = lambda files, size: None,
    reencode: bool = False,
) -> tuple[Look, list[str]]:
    """What `plan_build` would see, without a lock, a model or a change to anything.

    Args:
        sources: See `plan_build`, as for the rest and for what is raised.
        output: See there.
        moved: See there.
        model: As the command names it.
        filters: See `plan_build`.
        progress: See there.
        reencode: Everything is to be encoded again.

    Returns:
        What was seen, and what is to be said of it.
    """
    begun = _settle(sources, output, LOCK_SECONDS, moved, model, filters, reencode, ON_DISK)
    taken = begun.sources.taken
    looked = TreeLook(lambda plan: rule_of(ON_DISK.held(output / plan.file)), progress)
    look = Look(looked, tuple(map(str, taken.values())), begun.filters)
    for label, root in sorted(taken.items()):
        loose, found = plan_tree(root, output, begun.filters, label=label, known=begun.before)
        look.tree.take(loose, found)
        for plan in found:
            look.count(plan.name, output / plan.file, reencode=reencode)
    look.measure(output, absolute_model(begun.model))
    return look, begun.notes


class _Begun(NamedTuple):
    """What a folder was built of before, and what of a command holds for it.

    Args:
        sources: Which trees are taken, and under which names.
        before: The files of the shards that were planned, by name.
        identities: Of the encoders that the shards name.
        model: To encode with.
        filters: What of the trees is not wanted.
        notes: What is to be said of that.
    """

    sources: TakenSources
    before: Mapping[str, str]
    identities: list[Mapping[str, object]]
    model: str
    filters: Filters
    notes: list[str]


def _settle(
    sources: Sequence[Path],
    output: Path,
    lock_seconds: float,
    moved: bool,
    model: str | None,
    filters: Filters | None,
    reencode: bool,
    files: ShardFiles,
) -> _Begun:
    """What a plan and a look ahead begin with; the arguments and what is raised as of `plan_build`."""
    known, notes = _record(output, lock_seconds, files)
    settled = settle_sources(sources, known, output, moved=moved)
    before, begun = (known.shards, known.model) if known else ({}, None)
    identities = _identities([output / file for file in before.values()], lock_seconds, files)
    chosen, said = settle_model(model, identities, begun, str(output), reencode=reencode, elsewhere=ANOTHER_OUT)
    wanted, told = settle_filters(filters, known)
    return _Begun(settled, before, identities, chosen, wanted, [*notes, *settled.notes, *told, *said])


def _record(output: Path, lock_seconds: float, files: ShardFiles) -> tuple[BuildRecord | None, list[str]]:
    """What the folder was built of, and what is to be said of that.

    Raises:
        RecordUnusable: A newer version knows.
    """
    try:
        return files.record(output) or files.recovered(output, lock_seconds), []
    except RecordUnusable as error:
        if error.is_newer:
            raise
        return files.recovered(output, lock_seconds), [f"{error}; it is made anew from what the shards say"]


def _identities(paths: Sequence[Path], lock_seconds: float, files: ShardFiles) -> list[Mapping[str, object]]:
    """Of the encoders that the shards that are there name."""
    identities: list[Mapping[str, object]] = []
    for path in paths:
        with suppress(StoreError):  # the plan says what is wrong with it
            if (identity := files.stored_identity(path, lock_seconds)) is not None:
                identities.append(identity)
    return identities


def _rule_of(
    plan: ShardPlan, salvaged: dict[str, Salvage | StoreError], options: EncodeOptions, files: ShardFiles
) -> str | None:
    """Look at the file of a shard, and say by which rule it was cut, `None` where there is none."""
    path = Path(str(plan.output)) / plan.file
    if not files.is_there(path):
        return None
    try:
        salvaged[plan.name] = found = files.salvage(path, options.lock_seconds, is_built=True, deep=options.reencode)
    except StoreError as error:
        salvaged[plan.name] = error
        return None
    return rule_of(found)


def _plan_shard(
    planned: BuildPlan,
    plan: ShardPlan,
    seen: ShardLook,
    salvaged: Mapping[str, Salvage | StoreError],
    options: EncodeOptions,
    assigned: Callable[..., Assignment],
    files: ShardFiles,
    *,
    looks_into: bool,
) -> None:
    """Find out what one shard of a tree needs; `looks_into` one that is complete as well."""
    path = Path(str(plan.output)) / plan.file
    pending, epoch, quarantined = None, 0, 0
    if plan.name in salvaged:
        planned.notes += notes_of_links(path)
        try:
            found = salvaged[plan.name]
            if isinstance(found, StoreError):
                raise found
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
            unchanged = rule is not None and not (is_old and options.reencode) and found.fingerprint == seen.fingerprint
            # Where the shard says that its tree is elsewhere, the run that was told of the move has not come here.
            is_moved = found.tree is not None and not same_place(Path(found.tree), plan.root)
            if unchanged and not (looks_into or is_moved) and _is_done(found, options, planned.model):
                planned.skip(plan.name, path, found)
                seen.passages = found.genes
                return
            pending, epoch = found.pending if unchanged and not options.reencode else None, found.epoch
            quarantined = found.quarantined
            planned.old += is_old and found.identity is not None and not options.reencode
    elif any(part.is_file() and part.stat().st_size for part in beside(path)[:2]):
        # SQLite would delete a log without its file, and the file may only have been moved.
        try:
            planned.notes.append(f"what SQLite kept beside {path}, which is gone, is now beside {set_aside(path).name}")
        except CannotSetAside as failure:
            planned.failures[plan.name] = f"{path} is gone, and what SQLite kept beside it is in the way: {failure}"
            return
    again = {"reencode": options.reencode, "retry_quarantined": options.retry_quarantined}
    assignment = assigned(plan.name, str(path), epoch, str(plan.root), **again)
    guess = expected(seen, files.held(path), reencode=options.reencode)
    planned.works.append(ShardWork(assignment, pending, guess, quarantined))


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


def plan_backfill(
    paths: Sequence[Path],
    options: EncodeOptions,
    notes: Sequence[str] = (),
    given: Sequence[Path] = (),
    files: ShardFiles = ON_DISK,
) -> BuildPlan:
    """Existing shards.

    Args:
        paths: Their files, each once and absolute.
        options: Of the command.
        notes: What should be said of them.
        given: Files and folders that the command names, absolute: one folder alone gives its shards short names.
        files: How the shards are looked at.

    Raises:
        NotThisBuild: Some are of another model.
    """
    folders = list(dict.fromkeys(path.parent for path in paths))
    begun = {known.model for folder in folders for known in [_known(folder)] if known and known.model}
    place = str(paths[0] if len(paths) == 1 else " and ".join(map(str, folders)))
    own = begun.pop() if len(begun) == 1 else None
    identities = _identities(paths, options.lock_seconds, files)
    model, said = settle_model(options.model, identities, own, place, reencode=options.reencode)
    dtype, must_agree = settle_dtype(options.dtype, identities, place, reencode=options.reencode)
    planned = BuildPlan(model, dtype, must_agree, notes=[*notes, *said])
    top = given[0] if is_one_folder(given) else None
    seen = {}
    for path in paths:
        name = shard_of(path) if top is None else name_below(top, path)
        try:
            found = files.salvage(path, options.lock_seconds, deep=options.reencode)
        except ShardCorrupt as error:
            planned.failures[name] = judge(error, path, is_built=False, lock_seconds=options.lock_seconds).reason
            continue
        except StoreError as error:
            planned.failures[name] = str(error)
            continue
        seen[path] = found
        if _is_done(found, options, model):
            planned.skip(name, path, found)
            continue
        assignment = Assignment(
            name, str(path), found.epoch, reencode=options.reencode, retry_quarantined=options.retry_quarantined
        )
        pending = None if options.reencode else found.pending
        planned.works.append(ShardWork(assignment, pending, quarantined=found.quarantined))
    planned.begun = _begun(seen, reencode=options.reencode)
    return planned


def _begun(seen: Mapping[Path, Salvage], *, reencode: bool) -> list[Path]:
    """Shards that say what is cut off, complete ones too: of each kind one, and of those whose vectors alone say it a
    few, spread over all. Vectors that are to be encoded again say nothing.
    """
    kinds: dict[object, Path] = {}
    foreign = []
    for path, found in seen.items():
        if found.identity is not None:
            kinds.setdefault(Truncation.of(found.identity), path)
        elif found.has_foreign and not reencode:
            foreign.append(path)
        elif found.provenance.cap is not None:
            kinds.setdefault(found.provenance, path)
    step = max(1, -(-len(foreign) // MOST_LOOKED_INTO))
    return [*kinds.values(), *foreign[::step]]


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
    # Encoded again in another precision: only its worker can tell whether that makes other vectors.
    apart = found.identity.get("dtype")
    is_other = apart is not None if options.dtype == AUTO else options.dtype != (apart or FULL)
    if not options.truncation.is_of(found.identity):
        return False  # its worker refuses it, or encodes it again
    return is_of(found.identity, model) and not (options.reencode and is_other)


def name_in_folder(path: Path) -> str:
    """The name of a shard among those of its folder, by which its rung and its baseline are kept there: its file's."""
    if path.suffix == SUFFIX:
        return path.stem
    return f"./{path.name}" if path.with_name(path.name + SUFFIX).exists() else path.name


def name_below(top: Path, path: Path) -> str:
    """The name of a shard in the one folder of a command: with the folders in it that lead to the shard, if any."""
    below = path.parent.relative_to(top).as_posix()
    return name_in_folder(path) if below == "." else f"{below}/{name_in_folder(path)}"


def is_one_folder(given: Sequence[Path]) -> bool:
    """Whether a command names one folder and nothing else. Its shards then have their names in it, as in a build.

    Args:
        given: Files and folders that it names, absolute.
    """
    return bool(given) and given[0].is_dir() and all(same_place(given[0], other) for other in given)


def shard_of(path: Path) -> str:
    """The name in messages and metrics of a shard that was not found in the one folder of a command: its whole path.

    It looks at nothing but where the file really is: one file has one name, by whatever link or from whatever folder
    it is named, and no other shard has it, whatever else is named.
    """
    real = Path(os.path.realpath(path))
    return f"{real.parent.as_posix().rstrip('/')}/{name_in_folder(real)}"
