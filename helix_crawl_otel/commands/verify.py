"""`helix-crawl verify PATH...`: accounts for every gene, and proves by a digest what a build holds."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from helix_crawl_otel.commands.common import Commands, add_command, say, say_json, say_over
from helix_crawl_otel.exit_codes import DONE, FAILED
from helix_crawl_otel.formats import count, printable, shown_command
from helix_crawl_otel.paths import typed_folder
from helix_crawl_otel.shards.accounts import Accounts, account, combine
from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.inspect import built_from, find_shards

__all__ = ["register", "verify"]

_DESCRIPTION = """\
Counts every gene of the shards, each in exactly one class, looks whether contents, ids and vectors are what was
written, and makes a digest of all of them. Exits with 1 if a vector is missing or none, a gene is quarantined, gone or
changed, or a shard cannot be read; it names the first of each kind, and the command that mends it."""

_EPILOG = """\
genes = vectors + missing + wrong length + not finite + not normalised + not encodable + quarantined. Two builds of the
same tree with the same encoder, device, batch size and threads have the same digest, as long as no batch was halved and
no shard finished on the CPU."""

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
    return verify([typed_folder(text, "PATH") for text in args.paths], as_json=args.json, quick=args.quick)


def verify(paths: list[Path], *, as_json: bool, quick: bool = False) -> int:
    """Count and print.

    Returns:
        The exit code.

    Raises:
        NoShards: A path is not there, or holds none.
    """
    shards, notes = find_shards(paths)
    for note in notes:
        say(f"helix-crawl: {note}", to_stderr=True)
    counted: list[tuple[Path, Accounts]] = []
    unreadable: list[dict[str, str]] = []
    for path in shards:

        def tell(genes: int, name: str = path.name) -> None:
            say_over(f"{name}: {genes:,} genes")

        try:
            counted.append((path, account(path, tell, quick=quick)))
        except StoreError as error:
            unreadable.append({"shard": path.name, "reason": str(error)})
            say_over("")
            say(f"helix-crawl: error: {error}", to_stderr=True)
    say_over("")
    total = combine([(path.name, one) for path, one in counted])
    if as_json:
        say_json({**total.to_json(), "unreadable": unreadable})
    else:
        _print_table(counted, total)
        _print_verdict(counted, total, len(unreadable))
    return DONE if total.is_whole and not unreadable else FAILED


def _print_table(counted: Sequence[tuple[Path, Accounts]], total: Accounts) -> None:
    columns = (*_COLUMNS, *(column for column in _RARE_COLUMNS if getattr(total, column)))
    rows = [("shard", *map(_words, columns))]
    rows += [(printable(path.name), *(f"{getattr(one, column):,}" for column in columns)) for path, one in counted]
    rows.append((count(total.shards, "shard"), *(f"{getattr(total, column):,}" for column in columns)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        say("  ".join(cells))
    say(f"digest {total.digest}")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _print_verdict(counted: Sequence[tuple[Path, Accounts]], total: Accounts, unreadable: int) -> None:
    for name in _TROUBLES:
        if getattr(total, name):
            say(*_trouble(name, counted, total))
    if total.sources_gone:
        which = _named(total, "sources_gone", total.sources_gone)
        say(f"{count(total.sources_gone, 'source')} whose file is gone{which}; their genes stay until `build --prune`")
    if unreadable:
        verb = "is" if unreadable == 1 else "are"
        say(f"not whole: {count(unreadable, 'shard')} that cannot be read {verb} not counted")
    elif total.is_whole:
        say("every gene that can have a vector has one")
    else:
        say(f"not whole: see {', '.join(_words(name) for name in _TROUBLES if getattr(total, name))}")


def _trouble(name: str, counted: Sequence[tuple[Path, Accounts]], total: Accounts) -> Iterator[str]:
    text, options = _TROUBLES[name]
    number = getattr(total, name)
    yield f"{_words(name)}: {text.format(genes=count(number, 'gene'))}{_named(total, name, number)}"
    if options is not None:
        path = next(path for path, one in counted if getattr(one, name))
        yield f"    {_mending(path, options)}"


def _named(total: Accounts, name: str, number: int) -> str:
    rows = total.named.get(name, ())
    shown = [_which(row) for row in rows[:NAMED]]
    if not shown:
        return ""
    more = ["…"] if number > len(shown) else []
    return f": {', '.join([*shown, *more])}"


def _which(row: Mapping[str, object]) -> str:
    source, gene = row.get("source_id"), row.get("gene_id")
    if gene is None:
        is_counted = "expected" in row
        return f"{source} ({row['genes']:,} of {row['expected']:,} genes)" if is_counted else str(source)
    place = source if source is not None else row["shard"]
    return f"{gene} of {place}" + (f" ({row['reason']})" if "reason" in row else "")


def _mending(path: Path, options: Sequence[str]) -> str:
    """The command that mends what is wrong with a shard."""
    tree = built_from(path)
    if tree is not None:
        return shown_command(["helix-crawl", "build", tree, "--out", str(path.parent), *options])
    return shown_command(["helix-crawl", "backfill", str(path), *options])
