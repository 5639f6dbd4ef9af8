"""What was closed is not used again: each use raises with one sentence. In a job that awaits the same blocks work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.shard import ShardWatch
from tests.watch.rig import GENES, HEALTHY, WORK, Rig

OF_A_WATCH: dict[str, Callable[[CrawlWatch], object]] = {
    "shard": lambda watch: watch.shard("b"),
    "on_action": lambda watch: watch.on_action(print),
    "tick": lambda watch: watch.tick(),
    "with": lambda watch: watch.__enter__(),
    "async with": lambda watch: asyncio.run(_entered(watch)),
}

OF_A_SHARD: dict[str, Callable[[ShardWatch], object]] = {
    "batch": lambda shard: shard.batch(GENES),
    "record": lambda shard: shard.record(GENES, HEALTHY),
    "boundary": lambda shard: shard.boundary(),
    "with": lambda shard: shard.__enter__(),
    "async with": lambda shard: asyncio.run(_entered(shard)),
}

CLOSINGS: dict[str, Callable[[Any], object]] = {
    "closed": lambda block: block.close(),
    "left by async with": lambda block: asyncio.run(_entered(block)),
}


async def _entered(block: Any) -> None:
    async with block:
        pass


@pytest.mark.parametrize("use", OF_A_WATCH.values(), ids=OF_A_WATCH)
@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
def test_a_closed_watch_is_not_used_again(
    use: Callable[[CrawlWatch], object], close: Callable[[CrawlWatch], object]
) -> None:
    """It would measure nothing, and nobody would be told."""
    with Rig() as rig:
        close(rig.watch)
        with pytest.raises(RuntimeError, match=r"^this CrawlWatch is closed; make another one$"):
            use(rig.watch)
        rig.watch.close()
        assert len(rig.watch.actions) == 0


@pytest.mark.parametrize("use", OF_A_SHARD.values(), ids=OF_A_SHARD)
def test_a_shard_of_a_closed_watch_is_not_used_again(use: Callable[[ShardWatch], object]) -> None:
    """Nor a batch of it that was made before."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        made = shard.batch(GENES)
        rig.watch.close()
        closed = r"^the CrawlWatch of shard 'a' is closed; make another one$"
        with pytest.raises(RuntimeError, match=closed):
            use(shard)
        with pytest.raises(RuntimeError, match=closed):
            made.__enter__()
        shard.status()


@pytest.mark.parametrize("use", OF_A_SHARD.values(), ids=OF_A_SHARD)
@pytest.mark.parametrize("close", CLOSINGS.values(), ids=CLOSINGS)
def test_a_closed_shard_is_not_used_again(
    use: Callable[[ShardWatch], object], close: Callable[[ShardWatch], object]
) -> None:
    """The watch begins it again, with the rung and the baseline that it had."""
    with Rig() as rig:
        shard = rig.watch.shard("a")
        rig.healthy(shard)
        baseline = shard.status().baseline
        close(shard)
        with pytest.raises(RuntimeError, match=r"^shard 'a' is closed; watch.shard\('a'\) begins it again$"):
            use(shard)
        shard.close()
        assert rig.total("helix_dense_shards", "state=done") == 1
        with rig.watch.shard("a") as again:
            rig.batch(again)
            assert again.status().baseline == baseline is not None


def test_a_batch_is_entered_once() -> None:
    """The second block would end what the first has begun."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        scope = shard.batch(GENES)
        with scope:
            rig.wait(HEALTHY)
        with pytest.raises(RuntimeError, match=r"^a batch is entered once; shard.batch\(\.\.\.\) makes the next one$"):
            scope.__enter__()


def test_a_shard_is_left_as_its_block_ends() -> None:
    """`close` is done; of the other ends the block tells."""
    with Rig() as rig:
        rig.watch.shard("never begun").close()
        with pytest.raises(KeyError), rig.watch.shard("failed"):
            rig.fail(KeyError("text"))
        with rig.watch.shard("closed inside") as shard:
            rig.batch(shard)
            shard.close()
        assert rig.total("helix_dense_shards", "state=failed") == 1
        assert rig.total("helix_dense_shards", "state=done") == 1
        assert rig.total("helix_dense_shards", "state=running") == 0


def test_a_job_that_awaits() -> None:
    """Two shards in one thread, each awaiting in its batches: every batch is judged as one, at its own time."""

    async def job(rig: Rig, watch: CrawlWatch, name: str, turn: asyncio.Condition) -> None:
        async with watch.shard(name) as shard:
            for _ in range(12):
                async with shard.batch(GENES, WORK), turn:
                    rig.clock.now += HEALTHY / 2
                    turn.notify()
                    await asyncio.wait_for(turn.wait(), 30)
                assert shard.boundary() == []

    async def both(rig: Rig) -> None:
        turn = asyncio.Condition()
        async with rig.watch as watch:
            jobs = [asyncio.create_task(job(rig, watch, name, turn)) for name in ("a", "b")]
            while not all(one.done() for one in jobs):
                async with turn:
                    turn.notify_all()
                await asyncio.sleep(0)
            await asyncio.gather(*jobs)

    rig = Rig()
    asyncio.run(both(rig))
    assert rig.total("helix_dense_genes", "shard=a") == rig.total("helix_dense_genes", "shard=b") == 12 * GENES
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(_entered(rig.watch))


def test_the_read_of_one_task_is_not_anothers() -> None:
    """Between two encodes of a task the other one encodes: that is no read."""

    async def task(rig: Rig, shard: ShardWatch, seconds: float, pause: float) -> None:
        for _ in range(3):
            async with shard.batch(GENES, WORK):
                rig.clock.now += seconds
            await asyncio.sleep(0)
            rig.clock.now += pause

    async def both(rig: Rig) -> None:
        async with rig.watch.shard("a") as shard:
            await asyncio.gather(task(rig, shard, 4.0, 0.0), task(rig, shard, 4.0, 0.0))

    with Rig() as rig:
        asyncio.run(both(rig))
        assert rig.total("helix_dense_batch_duration", "stage=encode") == 6
        assert rig.total("helix_dense_batch_duration", "stage=read") == 4  # the second and third of each task
