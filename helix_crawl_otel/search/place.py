"""Where a gene stands: the file that it was cut from, whether that is still there and as it was, and the line in it."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from helix_crawl_otel.corpus.decode import NotText
from helix_crawl_otel.corpus.html import is_html
from helix_crawl_otel.corpus.text import CannotRead, read_text
from helix_crawl_otel.corpus.tree import size_and_time
from helix_crawl_otel.paths import looked_at, on_disk
from helix_crawl_otel.shards.answers import StoredGene
from helix_crawl_otel.shards.ingested import TreeFiles

__all__ = ["Place", "SourceState", "place_of"]

MOST_BYTES = 64 * 1024**2
"""In a larger source no line is looked for: it would be read whole for each answer."""

HEAD_BYTES = 4096

FIRST_LETTERS = 40
"""Of a passage of a page of HTML that are looked for, where the whole of it is not in the file as it stands."""


class SourceState(str, Enum):
    """What has become of the source of a gene since it was ingested."""

    THERE = "there"
    CHANGED = "changed"
    GONE = "gone"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Place:
    """Where a gene stands.

    Args:
        state: Of its source.
        line: In its source, from 1; `None` where the passage is not found in it.
        file: What tells one file from another, whatever it is called; `None` where it is not there.
    """

    state: SourceState
    line: int | None = None
    file: tuple[int, int] | str | None = None


def place_of(gene: StoredGene) -> Place:
    """Look for a gene in its source. Never raises: what cannot be read is unknown.

    A source that has changed is looked into as well: where the passage is still in it, it is there.
    """
    if gene.tree is None or gene.source_id is None:
        return Place(SourceState.UNKNOWN)
    looked_at.place = str(gene.tree)
    try:
        if not on_disk(gene.tree).exists():
            return Place(SourceState.UNKNOWN)  # a disk that is not mounted, or the tree has moved
        path = TreeFiles(gene.tree, gene.shard.rpartition("/")[0]).find(gene.source_id)
        if path is None:
            return Place(SourceState.GONE)
        path = on_disk(path)
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            return Place(SourceState.CHANGED)  # a pipe would be waited for
        file = (about.st_dev, about.st_ino) if about.st_ino else str(path)
        is_as_it_was = size_and_time(about) == (gene.size, gene.mtime_ns)
        line = _line(path, gene) if about.st_size <= MOST_BYTES else None
    except FileNotFoundError:
        return Place(SourceState.GONE)
    except (OSError, ValueError):
        return Place(SourceState.UNKNOWN)
    is_there = is_as_it_was or line is not None or about.st_size > MOST_BYTES
    return Place(SourceState.THERE if is_there else SourceState.CHANGED, line, file)


def _line(path: Path, gene: StoredGene) -> int | None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES).decode("utf-8", "replace")
    if is_html(path.name, head):
        # The text of a page has lines of its own: those of the file are counted in what the file holds.
        raw, begin = path.read_text("utf-8", errors="replace"), gene.content.splitlines()[0][:FIRST_LETTERS].strip()
        return _line_in([raw], gene.content, 0) or (_line_in([raw], begin, 0) if begin else None)
    try:
        return _line_in(read_text(path).pieces, gene.content, gene.occurrence)
    except (CannotRead, NotText):
        return None


def _line_in(pieces: Iterable[str], passage: str, occurrence: int) -> int | None:
    """The line on which a passage begins, where it comes for the so manieth time, else for the first."""
    text = "".join(pieces)
    at = first = text.find(passage)
    for _ in range(occurrence):
        at = text.find(passage, at + len(passage)) if at >= 0 else at
    at = first if at < 0 else at
    return None if at < 0 else text.count("\n", 0, at) + 1
