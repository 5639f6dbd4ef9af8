"""Where the rules look: the package's modules and the files that git would keep."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.programs import require_program

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "helix_crawl_otel"


def python_files(folder: Path) -> list[Path]:
    """Return every Python file below a folder, sorted; empty where the folder holds none."""
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a file's path from the repository's root, with forward slashes."""
    return path.relative_to(ROOT).as_posix()


def kept_files() -> list[Path]:
    """Return the tracked files and the new ones that .gitignore does not cover, sorted."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is not a git checkout (an unpacked sdist): nothing says which files are kept")
    listing = subprocess.run(
        [require_program("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    paths = (ROOT / name for name in listing.stdout.decode().split("\0") if name)
    return sorted(path for path in paths if path.is_file())
