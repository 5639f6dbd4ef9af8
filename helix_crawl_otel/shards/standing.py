"""Where a folder stands against what its build was to hold: which shards are done, and who has encoded what is there.

Nothing is written, and no source is looked at: that all files of a tree are taken in is what the record and the end
of each shard's ingest say.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helix_crawl_otel.formats import count, shard_name
from helix_crawl_otel.paths import is_no_file, looked_at
from helix_crawl_otel.shards.build_record import BuildRecord, RecordUnusable, read_record
from helix_crawl_otel.shards.errors import EmptyFile, NotAShard, StoreError
from helix_crawl_otel.shards.find import names_by_file
from helix_crawl_otel.shards.inspect import reading, salvage
from helix_crawl_otel.shards.notes import read_notes
from helix_crawl_otel.shards.schema import INGESTING, TREE_NOTE, columns_of, require_built

__all__ = [
    "BEGUN",
    "DONE",
    "NOT_BEGUN",
    "UNREADABLE",
    "FolderStanding",
    "Provenance",
    "provenance",
    "shortfall",
    "state_of",
]

DONE, BEGUN, NOT_BEGUN, UNREADABLE = "done", "begun", "not begun", "unreadable"
"""States of a shard."""

NAMED = 3
"""Shards that a sentence names."""


@dataclass(frozen=True)
class Provenance:
    """Who has encoded a shard.

    Args:
        encoder: Its identity, `None` where nothing says so.
        devices: On which there were sessions, such as `cpu` and `cuda:0`, in the order of the first of each.
        dtypes: In which they computed, likewise; without those of older versions, which did not write it down.
        is_ingested: All sources that there were are in it, as far as the file says.
    """

    encoder: Mapping[str, object] | None
    devices: tuple[str, ...]
    dtypes: tuple[str, ...]
    is_ingested: bool


def provenance(path: Path, *, planned: str | None = None) -> Provenance:
    """Read it. Raises as `reading` does.

    Args:
        path: The file.
        planned: The name of the shard that `build` keeps there: another program's file, or another shard, is not it.
    """
    with reading(path) as (connection, table):
        own = read_notes(connection, table)
        if planned is not None:
            require_built(connection, path)
            _, found = own.get(TREE_NOTE, ("", planned))
            if found.casefold() != planned.casefold():  # a folder may have been renamed in the case of its letters
                raise NotAShard(f"{path} is the shard {found!r} and not {planned!r}, as if it had been copied there")
        # Of an older version the table has no dtype, and where nobody has encoded yet there is none.
        made = {}
        for column in columns_of(connection, "helix_crawl_sessions") & {"device", "dtype"}:
            sql = f"SELECT {column} FROM helix_crawl_sessions GROUP BY {column} ORDER BY min(id)"
            made[column] = tuple(str(value) for (value,) in connection.execute(sql) if value is not None)
    devices, dtypes = (made.get(column, ()) for column in ("device", "dtype"))
    return Provenance(own.get("encoder"), devices, dtypes, not own.get(INGESTING))


@dataclass
class FolderStanding:
    """One folder that a command was given.

    Args:
        folder: Where it is.
        record: What its build was to hold, `None` where nothing says so.
        trouble: Why the record cannot be read.
        states: Of each shard that was planned, by name. Of those that are there it is for the command to say more.
    """

    folder: Path
    record: BuildRecord | None = None
    trouble: str = ""
    states: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> FolderStanding:
        """Look which of the planned shards have been begun."""
        looked_at.place = str(folder)
        try:
            found = cls(folder, read_record(folder))
        except RecordUnusable as error:
            return cls(folder, trouble=f"{error}; so whether all shards are there is not known")
        if found.record is not None:
            found.states = {
                name: NOT_BEGUN if _is_nothing(folder / file) else BEGUN for name, file in found.record.shards.items()
            }
        return found

    @property
    def not_begun(self) -> list[tuple[str, Path]]:
        """Names and files of the shards that are not there yet."""
        files = self.record.shards if self.record else {}
        return [(name, self.folder / files[name]) for name, state in self.states.items() if state == NOT_BEGUN]

    @property
    def no_files(self) -> list[Path]:
        """Where a folder, a pipe or a device stands in the place of a planned shard."""
        files = [self.folder / file for file in (self.record.shards if self.record else {}).values()]
        return [path for path in files if is_no_file(path)]

    def name_of(self, path: Path) -> str | None:
        """The name of a planned shard, by its file; `None` of another one."""
        files = self.record.shards if self.record else {}
        exact = next((name for name, file in files.items() if self.folder / file == path), None)
        if exact is not None:
            return exact
        # Where letters of either case mean one file, it may be listed in others than it was planned in.
        alike = [name for name, file in files.items() if file.casefold() == path.name.casefold()]
        return next((name for name in alike if len(names_by_file([path, self.folder / files[name]])) == 1), None)

    @property
    def is_complete(self) -> bool:
        """All that were planned are done, as far as it is known what was."""
        return not self.trouble and set(self.states.values()) <= {DONE}

    def sentence(self) -> str:
        """Such as `8 shards planned, 3 done, 1 begun, 4 not begun: a, b, c, …`; empty without a record."""
        if self.record is None:
            return ""
        parts = [f"{count(len(self.states), 'shard')} planned"]
        for state in (DONE, BEGUN, UNREADABLE, NOT_BEGUN):
            number = list(self.states.values()).count(state)
            parts += [f"{number:,} {state}"] if number or state == DONE else []
        missing = [shard_name(name) for name, _ in self.not_begun]
        named = f": {', '.join(missing[:NAMED])}{', …' if len(missing) > NAMED else ''}" if missing else ""
        return ", ".join(parts) + named

    def lack(self) -> str:
        """That a folder is not complete, and the command that goes on."""
        return f"{self.folder} is not complete ({self.sentence()}); to go on: {self.way_on()}"

    def way_on(self, more: Sequence[str] = ()) -> str:
        """The command that goes on, empty where nobody knows it.

        Args:
            more: Options that it needs.
        """
        if self.record is None:
            return ""
        options = (*self.record.options, *(word for word in more if word not in self.record.options))
        return BuildRecord(self.record.sources, {}, None, options).command(self.folder)


def _is_nothing(path: Path) -> bool:
    """Whether a planned shard has not been begun: no file, or one without anything in it."""
    if not path.exists():
        return True
    try:
        with reading(path):
            return False
    except EmptyFile:
        return True
    except StoreError:
        return False


def shortfall(folder: Path) -> str | None:
    """One sentence about what a folder lacks of what its build was to hold, `None` where it lacks nothing.

    Args:
        folder: Of the shards; of a single shard nothing is said.
    """
    if not folder.is_dir():
        return None
    standing = FolderStanding.of(folder)
    files = standing.record.shards if standing.record else {}
    for name, state in standing.states.items():
        if state == BEGUN:
            standing.states[name] = state_of(folder / files[name], name)
    if standing.is_complete:
        return None
    return standing.trouble or standing.lack()


def state_of(path: Path, name: str, *, is_encoded: bool | None = None) -> str:
    """How far a shard is that has been begun.

    Args:
        path: Its file.
        name: As its build has it.
        is_encoded: Each of its genes has a vector; `None` to look.
    """
    try:
        is_done = provenance(path, planned=name).is_ingested
        is_done = is_done and (salvage(path, is_built=True).is_complete if is_encoded is None else is_encoded)
    except StoreError:
        return UNREADABLE
    return DONE if is_done else BEGUN
