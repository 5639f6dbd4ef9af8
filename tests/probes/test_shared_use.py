"""Whose graphics memory lies in system memory, and who holds most."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.probes.gpu_counters import GpuUsage, ProcessUsage
from helix_crawl_otel.probes.shared import MOST_HOLDERS, Holder, SharedUse, shared_use

CARD, OTHER = "0x0_0xD1C5", "0x0_0xE2D6"


def reading(*uses: tuple[int, str, int, int]) -> GpuUsage:
    """A reading of these processes: pid, adapter, dedicated and shared bytes."""
    return GpuUsage(tuple(ProcessUsage(*use) for use in uses), ())


def name_of(pid: int) -> str | None:
    """Names for the pids below 100."""
    return f"program-{pid}.exe" if pid < 100 else None


# -- who holds what ---------------------------------------------------------------------------------------------------


def test_the_workers_share_is_that_of_its_whole_tree() -> None:
    """The launcher, the worker and what it started count together, on every adapter."""
    usage = reading((1, CARD, 0, 1), (2, CARD, 100, 20), (3, CARD, 5, 300), (3, OTHER, 1, 4000), (9, CARD, 7, 50000))
    use = shared_use(usage, {1, 2, 3}, name_of)
    assert use.worker_bytes == 4321
    assert use.other_bytes == 50000


def test_only_others_on_the_workers_adapters_count() -> None:
    """A game on the second card does not press on the first."""
    usage = reading((1, CARD, 100, 20), (7, CARD, 3, 2), (8, OTHER, 900, 800))
    assert shared_use(usage, {1}, name_of) == SharedUse(20, 2, (Holder(7, "program-7.exe", 3, 2),))


def test_an_adapter_that_the_worker_only_looked_at_does_not_count() -> None:
    """A process is listed with 0 bytes on a card that it has opened and does not use."""
    usage = reading((1, CARD, 100, 20), (1, OTHER, 0, 0), (8, OTHER, 900, 800))
    assert shared_use(usage, {1}, name_of) == SharedUse(20, 0, ())


@pytest.mark.parametrize("workers", [set(), {1}])
def test_while_the_worker_uses_no_adapter_all_others_count(workers: set[int]) -> None:
    """Before the model is loaded, or when no worker runs: who holds memory on any card."""
    usage = reading((1, CARD, 0, 0), (7, CARD, 3, 2), (8, OTHER, 900, 800))
    use = shared_use(usage, workers, name_of)
    assert (use.worker_bytes, use.other_bytes) == (0, 802)
    assert [holder.pid for holder in use.holders] == [8, 7]


def test_holders_come_most_first_at_most_five_each_once() -> None:
    """By dedicated and shared memory together over the adapters; equals by pid; who holds nothing is no holder."""
    usage = reading(
        *((pid, CARD, 10 * pid, 0) for pid in range(2, 9)),
        (200, CARD, 30, 0),
        (200, OTHER, 0, 50),
        (300, CARD, 0, 0),
        (1, CARD, 1, 0),
        (1, OTHER, 1, 0),
    )
    holders = shared_use(usage, {1}, name_of).holders
    assert [(holder.pid, holder.dedicated_bytes + holder.shared_bytes) for holder in holders] == [
        (8, 80),
        (200, 80),
        (7, 70),
        (6, 60),
        (5, 50),
    ]
    assert holders[1] == Holder(200, None, 30, 50)


def test_names_are_asked_for_the_holders_only() -> None:
    """A look at a process costs a call; hundreds may be listed."""
    asked: list[int] = []
    shared_use(reading(*((pid, CARD, pid, 0) for pid in range(1, 100))), {1}, asked.append)
    assert asked == [99, 98, 97, 96, 95]


uses = st.lists(
    st.tuples(
        st.integers(1, 12), st.sampled_from([CARD, OTHER, "0x1_0x1"]), st.integers(0, 2**40), st.integers(0, 2**40)
    ),
    unique_by=lambda use: use[:2],
)


@given(uses, st.sets(st.integers(1, 12)))
def test_no_byte_is_lost_or_counted_twice(uses: list[tuple[int, str, int, int]], workers: set[int]) -> None:
    """The worker's and the others' bytes are all shared bytes of the adapters that count, and holders are a part."""
    usage = reading(*uses)
    use = shared_use(usage, workers, name_of)
    counting = {adapter for pid, adapter, dedicated, shared in uses if pid in workers and dedicated + shared > 0}
    on_them = [one for one in uses if not counting or one[1] in counting]
    assert use.worker_bytes + use.other_bytes == sum(shared for *_, shared in on_them)
    assert use.worker_bytes == sum(shared for pid, _, _, shared in uses if pid in workers)
    assert len(use.holders) == min(
        MOST_HOLDERS, len({pid for pid, _, dedicated, shared in on_them if pid not in workers and dedicated + shared})
    )
    assert not {holder.pid for holder in use.holders} & workers
    assert sum(holder.shared_bytes for holder in use.holders) <= use.other_bytes
    held = [holder.dedicated_bytes + holder.shared_bytes for holder in use.holders]
    assert held == sorted(held, reverse=True)


@given(uses, st.sets(st.integers(1, 12)), st.randoms(use_true_random=False))
def test_the_order_of_the_reading_is_of_no_account(
    uses: list[tuple[int, str, int, int]], workers: set[int], random: Random
) -> None:
    """The same processes in another order give the same answer."""
    shuffled = list(uses)
    random.shuffle(shuffled)
    assert shared_use(reading(*shuffled), workers, name_of) == shared_use(reading(*uses), workers, name_of)
