"""Finds the shards of a tree and the sources of each, in an order that is the same on every system.

Top-level folders are shards, `.` holds the loose files. Left out: hidden entries, caches, the output folder, what is no
regular file. Links to folders are not followed (a loop would never end), links to files are.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from helix_crawl_otel.exit_codes import NEVER, Refusal
from helix_crawl_otel.paths import on_disk
from helix_crawl_otel.shards.build_record import label_of

__all__ = [
    "ROOT_SHARD",
    "ShardPlan",
    "Source",
    "SourceProblem",
    "UnreadableSource",
    "file_names",
    "fingerprint",
    "has_source",
    "plan_named",
    "plan_shards",
    "size_and_time",
    "sources_of",
]

ROOT_SHARD = "."
"""The shard of the files that lie in no folder."""

JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT, which `stat` has on Windows only

SKIPPED = frozenset({"__pycache__", "node_modules"})
OF_A_DRIVE = frozenset({"$recycle.bin", "system volume information"})
"""What Windows keeps at the root of each drive, in small letters."""


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
    """

    name: str
    file: str
    root: Path
    output: Path | None

    @property
    def label(self) -> str:
        """Of the tree, empty for none."""
        return label_of(self.name)

    @property
    def folder(self) -> str:
        """The name of its folder, `.` for the loose files."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class Source:
    """One file.

    Args:
        source_id: Its path from the root, with `/`, in composed form (NFC), and the tree's label before it.
        path: Where it is.
        size: Bytes.
        mtime_ns: Nanoseconds, see `size_and_time`.
    """

    source_id: str
    path: Path
    size: int
    mtime_ns: int


def size_and_time(about: os.stat_result) -> tuple[int, int]:
    """Bytes, and nanoseconds since 1970, as far as SQLite can hold these: a file may be dated to any year."""
    return about.st_size, max(-(2**63), min(2**63 - 1, about.st_mtime_ns))


@dataclass(frozen=True)
class SourceProblem:
    """What cannot be read, and why."""

    source_id: str
    reason: str


def plan_shards(
    root: Path, output: Path | None, label: str = "", known: Mapping[str, str] | None = None
) -> list[ShardPlan]:
    """The shards of a tree, in order. One that is a single file is a shard of that file.

    Args:
        root: The tree.
        output: Where shards are written; left out when it lies in the tree.
        label: What the shards' names begin with, empty for one tree alone.
        known: Files that the output has for shards already, by name.

    Raises:
        UnreadableSource: It is not there, cannot be read, or is without a file that can: as a folder is in which a disk
            is not mounted.
    """
    names: set[str] = set()
    try:
        if on_disk(root).is_file():
            names.add(ROOT_SHARD)
        else:
            with os.scandir(on_disk(root)) as entries:
                for entry in entries:
                    if _is_left_out(entry, output):
                        continue
                    if _is_folder(entry):
                        names.add(entry.name)
                    elif _is_file(entry):
                        names.add(ROOT_SHARD)
    except OSError as error:
        raise UnreadableSource(
            f"{root} cannot be read: {error.strerror or error}; accepted: a folder of files"
        ) from None
    if label:
        names = {f"{label}/{name}" for name in names}
    files = file_names(names, known)
    plans = [ShardPlan(name, files[name], root, output) for name in sorted(names)]
    if not any(map(has_source, plans)):
        raise UnreadableSource(
            f"{root} holds no file that can be read: is a disk not mounted? accepted: a folder of files"
        )
    return plans


def plan_named(root: Path, output: Path | None, name: str, *, may_be_gone: bool = False) -> ShardPlan:
    """One shard of a tree, by its name.

    Args:
        root: The tree.
        output: See `plan_shards`.
        name: Of the shard.
        may_be_gone: A shard that is not there any more is one without sources.

    Raises:
        UnreadableSource: There is none of that name any more.
    """
    for plan in plan_shards(root, output, label_of(name)):
        if plan.name == name:
            return plan
    if may_be_gone:
        return ShardPlan(name, file_names([name])[name], root, output)
    raise UnreadableSource(f"{root} has no folder {name!r} any more")


def has_source(plan: ShardPlan) -> bool:
    """Whether there is any file in a shard. Looks no further than to the first one."""
    return any(isinstance(item, Source) for item in _found(plan))


def sources_of(plan: ShardPlan) -> Iterator[Source | SourceProblem]:
    """The files of a shard, in the order of their ids; what cannot be read comes with its reason."""
    root = on_disk(plan.root)
    before = None
    for item in sorted(_found(plan), key=lambda item: (item.source_id, _raw(item, root))):
        if item.source_id != before:
            before = item.source_id
            yield item
        elif isinstance(item, Source):
            # Two names that differ in their form only (NFC and NFD): both are files, each needs an id.
            yield replace(item, source_id=f"{item.source_id}\0{_digits(_raw(item, root))}")


def fingerprint(plan: ShardPlan, rule: str) -> str:
    """Changes when a file of the shard is added, removed or written to. Reads folders only.

    Args:
        plan: The shard.
        rule: Fingerprint of the rule by which its text is cut.
    """
    digest = hashlib.sha256(rule.encode())
    for item in sources_of(plan):
        mark = (item.size, item.mtime_ns) if isinstance(item, Source) else (item.reason,)
        digest.update(repr((item.source_id, mark)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _found(plan: ShardPlan) -> Iterator[Source | SourceProblem]:
    """The same in no order."""
    root = on_disk(plan.root)
    if root.is_file():
        yield from _file(root, plan.label or root.name)
    elif plan.folder == ROOT_SHARD:
        yield from _folder(root, plan.label, plan.output, deep=False)
    else:
        yield from _folder(root / plan.folder, plan.name, plan.output, deep=True)


def _folder(folder: Path, prefix: str, output: Path | None, deep: bool) -> Iterator[Source | SourceProblem]:
    waiting = [(folder, prefix)]
    while waiting:
        at, name = waiting.pop()
        try:
            with os.scandir(at) as entries:
                for entry in entries:
                    inside = f"{name}/{entry.name}" if name else entry.name
                    if _is_left_out(entry, output):
                        continue
                    if _is_folder(entry):
                        if deep:
                            waiting.append((at / entry.name, inside))
                    else:
                        yield from _file(at / entry.name, inside)
        except FileNotFoundError:
            continue  # it has just gone
        except OSError as error:
            yield SourceProblem(_source_id(name), f"the folder cannot be read: {error.strerror or error}")


def _file(path: Path, name: str) -> Iterator[Source | SourceProblem]:
    try:
        about = path.stat()
    except FileNotFoundError:
        return  # it has just gone, or is a link to nowhere
    except OSError as error:
        yield SourceProblem(_source_id(name), f"it cannot be read: {error.strerror or error}")
        return
    if stat.S_ISREG(about.st_mode):
        yield Source(_source_id(name), path, *size_and_time(about))


def _is_left_out(entry: os.DirEntry[str], output: Path | None) -> bool:
    if entry.name.startswith(".") or entry.name in SKIPPED or entry.name.lower() in OF_A_DRIVE:
        return True
    return output is not None and _is_folder(entry) and _same(Path(entry.path), output)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A folder itself: no link to one, and no junction, which is what Windows has for links to folders."""
    if not entry.is_dir(follow_symlinks=False):
        return False
    return getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) != JUNCTION


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


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _source_id(name: str) -> str:
    """A name as text: bytes that are none in the file system's encoding are shown as `\\xNN`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


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
        name = "_root" if shard == ROOT_SHARD else _safe(shard)
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
