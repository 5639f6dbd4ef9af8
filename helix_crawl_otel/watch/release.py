"""Rung 1: give cached memory back to the device."""

from __future__ import annotations

import gc
import sys

__all__ = ["release_cache"]


def release_cache() -> int | None:
    """Collect garbage, then have torch release the blocks it caches, if this process uses CUDA at all.

    Never imports torch and never creates a CUDA context: both would take memory instead of giving it back.

    Returns:
        Bytes that torch's allocator gave back, `None` where there is no CUDA context in this process.

    Raises:
        RuntimeError: torch could not release its cache; the driver is in trouble.

    Threads: the driver's, at a batch boundary.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    before = int(cuda.memory_reserved())
    cuda.empty_cache()
    return max(0, before - int(cuda.memory_reserved()))
