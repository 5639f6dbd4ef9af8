"""`helix-crawl backfill PATH...`: vectors for what lacks them in shards that are there already."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from helix_crawl_otel.build.options import add_encode_options, add_truncation_options, read_encode_options
from helix_crawl_otel.commands.common import Commands, add_command, look_back, typed_command
from helix_crawl_otel.commands.ray import add_ray_options, read_ray_options
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import STATE_FOLDER, typed_folder
from helix_crawl_otel.shards.errors import NoShards, NotAShard, StoreError
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

    options, fleet = read_encode_options(args), read_ray_options(args)
    if fleet is not None:
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
    """The shards that lie right in one folder or bucket, each worked on by a node's copy."""
    from helix_crawl_otel.build.plan import plan_backfill
    from helix_crawl_otel.fleet.places import open_storage
    from helix_crawl_otel.fleet.run import run_fleet
    from helix_crawl_otel.interrupts import hearing

    if len(args.paths) > 1:
        raise ConfigError("several PATH are given with --ray; accepted: one folder, or one address of a bucket")
    [text] = args.paths
    storage = open_storage(text if "://" in text else str(typed_folder(text, "PATH")), what="PATH")
    if storage.folder is not None and not storage.folder.is_dir():
        raise ConfigError(f"{storage.address} is given with --ray; accepted: a folder of shards that is there")
    deep = [name for name, _ in hearing(lambda: list(storage.walk())) if name.endswith(SUFFIX) and "/" in name]
    if deep and not all(name.startswith(STATE_FOLDER) for name in deep):
        raise ConfigError(
            f"{storage.where(deep[0])} lies in a folder of {text}; with --ray give the one folder it is in"
        )
    command = typed_command()
    verify = shown_command(["helix-crawl", "verify", text])
    if storage.folder is None:
        verify = f"copy {storage.address} to a folder, and there: helix-crawl verify FOLDER"
    with tempfile.TemporaryDirectory(prefix="helix-crawl-") as name:
        out = storage.folder or Path(name) / "OUT"

        def make_plan(files: IndexedFiles) -> BuildPlan:
            paths, notes = [], []
            for name in sorted(files.versions):
                try:
                    files.look(name)
                except NotAShard as error:
                    notes.append(f"{error}; it is left alone")
                    continue
                except StoreError:
                    pass  # whoever takes it says what is wrong with it
                paths.append(out / name)
            if not paths:
                raise NoShards(f"{text} holds no shard; accepted: a folder with .db files that have a table `genes`")
            return files.told_by_address(lambda: plan_backfill(paths, options, notes, [out], files), out, ())

        steps = verify, f"{command}   # goes on where it was"
        return run_fleet(args.command, command, storage, out, options, fleet, vars(args), make_plan, steps)
