"""Carries decisions to where they matter: the hook, the queue, the counters, the log, the timeline."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import Protocol

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.gauges import ExportedMetrics
from helix_crawl_otel.otel.logline import decision_line
from helix_crawl_otel.otel.policy_reader import LockedPolicy
from helix_crawl_otel.policy.model import Action, ActionKind, Decision, DecisionKind, Evidence, Outcome
from helix_crawl_otel.policy.policy import Policy

__all__ = ["ActionHook", "ActionSink", "Dispatcher"]

ActionHook = Callable[[Action], object]

_TOLD = {
    DecisionKind.PASSED_OVER: logging.WARNING,
    DecisionKind.OVERDUE: logging.WARNING,
    DecisionKind.RECOVERED: logging.WARNING,
    DecisionKind.HANG: logging.ERROR,
}
"""Logged by their names. What is issued is logged once it is known whether the hook vetoes it."""

_ENDS = (DecisionKind.SUPERSEDED, DecisionKind.APPLIED, DecisionKind.OVERDUE)
"""They say how an action ended; overdue ends it where somebody ends the worker."""


class ActionSink(Protocol):
    """Where actions are recorded or shown: the timeline, a supervisor's display."""

    def action(self, t: float, shard: str, kind: str, outcome: str, evidence: Evidence) -> None:
        """Record how an action ended."""


class Dispatcher:
    """Takes decisions from the feed, in order, and carries them out.

    Args:
        feed: Where decisions come from and outcomes go.
        exported: To count on.
        clock: Seconds.
        can_end_worker: Somebody acts on forced decisions, so an overdue action is over.
        on_forced: Called with each decision that needs the worker ended.
        on_error: Called with the place and what was raised there.

    Threads: any. One thread at a time carries out, the others leave their decisions to it: a hook that hangs in the
    ticker's thread must not stop the thread of a batch.
    """

    def __init__(
        self,
        feed: LockedPolicy,
        exported: ExportedMetrics,
        clock: Callable[[], float],
        *,
        can_end_worker: bool,
        on_forced: Callable[[Decision], None] | None,
        on_error: Callable[[str, Exception], None],
    ) -> None:
        self.queue = ActionQueue(self.acknowledge)
        self.hooks: list[ActionHook] = []
        self.sinks: list[ActionSink] = []
        self._feed = feed
        self._exported = exported
        self._clock = clock
        self._can_end_worker = can_end_worker
        self._on_forced = on_forced
        self._on_error = on_error
        self._running = threading.Lock()
        self._open: dict[int, Action] = {}  # issued, not ended; guarded by _opening
        self._opening = threading.Lock()

    def run(self) -> None:
        """Carry out what has been decided since the last call."""
        waiting = self._feed.decisions
        while waiting and self._running.acquire(blocking=False):
            try:
                while waiting:
                    self._carry_out(waiting.popleft())
            finally:
                self._running.release()  # what came since, when the lock was still held, is seen by the outer loop

    def acknowledge(self, action: Action, outcome: Outcome) -> None:
        """Take note of how an action ended, once; a second word about it changes nothing."""
        self._feed.tell(Policy.resolve, action.shard, action.id, outcome)
        self._settle(action.id, outcome)
        self.run()

    def _carry_out(self, decision: Decision) -> None:
        what, kind = decision.what, decision.kind
        if what in _TOLD:
            watchdog.log(_TOLD[what], "%s", decision_line(what.value.replace("_", " "), decision))
        if what is DecisionKind.ISSUE:
            self._issue(decision)
        elif what is DecisionKind.PASSED_OVER and kind is not None:
            self._ended(decision.shard, kind, Outcome.PASSED_OVER, decision.evidence)
        elif what in _ENDS and (what is not DecisionKind.OVERDUE or self._can_end_worker):
            self.queue.discard(decision.action_id)
            self._settle(decision.action_id, Outcome(what.value))
        if decision.forced and self._on_forced is not None and not self._was_vetoed(decision):
            self._on_forced(decision)

    def _issue(self, decision: Decision) -> None:
        kind = decision.kind
        assert kind is not None
        action = Action(
            id=decision.action_id,
            kind=kind,
            shard=decision.shard,
            device=decision.device,
            reason=decision.reason,
            evidence=MappingProxyType(dict(decision.evidence)),
        )
        if kind is ActionKind.DETECT:
            self._exported.crawl(decision.shard, decision.device)
        with self._opening:
            self._open[action.id] = action
        if self._is_vetoed(action):
            watchdog.warning("%s", decision_line("vetoed by the hook", decision))
            self.acknowledge(action, Outcome.VETOED)
            return
        watchdog.warning("%s", decision_line("issued", decision))
        if kind is ActionKind.DETECT:
            # It is done by being said: nobody has to apply it, and it may wait in the queue for whoever polls.
            self._settle(action.id, Outcome.APPLIED)
        self.queue.put(action)

    def _is_vetoed(self, action: Action) -> bool:
        vetoed = False
        for hook in list(self.hooks):
            try:
                vetoed = hook(action) is False or vetoed
            except Exception as error:  # noqa: BLE001 - the hook is the user's; it must not stop the ladder
                self._on_error("hook", error)
            except SystemExit as error:  # nor end whichever thread it happens to run in
                self._on_error("hook", RuntimeError(f"{type(error).__name__}: {error}"))
        return vetoed

    def _was_vetoed(self, decision: Decision) -> bool:
        if decision.what is not DecisionKind.ISSUE:
            return False
        with self._opening:
            return decision.action_id not in self._open

    def _settle(self, action_id: int, outcome: Outcome) -> None:
        with self._opening:
            action = self._open.pop(action_id, None)
        if action is not None:
            self._ended(action.shard, action.kind, outcome, action.evidence)

    def _ended(self, shard: str, kind: ActionKind, outcome: Outcome, evidence: Evidence) -> None:
        self._exported.action(shard, kind, outcome)
        for sink in self.sinks:
            try:
                sink.action(self._clock(), shard, kind.value, outcome.value, evidence)
            except Exception as error:  # noqa: BLE001 - the clock is the caller's; an action must not be lost by it
                self._on_error("timeline", error)
