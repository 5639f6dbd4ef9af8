"""Commands that are shown to be typed: what the shell makes of them is what was meant."""

from __future__ import annotations

import shlex
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.formats import shown_command

words = st.lists(st.text(st.characters(exclude_characters="\0\n\r"), max_size=12), min_size=1, max_size=4)


@given(words)
def test_a_posix_shell_reads_what_was_meant(command: list[str]) -> None:
    """Whatever the words are."""
    assert shlex.split(shown_command(command, "linux")) == command


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (r"C:\notes\a.b", r"C:\notes\a.b"),
        ("--factor=5", "--factor=5"),
        ("", '""'),
        ("two words", '"two words"'),
        ("card:batches=8,seconds=1", '"card:batches=8,seconds=1"'),
        ("a&b", '"a&b"'),
        ("it's", '"it\'s"'),
        ("C:\\my notes\\", '"C:\\my notes\\\\"'),
        ("costs $5", "'costs $5'"),
        ('a "b" it\'s', "'a \"b\" it''s'"),
    ],
)
def test_windows_words_are_quoted_where_they_have_to_be(word: str, shown: str) -> None:
    """As PowerShell reads them, and the command prompt as well where they hold nothing that PowerShell reads."""
    assert shown_command(["helix-crawl", word], "win32") == f"helix-crawl {shown}"


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows' own parser of a command line: runs under Wine")
@given(words)
def test_windows_reads_what_was_meant(command: list[str]) -> None:
    """Words in double quotation marks are what a program gets."""
    if sys.platform == "win32":
        import ctypes

        read = ctypes.windll.shell32.CommandLineToArgvW
        read.restype = ctypes.POINTER(ctypes.c_wchar_p)
        count = ctypes.c_int()
        line = shown_command(["x", *command], "win32")
        if "'" not in line:
            found = read(ctypes.c_wchar_p(line), ctypes.byref(count))
            assert found[1 : count.value] == command
