"""Finds the shards of a tree and the sources of each, in an order that is the same on every system.

Top-level folders are shards, `.` holds the loose files. Left out: hidden entries, caches, the output folder, what is no
regular file, and what the user does not want (`filters`). Links to folders are not followed (a loop would never end),
links to files are; but a file that has several names in a shard, or is meant by a link of the same tree, is one source.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from helix_crawl_otel.corpus.filters import GITIGNORE, Filters, FolderRules, rules_of_tree
from helix_crawl_otel.exit_codes import NEVER, Refusal
from helix_crawl_otel.paths import are_same, looked_at, on_disk
from helix_crawl_otel.shards.build_record import label_of
from helix_crawl_otel.shards.genes import id_of_name

__all__ = [
    "LINKED",
    "NOWHERE",
    "NO_FILE",
    "ROOT_SHARD",
    "SAME_FILE",
    "TOO_LARGE",
    "LeftOut",
    "ShardPlan",
    "Source",
    "SourceProblem",
    "UnreadableSource",
    "entries_of",
    "file_names",
    "fingerprint",
    "fingerprint_of",
    "has_source",
    "in_order",
    "is_unwanted",
    "is_wish",
    "plan_named",
    "plan_shards",
    "plan_tree",
    "size_and_time",
    "sources_of",
]

ROOT_SHARD = "."
"""The shard of the files that lie in no folder."""

JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT, which `stat` has on Windows only

SKIPPED = frozenset({"__pycache__", "node_modules"})
OF_A_DRIVE = frozenset({"$recycle.bin", "system volume information"})
"""What Windows keeps at the root of each drive, in small letters."""
OF_A_DRIVE_BEGIN = frozenset("$sS")


class UnreadableSource(Refusal):
    """The tree cannot be read at all. The message says why."""

    exit_code = NEVER


@dataclass(frozen=True)
class ShardPlan:
    """One shard of a tree.

    Args:
        name: Of its folder, `.` for the loose files; where several trees make one index, with the tree's label and a
            slash before it.
        file: Of the shard, without a folder.
        root: The tree.
        output: Left out of the tree.
        rules: What else is left out, as it holds in the root.
    """

    name: str
    file: str
    root: Path
    output: Path | None
    rules: FolderRules = field(default_factory=FolderRules, repr=False, compare=False)

    @property
    def label(self) -> str:
        """Of the tree, empty for none."""
        return label_of(self.name)

    @property
    def folder(self) -> str:
        """The name of its folder, `.` for the loose files."""
        return self.name.rpartition("/")[2]


class Source(NamedTuple):
    """One file. There may be half a million of them: it is small, and quick to make.

    Args:
        source_id: Its path from the root, with `/`, in composed form (NFC), and the tree's label before it.
        place: Where it is.
        size: Bytes.
        mtime_ns: Nanoseconds, see `size_and_time`.
    """

    source_id: str
    place: str
    size: int
    mtime_ns: int

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.place)


def size_and_time(about: os.stat_result) -> tuple[int, int]:
    """Bytes, and nanoseconds since 1970, as far as SQLite can hold these: a file may be dated to any year."""
    return about.st_size, max(-(2**63), min(2**63 - 1, about.st_mtime_ns))


class SourceProblem(NamedTuple):
    """What cannot be read, and why."""

    source_id: str
    reason: str


class LeftOut(NamedTuple):
    """What is no source.

    Args:
        name: From the root, with `/`.
        is_folder: What is in it was not looked at.
        why: Such as `.gitignore`; the same words for all of a kind.
        about: What it is in place of a file, or the source that is the same file.
    """

    name: str
    is_folder: bool
    why: str
    about: str = ""

    @property
    def source_id(self) -> str:
        """What it would be called as a source."""
        return id_of_name(self.name)


def plan_shards(
    root: Path,
    output: Path | None,
    filters: Filters | None = None,
    *,
    label: str = "",
    known: Mapping[str, str] | None = None,
) -> list[ShardPlan]:
    """The shards of a tree, in order. One that is a single file is a shard of that file.

    Args:
        root: The tree.
        output: Where shards are written; left out when it lies in the tree.
        filters: What else is left out; `None` for what no tree is read with.
        label: What the shards' names begin with, empty for one tree alone.
        known: Files that the output has for shards already, by name.

    Raises:
        UnreadableSource: It is not there, cannot be read, or is without a file that can: as a folder is in which a disk
            is not mounted.
    """
    return plan_tree(root, output, filters, label=label, known=known)[1]


def plan_tree(
    root: Path,
    output: Path | None,
    filters: Filters | None = None,
    *,
    label: str = "",
    known: Mapping[str, str] | None = None,
) -> tuple[ShardPlan, list[ShardPlan]]:
    """The same, with that of the loose files first, also where there are none: to it belongs what is left out there.

    Args:
        root: See `plan_shards`, as for the rest and for what is raised.
        output: See `plan_shards`.
        filters: See `plan_shards`.
        label: See `plan_shards`.
        known: See `plan_shards`.
    """
    rules, names, unwanted = FolderRules(filters or Filters()), set(), set()
    looked_at.place = str(root)
    try:
        if on_disk(root).is_file():
            names.add(ROOT_SHARD)
        else:
            with os.scandir(on_disk(root)) as listing:
                entries = list(listing)
            rules = rules_of_tree(on_disk(root), rules.filters)
            rules = rules.of(str(on_disk(root)), "", (entry.name for entry in entries))
            is_output = _is_output(output)
            for entry in entries:
                if _why_never(entry, is_output) is not None:
                    continue
                if not _is_folder(entry):
                    names |= {ROOT_SHARD} if _is_file(entry) else set()
                elif rules.why(entry.name, is_folder=True) is None:
                    names.add(entry.name)
                else:
                    unwanted.add(entry.name)
    except OSError as error:
        raise UnreadableSource(
            f"{root} cannot be read: {error.strerror or error}; accepted: a folder of files, or a file"
        ) from None
    if label:
        names, unwanted = ({f"{label}/{name}" for name in some} for some in (names, unwanted))
    files = file_names(names | unwanted, known)  # the file of a shard does not depend on which others are wanted
    rest = f"{label}/{ROOT_SHARD}" if label else ROOT_SHARD
    loose = ShardPlan(rest, files.get(rest, ""), root, output, rules)
    plans = [ShardPlan(name, files[name], root, output, rules) for name in sorted(names)]
    if not any(map(has_source, plans)):
        raise UnreadableSource(_nothing_taken(loose, plans))
    return loose, plans


def _nothing_taken(loose: ShardPlan, plans: list[ShardPlan]) -> str:
    plans = [loose, *(plan for plan in plans if plan.folder != ROOT_SHARD)]
    whys = Counter(item.why for plan in plans for item in entries_of(plan) if isinstance(item, LeftOut))
    wishes = [
        f"{number:,} by {why}"
        for why, number in sorted(whys.items(), key=lambda item: (-item[1], item[0]))
        if is_wish(why)
    ]
    if wishes:
        most = ", ".join(wishes[:MOST_WISHES])
        return f"{loose.root} holds no file that is wanted: of its files and folders are left out {most}"
    return f"{loose.root} holds no file that can be read: is a disk not mounted? accepted: a folder of files"


def is_wish(why: str) -> bool:
    """Whether it is the user's wish that something is left out, and not the rule of every build."""
    return why == GITIGNORE or why.startswith("--")


def plan_named(
    root: Path, output: Path | None, name: str, *, may_be_gone: bool = False, filters: Filters | None = None
) -> ShardPlan:
    """One shard of a tree, by its name.

    Args:
        root: The tree.
        output: See `plan_shards`.
        name: Of the shard.
        may_be_gone: A shard that is not there any more is one without sources.
        filters: See `plan_shards`.

    Raises:
        UnreadableSource: There is none of that name any more.
    """
    loose, plans = plan_tree(root, output, filters, label=label_of(name))
    for plan in plans:
        if plan.name == name:
            return plan
    if may_be_gone:
        return ShardPlan(name, file_names([name])[name], root, output, loose.rules)
    raise UnreadableSource(f"{root} has no folder {name!r} any more")


def is_unwanted(plan: ShardPlan) -> bool:
    """Whether there is something in a shard that the user does not want."""
    return any(isinstance(item, LeftOut) and is_wish(item.why) for item in entries_of(plan))


def has_source(plan: ShardPlan) -> bool:
    """Whether there is any file in a shard. Looks no further than to the first one."""
    return any(isinstance(item, Source) for item in entries_of(plan))


def sources_of(plan: ShardPlan) -> Iterator[Source | SourceProblem]:
    """The files of a shard, in the order of their ids; what cannot be read comes with its reason."""
    return in_order(plan, (item for item in entries_of(plan) if not isinstance(item, LeftOut)))


def in_order(plan: ShardPlan, found: Iterable[Source | SourceProblem]) -> Iterator[Source | SourceProblem]:
    """The same of what was found already, in whatever order."""
    root = on_disk(plan.root)
    found = _labelled(found, plan.label, is_file=root.is_file()) if plan.label else found
    for source_id, same in groupby(sorted(found, key=itemgetter(0)), key=itemgetter(0)):
        first, *twins = same
        if twins:
            first, *twins = sorted((first, *twins), key=lambda item: _raw(item, root))
        yield first
        for item in twins:
            if isinstance(item, Source):
                # Two names that differ in their form only (NFC and NFD): both are files, each needs an id.
                yield item._replace(source_id=f"{source_id}\0{_digits(_raw(item, root))}")


def _labelled(
    found: Iterable[Source | SourceProblem], label: str, *, is_file: bool
) -> Iterator[Source | SourceProblem]:
    """With the label before the path from the root; a tree that is a single file is called by the label alone."""
    for item in found:
        yield item._replace(source_id=f"{label}/{item.source_id}" if item.source_id and not is_file else label)


def fingerprint(plan: ShardPlan, rule: str) -> str:
    """Changes when a file of the shard is added, removed or written to. Reads folders only.

    Args:
        plan: The shard.
        rule: Fingerprint of the rule by which its text is cut.
    """
    return fingerprint_of(sources_of(plan), rule)


def fingerprint_of(sources: Iterable[Source | SourceProblem], rule: str) -> str:
    """The same of a shard whose files were found already, in order."""
    digest = hashlib.sha256(rule.encode())
    for item in sources:
        mark = (item.size, item.mtime_ns) if isinstance(item, Source) else (item.reason,)
        digest.update(repr((item.source_id, mark)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


# -- the walk: half a million files are a tree, so it makes no `Path` and asks for nothing twice ---------------------

HIDDEN, CACHE, OF_WINDOWS = "hidden (their names begin with a dot)", "caches", "what Windows keeps on a drive"
OUTPUT, LINKED, NO_FILE, NOWHERE = (
    "the folder of the shards",
    "links to folders",
    "no regular files",
    "links to nothing",
)
SAME_FILE = "other names of a file"
TOO_LARGE = "--max-file-size (larger)"

MOST_WISHES = 5


def entries_of(plan: ShardPlan) -> Iterator[Source | SourceProblem | LeftOut]:
    """What there is of a shard, in no order; with the loose files also which of the root's folders are left out."""
    root, shared = on_disk(plan.root), _SharedFiles(plan)
    if root.is_file():
        yield from _file(str(root), root.name, shared, is_link=False)
    elif plan.folder == ROOT_SHARD:
        yield from _folder(str(root), "", plan.rules, plan, shared, deep=False)
    elif (why := plan.rules.why(plan.folder, is_folder=True)) is not None:
        yield LeftOut(plan.folder, True, why)
    else:
        yield from _folder(str(root / plan.folder), plan.folder, plan.rules, plan, shared, deep=True)
    yield from shared.once()


def _folder(
    folder: str, prefix: str, rules: FolderRules, plan: ShardPlan, shared: _SharedFiles, *, deep: bool
) -> Iterator[Source | SourceProblem | LeftOut]:
    is_output = _is_output(plan.output)
    waiting = [(folder, prefix, rules)]
    while waiting:
        at, name, rules = waiting.pop()
        looked_at.place = at
        try:
            with os.scandir(at) as listing:
                entries = list(listing)
        except FileNotFoundError:
            continue  # it has just gone
        except OSError as error:
            yield SourceProblem(id_of_name(name), f"the folder cannot be read: {error.strerror or error}")
            continue
        if name:
            rules = rules.of(at, name, (entry.name for entry in entries))
        before = f"{name}/" if name else ""
        for entry in entries:
            inside, is_folder = before + entry.name, _is_folder(entry)
            why = _why_never(entry, is_output) or rules.why(inside, is_folder=is_folder)
            if why is not None:
                yield LeftOut(inside, is_folder, why)
            elif not is_folder:
                yield from _file(entry.path, inside, shared, is_link=entry.is_symlink())
            elif deep:
                waiting.append((entry.path, inside, rules))


def _file(place: str, name: str, shared: _SharedFiles, *, is_link: bool) -> Iterator[Source | SourceProblem | LeftOut]:
    most = shared.plan.rules.filters.max_file_bytes
    try:
        about = os.stat(place)  # noqa: PTH116 - a `Path` costs more than the call
    except FileNotFoundError:
        if is_link:
            yield LeftOut(name, False, NOWHERE)
        return  # else it has just gone
    except OSError as error:
        yield SourceProblem(id_of_name(name), f"it cannot be read: {error.strerror or error}")
        return
    if not stat.S_ISREG(about.st_mode):
        is_folder = stat.S_ISDIR(about.st_mode)
        yield LeftOut(name, False, LINKED if is_folder else NO_FILE, _SORTS.get(stat.S_IFMT(about.st_mode), "device"))
    elif most is not None and about.st_size > most:
        yield LeftOut(name, False, TOO_LARGE)
    else:
        source = Source(id_of_name(name), place, *size_and_time(about))
        if is_link or about.st_nlink > 1:
            yield from shared.take(name, source, about, is_link=is_link)
        else:
            yield source


_SORTS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}


class _SharedFiles:
    """Files of a shard that have, or may have, more than one name: each is a source once, by the first of its names.

    Args:
        plan: The shard.
    """

    def __init__(self, plan: ShardPlan) -> None:
        self.plan = plan
        self._names: dict[tuple[int, int], list[tuple[Source, str]]] = defaultdict(list)

    def take(self, name: str, source: Source, about: os.stat_result, *, is_link: bool) -> Iterator[LeftOut]:
        """One name of a file: kept until all are known, but for a link to what is a source by its own name."""
        if is_link and (own := self._own_name(source.place)) is not None:
            yield LeftOut(name, False, SAME_FILE, own)
        else:
            # Where a file system does not number its files, none is known to be another's.
            key = (about.st_dev, about.st_ino) if about.st_ino else (-1, len(self._names))
            self._names[key].append((source, name))

    def once(self) -> Iterator[Source | LeftOut]:
        """Each file once, and its other names."""
        for names in self._names.values():
            (first, _), *others = sorted(names)
            yield first
            for _, name in others:
                yield LeftOut(name, False, SAME_FILE, first.source_id)

    def _own_name(self, place: str) -> str | None:
        """The id of the source that a link means, `None` where that is outside of the tree, or left out."""
        root = os.path.realpath(on_disk(self.plan.root))
        try:
            parts = Path(os.path.realpath(place)).relative_to(root).parts
            rules, is_output = self.plan.rules, _is_output(self.plan.output)
            at = root
            for depth, part in enumerate(parts, start=1):
                name, is_folder = "/".join(parts[:depth]), depth < len(parts)
                with os.scandir(at) as listing:
                    entries = {entry.name: entry for entry in listing}
                if depth > 1:
                    rules = rules.of(at, "/".join(parts[: depth - 1]), entries)
                entry = entries[part]
                if _why_never(entry, is_output) or rules.why(name, is_folder=is_folder):
                    return None
                at = entry.path
        except (KeyError, OSError, ValueError):
            return None
        return id_of_name("/".join(parts))


def _why_never(entry: os.DirEntry[str], is_output: Callable[[os.DirEntry[str]], bool]) -> str | None:
    """Why no build takes an entry in, `None` where one may."""
    name = entry.name
    if name[0] == ".":
        return HIDDEN
    if name in SKIPPED:
        return CACHE
    if name[0] in OF_A_DRIVE_BEGIN and name.lower() in OF_A_DRIVE:
        return OF_WINDOWS
    return OUTPUT if is_output(entry) else None


def _is_output(output: Path | None) -> Callable[[os.DirEntry[str]], bool]:
    """Whether an entry is the folder of the shards, which is looked at once."""
    try:
        known = None if output is None else output.stat()
    except OSError:
        known = None
    if output is None or known is None:
        return lambda entry: False

    def is_output(entry: os.DirEntry[str]) -> bool:
        try:
            # Not the entry's own: on Windows that does not say which file it is.
            return _is_folder(entry) and are_same(entry.path, os.stat(entry.path), output, known)  # noqa: PTH116 - as above
        except OSError:
            return False

    return is_output


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder itself: no link to one, and no junction, which is what Windows has for links to folders."""
    if not entry.is_dir(follow_symlinks=False):
        return False
    return os.name != "nt" or getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) != JUNCTION


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return True  # a link in a circle, say: to be told of with the shard


def _raw(item: Source | SourceProblem, root: Path) -> bytes:
    """The name from the root as the file system has it."""
    return os.fsencode(item.path.relative_to(root)) if isinstance(item, Source) else b""


def _digits(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:8]


# -- the names of files ------------------------------------------------------------------------------------------------

LONGEST, LONGEST_BYTES = 100, 180
"""Characters, and bytes: a file system takes 255 bytes a name, and `.corrupt-1-journal` has to fit behind it."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?", re.IGNORECASE)
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]|[^\x20-\U0010ffff]|[\ud800-\udfff]')


def file_names(shards: Iterable[str], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """The file of each shard, without a folder: plain where its name can be, safe on every system where not.

    Windows refuses some names (`aux`, `con`), some letters, and names that end in a dot; and it takes `Docs` and `docs`
    for one file. A name that has to be changed gets a few digits of its own hash, so that no two become the same.

    Args:
        shards: Names of folders, and `.`; each once.
        known: Files that shards have already, by name; they keep them, and no other shard gets one.
    """
    shards, known = set(shards), known or {}
    names = {shard: known[shard] for shard in shards if shard in known}
    taken = {_folded(file.removesuffix(".db")) for file in known.values()}
    for shard in sorted(shards - set(names)):
        name = "_root" if shard == ROOT_SHARD else _safe(f"{shard[:-1]}_root" if shard.endswith("/.") else shard)
        while _folded(name) in taken or (shard != ROOT_SHARD and _folded(name) == "_root"):
            name = f"{name}-{_hash(shard)}"
        taken.add(_folded(name))
        names[shard] = f"{name}.db"
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _safe(shard: str) -> str:
    composed = unicodedata.normalize("NFC", shard)  # macOS may hand out the other form of the same folder
    short = _UNSAFE.sub("_", composed)[:LONGEST].encode()[:LONGEST_BYTES]
    name = short.decode("utf-8", "ignore").rstrip(" .")
    if _RESERVED.fullmatch(name):
        # To Windows a device's name ends at the first dot: `com1.txt-...` would still be one.
        first, dot, rest = name.partition(".")
        name = f"{first}_{dot}{rest}" if dot else name
        return f"{name}-{_hash(shard)}"
    return f"{name or '_'}-{_hash(shard)}" if name != composed else name


def _hash(shard: str) -> str:
    return _digits(shard.encode("utf-8", "surrogatepass"))
