"""`helix-crawl demo`: the main job on files that every machine has, then `verify` and a `query`."""

from __future__ import annotations

import argparse
import shutil
import sysconfig
import tempfile
from pathlib import Path

from helix_crawl_otel.backfill import build, query, verify

__all__ = ["register"]

FOLDERS = ("json", "logging", "sqlite3", "wsgiref", "urllib")
"""Of Python's own standard library: some 700 passages, a few minutes on two cores."""

QUESTION = "parse a JSON document and report where it is malformed"

_DESCRIPTION = f"""\
Builds a few folders of Python's standard library ({", ".join(FOLDERS)}) with the real MiniLM model, a few minutes on
two CPU cores, accounts for every gene, and asks one question. End it and start it again: it goes on where it was."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="the main job on Python's own files, a few minutes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    default = Path(tempfile.gettempdir()) / "helix-crawl-demo"
    parser.add_argument("--out", default=str(default), metavar="DIR", help=f"where to build (default {default})")
    build.add_build_options(parser)
    parser.set_defaults(func=_command)


def _command(args: argparse.Namespace) -> int:
    out = Path(args.out).expanduser().absolute()
    source = _sources(out / "source")
    code = build.build(args, source, out / "shards")
    if code != 0 or args.json:
        return code
    print("\nhelix-crawl verify:")
    code = verify.verify([out / "shards"], as_json=False)
    print(f"\nhelix-crawl query: {QUESTION!r}")
    model = None if args.model in ("minilm", "hashing") else args.model
    query.show(query.query(out / "shards", QUESTION, 3, model))
    return code


def _sources(folder: Path) -> Path:
    """A copy of the folders, without caches and tests: the library itself is only read."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in FOLDERS:
        for path in sorted((library / name).glob("*.py")):
            target = folder / name / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    return folder
