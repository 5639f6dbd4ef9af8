"""Damage that is done to a shard's file, and what it leaves."""

from __future__ import annotations

import os
from pathlib import Path

from tests.shards.shards import rows

PAGE = 4096

__all__ = ["all_but_the_first_page", "half", "header", "noise", "page", "root_of"]


def page(path: Path) -> None:
    """Two pages in the middle are noise."""
    size = path.stat().st_size
    _written_over(path, size // 2 // PAGE * PAGE, 2)


def root_of(path: Path, index: str) -> None:
    """The root of an index is noise: nobody meets it before it is used."""
    ((root,),) = rows(path, f"SELECT rootpage FROM sqlite_master WHERE name = '{index}'")
    _written_over(path, (int(str(root)) - 1) * PAGE, 1)


def header(path: Path) -> None:
    """The header was written over."""
    path.write_bytes(b"garbage, garbage" * 8 + path.read_bytes()[128:])


def half(path: Path) -> None:
    """The end is missing."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def all_but_the_first_page(path: Path) -> None:
    """Nothing is left but the schema."""
    content = path.read_bytes()
    path.write_bytes(content[:PAGE] + b"\xa5" * (len(content) - PAGE))


def noise(path: Path) -> None:
    """No database, or an encrypted one."""
    path.write_bytes(os.urandom(10 * PAGE))


def _written_over(path: Path, start: int, pages: int) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + pages * PAGE] = b"\xff" * (pages * PAGE)
    path.write_bytes(content)
