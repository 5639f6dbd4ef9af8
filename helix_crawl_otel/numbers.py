"""Numbers and names as people read them."""

from __future__ import annotations

__all__ = ["count", "duration", "genes", "gib", "number", "printable", "rate", "shard_name"]

GIB = 1024**3


def duration(seconds: float) -> str:
    """Such as `0.4 s`, `47 s`, `12 min 05 s`, `2 h 05 min`, `3 d 04 h`."""
    if round(seconds, 1) < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def number(genes_per_second: float) -> str:
    """A rate's number, such as `15.3`; slow ones keep their digits, such as `0.023`, and only none at all is `0`."""
    if genes_per_second <= 0:
        return "0"
    if genes_per_second >= 0.9995:
        return f"{genes_per_second:,.1f}"
    return f"{genes_per_second:.2g}"


def rate(genes_per_second: float | None, baseline: float | None = None) -> str:
    """Such as `15.3 genes/s`, or `2.3 of 15.3 genes/s` beside a baseline; `-` while unknown."""
    if genes_per_second is None:
        return "-"
    of = f" of {number(baseline)}" if baseline else ""
    return f"{number(genes_per_second)}{of} genes/s"


def count(number: int, one: str, many: str = "") -> str:
    """Such as `1 shard`, `6 shards`, `1,234 sources`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def genes(number: int) -> str:
    """Such as `12,345 genes`."""
    return count(number, "gene")


def gib(number_of_bytes: int) -> str:
    """Such as `11.0 GiB`."""
    return f"{number_of_bytes / GIB:.1f} GiB"


def shard_name(shard: str) -> str:
    """The name of a shard; that of the loose files says what it is."""
    return ". (loose files)" if shard == "." else shard


def printable(text: str) -> str:
    """Text that cannot move the cursor or break its line: names of files may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
