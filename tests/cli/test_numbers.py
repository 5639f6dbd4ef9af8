"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from helix_crawl_otel.numbers import count, duration, genes, gib, number, printable, rate, shard_name


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
