"""How a process may end at a boundary, by what has started it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from helix_crawl_otel.watch.process_end import end_of_this_process


def how(_: int = 0) -> tuple[bool, bool, str]:
    """Of the process that this runs in: may end now, may end after its task, why not."""
    end = end_of_this_process()
    return end.is_free, end.tasks is not None, end.refusal


def leave_after_task(number: int) -> tuple[int, int | None]:
    """Of a pool: this is the last task of its process."""
    end_of_this_process().after_task()
    return number, multiprocessing.current_process().pid


def test_the_process_that_was_started_may_end() -> None:
    """Whoever has started it, a shell or a launcher, sees its code."""
    assert how() == (True, False, "")


def test_a_pool_executor_and_a_child_of_the_jobs_own_may_not() -> None:
    """Each says what would make it possible."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        free, after_task, why = pool.submit(how).result(60)
    assert (free, after_task) == (False, False)
    assert "ProcessPoolExecutor breaks" in why
    assert "multiprocessing.Pool" in why
    assert "max_tasks_per_child=" in why
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_told, args=(how, sending))
    child.start()
    assert receiving.poll(60)
    assert receiving.recv()[:2] == (False, False)
    child.join(60)


def _told(ask: Callable[[], object], sending: object) -> None:
    sending.send(ask())  # type: ignore[attr-defined]  # a connection, which typeshed has by system


def test_a_process_of_a_pool_ends_after_its_task() -> None:
    """Its result arrives, no task is lost, and each is another process's."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.apply(how) == (False, True, "")
        results = pool.map(leave_after_task, range(6), chunksize=1)
    assert [number for number, _ in results] == list(range(6))
    assert len({pid for _, pid in results}) == 6
