"""`helix-crawl backfill PATH...`: vectors for what lacks them in shards that are there already."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from helix_crawl_otel.build.options import add_encode_options, add_truncation_options, read_encode_options
from helix_crawl_otel.commands.common import Commands, add_command, look_back, typed_command
from helix_crawl_otel.commands.ray import add_ray_options, read_ray_options
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import STATE_FOLDER, typed_folder
from helix_crawl_otel.shards.errors import NoShards
from helix_crawl_otel.shards.find import find_shards

if TYPE_CHECKING:
    from helix_crawl_otel.build.options import EncodeOptions
    from helix_crawl_otel.build.plan import BuildPlan
    from helix_crawl_otel.fleet.index import IndexedFiles
    from helix_crawl_otel.fleet.run import FleetOptions

__all__ = ["register"]

SUFFIX = ".db"

_DESCRIPTION = """\
Encodes the genes that lack a vector in existing shards, in place: SQLite files with a table `genes`, as `helix-crawl
build` and the Helix/Cymatix app write them. Columns are never dropped or reordered. Supervised and resumable as
`build` is."""

_EPILOG = """\
examples:
  helix-crawl backfill ~/helix/genomes                  every .db file of the folder, and of the folders in it
  helix-crawl backfill a.db b.db --model BAAI/bge-m3    these two
  helix-crawl backfill genomes --max-chars 2000         as the app encodes: the first 2,000 letters of a gene
  helix-crawl backfill /mnt/genomes --ray auto          on a cluster: the shards right in one folder, or in a bucket

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
    add_ray_options(parser)


def _command(args: argparse.Namespace) -> int:
    from helix_crawl_otel.build.plan import is_one_folder, plan_backfill
    from helix_crawl_otel.build.run import run_build
    from helix_crawl_otel.interrupts import hearing

    options = read_encode_options(args)
    if (fleet := read_ray_options(args, options.device)) is not None:
        return _on_cluster(args, options, fleet)
    if far := [text for text in args.paths if "://" in text]:
        raise ConfigError(f"{far[0]} is given without --ray; accepted: a folder or a shard, or --ray ADDRESS")
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


def _on_cluster(args: argparse.Namespace, options: EncodeOptions, fleet: FleetOptions) -> int:
    """The shards right in one folder or bucket: their names are what the nodes know them by."""
    import tempfile

    from helix_crawl_otel.build.plan import plan_backfill
    from helix_crawl_otel.fleet.places import is_address, open_storage
    from helix_crawl_otel.fleet.run import run_fleet
    from helix_crawl_otel.interrupts import hearing

    text = args.paths[0]
    if len(args.paths) > 1:
        raise ConfigError(
            f"{len(args.paths)} PATHs are given with --ray; accepted: one folder, or the address of a bucket"
        )
    if not is_address(text):
        folder = typed_folder(text, "PATH").absolute()
        if not folder.is_dir():
            raise ConfigError(
                f"PATH is {text!r} with --ray; accepted: a folder that is there, or the address of a bucket"
            )
        text = str(folder)
    storage = open_storage(text, what="PATH")
    names = hearing(lambda: [name for name, _ in storage.walk() if name.endswith(SUFFIX)])
    if deep := [name for name in names if "/" in name and not name.startswith(f"{STATE_FOLDER}/")]:
        raise ConfigError(f"{storage.where(deep[0])} lies deeper than {text}; accepted with --ray: the folder it is in")
    command = typed_command()
    done = shown_command(["helix-crawl", "verify", text])
    if storage.folder is None:
        done = f"copy {storage.address} to a folder, and there: helix-crawl verify FOLDER"

    def make_plan(files: IndexedFiles) -> BuildPlan:
        paths = [home / name for name in sorted(files.versions) if files.is_shard(name)]
        if not paths:
            raise NoShards(f"{text} holds no shard; accepted: a folder with .db files that have a table `genes`")
        return files.told_by_address(lambda: plan_backfill(paths, options, given=[home], files=files), home, ())

    with tempfile.TemporaryDirectory(prefix="helix-crawl-") as instead:
        home = storage.folder or Path(instead)
        steps = (done, f"{command}   # goes on where it was")
        return run_fleet(args.command, command, storage, home, options, fleet, vars(args), make_plan, steps)
