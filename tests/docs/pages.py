"""Reads Markdown pages: sections, tables, words in code, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.generate import REFERENCE

__all__ = ["Page", "Table", "page"]


class Table(NamedTuple):
    """A table: under which heading, its own headings, its rows."""

    under: str
    headings: tuple[str, ...]
    rows: list[dict[str, str]]

    def column(self, heading: str) -> list[str]:
        """The cells of a column, without the marks of code."""
        return [row[heading].strip("`") for row in self.rows]


class Page:
    """One page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text(encoding="utf-8")

    def tables(self) -> Iterator[Table]:
        """Every table, in order."""
        under, lines = "", []
        for line in [*self.text.splitlines(), ""]:
            if line.startswith("|"):
                lines.append(line)
                continue
            if lines:
                yield _table(under, lines)
                lines = []
            if line.startswith("#"):
                under = line.lstrip("# ").strip("`")

    def table(self, under: str, first: str) -> Table:
        """The table under a heading whose first column is called so."""
        found = [table for table in self.tables() if table.under == under and table.headings[0] == first]
        assert len(found) == 1, f"{self.path.name} has {len(found)} tables of {first!r} under {under!r}"
        return found[0]

    def headings(self, level: int) -> list[str]:
        """Headings of a level."""
        return [found.strip("`") for found in re.findall(rf"^{'#' * level} (.*)$", self.text, re.MULTILINE)]

    def anchors(self) -> set[str]:
        """What `#...` can point at."""
        every = re.findall(r"^#+ (.*)$", self.text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in every}

    def fenced(self, language: str) -> list[str]:
        """Fenced blocks of a language."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.DOTALL | re.MULTILINE)

    def words(self, pattern: str) -> set[str]:
        """Everything that matches."""
        return set(re.findall(pattern, self.text))


def _table(under: str, lines: list[str]) -> Table:
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    headings = tuple(cells[0])
    return Table(under, headings, [dict(zip(headings, row, strict=True)) for row in cells[2:]])


def page(name: str) -> Page:
    """A page of the reference."""
    return Page(REFERENCE / f"{name}.md")
