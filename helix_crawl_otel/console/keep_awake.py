"""Holds off the computer's sleep while a run lasts, by way of the library `wakepy` (extra `awake`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["keep_awake"]


@contextmanager
def keep_awake(wanted: bool, note: Callable[[str], None]) -> Iterator[None]:
    """Hold sleep off inside the `with` block; where that cannot be done the run goes on and says so.

    Args:
        wanted: Nothing is done without.
        note: Called with one sentence when the computer may sleep after all.
    """
    with ExitStack() as stack:
        if wanted:
            try:
                from wakepy import keep

                mode = stack.enter_context(keep.running(on_fail="pass"))
                if not mode.active:
                    note("--keep-awake: this system does not let sleep be held off; set it in its power settings")
            except ImportError:
                note("--keep-awake needs wakepy: `pip install 'helix-crawl-otel[awake]'`; the computer may sleep")
            except Exception as error:  # noqa: BLE001 - it talks to the desktop's bus: no trouble there may end a run
                note(f"--keep-awake failed, the computer may sleep: {' '.join(str(error).split())}")
        yield
