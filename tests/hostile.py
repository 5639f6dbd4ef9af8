"""Texts from outside that would do harm where they are shown, and what shown text never holds."""

from __future__ import annotations

__all__ = ["HOSTILE", "assert_tame"]

HOSTILE = {
    "escape": "\x1b[2J\x1b[31mred",
    "title": "\x1b]0;mine\x07",
    "link": "\x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\",
    "c1": "\x9b2Ja\x9d0;t\x9c",
    "bidi": "a\u202egnp.exe\u2066b\u2069\u200f",
    "newline": "a\n2026-01-01 00:00:00 ERROR [crawl-watchdog] forged",
    "other line ends": "a\rb\x0bc\x0cd\x85e\u2028f\u2029g",
    "nul": "a\0b\x7fc\bd",
    "surrogate": "a\udcffb\ud800c",
    "tags": "\ue000\U000e0041\ufeff\u200b",
}
"""A name of what it does, and the text."""


def assert_tame(text: str) -> None:
    """Lines of letters, nothing else, and none that nobody would read to its end."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert len(line) < 11_000
