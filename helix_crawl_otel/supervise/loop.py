"""The loop of a supervised run: waits for what happens, lets each slot look, ends when all slots are over.

Source: DESIGN.md, sections 3.3 and 7. It never imports torch and never touches an API that makes a CUDA context.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence

from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, NEVER, PAUSED
from helix_crawl_otel.interrupts import Interrupts
from helix_crawl_otel.policy.model import Decision
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.rules import Ending
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.slot import Phase, Slot

__all__ = ["Supervisor"]

LOOK_SECONDS = 0.1
"""How often a process is asked whether it has ended, where its channel does not say so at once; the world's seconds."""


class Supervisor:
    """Runs slots until their work is done.

    Args:
        run: What they share.
        devices: Name and device of each slot.
        refresh: Called at every turn, for the display.

    Threads: `run` is the main thread's, `force` and `tick` any.
    """

    def __init__(self, run: RunContext, devices: Sequence[tuple[str, str]], refresh: Callable[[], None]) -> None:
        self._run = run
        self._refresh = refresh
        self._insisted = False
        self.slots = [Slot(name, device, run) for name, device in devices]

    def force(self, decision: Decision) -> None:
        """The policy wants a worker ended."""
        self._run.wake(lambda: self._force(decision))

    def _force(self, decision: Decision) -> None:
        for slot in self.slots:
            slot.force(decision)

    def tick(self) -> None:
        """The policy has looked at the clock: tell the workers what it wants."""
        for slot in self.slots:
            slot.tick()

    def run(self) -> int:
        """Supervise until every slot is over.

        Returns:
            The exit code, as far as the workers decide it; failed shards and genes are the job's to add.
        """
        with Interrupts(lambda times: self._run.wake(lambda: self._interrupted(times)), self._run.world_clock):
            try:
                for slot in self.slots:
                    slot.begin()
                while any(slot.phase is not Phase.OVER for slot in self.slots):
                    self._turn()
            except BaseException:
                for slot in self.slots:
                    slot.abandon()
                raise
        return self._exit_code()

    def _turn(self) -> None:
        try:
            self._run.inbox.get(timeout=LOOK_SECONDS)()
            while True:
                self._run.inbox.get_nowait()()
        except queue.Empty:
            pass
        for slot in self.slots:
            slot.advance()
        if self._run.ends_early() and not self._run.pausing:
            self._pause()
        self._refresh()

    def _interrupted(self, times: int) -> None:
        self._run.emit(events.Interrupted(self._run.clock(), times))
        if times == 1:
            self._pause()
            return
        self._insisted = True
        for slot in self.slots:
            slot.end_worker("interrupt")

    def _pause(self) -> None:
        self._run.pausing = True
        for slot in self.slots:
            slot.pause()

    def _exit_code(self) -> int:
        endings = [ending for ending, _ in self._run.endings]
        if self._insisted:
            return INTERRUPTED
        if Ending.NEVER in endings:
            return NEVER
        if self._run.is_paused:
            return PAUSED
        return FAILED if self._run.failures else DONE
