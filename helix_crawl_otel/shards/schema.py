"""The tables of a shard's file: the app's table of genes, which is only ever added to, and our own beside it.

Source: DESIGN.md, section 8: never drop or reorder the app's columns, add only what is missing.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_crawl_otel.file_locks import lacks_locks
from helix_crawl_otel.paths import is_no_file
from helix_crawl_otel.shards.errors import DamagedRow, EmptyFile, NotAShard
from helix_crawl_otel.shards.vectors import are_of_length_1, is_vector

__all__ = [
    "ANY_LENGTH_NOTE",
    "APP_NOTE",
    "BESIDE",
    "BLANK",
    "INGESTING",
    "LOCK_SECONDS",
    "ORDER_NOTE",
    "OWN_COLUMNS",
    "PLAN",
    "RULE_NOTE",
    "TREE_NOTE",
    "VECTOR",
    "Table",
    "Undecoded",
    "VectorForm",
    "beside",
    "clear_some",
    "columns_of",
    "connect",
    "connect_unchanging",
    "create_genes",
    "ensure_own",
    "given",
    "index_sources",
    "is_all_own",
    "is_own_name",
    "of_other_lengths",
    "read_table",
    "readable",
    "require_built",
    "spread_sample",
    "vector_form",
]

VECTOR = "embedding_dense_v2"

BLANK = "(typeof(content) <> 'text' OR trim(content, ' ' || char(9, 10, 11, 12, 13, 160)) = '')"
"""Content that no encoder can do anything with."""

APP_NOTE = "of the app"
"""Note in our table: there were genes in the file before there was anything of ours, so that it is somebody else's."""

TREE_NOTE = "tree"
"""Note of an ingest: the tree and the name of the shard. The shards of another tree are none of this one's."""

ANY_LENGTH_NOTE = "vectors of any length"
"""Note of an adoption: the application's vectors are of this encoder, and not all of length 1. That is their affair."""

RULE_NOTE = "rule"
"""Note of an ingest: the rule by which text was cut, see `corpus.cut.ChunkRule`. Those before it wrote none down."""

INGESTING = "ingesting"
"""Note of an ingest: it has begun and not come to its end, so that sources may be missing."""

ORDER_NOTE = "order"
"""Note of a build: the rule by which its genes are put into batches, see `batch_plan`. Those before it had none."""

LOCK_SECONDS = 10.0
"""How long one who only reads a shard waits for a program that holds it."""

PAGE = 2000
"""Vectors looked at at once."""

OWN_COLUMNS = frozenset({"gene_id", "content", "source_id", "content_hash", VECTOR})

_ADDED = {"source_id": "TEXT", "content_hash": "TEXT", VECTOR: "BLOB"}

_ADDED_TO_SESSIONS = {"dtype": "TEXT", "batch_tokens": "INTEGER"}

PLAN = "helix_crawl_plan"

CREATE_PLAN = f"CREATE TABLE IF NOT EXISTS {PLAN} (place INTEGER PRIMARY KEY, batch INTEGER, gene)"
"""Which genes are encoded together, and in which order: the key of each. Without a gene, the end of a plan that another
one follows."""

_OWN = (
    "CREATE TABLE IF NOT EXISTS helix_crawl_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_quarantine (gene_id PRIMARY KEY, reason TEXT NOT NULL, at TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_sources (source_id TEXT PRIMARY KEY, size INTEGER NOT NULL,"
    " mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL, genes INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_source_notes (source_id TEXT PRIMARY KEY, kind TEXT NOT NULL,"
    " reason TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_sessions (id INTEGER PRIMARY KEY, device TEXT NOT NULL,"
    " versions TEXT NOT NULL, threads INTEGER NOT NULL, batch_size INTEGER NOT NULL, at TEXT NOT NULL)",
    # Genes of which the encoder has not read all: their characters, and how many of those are in no vector.
    "CREATE TABLE IF NOT EXISTS helix_crawl_unread (gene_id PRIMARY KEY, chars INTEGER NOT NULL,"
    " unread INTEGER NOT NULL)",
    CREATE_PLAN,
)


class Undecoded(str):
    """Text of an application that is no UTF-8: as text with replacement characters, and equal to the same bytes alone.

    Two of them may read alike. `str` of it shows its bytes, `readable` is what it reads as. It is handed back to SQL by
    `given`.

    Args:
        raw: The bytes.
    """

    raw: bytes
    __slots__ = ("raw",)

    def __new__(cls, raw: bytes) -> Undecoded:
        """See above."""
        text = super().__new__(cls, raw, "utf-8", "replace")
        text.raw = raw
        return text

    def __eq__(self, other: object) -> bool:
        """Of the same bytes."""
        return isinstance(other, Undecoded) and self.raw == other.raw

    def __ne__(self, other: object) -> bool:
        """`str` has its own."""
        return not self == other

    def __hash__(self) -> int:
        """Of the bytes."""
        return hash(self.raw)

    def __str__(self) -> str:
        """With each byte that cannot be decoded as `\\xNN`."""
        return self.raw.decode("utf-8", "backslashreplace")

    def __conform__(self, protocol: object) -> bytes:
        """What `sqlite3` hands over for it."""
        return self.raw


def given(value: object) -> str:
    """SQL: the parameter that a value which was read here is handed back with, such as a key or an id."""
    return "CAST(? AS TEXT)" if isinstance(value, Undecoded) else "?"


def plain_id(value: object) -> object:
    """For JSON: an application's id may be bytes, or text that is no UTF-8, whose bytes are shown."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, str) else value


def readable(content: str) -> str:
    """Text as an encoder gets it: plain, with replacement characters for what cannot be decoded."""
    return content.raw.decode("utf-8", "replace") if isinstance(content, Undecoded) else content


@dataclass(frozen=True)
class VectorForm:
    """What the vectors of a shard have to be.

    Args:
        length: Of each, in bytes; 0 where nothing that is there can be one.
        is_normalised: Each is of length 1.
    """

    length: int
    is_normalised: bool = False


@dataclass(frozen=True)
class Table:
    """The table of genes as it is.

    Args:
        columns: Their names, in lower case.
        key: What genes are ordered and paged by: `rowid`, or `gene_id` in a table without one.
        has_own: Our own tables are there.
    """

    columns: frozenset[str]
    key: str
    has_own: bool

    @property
    def quarantined(self) -> str:
        """SQL: whether a gene is quarantined."""
        # coalesce: the app's gene_id may be NULL, and NOT NULL is not true.
        return "coalesce(gene_id IN (SELECT gene_id FROM helix_crawl_quarantine), 0)" if self.has_own else "0"

    @property
    def vector(self) -> str:
        """SQL: the vector of a gene, NULL in a table without the column."""
        return VECTOR if VECTOR in self.columns else "NULL"

    def lacking(self, form: VectorForm) -> str:
        """SQL: whether a gene has no vector of the right length: a number that is not finite or zeros are none.

        That each is of length 1 is not asked here, of each shard that a run looks at: `verify` does, and `--reencode`.
        """
        if not form.length:
            return "1"
        vector = self.vector
        return f"(typeof({vector}) <> 'blob' OR length({vector}) <> {form.length} OR NOT {_is_vector(vector)})"

    def pending(self, form: VectorForm) -> str:
        """SQL: whether a gene has no vector, see `lacking`, and can have one."""
        return f"{self.lacking(form)} AND NOT {BLANK} AND NOT {self.quarantined}"


_IS_VECTOR = "helix_crawl_is_vector"
"""Name of `is_vector` in SQL, on each connection that is made here. Nothing that is kept in a file uses it."""


def _is_vector(vector: str) -> str:
    """SQL: the same. It is asked of bytes alone, in whatever order SQLite looks: text that is no UTF-8 would raise."""
    return f"{_IS_VECTOR}(CASE typeof({vector}) WHEN 'blob' THEN {vector} END)"


BESIDE = ("-journal", "-wal", "-shm")
"""Ends of the names of what SQLite keeps beside a file."""


def beside(path: Path) -> list[Path]:
    """Where SQLite keeps what belongs to a file, in the order of `BESIDE`; of a link, beside the file that it means."""
    file = Path(os.path.realpath(path)) if path.is_symlink() else path
    return [file.with_name(file.name + suffix) for suffix in BESIDE]


def connect(path: Path, lock_seconds: float, *, is_read_only: bool = False) -> sqlite3.Connection:
    """Open a file that is there, and let SQLite recover what a killed writer has left in its log.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.
        is_read_only: The log stays as it is: it may be that of another program's file.

    Raises:
        NotAShard: It, or what SQLite would open beside it, is no file: a pipe would be waited for.
    """
    for part in (path, *beside(path)):
        if is_no_file(part):
            raise NotAShard(f"{path} cannot be used: {part.name} is no file, but a folder, a pipe or a device")
    # Where files cannot be locked SQLite would wait for a lock that nobody holds.
    timeout = 0.0 if _lacks_locks(path.parent) else lock_seconds
    name = f"{path.absolute().as_uri()}?mode=ro" if is_read_only else path
    return _lenient(sqlite3.connect(name, timeout=timeout, isolation_level=None, uri=is_read_only))


@functools.cache
def _lacks_locks(folder: Path) -> bool:
    return lacks_locks(folder) is not None


def connect_unchanging(path: Path) -> sqlite3.Connection:
    """Open a file that nobody can change while it is read, and make nothing beside it."""
    return _lenient(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None))


def _lenient(connection: sqlite3.Connection) -> sqlite3.Connection:
    # An application's text may be anything; what cannot be decoded must not stop a build.
    connection.text_factory = _text
    connection.create_function(_IS_VECTOR, 1, is_vector, deterministic=True)
    return connection


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return Undecoded(raw)


def read_table(connection: sqlite3.Connection, path: Path) -> Table:
    """Look at the file.

    Raises:
        NotAShard: It has no table of genes with the columns that every shard has.
        DamagedRow: It is ours, and that table is gone.
    """
    rows = connection.execute("SELECT name, type FROM sqlite_master").fetchall()
    tables = {str(name).lower() for name, kind in rows if kind == "table"}
    if "genes" not in tables and "helix_crawl_meta" in tables:
        raise DamagedRow("its table `genes` is gone")
    if "genes" not in tables:
        if rows:
            raise NotAShard(f"{path} is no shard: it has no table `genes`")
        raise EmptyFile(
            f"{path} is no shard yet: there is nothing in it, as a full disk or a kill leaves a file just "
            "begun; the same `helix-crawl build` makes it again, and a file of something else can be removed"
        )
    columns = columns_of(connection, "genes")
    missing = {"gene_id", "content"} - columns
    if missing:
        raise NotAShard(f"{path} is no shard: its table `genes` has no column {' and no '.join(sorted(missing))}")
    has_rowid = "rowid" not in columns and _has_rowid(connection)
    return Table(columns, "rowid" if has_rowid else "gene_id", "helix_crawl_meta" in tables)


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """Names of a table's columns, in lower case; none where there is no such table."""
    return frozenset(str(row[1]).lower() for row in connection.execute(f"PRAGMA table_info({table})"))


def is_all_own(connection: sqlite3.Connection) -> bool:
    """Whether `build` makes all the tables, columns, indexes, triggers and views that are in the file."""
    names = {str(row[0]).lower() for row in connection.execute("SELECT name FROM sqlite_master")}
    return is_own_name(names) and columns_of(connection, "genes") <= OWN_COLUMNS


def is_own_name(names: Iterable[str]) -> bool:
    """Whether all of these are names that `build` gives. In lower case."""
    return all(name == "genes" or name.startswith(("helix_crawl_", "sqlite_")) for name in names)


def require_built(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that `build` has made the file, whatever somebody has added to it since, or that nothing is in it.

    Raises:
        NotAShard: It is somebody else's.
    """
    names = {str(row[0]).lower() for row in connection.execute("SELECT name FROM sqlite_master")}
    if "helix_crawl_meta" in names and _says_that_it_was_built(connection):
        return
    is_begun = is_all_own(connection) and not ("genes" in names and _has_a_row(connection, "genes"))
    if not is_begun:
        what = "`build` has not made its table `genes`" if "genes" in names else "it has no table `genes`, but others"
        raise NotAShard(
            f"{path} is no shard of this folder: {what}; it was left as it is: move it away, or give another --out "
            "(`backfill` encodes what an application has written)"
        )


def _says_that_it_was_built(connection: sqlite3.Connection) -> bool:
    keys = {str(row[0]) for row in connection.execute("SELECT key FROM helix_crawl_meta")}
    # An older version has left no note of the tree.
    return APP_NOTE not in keys and (TREE_NOTE in keys or _has_a_row(connection, "helix_crawl_sources"))


def _has_a_row(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None


def _has_rowid(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT rowid FROM genes LIMIT 0")
    except sqlite3.OperationalError as error:
        if str(error) != "no such column: rowid":
            raise  # locked, say
        return False
    return True


def create_genes(connection: sqlite3.Connection) -> None:
    """Make the table in a new file."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS genes (gene_id TEXT PRIMARY KEY, content TEXT, source_id TEXT, content_hash TEXT,"
        f" {VECTOR} BLOB)"
    )


def index_sources(connection: sqlite3.Connection) -> None:
    """Make the genes of a source quick to find, in a file that is ingested into."""
    connection.execute("CREATE INDEX IF NOT EXISTS helix_crawl_by_source ON genes (source_id)")


def ensure_own(connection: sqlite3.Connection, table: Table) -> None:
    """Add our tables, and the columns that are missing. Within the caller's transaction."""
    _drop_what_is_no_plan(connection)
    for statement in _OWN:
        connection.execute(statement)
    if not table.has_own:
        connection.execute(
            "INSERT OR IGNORE INTO helix_crawl_meta SELECT ?, 'true' WHERE EXISTS (SELECT 1 FROM genes)", (APP_NOTE,)
        )
    for name, kind in _ADDED.items():
        if name not in table.columns:
            connection.execute(f"ALTER TABLE genes ADD COLUMN {name} {kind}")
    for name, kind in _ADDED_TO_SESSIONS.items():
        if name not in columns_of(connection, "helix_crawl_sessions"):  # of an older version; then nobody knows
            connection.execute(f"ALTER TABLE helix_crawl_sessions ADD COLUMN {name} {kind}")


def _drop_what_is_no_plan(connection: sqlite3.Connection) -> None:
    """Another program, a bad disk or another version: a plan is an order, and is made anew.

    Also one with an index or a trigger, which would keep it from being written, and that without a word.
    """
    sql = "SELECT type, lower(name), sql FROM sqlite_master WHERE ? IN (lower(name), lower(tbl_name))"
    found = connection.execute(sql, (PLAN,)).fetchall()
    if found not in ([], [("table", PLAN, CREATE_PLAN.replace("IF NOT EXISTS ", ""))]):
        for kind, name, _ in found:
            if name == PLAN:
                connection.execute(f"DROP {kind} IF EXISTS {PLAN}")


def vector_form(connection: sqlite3.Connection, table: Table, own: Mapping[str, Any]) -> VectorForm:
    """What the vectors are by the encoder's identity; without one the commonest length that is whole floats.

    Args:
        connection: Open.
        table: As it is.
        own: Our notes in the file, see `notes.read_notes`.
    """
    if own.get("clearing"):
        return VectorForm(0)  # a `reencode` is not through: whatever is there is another encoder's
    identity = own.get("encoder")
    if identity is not None:
        return VectorForm(4 * identity["dim"], identity.get("normalised") is True and not own.get(ANY_LENGTH_NOTE))
    vector = table.vector
    row = connection.execute(
        f"SELECT length({vector}) FROM genes WHERE typeof({vector}) = 'blob' AND length({vector}) > 0"
        f" AND length({vector}) % 4 = 0 AND {_is_vector(vector)} GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
    ).fetchone()
    return VectorForm(0 if row is None else int(row[0]))


def clear_some(connection: sqlite3.Connection, table: Table, after: int | str | None, limit: int) -> int | str | None:
    """Take the vectors of the next genes away. Within the caller's transaction.

    Args:
        connection: Open.
        table: As it is.
        after: Key of the last one cleared, `None` to begin.
        limit: How many genes.

    Returns:
        Key of the last one, `None` when there are no more.
    """
    key = table.key
    where, values = ("1", ()) if after is None else (f"{key} > {given(after)}", (after,))
    last = connection.execute(
        f"SELECT max({key}) FROM (SELECT {key} FROM genes WHERE {where} ORDER BY {key} LIMIT ?)", (*values, limit)
    ).fetchone()[0]
    if last is not None:
        until = f"{key} <= {given(last)}"
        connection.execute(f"UPDATE genes SET {VECTOR} = NULL WHERE {where} AND {until}", (*values, last))
    return last  # type: ignore[no-any-return]  # a key, as SQLite has it


def of_other_lengths(connection: sqlite3.Connection, table: Table, form: VectorForm) -> Iterator[list[int | str]]:
    """Keys of the genes whose vector is not of length 1, where it has to be, some at once and never none.

    Args:
        connection: Open. Between two lots the genes may be written to.
        table: As it is.
        form: Of the vectors.
    """
    key, after = table.key, None
    while form.is_normalised:
        where, values = ("1", ()) if after is None else (f"{key} > {given(after)}", (after,))
        sql = f"SELECT {key}, {VECTOR} FROM genes WHERE {where} AND NOT {table.lacking(form)} ORDER BY {key} LIMIT ?"
        page = connection.execute(sql, (*values, PAGE)).fetchall()
        if not page:
            return
        after = page[-1][0]
        is_right = are_of_length_1([vector for _, vector in page])
        if not all(is_right):
            yield [one for (one, _), right in zip(page, is_right, strict=True) if not right]


def spread_sample(
    connection: sqlite3.Connection, table: Table, form: VectorForm, count: int
) -> list[tuple[str, str, bytes]]:
    """A few genes that have a vector, see `Table.lacking`, spread over those that have, the same ones each time.

    Args:
        connection: Open.
        table: As it is.
        form: Of the vectors.
        count: At most so many.
    """
    wanted, key = f"NOT {table.lacking(form)} AND NOT {BLANK}", table.key
    columns = f"gene_id, content, {table.vector}"
    if key != "rowid":
        (there,) = connection.execute(f"SELECT count(*) FROM genes WHERE {wanted}").fetchone()
        sql = f"SELECT {columns} FROM genes WHERE {wanted} ORDER BY {key} LIMIT 1 OFFSET ?"
        return [connection.execute(sql, (place,)).fetchone() for place in _places(0, there, count)]
    ends = f"SELECT rowid FROM genes WHERE {wanted} ORDER BY rowid"
    low, high = connection.execute(f"SELECT ({ends} LIMIT 1), ({ends} DESC LIMIT 1)").fetchone()
    if low is None:
        return []
    sql = f"SELECT rowid, {columns} FROM genes WHERE rowid >= ? AND {wanted} ORDER BY rowid LIMIT 1"
    rows = (connection.execute(sql, (place,)).fetchone() for place in _places(low, high + 1, count))
    return list({row[0]: row[1:] for row in rows}.values())


def _places(low: int, end: int, count: int) -> list[int]:
    """So many numbers from `low` up to before `end`, each once."""
    return sorted({low + n * (end - low) // count for n in range(count)}) if end > low else []
