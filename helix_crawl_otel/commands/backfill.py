"""`helix-crawl backfill PATH...`: vectors for what lacks them in shards that are there already."""

from __future__ import annotations

import argparse

from helix_crawl_otel.build.options import add_encode_options, add_truncation_options, read_encode_options
from helix_crawl_otel.commands.common import Commands, add_command, look_back, typed_command
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import typed_folder
from helix_crawl_otel.shards.find import find_shards

__all__ = ["register"]

_DESCRIPTION = """\
Encodes the genes that lack a vector in existing shards, in place: SQLite files with a table `genes`, as `helix-crawl
build` and the Helix/Cymatix app write them. Columns are never dropped or reordered. Supervised and resumable as
`build` is."""

_EPILOG = """\
examples:
  helix-crawl backfill ~/helix/genomes                  every .db file of the folder, and of the folders in it
  helix-crawl backfill a.db b.db --model BAAI/bge-m3    these two
  helix-crawl backfill genomes --max-chars 2000         as the app encodes: the first 2,000 letters of a gene

Vectors that say nothing of their encoder are adopted when a few of them, encoded again, agree, with a cap of letters
where they were made with one; else the shard is refused unless --reencode is given."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands, "backfill", _command, "encode what lacks a vector in existing shards", _DESCRIPTION, _EPILOG
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a shard (.db), or a folder that holds some, also in folders"
    )
    add_truncation_options(parser)
    add_encode_options(parser)


def _command(args: argparse.Namespace) -> int:
    from helix_crawl_otel.build.plan import is_one_folder, plan_backfill
    from helix_crawl_otel.build.run import run_build
    from helix_crawl_otel.interrupts import hearing

    options = read_encode_options(args)
    given = [typed_folder(text, "PATH").absolute() for text in args.paths]
    paths, notes = hearing(lambda: find_shards(given))
    command = typed_command()
    return run_build(
        args.command,
        command,
        # One folder keeps the timeline, as `status` and `report` look for it there, wherever in it the shards lie.
        [*(given[:1] if is_one_folder(given) else []), *(path.parent for path in paths)],
        options,
        lambda: plan_backfill(paths, options, notes, given),
        next_steps=(shown_command(["helix-crawl", "verify", *args.paths]), f"{command}   # goes on where it was"),
        look_back=look_back,
    )
