"""The policy that reads instruments decides what the pure policy decides, told directly."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.otel.logline import decision_line
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, Outcome, ShardStatus
from helix_crawl_otel.policy.policy import Policy
from tests.watch.rig import FULL, GENES, LOW, TICK, WORK, Rig, reading

HAPPENED = {
    DecisionKind.ISSUE: "issued",
    DecisionKind.PASSED_OVER: "passed over",
    DecisionKind.OVERDUE: "overdue",
    DecisionKind.RECOVERED: "recovered",
    DecisionKind.HANG: "hang",
}


@dataclass(frozen=True)
class Step:
    """One batch.

    Args:
        seconds: How long it takes.
        work: Its cost.
        fraction: How full the card is meanwhile, `None` for unknown.
        raises: It ends by an exception.
        recorded: The driver times it itself, so that its start is not told.
        shared: MiB of shared memory meanwhile, `None` for unknown.
    """

    seconds: float
    work: float | None = WORK
    fraction: float | None = LOW
    raises: bool = False
    recorded: bool = False
    shared: int | None = None

    @property
    def bytes_shared(self) -> tuple[int | None, int | None]:
        """Of the worker and of others."""
        return (None, None) if self.shared is None else (self.shared * 1024**2, 7)


@dataclass
class Direct:
    """A driver that tells the pure policy, with the loop that `Rig` has."""

    config: CrawlConfig
    policy: Policy = field(init=False)
    t: float = 1000.0
    device: str = "cuda:0"
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.policy = Policy(self.config)
        self.policy.start_worker(self.t, "cuda:0", "cuda:0")
        kinds = (ActionKind.EMPTY_CACHE, ActionKind.DEMOTE_CPU)
        self.policy.open_shard(self.t, "a", "cuda:0", "cuda:0", kinds)

    def tick(self, step: Step) -> None:
        """Memory, then the clock."""
        self.policy.read_memory(self.t, "cuda:0", reading(step.fraction, *step.bytes_shared))
        self.decisions += self.policy.advance(self.t)

    def step(self, number: int, step: Step) -> None:
        """One batch and its boundary."""
        self.tick(step)
        info = BatchInfo(str(number), "a", self.device, self.device, GENES, step.work)
        began, until = self.t, self.t + step.seconds
        if not step.recorded:
            self.decisions += self.policy.start_batch(self.t, info)
        while self.t + TICK <= until:
            self.t += TICK
            self.tick(step)
        self.t = until
        if step.raises and not step.recorded:
            self.policy.abandon_batch(info.id)
            self.decisions += self.policy.advance(self.t)
        else:
            decided, _ = self.policy.finish_batch(self.t, info, self.t - began)
            self.decisions += decided + self.policy.advance(self.t)
        self.boundary()

    def boundary(self) -> None:
        """Obey."""
        pending = self.policy.state.shards["a"].ladder.pending
        if pending is None:
            return
        if pending.kind is ActionKind.DEMOTE_CPU:
            self.device = "cpu"
            self.policy.start_worker(self.t, "cpu", "cpu")
        self.policy.resolve("a", pending.id, Outcome.APPLIED)


def lines_direct(config: CrawlConfig, steps: list[Step]) -> tuple[list[str], ShardStatus]:
    """What the pure policy would have the log say."""
    direct = Direct(config)
    for number, step in enumerate(steps):
        direct.step(number, step)
    told = [decision for decision in direct.decisions if decision.what in HAPPENED]
    return [f"[crawl-watchdog] {decision_line(HAPPENED[d.what], d)}" for d in told], direct.policy.status("a", direct.t)


class _Raised(Exception):
    pass


def lines_watched(config: CrawlConfig, steps: list[Step]) -> tuple[list[str], ShardStatus]:
    """What the log of a real watch says."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident():  # a thread that another test has left behind may have its say
                lines.append(record.getMessage())

    logger, handler = logging.getLogger("helix_crawl_otel"), Keep()
    logger.addHandler(handler)
    try:
        with Rig(config=config) as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
            for step in steps:
                rig.fraction = step.fraction
                rig.shared, rig.other_shared = step.bytes_shared
                if step.recorded:
                    rig.watch.tick()
                    rig.wait(step.seconds)
                    shard.record(GENES, step.seconds, step.work)
                else:
                    try:
                        rig.watch.tick()
                        with shard.batch(GENES, step.work):
                            rig.wait(step.seconds)
                            if step.raises:
                                raise _Raised
                    except _Raised:
                        pass
                shard.boundary()
            status = shard.status()
    finally:
        logger.removeHandler(handler)
    return [line for line in lines if " action=" in line and "; applied action=" not in line], status


def assert_parity(config: CrawlConfig, steps: list[Step]) -> list[str]:
    """Both decide the same. Returns the lines."""
    expected, expected_status = lines_direct(config, steps)
    found, status = lines_watched(config, steps)
    assert found == expected
    assert status == expected_status
    return found


HEALTHY = [Step(4.0)] * 12
LADDER = ["DETECT", "EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]


@pytest.mark.parametrize(
    ("name", "steps", "words"),
    [
        ("healthy", [Step(4.0)] * 60, []),
        ("healthy and full", [Step(4.0, fraction=FULL)] * 60, []),
        ("slow disk: slow between batches only", [Step(4.0)] * 30, []),
        ("crawl, released, demoted", HEALTHY + [Step(80.0, fraction=FULL)] * 40, LADDER),
        ("slow with room", HEALTHY + [Step(80.0, fraction=LOW)] * 20, []),
        ("slow and unknown", [Step(4.0, fraction=None)] * 12 + [Step(80.0, fraction=None)] * 20, []),
        (
            "endless batch",
            [*HEALTHY, Step(47 * 60.0, fraction=FULL)],
            ["DETECT", "EMPTY_CACHE", "EMPTY_CACHE", "-"],  # issued, overdue, a hang: one rung a boundary
        ),
        ("finished batches only", HEALTHY + [Step(80.0, fraction=FULL, recorded=True)] * 20, LADDER),
        ("recovers", HEALTHY + [Step(80.0, fraction=FULL)] * 5 + [Step(4.0)] * 40, ["DETECT", "EMPTY_CACHE", "-"]),
        ("raises all the time", HEALTHY + [Step(80.0, fraction=FULL, raises=True)] * 10, LADDER),
    ],
)
def test_known_courses(name: str, steps: list[Step], words: list[str]) -> None:
    """Healthy, crawling and endless: the same decisions at the same moments with the same evidence."""
    found = assert_parity(CrawlConfig(), steps)
    assert [line.partition("action=")[2].split()[0] for line in found] == words, name


@pytest.mark.parametrize("mode", ["cpu", "off"])
@pytest.mark.parametrize("inflight", [True, False])
def test_other_knobs(mode: str, inflight: bool) -> None:
    """The knobs reach the policy."""
    config = CrawlConfig(action=mode, inflight=inflight, factor=3.0, window=4, ema_alpha=0.5, warmup=2, vram_full=0.9)
    found = assert_parity(config, [Step(4.0)] * 12 + [Step(60.0, fraction=0.91)] * 12)
    kinds = {line.partition("action=")[2].split()[0] for line in found}
    assert kinds == ({"DETECT", "DEMOTE_CPU"} if mode == "cpu" else {"DETECT"})


@settings(max_examples=12)
@given(
    st.lists(
        st.builds(
            Step,
            seconds=st.sampled_from([0.5, 4.0, 4.75, 20.0, 80.0, 300.0]),
            work=st.sampled_from([WORK, WORK / 8, 3 * WORK]),
            fraction=st.sampled_from([LOW, FULL, FULL, None]),
            raises=st.sampled_from([False, False, False, True]),
            recorded=st.sampled_from([False, False, True]),
            shared=st.sampled_from([None, 100, 700, 4000]),
        ),
        max_size=25,
    ),
    st.booleans(),
)
def test_any_course(steps: list[Step], shared: bool) -> None:
    """Whatever a driver does after it was healthy."""
    assert_parity(CrawlConfig(window=3, shared=shared), [Step(4.0, shared=100)] * 5 + steps)


def test_a_spill_that_only_shared_memory_shows() -> None:
    """The knob and the readings reach the policy; with the knob off the same job is left alone."""
    steps = [Step(4.0, shared=100)] * 12 + [Step(80.0, shared=3000)] * 40
    found = assert_parity(CrawlConfig(shared=True), steps)
    assert [line.partition("action=")[2].split()[0] for line in found] == LADDER
    assert "memory=50.0% shared=2.93GiB shared_rise=2.83GiB others_shared=0.00GiB" in found[0]
    assert assert_parity(CrawlConfig(), steps) == []
