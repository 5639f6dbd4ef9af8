"""`helix-crawl demo`: the main job on files that every machine has, then `verify` and a `query`."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

from helix_crawl_otel.build.options import read_encode_options
from helix_crawl_otel.commands import build, query, verify
from helix_crawl_otel.commands.common import Commands, add_command, say
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import typed_folder
from helix_crawl_otel.search import index

__all__ = ["default_folder", "register"]

FOLDERS = ("json", "logging", "sqlite3", "wsgiref", "urllib")
"""Of Python's own standard library: some 700 passages, a few minutes on two cores."""

QUESTION = "exception that tells the line and column where JSON could not be decoded"
"""Its best answer is `json/decoder.py`, where `JSONDecodeError` is."""

_DESCRIPTION = f"""\
Builds a few folders of Python's standard library ({", ".join(FOLDERS)}) with the real MiniLM model, a few minutes on
two CPU cores, accounts for every gene, and asks one question. End it and start it again: it goes on where it was."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "demo", _command, "the main job on Python's own files, a few minutes", _DESCRIPTION)
    parser.add_argument(
        "--out", metavar="DIR", help="where to build (default: helix-crawl/demo in the user's folder of caches)"
    )
    build.add_build_options(parser)


def _command(args: argparse.Namespace) -> int:
    environ = read_encode_options(args).common.environ
    out = typed_folder(args.out, "--out").absolute() if args.out else _default_out(environ)
    source = _sources(out / "source")
    args.prune = True  # what another Python had and this one has not
    code = build.build(args, [source], out / "shards")
    if code != 0 or args.json:
        return code
    say("", "Is every gene there? " + shown_command(["helix-crawl", "verify", str(out / "shards")]))
    code = verify.verify([out / "shards"], as_json=False)
    say("", "Is the build any good? The genes nearest to a question, best first:")
    say(shown_command(["helix-crawl", "query", str(out / "shards"), QUESTION]))
    model = None if args.model in (None, "minilm", "hashing") else args.model
    query.show(index.query(out / "shards", QUESTION, 3, model=model))
    say("", "Now your own files: helix-crawl build FOLDER --out DIR")
    say(f"The demo lies in {out}; delete it when you are done with it.")
    return code


def default_folder(environ: Mapping[str, str], platform: str, home: Path) -> Path:
    """Where the demo builds: a folder of the user's own, where caches go on this system.

    Args:
        environ: Of the process.
        platform: As `sys.platform` has it.
        home: The user's folder.
    """
    if platform == "win32":
        caches = Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif platform == "darwin":
        caches = home / "Library" / "Caches"
    else:
        caches = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    return caches / "helix-crawl" / "demo"


def _default_out(environ: Mapping[str, str]) -> Path:
    """Where the demo builds, made if need be: among the user's caches, else in a temporary folder."""
    try:
        out = default_folder(environ, sys.platform, Path("~").expanduser()).absolute()
        (out / "shards").mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))
    except (OSError, RuntimeError) as error:
        out = _temporary() / "demo"
        say(f"there is no folder for caches ({getattr(error, 'strerror', None) or error}): the demo builds in {out}")
    return out


def _temporary() -> Path:
    """A temporary folder of this user's, the same each time: a demo that was ended goes on."""
    user = os.getuid() if sys.platform != "win32" else None  # there the folder of temporary files is a user's own
    folder = Path(tempfile.gettempdir()) / ("helix-crawl" if user is None else f"helix-crawl-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if user is not None and (folder.is_symlink() or folder.stat().st_uid != user):
        return Path(tempfile.mkdtemp(prefix="helix-crawl-"))  # somebody else has taken the name
    return folder


def _sources(folder: Path) -> Path:
    """A copy of the folders, without caches and tests: the library itself is only read. That of another Python goes."""
    library = Path(sysconfig.get_path("stdlib"))
    wanted = {folder / name / path.name for name in FOLDERS for path in (library / name).glob("*.py")}
    for old in set(folder.glob("*/*.py")) - wanted:
        old.unlink()
    for name in FOLDERS:
        for path in sorted((library / name).glob("*.py")):
            target = folder / name / path.name
            if not target.exists() or target.read_bytes() != path.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
    return folder
