"""`helix-crawl build SRC --out DIR`: from a folder of files to shards with a vector for every passage."""

from __future__ import annotations

import argparse
from pathlib import Path

from helix_crawl_otel.build.options import add_encode_options, read_encode_options
from helix_crawl_otel.commands.common import Commands, add_command, typed_command
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import typed_folder, typed_path

__all__ = ["add_build_options", "build", "register"]

_DESCRIPTION = """\
Cuts the tree SRC into shards (a top-level folder each, and one for the loose files), its text into passages, and
encodes every passage, supervised: a card that crawls is noticed while it happens, its cache is released, its worker
replaced, the shard finished on the CPU. It can be ended at any moment, and the same command goes on where it was.
Sources that changed are taken in again; what is complete is skipped without loading a model.

Left out of SRC: names that begin with a dot, __pycache__, node_modules, the output folder, links to folders, and files
that are no text (UTF-8, or UTF-16 with a mark); the last are counted. No .gitignore is read."""

_EPILOG = """\
examples:
  helix-crawl build ~/notes --out ~/notes.shards              every file that is text, on the device that suits
  helix-crawl build ~/notes --out ~/notes.shards --device cuda --model BAAI/bge-m3
  helix-crawl build ~/notes --out ~/notes.shards --prune      and remove what is no longer there
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
    parser.add_argument("source", metavar="SRC", help="the tree of files; it is only read")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the shards are written; made if need be")
    add_build_options(parser)


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Offer what `build` reads beside its source and its output."""
    parser.add_argument("--prune", action="store_true", help="remove the genes of sources that are gone")
    add_encode_options(parser)


def _command(args: argparse.Namespace) -> int:
    return build(args, typed_path(args.source, "SRC"), typed_folder(args.out, "--out"))


def build(args: argparse.Namespace, source: Path, out: Path) -> int:
    """Build `out` from `source`, with the options that `register` offers. Returns the exit code."""
    from helix_crawl_otel.build.plan import plan_build
    from helix_crawl_otel.build.run import run_build

    options = read_encode_options(args)
    source, out = source.absolute(), out.absolute()
    if out.is_file() or out == source or (out.exists() and source.exists() and out.samefile(source)):
        raise ConfigError(f"--out is {str(out)!r}; accepted: a folder other than SRC, there or not")
    command = typed_command()
    done = shown_command(["helix-crawl", "verify", str(out)])
    return run_build(
        command,
        [out],
        options,
        lambda: plan_build(source, out, options, prune=args.prune),
        next_steps=(done, f"{command}   # goes on where it was"),
    )
