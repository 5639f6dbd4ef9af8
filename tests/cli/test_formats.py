"""What people read: numbers, names, and commands to be typed, which the shell takes as they were meant."""

from __future__ import annotations

import shlex
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from helix_crawl_otel.formats import (
    GIB,
    clock,
    count,
    duration,
    fitted,
    genes,
    gib,
    gib_number,
    mib,
    number,
    printable,
    rate,
    shard_name,
    shown_command,
    span,
    table_lines,
    whole_seconds,
    without_secrets,
)

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


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("build a --out b --batch-tokens 4096", "build a --out b --batch-tokens 4096"),
        ("build a --notify https://hooks.example/T0/x", "build a --notify https://hooks.example/..."),
        ("build a --notify=https://u:x@hooks.example", "build a --notify=https://hooks.example/..."),
        ("build a --notify http://localhost:8080/ --plain", "build a --notify http://localhost:8080/ --plain"),
        ("build a --notify http://[::1]:9/x", "build a --notify http://[::1]:9/..."),
        ("build a --notify 'curl -d x https://h/x' b", "build a --notify 'curl ...' b"),
        ("build a '--notify=https://h/x y'", "build a '--notify=https://h/... ...'"),
        ("run -- job --api-key x --to https://h/?k=x", "run -- job --api-key ... --to https://h/..."),
        ("run -- env HF_TOKEN=x job --password=x", "run -- env HF_TOKEN=... job --password=..."),
        ("build s3://b/a --out 's3://b/c d' --ray h:1", "build s3://b/a --out 's3://b/c d' --ray h:1"),
        ("build s3://k:x@b/a --out 'az://b/c?sig=x'", "build s3://b/... --out az://b/..."),
        ("run -- job postgres://u:x@db/notes", "run -- job postgres://db/..."),
        ("run -- curl -H 'Authorization: Bearer x'", "run -- curl -H 'Authorization: ...'"),
    ],
)
def test_a_command_is_shown_without_its_secrets(command: str, shown: str) -> None:
    """And whole where it has none: it is there to be typed again."""
    assert shlex.join(without_secrets(shlex.split(command))) == shlex.join(shlex.split(shown))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min 00 s"),
        (725, "12 min 05 s"),
        (7500, "2 h 05 min"),
        (86400 * 3 + 4 * 3600, "3 d 04 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at most, and no `10.0 s` beside `10 s`."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("genes_per_second", "text"),
    [(0.0, "0"), (0.0227, "0.023"), (0.02, "0.02"), (0.9999, "1.0"), (15.34, "15.3"), (12345.6, "12,345.6")],
)
def test_a_slow_rate_keeps_its_digits(genes_per_second: float, text: str) -> None:
    """0.02 genes/s is a crawl, and must not be shown as none."""
    assert number(genes_per_second) == text


def test_sizes_and_their_numbers_alone() -> None:
    """As many digits as are asked for; a rise has its sign."""
    assert (gib(11.5 * GIB), gib(1932735283, 2), mib(536870912)) == ("11.5 GiB", "1.80 GiB", "512 MiB")
    assert (gib_number(GIB, 2, "+"), gib_number(-GIB, 2, "+"), gib_number(0, 2)) == ("+1.00", "-1.00", "0.00")


@pytest.mark.parametrize(
    ("seconds", "text", "precise"),
    [
        (None, "-", "-"),
        (0, "0 s", "0.0 s"),
        (119.6, "120 s", "119.6 s"),
        (120, "2.0 min", "2.0 min"),
        (7199, "120.0 min", "120.0 min"),
        (7200, "2.0 h", "2.0 h"),
        (2 * 86400, "2.0 d", "2.0 d"),
        (30.25 * 86400, "30 d", "30.2 d"),
    ],
)
def test_a_span_has_one_unit(seconds: float | None, text: str, precise: str) -> None:
    """The largest of which there are two, so that a column can be read down."""
    assert (span(seconds), span(seconds, precisely=True)) == (text, precise)


def test_seconds_that_stand_beside_a_limit_stay_seconds() -> None:
    """And a moment of a run is hours, minutes, seconds."""
    assert whole_seconds(3720.4) == "3720 s"
    assert (clock(-1), clock(250), clock(36061)) == ("0:00:00", "0:04:10", "10:01:01")


def test_an_unknown_rate_is_no_zero() -> None:
    """A dash, and a baseline is named where there is one."""
    assert rate(None) == "-"
    assert rate(2.3, 15.3) == "2.3 of 15.3 genes/s"
    assert rate(2.3, None) == "2.3 genes/s"
    assert rate(0.0, 15.3) == "0 of 15.3 genes/s"


def test_one_and_many() -> None:
    """`1 shard`, `6 shards`; thousands are set apart."""
    assert [count(n, "shard") for n in (0, 1, 6)] == ["0 shards", "1 shard", "6 shards"]
    assert genes(12345) == "12,345 genes"
    assert gib(11 * 1024**3) == "11.0 GiB"


def test_names_cannot_steer_the_terminal() -> None:
    """The loose files say what they are; control characters and lone surrogates are spelt out."""
    assert shard_name(".") == ". (loose files)"
    assert shard_name("docs") == "docs"
    assert printable("a\x1b[2Jb\nc\udcff é") == r"a\x1b[2Jb\nc\udcff é"


@given(
    st.text(st.sampled_from("ab\u65e5\u0301\ufe0f\U0001f3f3\U0001f308 "), max_size=60),
    st.integers(20, 60),
    st.booleans(),
)
def test_no_line_is_wider_than_its_terminal(text: str, columns: int, keeps_end: bool) -> None:
    """Wide letters, marks that stand over the letter before them, and those that make it a wide one."""
    shown = fitted(printable(text), columns, keeps_end=keeps_end)
    assert cell_len(shown) <= columns
    assert "\u2026" in shown or shown == printable(text)


TABLE = (
    ("scenario", "policy", "finished after", "false"),
    [[("one", "ladder", "3.1 h", "0"), ("one", "best", "2.0 h", "-")], [("other", "ladder", "> 30 d", "12")]],
)


def test_a_table_has_as_many_columns_as_it_takes() -> None:
    """Into a file; the name of a block stands once."""
    assert table_lines(*TABLE) == [
        "scenario  policy  finished after  false",
        "--------  ------  --------------  -----",
        "one       ladder           3.1 h      0",
        "          best             2.0 h      -",
        "",
        "other     ladder          > 30 d     12",
    ]
    assert table_lines(*TABLE, 39) == table_lines(*TABLE)


def test_a_narrow_terminal_has_its_headings_in_two_lines_or_lists() -> None:
    """No line is longer than it, down to the longest cell."""
    assert table_lines(*TABLE, 38)[:5] == [
        "        finished",
        "policy     after  false",
        "------  --------  -----",
        "one",
        "ladder     3.1 h      0",
    ]
    # A cell is not broken at its blanks.
    assert table_lines(*TABLE, 22)[:3] == ["one, ladder", "  finished after: 3.1 h;", "  false: 0"]
    for columns in range(24, 60):
        assert max(map(len, table_lines(*TABLE, columns))) <= columns
