"""The files that the package carries, with the runbook's address put in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["RUNBOOK", "shipped_files"]

RUNBOOK = "runbook.md"
"""Name of the copy, and what stands for its address in the files."""


def shipped_files(runbook: str) -> Mapping[str, str]:
    """Path from the folder that is written, and text, of every file.

    Args:
        runbook: Address of the runbook, without an anchor.
    """
    found = dict(_below(files("helix_crawl_otel.dashboards") / "files", ""))
    if RUNBOOK not in found:
        found[RUNBOOK] = _runbook_of_the_tree()
    return {
        name: text if name == RUNBOOK else text.replace(f'"{RUNBOOK}#', f'"{runbook}#')
        for name, text in sorted(found.items())
    }


def _below(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _below(entry, f"{name}/")
        else:
            yield name, entry.read_text(encoding="utf-8")


def _runbook_of_the_tree() -> str:
    """In an installed wheel it lies among the files; here, in a checkout, among the docs."""
    return (Path(__file__).parents[2] / "docs" / RUNBOOK).read_text(encoding="utf-8")
