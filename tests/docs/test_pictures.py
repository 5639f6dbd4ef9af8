"""The pictures of the documentation are there, small enough for a page, and said in words as well."""

from __future__ import annotations

import re

from tests.rules.tree import ROOT

FOLDER = ROOT / "docs" / "pictures"


def test_every_picture_is_shown() -> None:
    """On a page, with words for those who do not see it; and none is shown that is not there."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    shown = re.findall(r"!\[([^\]]+)\]\([^)]*pictures/([\w.-]+)\)", text)
    assert {path.name for path in FOLDER.iterdir()} == {name for _, name in shown}
    assert all(len(words.split()) > 4 for words, _ in shown)


def test_every_picture_fits_a_page() -> None:
    """A PNG of less than 300 kB."""
    for path in FOLDER.iterdir():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG"), path.name
        assert len(content) < 300_000, path.name
