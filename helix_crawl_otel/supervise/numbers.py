"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["duration", "genes", "rate"]

GIB = 1024**3


def duration(seconds: float) -> str:
    """Such as `0.4 s`, `47 s`, `12 min 05 s`, `2 h 05 min`, `3 d 04 h`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def rate(genes_per_second: float | None) -> str:
    """Such as `15.3 genes/s`; slow ones keep their digits."""
    if genes_per_second is None:
        return "-"
    return f"{genes_per_second:.1f} genes/s" if genes_per_second >= 1 else f"{genes_per_second:.2g} genes/s"


def genes(count: int) -> str:
    """Such as `12,345 genes`."""
    return f"{count:,} gene{'' if count == 1 else 's'}"
