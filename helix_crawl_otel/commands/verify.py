"""`helix-crawl verify PATH...`: accounts for every gene, and proves by a digest what a build holds."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_crawl_otel import exit_codes
from helix_crawl_otel.commands.common import Commands, add_command, heard, say, say_json, say_over, terminal_columns
from helix_crawl_otel.formats import count, printable, shown_command, table_lines
from helix_crawl_otel.paths import looked_at, typed_folder
from helix_crawl_otel.shards.accounts import Accounts, account, combine
from helix_crawl_otel.shards.errors import StoreError, shown_identity
from helix_crawl_otel.shards.find import find_shards, names_by_file
from helix_crawl_otel.shards.inspect import Unread, built_from, count_unread
from helix_crawl_otel.shards.standing import (
    BEGUN,
    DONE,
    NOT_BEGUN,
    UNREADABLE,
    FolderStanding,
    Provenance,
    provenance,
)

__all__ = ["register", "verify"]

_DESCRIPTION = """\
Counts every gene of the shards, each in exactly one class, looks whether contents, ids and vectors are what was
written, and makes a digest of all of them. Of a folder that `build` has made it says which of the planned shards are
done, and the command that goes on. Exits with 1 if a planned shard is not done, a vector is missing or none, a gene is
quarantined, gone or changed, a shard cannot be read, or a folder holds vectors of several encoders. It names the first
of each kind, and the command that mends it."""

_EPILOG = """\
genes = vectors + missing + wrong length + not finite + not normalised + not encodable + quarantined. Two builds of the
same tree with the same encoder, device, dtype, batch size and threads have the same digest, as long as no batch was
halved and no shard finished on the CPU."""

_COLUMNS = ("genes", "vectors", "missing", "wrong_length", "not_encodable", "quarantined")
_RARE_COLUMNS = ("not_finite", "not_normalised")
"""Shown where there are any."""

AGAIN, REENCODE, RETRY = (), ("--reencode",), ("--retry-quarantined",)

_TROUBLES: Mapping[str, tuple[str, tuple[str, ...] | None]] = {
    "missing": ("{genes} without a vector", AGAIN),
    "wrong_length": ("{genes} with a vector of another length", AGAIN),
    "not_finite": ("{genes} whose vector is not finite, or zero", AGAIN),
    "not_normalised": ("{genes} whose vector is not of length 1", REENCODE),
    "quarantined": ("{genes} quarantined", RETRY),
    "content_changed": ("{genes} whose content is not what its hash says", REENCODE),
    "wrong_id": ("{genes} whose id is not that of its source and content", REENCODE),
    "same_id": ("{genes} whose id others have as well: give each an id of its own", None),
    "no_source": ("{genes} of no source that is known", AGAIN),
    "genes_gone": ("{genes} that sources gave and that are gone", AGAIN),
}
"""What is told of each count that is not 0, and the options of the command that mends it; `None` where none does."""

NAMED = 3
"""Of each kind, in the text; `--json` has more."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands, "verify", _command, "account for every gene of shards, with a digest", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a shard (.db), or a folder that holds some")
    parser.add_argument(
        "--quick", action="store_true", help="look at lengths alone, not at what contents, ids and vectors are"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _command(args: argparse.Namespace) -> int:
    return heard(
        lambda: verify([typed_folder(text, "PATH") for text in args.paths], as_json=args.json, quick=args.quick)
    )


def verify(paths: list[Path], *, as_json: bool, quick: bool = False) -> int:
    """Count and print.

    Returns:
        The exit code.

    Raises:
        NoShards: A path is not there, or holds none.
    """
    folders = _Folders([path for path in paths if path.is_dir()])
    shards, notes = find_shards(paths, [one.folder for one in folders.given if one.states])
    shards += [path for one in folders.given for path in one.no_files]
    for note in notes:
        say(f"helix-crawl: {note}", to_stderr=True)
    missing = {path: name for one in folders.given for name, path in one.not_begun}
    shown = _shown_names({*shards, *missing})
    rows = [_Row(path, name, shown[path], NOT_BEGUN) for path, name in missing.items()]
    planned = sum(len(one.states) for one in folders.given)
    for path in shards:
        if path not in missing:
            standing = folders.of(path.parent)
            name = standing.name_of(path)
            row = _look_at(path, name, shown[path], quick=quick)
            rows.append(row)
            if standing in folders.given and row.name in standing.states:
                standing.states[row.name] = row.state
            else:
                planned += 1
    say_over("")
    rows.sort(key=lambda row: row.path)
    total = combine([(row.path.name, row.accounts) for row in rows if row.accounts is not None])
    encoders = _encoders(rows)
    unread = sum((count_unread(row.path) for row in rows if row.accounts is not None), Unread())
    if as_json:
        counts = {"shards": total.shards, "shards_planned": planned, **total.to_json()}
        digest, by_shard = counts.pop("digest"), [row.to_json() for row in rows]
        del counts["named"]  # of each shard
        say_json({**counts, "unread": unread.to_json(), "encoders": encoders, "digest": digest, "by_shard": by_shard})
    else:
        _print_table(rows, total)
        _print_encoders(encoders)
        if unread.genes:
            say(str(unread))
        _print_troubles(rows, total, folders)
        _print_verdict(rows, total)
    is_complete, is_mixed = _tell_standing(folders.given, as_json=as_json), _tell_mixed(rows, folders, as_json=as_json)
    is_whole = total.is_whole and is_complete and not is_mixed and all(row.state == DONE for row in rows)
    if is_whole and not as_json:
        say("every gene that can have a vector has one")
    return exit_codes.DONE if is_whole else exit_codes.FAILED


class _Folders:
    """Where the folders of a command stand, each once under whatever names it is given."""

    def __init__(self, given: Sequence[Path]) -> None:
        self.given = [FolderStanding.of(same[0]) for same in names_by_file(given)]
        self._known = {one.folder: one for one in self.given}

    def of(self, folder: Path) -> FolderStanding:
        """That of a shard's folder, which need not be among them."""
        if folder not in self._known:
            same = (one for one in self.given if len(names_by_file([one.folder, folder])) == 1)
            self._known[folder] = next(same, None) or FolderStanding.of(folder)
        return self._known[folder]


@dataclass(frozen=True)
class _Row:
    """One shard.

    Args:
        path: Its file.
        name: As its build has it.
        shown: See `_shown_names`.
        state: See `standing`.
        accounts: Of its genes, where it is there and can be read.
        made: Who has encoded it.
        reason: Why it cannot be read.
    """

    path: Path
    name: str
    shown: str
    state: str
    accounts: Accounts | None = None
    made: Provenance | None = None
    reason: str = ""

    @property
    def vectors(self) -> int:
        """How many it holds."""
        return self.accounts.vectors if self.accounts else 0

    def to_json(self) -> dict[str, object]:
        """For `by_shard`."""
        counts = (self.accounts or combine([])).to_json()
        del counts["shards"]
        return {
            "name": self.name,
            "file": self.path.name,
            "path": self.shown,
            "state": self.state,
            **counts,
            "encoder": self.made.encoder if self.made else None,
            "devices": list(self.made.devices) if self.made else [],
            "dtypes": list(self.made.dtypes) if self.made else [],
            **({"reason": self.reason} if self.reason else {}),
        }


def _shown_names(paths: Collection[Path]) -> dict[Path, str]:
    """The name of each file; with the folders in which it lies below the one that has all of them, if there is such."""
    parents = {path.absolute().parent for path in paths}
    if len(parents) < 2:
        return {path: path.name for path in paths}
    try:
        top = os.path.commonpath(parents)
    except ValueError:  # drives of Windows
        return {path: str(path) for path in paths}
    return {path: path.absolute().relative_to(top).as_posix() for path in paths}


def _look_at(path: Path, planned: str | None, shown: str, *, quick: bool) -> _Row:
    name = planned or path.stem

    def tell(genes: int) -> None:
        looked_at.answers += 1
        say_over(f"{printable(shown)}: {count(genes, 'gene')}")

    try:
        made, accounts = provenance(path, planned=planned), account(path, tell, quick=quick)
    except StoreError as error:
        say_over("")
        say(f"helix-crawl: error: {error}", to_stderr=True)
        return _Row(path, name, shown, UNREADABLE, reason=str(error))
    is_done = made.is_ingested and not accounts.is_pending
    return _Row(path, name, shown, DONE if is_done else BEGUN, accounts, made)


def _encoders(rows: Sequence[_Row]) -> list[dict[str, Any]]:
    """Each encoder whose vectors there are, with how many, in how many shards, on which devices, in which dtypes."""
    found: list[dict[str, Any]] = []
    for row in rows:
        if row.made is None or not row.vectors:
            continue
        one = next((one for one in found if one["encoder"] == row.made.encoder), None)
        if one is None:
            one = {"encoder": row.made.encoder, "shards": 0, "vectors": 0, "devices": {}, "dtypes": {}}
            found.append(one)
        one["shards"] += 1
        one["vectors"] += row.vectors
        for kind, values in (("devices", row.made.devices), ("dtypes", row.made.dtypes)):
            for value in values:
                one[kind][value] = one[kind].get(value, 0) + 1
    return found


def _print_encoders(encoders: Sequence[Mapping[str, Any]]) -> None:
    for one in encoders:
        name = shown_identity(one["encoder"]) if one["encoder"] else "not known"
        on, computed = (
            ", ".join(f"{value} ({count(number, 'shard')})" for value, number in one[kind].items())
            for kind in ("devices", "dtypes")
        )
        where = f", made on {on}" if on else ""
        if one["dtypes"].keys() - {"float32"}:
            where += f", in {computed}"
        say(f"encoder {name}: {count(one['vectors'], 'vector')} in {count(one['shards'], 'shard')}{where}")


def _tell_standing(standings: Sequence[FolderStanding], *, as_json: bool) -> bool:
    """Say what is not done of what was planned, and how to go on. Returns whether all of it is."""
    for standing in standings:
        if standing.trouble:
            say(f"helix-crawl: error: {standing.trouble}", to_stderr=True)
        elif not standing.is_complete:
            text = f"not whole: {standing.folder}: {standing.sentence()}"
            say(text, f"to go on: {standing.way_on()}", to_stderr=as_json)
        elif standing.states and not as_json:
            say(standing.sentence())
    return all(standing.is_complete for standing in standings)


def _tell_mixed(rows: Sequence[_Row], folders: _Folders, *, as_json: bool) -> bool:
    """Say which folders hold vectors of several encoders. Returns whether any does."""
    is_mixed = False
    for folder in dict.fromkeys(row.path.parent for row in rows):
        those = _encoders([row for row in rows if row.path.parent == folder and row.made and row.made.encoder])
        if len(those) > 1:
            is_mixed = True
            shown = [f"{shown_identity(one['encoder'])} in {count(one['shards'], 'shard')}" for one in those]
            lines = [f"mixed: {folder} holds vectors of {' and '.join(shown)}, which cannot be compared"]
            if way := folders.of(folder).way_on(["--reencode"]):
                lines.append(f"to have one alone: {way}")
            say(*lines, to_stderr=as_json)
    return is_mixed


def _print_table(shards: Sequence[_Row], total: Accounts) -> None:
    columns = (*_COLUMNS, *(column for column in _RARE_COLUMNS if getattr(total, column)))
    counted = [(row.shown, row.accounts) for row in shards if row.accounts is not None]
    rows = [(printable(name), *(f"{getattr(one, column):,}" for column in columns)) for name, one in counted]
    rows.append((count(total.shards, "shard"), *(f"{getattr(total, column):,}" for column in columns)))
    say(*table_lines(("shard", *map(_words, columns)), [rows], terminal_columns(), names=1))
    say(f"digest {total.digest}")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _print_troubles(shards: Sequence[_Row], total: Accounts, folders: _Folders) -> None:
    """Say what is wrong, which genes it is, and the command that mends it."""
    for name, (text, options) in _TROUBLES.items():
        if not (number := getattr(total, name)):
            continue
        say(f"{_words(name)}: {text.format(genes=count(number, 'gene'))}{_named(shards, name, number)}")
        if options is not None:
            first = next(row for row in shards if row.accounts and getattr(row.accounts, name))
            say(f"    {_mending(first, folders, options)}")
        for row in shards if name == "no_source" else ():
            if row.accounts and any(one["source_id"] is None for one in row.accounts.named.get(name, ())):
                mended = shlex.join(["sqlite3", str(row.path), "DELETE FROM genes WHERE source_id IS NULL"])
                say(f"    {mended}   # `build` leaves a row that names no source")
    if gone := total.sources_gone:
        said = f"{count(gone, 'source')} whose file is gone{_named(shards, 'sources_gone', gone)}"
        say(f"{said}; {'its' if gone == 1 else 'their'} genes stay until `helix-crawl build --prune`")


def _named(shards: Sequence[_Row], name: str, number: int) -> str:
    """The first of a kind, as they are said behind it."""
    of_all = [(row, which) for row in shards if row.accounts for which in row.accounts.named.get(name, ())]
    shown = [_which(row, which) for row, which in of_all[:NAMED]]
    more = ["…"] if number > len(shown) and len(of_all) > len(shown) else []
    return f": {', '.join([*shown, *more])}" if shown else ""


def _which(row: _Row, which: Mapping[str, object]) -> str:
    source, gene = which.get("source_id"), which.get("gene_id")
    if gene is None and "expected" in which:
        return f"{source} ({which['genes']:,} of {which['expected']:,} genes)"
    if gene is None and "source_id" in which and len(which) == 1:
        return str(source)
    why = f" ({which['reason']})" if "reason" in which else ""
    return f"{gene} of {row.shown if source is None else source}{why}"


def _mending(row: _Row, folders: _Folders, options: Sequence[str]) -> str:
    """The command that mends what is wrong with a shard."""
    standing = folders.of(row.path.parent)
    if row.name in standing.states:
        return standing.way_on(options)
    if (tree := built_from(row.path)) is not None:
        return shown_command(["helix-crawl", "build", tree, "--out", str(row.path.parent.absolute()), *options])
    return shown_command(["helix-crawl", "backfill", str(row.path), *options])


def _print_verdict(shards: Sequence[_Row], total: Accounts) -> None:
    if unreadable := sum(row.state == UNREADABLE for row in shards):
        verb = "is" if unreadable == 1 else "are"
        say(f"not whole: {count(unreadable, 'shard')} that cannot be read {verb} not counted")
    elif not total.is_whole:
        say(f"not whole: see {', '.join(_words(name) for name in _TROUBLES if getattr(total, name))}")
