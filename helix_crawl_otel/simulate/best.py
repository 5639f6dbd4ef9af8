"""The best possible time for a scenario: a bound that no policy passes, and the plan that it is the time of.

A shortest path over the batch boundaries, over recycles and moves between card and CPU, each at its full cost, on a
card that is better than any policy could make it (`IdealContext`): its cache is emptied for nothing before each batch,
and a batch that does not fit is cut beforehand. So it is a bound for every policy, with a cap on the allocator or
without one; and a close one, for a release in time or a flush costs half a second. What makes the search small, and
exact on that card:

- a younger context is never slower than an older one, and starting one costs the same anywhere, so a reset is never
  needed before the first batch that is slower for what has leaked, or stalls (put it off until there: the context is
  younger from then on);
- as soon as a context has lost more than a reset at that first boundary would have cost, it is not followed further.

The closed loop offers nothing else to do, charges the same costs or more, and ending a worker inside a batch only adds
the part of the batch that is lost. All of it where a padded length leaves the same fragment whenever it is met.

Source: DESIGN.md, section 10: "time to finish over the best possible".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from helix_crawl_otel.modelled_card import BatchLoad, CardModel, IdealContext
from helix_crawl_otel.simulate.policies import CARD, CPU, PlannedPolicy, SimulatedAction
from helix_crawl_otel.simulate.scenario import Scenario

__all__ = ["Plan", "best_plan"]

_NEVER = math.inf


@dataclass(frozen=True)
class Plan:
    """What to do, known beforehand.

    Args:
        seconds: Time to finish.
        steps: By index of the batch, what is done before it.
        first_device: Where the first worker starts.
    """

    seconds: float
    steps: dict[int, SimulatedAction]
    first_device: str

    def policy(self) -> PlannedPolicy:
        """The policy that follows the plan in the closed loop."""
        return PlannedPolicy(dict(self.steps), self.first_device)


@dataclass
class _Way:
    """The earliest way to a state at a boundary, and where it came from.

    Args:
        seconds: When.
        via: Boundary at which the context (or the stay on the CPU) before it began, -1 for the beginning of the run.
        device: Of what was before it.
        step: What leads here.
    """

    seconds: float = _NEVER
    via: int = -1
    device: str = ""
    step: SimulatedAction | None = None

    def offer(self, seconds: float, via: int, device: str, step: SimulatedAction | None) -> None:
        if seconds < self.seconds:
            self.seconds, self.via, self.device, self.step = seconds, via, device, step


class _Search:
    """Over boundaries 0 to n; boundary i lies before batch i.

    `fresh[i]`: a fresh context begins at i. `on_card[i]`: all before i is done and the worker is on the card.
    `on_cpu[i]`: the same on the CPU.
    """

    def __init__(self, loads: list[BatchLoad], card: CardModel) -> None:
        self.loads, self.card = loads, card
        count = len(loads) + 1
        self.fresh = [_Way() for _ in range(count)]
        self.on_card = [_Way() for _ in range(count)]
        self.on_cpu = [_Way() for _ in range(count)]
        self.start_seconds = card.start_seconds + card.warmup_seconds
        self.recycle_seconds = card.memory_return_seconds + self.start_seconds

    def run(self) -> Plan:
        self.fresh[0].offer(self.start_seconds, -1, "", None)
        for i, load in enumerate(self.loads):
            self._stay_on_cpu(i, load)
            cpu = self.on_cpu[i]
            # Later than that, a recycle at this boundary is better than coming back from the CPU.
            if i > 0 and cpu.seconds <= self.on_card[i].seconds + self.card.memory_return_seconds:
                self.fresh[i].offer(cpu.seconds + self.start_seconds, cpu.via, CPU, SimulatedAction.RETURN)
            if self.fresh[i].seconds < _NEVER:
                self._follow(i)
        return self._plan()

    def _stay_on_cpu(self, i: int, load: BatchLoad) -> None:
        """One batch further on the CPU: already there, moved there now, or begun there."""
        seconds = load.read_seconds + load.cpu_seconds(self.card)
        before, after = self.on_cpu[i], self.on_cpu[i + 1]
        after.offer(before.seconds + seconds, before.via, before.device, None)
        start = 0.0 if i == 0 else self.on_card[i].seconds
        after.offer(start + self.card.cpu_start_seconds + seconds, i, CARD if i else "", SimulatedAction.DEMOTE_CPU)

    def _follow(self, i: int) -> None:
        """Follow the context that begins at i for as long as that can be the best."""
        context, t = IdealContext(self.card), self.fresh[i].seconds
        young: IdealContext | None = None
        lost = 0.0
        for k in range(i, len(self.loads)):
            load, before = self.loads[k], t
            seconds = context.encode(load)
            if k > i:
                if young is None and self._is_at_risk(context, load, seconds):
                    young = IdealContext(self.card)
                if young is not None:
                    self.fresh[k].offer(before + self.recycle_seconds, i, CARD, SimulatedAction.RECYCLE)
                    lost += seconds - young.encode(load)
            if math.isinf(seconds):
                return
            t += load.read_seconds + seconds
            self.on_card[k + 1].offer(t, i, CARD, None)
            if lost >= self.recycle_seconds:
                self.fresh[k + 1].offer(t + self.recycle_seconds, i, CARD, SimulatedAction.RECYCLE)
                return

    def _is_at_risk(self, context: IdealContext, load: BatchLoad, seconds: float) -> bool:
        """Whether a fresh context would be faster: this one stalls, or lacks what has leaked."""
        if context.leaked_gib == 0 or seconds == load.healthy_seconds(self.card):
            return math.isinf(seconds)
        return seconds > IdealContext(self.card).encode(load)

    def _plan(self) -> Plan:
        end = len(self.loads)
        steps: dict[int, SimulatedAction] = {}
        card, cpu = self.on_card[end], self.on_cpu[end]
        seconds = min(card.seconds, cpu.seconds)
        device, at = (CARD, card.via) if card.seconds <= cpu.seconds else (CPU, cpu.via)
        # `at` is where the last stretch on one context or on the CPU began; go back from stretch to stretch.
        while at > 0:
            if device == CARD:
                way = self.fresh[at]
                assert way.step is not None
                steps[at], device, at = way.step, way.device, way.via
            else:
                steps[at], device, at = SimulatedAction.DEMOTE_CPU, CARD, self.on_card[at].via
        return Plan(seconds, steps, device)


def best_plan(scenario: Scenario) -> Plan:
    """The least time in which the scenario can be done, and how.

    Args:
        scenario: The card and the batches.
    """
    return _Search(scenario.loads(), scenario.card).run()
