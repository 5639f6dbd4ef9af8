"""What a shard is called whose driver does not know of us: the line that encodes, or what somebody says."""

from __future__ import annotations

import multiprocessing
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from helix_crawl_otel.config import SHARD_VARIABLE, environment

__all__ = ["on_left", "shard", "shard_name"]

_said: ContextVar[str | None] = ContextVar("helix_crawl_otel.shard", default=None)
"""Per thread, and per task of an event loop."""

on_left: list[Callable[[str], object]] = []
"""Called with the name of each shard whose block has ended."""

_NOTEBOOK = re.compile(r"[/\\]ipykernel_[0-9]+[/\\](?P<cell>[0-9]+)\.py$|^<ipython-input-(?P<number>[0-9]+)")


@contextmanager
def shard(name: str) -> Iterator[None]:
    """What is encoded in this block, by models that are watched without a line of their own, is the shard `name`.

    Args:
        name: The same each time the job runs, such as the name of the folder that is read.

    Raises:
        ValueError: `name` is no string, or empty.

    Threads: of this thread, or of this task of an event loop, alone.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"shard name is {name!r}; accepted: a string that is not empty")
    token = _said.set(name)
    try:
        yield
    finally:
        _said.reset(token)
        for left in list(on_left):
            left(name)


def shard_name() -> str:
    """Of what the code that called us, through whatever libraries, encodes."""
    named = _said.get() or environment().get(SHARD_VARIABLE, "").strip() or _calling_line()
    rank, ranks = environment().get("RANK", ""), environment().get("WORLD_SIZE", "1")
    return f"{named} rank {rank}" if rank and ranks not in ("", "1") else named


def _calling_line() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        place = _place(frame.f_code.co_filename)
        if place:
            return f"{place}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    program = Path(sys.argv[0] if sys.argv else "").name or "job"
    process = multiprocessing.current_process().name
    return program if process == "MainProcess" else f"{program} {process}"


@lru_cache(maxsize=4096)
def _place(file: str) -> str:
    """How a file of the job is called, empty for one of a library."""
    notebook = _NOTEBOOK.search(file)
    if notebook:
        return f"cell {notebook['cell'] or notebook['number']}"
    if file.startswith("<"):  # what is typed is the job's; what `multiprocessing` starts a child with is not
        is_typed = file in ("<stdin>", "<string>") and multiprocessing.parent_process() is None
        return file.strip("<>") if is_typed else ""
    path = Path(file).absolute()
    if any(path.is_relative_to(folder) for folder in _libraries()):
        return ""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return ""
    with suppress(OSError, ValueError):
        return path.relative_to(Path.cwd()).as_posix()
    return path.name


@lru_cache(maxsize=1)
def _libraries() -> list[Path]:
    own = [Path(__file__).parents[1]]
    return own + [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
