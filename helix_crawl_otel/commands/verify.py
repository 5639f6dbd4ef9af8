"""`helix-crawl verify PATH...`: accounts for every gene, and proves by a digest what a build holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from helix_crawl_otel.commands.common import Commands, add_command, say, say_json, say_over
from helix_crawl_otel.exit_codes import DONE, FAILED
from helix_crawl_otel.formats import count, printable
from helix_crawl_otel.paths import typed_folder
from helix_crawl_otel.shards.accounts import Accounts, account, combine
from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.inspect import find_shards

__all__ = ["register", "verify"]

_DESCRIPTION = """\
Counts every gene of the shards, each in exactly one class, and makes a digest of all ids, contents and vectors. Exits
with 1 if a vector is missing or of the wrong length, a gene is quarantined, or a shard cannot be read."""

_EPILOG = """\
genes = vectors + missing + wrong length + not encodable + quarantined. Two builds of the same tree with the same
encoder, device, batch size and threads have the same digest, as long as no batch was halved and no shard finished on
the CPU."""

_COLUMNS = ("genes", "vectors", "missing", "wrong_length", "not_encodable", "quarantined")


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands, "verify", _command, "account for every gene of shards, with a digest", _DESCRIPTION, _EPILOG
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a shard (.db), or a folder that holds some")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")


def _command(args: argparse.Namespace) -> int:
    return verify([typed_folder(text, "PATH") for text in args.paths], as_json=args.json)


def verify(paths: list[Path], *, as_json: bool) -> int:
    """Count and print.

    Returns:
        The exit code.

    Raises:
        NoShards: A path is not there, or holds none.
    """
    shards, notes = find_shards(paths)
    for note in notes:
        say(f"helix-crawl: {note}", to_stderr=True)
    counted: list[tuple[str, Accounts]] = []
    unreadable = 0
    for path in shards:
        name = path.name
        try:
            counted.append((name, account(path, lambda genes, name=name: say_over(f"{name}: {genes:,} genes"))))  # type: ignore[misc]  # bound early
        except StoreError as error:
            unreadable += 1
            say_over("")
            say(f"helix-crawl: error: {error}", to_stderr=True)
    say_over("")
    total = combine(counted)
    if as_json:
        say_json(total.to_json())  # what cannot be read is on standard error, and in the exit code
    else:
        _print_table(counted, total, unreadable)
    return DONE if total.is_whole and not unreadable else FAILED


def _print_table(counted: list[tuple[str, Accounts]], total: Accounts, unreadable: int) -> None:
    rows = [("shard", *(column.replace("_", " ") for column in _COLUMNS))]
    rows += [(printable(name), *(f"{getattr(one, column):,}" for column in _COLUMNS)) for name, one in counted]
    rows.append((count(total.shards, "shard"), *(f"{getattr(total, column):,}" for column in _COLUMNS)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        say("  ".join(cells))
    say(f"digest {total.digest}")
    if unreadable:
        verb = "is" if unreadable == 1 else "are"
        say(f"not whole: {count(unreadable, 'shard')} that cannot be read {verb} not counted")
    elif total.is_whole:
        say("every gene that can have a vector has one")
    else:
        say("not whole: see missing, wrong length, quarantined")
