"""A batch that holds a whole corpus is told of, once: nothing can be judged or done inside of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.watch.shard import ShardWatch
from tests.watch.rig import CRAWL, FULL, GENES, WORK, Rig

ADVICE = (
    "nothing is judged or done before it ends: open a batch for each call of the model (some 64 genes), then boundary()"
)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines about it."""
    return [line for line in caplog.messages if ADVICE in line]


def _at_once(rig: Rig, shard: ShardWatch) -> None:
    with shard.batch(21_684):
        pass


def _timed(rig: Rig, shard: ShardWatch) -> None:
    rig.wait(500.0)
    shard.record(21_684, 400.0)


def _far_above_usual(rig: Rig, shard: ShardWatch) -> None:
    rig.healthy(shard)
    with shard.batch(GENES * 21, WORK * 21):
        pass


def _without_an_end(rig: Rig, shard: ShardWatch) -> None:
    with shard.batch(1):
        rig.wait(600.0)


@pytest.mark.parametrize(
    ("encode", "what"),
    [
        (_at_once, "one batch holds 21,684 genes"),
        (_timed, "one batch holds 21,684 genes"),
        (_far_above_usual, "one batch holds 1,344 genes"),
        (_without_an_end, "a first batch has run for 10 min 00 s"),
    ],
)
def test_a_corpus_in_one_batch(
    encode: Callable[[Rig, ShardWatch], None], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By its size when it begins, or by its age where the author counts otherwise; once, whatever comes after."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        encode(rig, shard)
        assert told(caplog) == [f"[crawl-watchdog] shard 'a': {what}; {ADVICE}"]
        _at_once(rig, shard)
        assert len(told(caplog)) == 1


def test_usual_batches_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Large ones of a fast card, one far larger than its small neighbours, one that stalls, one that crawls."""
    with Rig() as rig:
        with rig.watch.shard("fast") as fast:
            for _ in range(30):
                rig.batch(fast, 2.0, genes=4096, work=400_000.0)
        with rig.watch.shard("small") as small:
            for _ in range(12):
                rig.batch(small, 1.0, genes=2, work=100.0)
            rig.batch(small, 30.0, genes=64, work=4000.0)
        with rig.watch.shard("stalls") as stalls:
            rig.healthy(stalls)
            rig.batch(stalls, 700.0)
        with rig.watch.shard("bad") as bad, bad.batch(float("nan")):
            rig.wait(700.0)
        with rig.watch.shard("crawls") as crawls:
            rig.healthy(crawls)
            rig.fraction = FULL
            rig.batches(crawls, 8, CRAWL)
        assert ActionKind.EMPTY_CACHE in [action.kind for action in rig.applied]
    assert told(caplog) == []
