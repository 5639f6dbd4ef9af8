"""Whether this process may end at a boundary for another one to go on, or only after its task, or not at all.

A process that `helix-crawl run` or a launcher has started may: the run starts it again. What another process of the job
has started by `multiprocessing` is waited for by that one. A `Pool` replaces a process that has ended, but not the task
that it was in: whoever waits for the result of that waits for ever. So it ends between two tasks. Others break.

Source: `multiprocessing.pool.worker`, which ends when its queue of tasks cannot be read, after the result of the last
one is sent; `concurrent.futures.process`, where the end of one process is `BrokenProcessPool` for all.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["ProcessEnd", "end_of_this_process"]


@dataclass(frozen=True)
class ProcessEnd:
    """How this process may end.

    Args:
        refusal: Why it must not, with what would make it possible; empty where it may.
        tasks: The queue that a pool's process reads its tasks from; `None` where it is none.
    """

    refusal: str = ""
    tasks: Any = None

    @property
    def is_free(self) -> bool:
        """Whether it may end here and now."""
        return not self.refusal and self.tasks is None

    def after_task(self) -> None:
        """Have a pool's process end once its task is done and the result is sent: it can read no further one.

        Threads: the main thread, which is in the task.
        """
        self.tasks._reader.close()


_POOLS = {("pool", "worker"), ("torch.multiprocessing.pool", "clean_worker")}

_REFUSALS = {
    ("concurrent.futures.process", "_process_worker"): (
        "a ProcessPoolExecutor breaks when one of its processes ends; use multiprocessing.Pool, which starts another, "
        "or max_tasks_per_child=, which replaces each after so many tasks"
    ),
    ("joblib.externals.loky.process_executor", "_process_worker"): (
        "joblib's pool breaks when one of its processes ends; use Parallel(backend='multiprocessing'), whose pool "
        "starts another"
    ),
    ("torch.utils.data._utils.worker", "_worker_loop"): (
        "a DataLoader fails when one of its workers ends; encode in the process that reads from it"
    ),
}

_UNKNOWN = (
    "another process of the job has started this one and may wait for it; exit_to_recycle=True says that it starts "
    "another in its place"
)


def end_of_this_process() -> ProcessEnd:
    """How this process may end, as far as `multiprocessing`, or its twin `multiprocess`, tells."""
    for name in ("multiprocessing", "multiprocess"):
        library = sys.modules.get(f"{name}.process")
        if library is not None and library.parent_process() is not None:
            return _of_child(name, library.current_process())
    return ProcessEnd()


def _of_child(library: str, process: Any) -> ProcessEnd:
    target = getattr(process, "_target", None)
    place = str(getattr(target, "__module__", "")), str(getattr(target, "__name__", ""))
    if (place[0].removeprefix(f"{library}."), place[1]) in _POOLS:
        with suppress(AttributeError, IndexError, TypeError):
            tasks = process._args[0]
            if callable(tasks._reader.close):
                return ProcessEnd(tasks=tasks)
    return ProcessEnd(refusal=_REFUSALS.get(place, _UNKNOWN))
