"""Workers that leave a shard because there is no memory on its card: for how long others may follow them there."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.build.job import ENOUGH, MOST_LEAN
from helix_crawl_otel.link import messages
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.slot import Phase
from tests.supervise.played import PlayedWorker
from tests.supervise.stage import Stage, build_job
from tests.watch.rig import GENES, HEALTHY, WORK

CARD, CPU = "cuda:0", "cpu"


class Build:
    """A build of one shard, whose workers are played one after the other.

    Args:
        tmp_path: For its files.
    """

    def __init__(self, tmp_path: Path) -> None:
        self.told: list[events.Event] = []
        self.stage = Stage(build_job(tmp_path, ["a"], set(), self.told.append), logs=tmp_path)
        self.workers = 0

    def worker(self, *batches: float, is_loading: bool = False) -> str:
        """One that finishes batches of so much work and then has no memory for a gene. Returns where it was."""
        self.workers += 1
        played = self.stage.begin() if self.workers == 1 else self._next()
        played.hello()
        for work in batches:
            self._batch(played, work)
        if not is_loading:
            self._begin(played, WORK)
        played.say(messages.PassOnShard("a", "CUDA out of memory", lacks_memory=True, is_loading=is_loading))
        played.next_told(messages.Leave)
        played.leave(0)
        return str(self.stage.starts()[-1][0])

    def _next(self) -> PlayedWorker:
        count = len(self.stage.workers)
        self.stage.until(lambda: len(self.stage.workers) > count or self.stage.slot.phase is Phase.WAITING)
        self.stage.clock.now += 60.0  # the backoff
        return self.stage.next_worker(count + 1)

    @staticmethod
    def _begin(played: PlayedWorker, work: float) -> None:
        played.start("a", GENES, work)

    def _batch(self, played: PlayedWorker, work: float) -> None:
        self._begin(played, work)
        self.stage.clock.now += HEALTHY
        played.finish(HEALTHY)
        played.boundary("a", genes=GENES, pending=1_000_000)

    def goes_on_at(self) -> str:
        """Where the next worker starts."""
        self._next()
        return str(self.stage.starts()[-1][0])

    def notes(self) -> list[str]:
        """What was said of the shard's ways."""
        return [event.text for event in self.told if isinstance(event, events.Note)]


@pytest.mark.parametrize("batches", [1, 2, ENOUGH - 1])
def test_a_leak_that_leaves_room_for_a_few_batches_does_not_recycle_for_ever(tmp_path: Path, batches: int) -> None:
    """The shard goes to the CPU, which is said once; what it has is kept."""
    build = Build(tmp_path)
    with build.stage:
        places = [build.worker(*[WORK] * batches) for _ in range(MOST_LEAN + 1)]
        assert places == [CARD] * (MOST_LEAN + 1)
        assert build.goes_on_at() == CPU
        assert build.stage.starts()[-1] == (CPU, "demote")
        *before, last = build.notes()
        assert all(note.endswith("CUDA out of memory; another worker tries again on cuda:0") for note in before)
        assert last == (
            "shard a: 4 workers in a row had no memory for 8 batches: CUDA out of memory; it is finished on the CPU"
        )


def test_pieces_of_a_batch_are_no_batches(tmp_path: Path) -> None:
    """A worker that halves on its way finishes many of them."""
    build = Build(tmp_path)
    with build.stage:
        for _ in range(MOST_LEAN + 1):
            build.worker(WORK, *[WORK / 16] * 30)
        assert build.goes_on_at() == CPU


def test_a_leak_that_leaves_room_for_many_batches_goes_on_on_the_card(tmp_path: Path) -> None:
    """A fresh process now and then costs little beside them."""
    build = Build(tmp_path)
    with build.stage:
        for _ in range(3 * MOST_LEAN):
            assert build.worker(*[WORK] * ENOUGH) == CARD
        assert build.goes_on_at() == CARD


def test_another_program_that_takes_memory_now_and_then_sends_nothing_to_the_cpu(tmp_path: Path) -> None:
    """While it holds it there is none for the model, or for few batches; then one does much, and all is forgotten."""
    build = Build(tmp_path)
    with build.stage:
        for _ in range(4):
            assert build.worker(*[WORK] * 20) == CARD
            assert build.worker(is_loading=True) == CARD
            assert build.worker(WORK) == CARD
            assert build.worker(WORK) == CARD
        assert build.goes_on_at() == CARD


def test_a_text_that_has_no_room_on_the_card_alone_goes_to_the_cpu_after_a_fresh_try(tmp_path: Path) -> None:
    """The first one may have had other memory in its way; nothing is finished in between, so it is no leak."""
    build = Build(tmp_path)
    with build.stage:
        build.worker(*[WORK] * 20)
        build.worker()
        assert build.goes_on_at() == CPU
        assert build.notes()[-1] == "shard a: CUDA out of memory; it is finished on the CPU"


def test_one_giant_batch_makes_no_later_ones_small_for_ever(tmp_path: Path) -> None:
    """What is much is measured by the largest batch, and a worker that comes to it begins the count anew."""
    build = Build(tmp_path)
    with build.stage:
        build.worker(10 * WORK)
        for _ in range(MOST_LEAN - 1):
            assert build.worker(WORK) == CARD
        assert build.worker(*[WORK] * 10 * ENOUGH) == CARD
        assert build.goes_on_at() == CARD
