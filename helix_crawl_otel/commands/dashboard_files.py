"""The files that the package carries, with the runbook's address put in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["RUNBOOK", "shipped_files"]

RUNBOOK = "runbook.md"
"""Name of the copy, and what stands for its address in the files."""

PARTS = ("alertmanager", "compose.yml", "grafana", "prometheus")
"""What of the folder is written; the rest of it makes these."""


def shipped_files(runbook: str) -> Mapping[str, str]:
    """Path from the folder that is written, and text, of every file.

    Args:
        runbook: Address of the runbook, without an anchor.
    """
    folder, runbook_text = _carried()
    found = {RUNBOOK: runbook_text, **dict(_below(folder, PARTS))}
    return {
        name: text if name == RUNBOOK else text.replace(f'"{RUNBOOK}#', f'"{runbook}#')
        for name, text in sorted(found.items())
    }


def _carried() -> tuple[Traversable, str]:
    """The folder and the runbook: in a wheel both are inside the package; in a checkout they stand at its top."""
    inside = files("helix_crawl_otel") / "dashboards"
    if (inside / RUNBOOK).is_file():
        return inside, (inside / RUNBOOK).read_text(encoding="utf-8")
    tree = Path(__file__).parents[2]
    return tree / "dashboards", (tree / "docs" / RUNBOOK).read_text(encoding="utf-8")


def _below(folder: Traversable, names: Iterable[str], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in names:
        entry = folder / name
        if entry.is_dir():
            yield from _below(entry, [below.name for below in entry.iterdir()], f"{prefix}{name}/")
        else:
            yield prefix + name, entry.read_text(encoding="utf-8")
