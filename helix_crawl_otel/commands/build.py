"""`helix-crawl build SRC --out DIR`: from a folder of files to shards with a vector for every passage."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from helix_crawl_otel.build.options import add_encode_options, read_encode_options
from helix_crawl_otel.commands.common import (
    Commands,
    add_command,
    look_back,
    say,
    say_json,
    say_over,
    typed_command,
    typed_options,
)
from helix_crawl_otel.commands.ray import RAY, add_ray_options, read_ray_options
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.exit_codes import DONE
from helix_crawl_otel.formats import shown_command, size
from helix_crawl_otel.paths import same_place, typed_folder, typed_path

if TYPE_CHECKING:
    from helix_crawl_otel.build.plan import BuildPlan
    from helix_crawl_otel.corpus.filters import Filters
    from helix_crawl_otel.fleet.sources import SourceTree
    from helix_crawl_otel.fleet.storage import Storage

__all__ = ["add_build_options", "build", "register"]

_DESCRIPTION = """\
Cuts the tree SRC into shards (a top-level folder each, and one for the loose files), its text into passages, and
encodes every passage, supervised: a card that crawls is noticed while it happens, its cache is released, its worker
replaced, the shard finished on the CPU. It can be ended at any moment, and the same command goes on where it was.
Sources that changed are taken in again; what is complete is skipped without loading a model. DIR remembers what it was
built of and with which model: another one is refused, and a model that is not named is the one that was.

Text is UTF-8, UTF-16, UTF-32, or of an older encoding where that is certain; of HTML the text without tags is taken.
Left out of SRC: names that begin with a dot, __pycache__, node_modules, the output folder, links to folders; files that
are no text, which are named; and what the .gitignore files of the tree and of the repository it lies in, and
.git/info/exclude leave out (git's settings for a user or a machine are not read). Filters are kept: the same command
without them goes on with those of the last time. Genes of files that are left out later stay until --prune."""

_EPILOG = """\
examples:
  helix-crawl build ~/notes                                   every file that is text, into ~/notes.shards
  helix-crawl build ~/notes --out ~/notes.shards --device cuda --model BAAI/bge-m3
  helix-crawl build ~/notes --dry-run                         what is there, how much it is, what is left out
  helix-crawl build ~/notes --exclude '*.log' --exclude drafts/ --max-file-size 20MB
  helix-crawl build ~/notes --out ~/notes.shards --prune      and remove what is no longer there
  helix-crawl build ~/notes ~/work --out ~/all.shards         several sources in one index
  helix-crawl verify ~/notes.shards                           is every gene there?

exit codes: 0 done; 1 done, but shards, genes or sources failed; 2 wrong usage, or the folder is in use; 75 paused, the
same command goes on; 78 the model or the source can never be used; 130 a second interrupt."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "build",
        _command,
        "cut a tree of files into shards and encode them, supervised and resumable",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SRC", help="a tree of files, or a file; only read. Several make one index"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where the shards are written; made if need be (default, of one SRC: SRC.shards)"
    )
    add_build_options(parser)
    _add_filters(parser)
    add_ray_options(parser)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is taken")
    group.add_argument(
        "--exclude",
        action="append",
        metavar="GLOB",
        help="leave out what a pattern as in a .gitignore means, from the root of SRC: with / on Windows too, letters "
        "as they are; in quotes, as often as you like",
    )
    group.add_argument(
        "--include", action="append", metavar="GLOB", help="take only what is meant by one of these, in the same way"
    )
    group.add_argument(
        "--no-gitignore", action="store_true", help="take what the .gitignore files of the tree leave out as well"
    )
    group.add_argument("--max-file-size", metavar="SIZE", help="leave out larger files; such as 500kB, 20MB, 1GiB")
    group.add_argument(
        "--dry-run", action="store_true", help="look at the tree, say what there is, and end; nothing is written"
    )


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Offer what `build` reads beside its sources and its output; no filter is named without `_add_filters`."""
    parser.set_defaults(exclude=None, include=None, no_gitignore=False, max_file_size=None, dry_run=False)
    parser.set_defaults(ray=None, stage=None, checkpoint=None, lease=None)
    parser.add_argument("--prune", action="store_true", help="remove the genes of sources that are gone")
    parser.add_argument(
        "--moved", action="store_true", help="SRC is a tree that --out was built of, in another place than it was"
    )
    add_encode_options(parser)


def _filters(args: argparse.Namespace) -> Filters | None:
    """What the command says of them, `None` where it says nothing.

    Raises:
        ConfigError: A pattern or a size is none.
    """
    from helix_crawl_otel.corpus.filters import Filters, check_pattern, parse_size

    for option in ("exclude", "include"):
        for text in getattr(args, option) or ():
            try:
                check_pattern(text)
                if sys.platform == "win32" and "\\" in text:
                    raise ValueError("accepted: / between folders, on Windows too")
            except ValueError as error:
                raise ConfigError(f"--{option} is {text!r}; {error}") from None
    most = None
    if args.max_file_size is not None:
        try:
            most = parse_size(args.max_file_size)
        except ValueError as error:
            raise ConfigError(f"--max-file-size is {args.max_file_size!r}; {error}") from None
    filters = Filters(tuple(args.exclude or ()), tuple(args.include or ()), not args.no_gitignore, most)
    return filters if filters.words() else None


def _looking(files: int, number_of_bytes: int) -> None:
    """On a terminal: a large tree takes seconds."""
    say_over(f"looking at the tree: {files:,} entries, {size(number_of_bytes)}")


def _command(args: argparse.Namespace) -> int:
    if any("://" in text for text in (*args.sources, args.out or "")):
        return _build_by_address(args)
    sources = [_absolute(typed_path(text, "SRC")) for text in args.sources]
    if args.out is not None:
        return build(args, sources, typed_folder(args.out, "--out"))
    if len(sources) > 1 or not sources[0].name:
        what = "of several SRC" if len(sources) > 1 else f"of {sources[0]}, which has no name"
        raise ConfigError(f"--out is not given; accepted: with the shards {what}, a folder for them")
    return build(args, sources, typed_folder(f"{sources[0]}.shards", "--out"))


def _build_by_address(args: argparse.Namespace) -> int:
    """SRC or --out is in a bucket, or written as the address of a folder."""
    from helix_crawl_otel.fleet.places import open_storage
    from helix_crawl_otel.fleet.sources import SourceTree

    out_text = args.out
    if out_text is None:
        if len(args.sources) > 1:
            raise ConfigError("--out is not given; accepted: with the shards of several SRC, a place for them")
        out_text = f"{args.sources[0].rstrip('/')}.shards"
    places = [open_storage(text, what="SRC") for text in args.sources]
    storage = open_storage(out_text)
    if args.ray is None and (far := [place.address for place in (*places, storage) if place.folder is None]):
        raise ConfigError(
            f"{far[0]} is given without --ray; accepted: a folder, or --ray ADDRESS (also of one machine)"
        )
    with tempfile.TemporaryDirectory(prefix="helix-crawl-") as name:
        trees: list[SourceTree] = []
        sources: list[Path] = []
        for number, place in enumerate(places):
            if place.folder is None:
                trees.append(SourceTree(place, Path(name) / str(number), storage.address))
            sources.append(place.folder or trees[-1].root)
        return build(args, sources, storage.folder or Path(name) / "OUT", storage=storage, trees=trees)


def build(
    args: argparse.Namespace,
    sources: Sequence[Path],
    out: Path,
    *,
    storage: Storage | None = None,
    trees: Sequence[SourceTree] = (),
) -> int:
    """Build `out` from `sources`, with the options that `register` offers. Returns the exit code.

    Args:
        args: As they were parsed.
        sources: The trees.
        out: Where the shards are; where `storage` is a bucket, a folder in its place.
        storage: The same, `None` for that folder.
        trees: Those of the sources that stand for trees in buckets.
    """
    from helix_crawl_otel.build.plan import look_before, plan_build
    from helix_crawl_otel.build.resume import absolute_model
    from helix_crawl_otel.build.run import run_build
    from helix_crawl_otel.build.shard_files import ShardFiles
    from helix_crawl_otel.console.text import look_lines
    from helix_crawl_otel.corpus.tree import plan_shards
    from helix_crawl_otel.interrupts import hearing

    options, filters = read_encode_options(args), _filters(args)
    fleet = read_ray_options(args, options.device)
    sources, out = [_absolute(source) for source in sources], _absolute(out)
    if out.is_file() or any(same_place(out, source) for source in sources):
        raise ConfigError(f"--out is {str(out)!r}; accepted: a folder other than SRC, there or not")
    is_far = storage is not None and storage.folder is None
    if args.dry_run and is_far:
        raise ConfigError("--dry-run is given with an --out in a bucket; accepted: an --out that is a folder")
    problems = [problem for tree in trees for problem in hearing(tree.outline)]
    addresses = {str(tree.root): tree.address for tree in trees}
    if args.dry_run:
        look, notes = hearing(
            lambda: look_before(
                sources,
                out,
                moved=args.moved,
                model=args.model,
                filters=filters,
                progress=_looking,
                reencode=args.reencode,
            )
        )
        say_over("")
        if args.json:
            say_json(look.to_json() | {"notes": notes})
        else:
            say(*look_lines(look.event(0.0)), *(f"  note        {note}" for note in notes))
        return DONE
    if not out.exists():
        # Nothing is made for a tree that is not there.
        hearing(lambda: [plan_shards(source, out, filters) for source in sources])
    command = typed_command()
    done = shown_command(["helix-crawl", "verify", str(out)])
    if storage is not None and is_far:
        done = f"copy {storage.address} to a folder, and there: helix-crawl verify FOLDER"
    once = ("--moved", "--reencode", "--retry-quarantined", "--prune", "--fault", *RAY)
    words = typed_options(args, but=("--out", "--model", *once))
    if args.model is not None:
        words = ("--model", absolute_model(args.model), *words)

    def make_plan(files: ShardFiles | None = None) -> BuildPlan:
        try:
            return plan_build(
                sources,
                out,
                options,
                prune=args.prune,
                moved=args.moved,
                words=words,
                filters=filters,
                progress=_looking,
                files=files or ShardFiles(),
            )
        finally:
            say_over("")

    steps = (done, f"{command}   # goes on where it was")
    if fleet is not None:
        from helix_crawl_otel.fleet.index import IndexedFiles
        from helix_crawl_otel.fleet.places import open_storage
        from helix_crawl_otel.fleet.run import run_fleet

        def plan_fleet(files: IndexedFiles) -> BuildPlan:
            files.roots = {address: root for root, address in addresses.items()}
            return files.told_by_address(partial(make_plan, files), out, problems)

        storage = storage or open_storage(str(out))
        return run_fleet(args.command, command, storage, out, options, fleet, vars(args), plan_fleet, steps)
    return run_build(args.command, command, [out], options, make_plan, next_steps=steps, look_back=look_back)


def _absolute(path: Path) -> Path:
    """Without `..`: its last name is what the tree is called by."""
    return path.resolve() if ".." in path.parts else path.absolute()
