"""The ladder on a real card that another program has filled, a wedged worker, and memory that does not suffice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.build.rig import Done, Rig, left_running
from tests.gpu.card import MIB, filled, used_bytes, used_less_than, uses_cuda

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]

FULL = 0.935
"""Of the card in use before the worker starts: above `--vram`'s 0.92, with room for the worker."""

ROOM_BYTES = 3 * 1024 * MIB
"""What is left for a worker whose batches are too big."""

BACK_WITHIN = 512 * MIB
QUICK = ("--window", "2", "--ema-alpha", "1")
"""A trip after 10 s of the run's clock instead of 40."""


class Watched:
    """A build whose events are looked at as they come.

    Args:
        rig: Whose.
        look: Called with each event.
    """

    def __init__(self, rig: Rig, look: Callable[[dict[str, Any]], None], *more: str) -> None:
        events: list[dict[str, Any]] = []
        with rig.started(rig.build_command(*more)) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                events.append(json.loads(line))
                look(events[-1])
            errors = process.stderr.read().decode()
            process.wait(timeout=60)
            self.done = Done(process.returncode, events, errors)


def between(done: Done, first: str, second: str, number: int) -> float:
    """Seconds from the n-th event of one kind to the next one of another."""
    begin = done.of(first)[number]["t"]
    return float(next(event["t"] for event in done.of(second) if event["t"] >= begin)) - float(begin)


@pytest.fixture
def full_card(card: None) -> Iterator[int]:
    """Another program holds most of the card. The process id."""
    with filled(lambda limit: FULL) as pid:
        yield pid


def test_the_whole_ladder_on_a_real_card(full_card: int, make_rig: Callable[..., Rig]) -> None:
    """Detect, release, recycle into another process, the CPU for this shard only, and the card again for the next.

    The memory is really full and really read; the slowness is injected (`--fault slow`), since Linux's driver spills
    nothing: from its twelfth batch on, each of the first two workers is slow.
    """
    rig = make_rig("--device", "cuda", "--batch-size", "16", *QUICK)
    rig.write_shards(1, 30, 100)
    rig.write({f"shard-1/file-{n}.txt": f"A second shard, file {n}, which is short." for n in range(20)})
    before = used_bytes()
    seen: dict[str, Any] = {"used_cuda": {}, "supervisor": []}
    watched_pids: dict[str, int] = {}

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "worker_started":
            watched_pids[event["slot"]] = event["pid"]
        if event["event"] == "shard_started":
            pid = watched_pids[event["slot"]]
            seen["used_cuda"].setdefault((event["shard"], event["device"]), []).append(uses_cuda(pid))
            if event["device"] == "cpu":
                seen["used_on_cpu"] = used_less_than(before + BACK_WITHIN)
            seen["supervisor"].append(uses_cuda(_supervisor(rig)))

    faults = [f"slow:seconds=2,batch=12,worker={worker}" for worker in (1, 2)]
    done = Watched(rig, look, "--fault", faults[0], "--fault", faults[1]).done
    assert done.code == 0, done.errors

    starts = [(event["device"], event["reason"]) for event in done.of("worker_started")]
    assert starts == [("cuda:0", "first"), ("cuda:0", "recycle"), ("cpu", "demote"), ("cuda:0", "resume")]
    assert len({event["pid"] for event in done.of("worker_started")}) == 4
    assert [event["device"] for event in done.of("model_loaded")] == ["cuda:0", "cuda:0", "cpu", "cuda:0"]
    applied = [event["action"] for event in done.of("action") if event["outcome"] == "applied"]
    assert [kind for kind in applied if kind != "DETECT"] == ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]
    assert {event["shard"] for event in done.of("action")} == {"shard-0"}

    freed = [int(number) for number in re.findall(r"(\d+) MiB freed", done.errors)]
    assert len(freed) == 1, done.errors
    assert freed[0] > 0
    gates = done.of("gate")
    assert gates[-1]["state"] in ("back", "stable")
    assert all(event["used_bytes"] > 0 for event in gates)

    assert seen["used_cuda"][("shard-0", "cuda:0")] == [True, True]
    assert seen["used_cuda"][("shard-0", "cpu")] == [False]
    assert seen["used_cuda"][("shard-1", "cuda:0")] == [True]
    assert not any(seen["supervisor"])
    assert seen["used_on_cpu"] <= before + BACK_WITHIN

    verified = rig.verify()
    assert verified["code"] == 0
    assert verified["vectors"] == verified["genes"] > 500
    # Of the worker that was recycled: its end, the gate, and the next one's start.
    idle = between(done, "worker_ended", "worker_started", 0)
    gate = gates[-1]["t"] - gates[0]["t"]
    print(f"\n  EMPTY_CACHE freed {freed[0]} MiB; RECYCLE: idle {idle:.2f} s, of which the gate {gate:.2f} s")
    print(f"  gate: {gates[-1]['state']}, {gates[-1]['used_bytes'] / MIB:.0f} MiB in use, {before / MIB:.0f} before")
    for number, event in enumerate(done.of("worker_started")):
        print(f"  {event['reason']}: {between(done, 'worker_started', 'committed', number):.1f} s to its first batch")


def _supervisor(rig: Rig) -> int:
    """The process that runs `build`."""
    workers = left_running(rig.mark, "helix_crawl_otel.build.worker")
    return next(pid for pid in left_running(rig.mark, "helix_crawl_otel") if pid not in workers)


def test_a_wedged_worker_is_ended_and_its_memory_comes_back(full_card: int, make_rig: Callable[..., Rig]) -> None:
    """A C call that holds the GIL in the middle of a batch, with a CUDA context and a full card.

    The deadline ends it. The run's clock is ten times as fast.
    """
    rig = make_rig("--device", "cuda", "--batch-size", "16", *QUICK).write_shards(1, 10, 60)
    before = used_bytes()
    with_worker: list[int] = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "committed" and not with_worker:
            with_worker.append(used_bytes())

    done = Watched(rig, look, "--fault", "wedge:batch=8,worker=1", "--fault", "clock:rate=10").done
    assert done.code == 0, done.errors
    ended = done.of("worker_ended")[0]
    assert ended["code"] < 0, ended
    starts = [(event["device"], event["reason"]) for event in done.of("worker_started")]
    assert starts == [("cuda:0", "first"), ("cuda:0", "recycle")]
    assert done.of("gate")[-1]["state"] in ("back", "stable")
    verified = rig.verify()
    assert (verified["code"], verified["missing"]) == (0, 0)
    after = used_less_than(before + BACK_WITHIN)
    assert with_worker[0] > before
    assert after <= before + BACK_WITHIN
    idle = between(done, "worker_ended", "worker_started", 0) / 10
    print(f"\n  {before / MIB:.0f} MiB before, {with_worker[0] / MIB:.0f} with the worker, {after / MIB:.0f} after")
    print(f"  a killed worker's shard was idle for {idle:.2f} s")


def test_a_batch_that_does_not_fit_is_halved(make_rig: Callable[..., Rig]) -> None:
    """torch's own OutOfMemoryError, on a card with 3 GiB left: halved until it fits, and every gene is there."""
    rig = make_rig("--device", "cuda", "--batch-size", "2048").write_shards(1, 50, 200)
    with filled(lambda limit: 1 - ROOM_BYTES / limit):
        done = rig.build(seconds=180)
    assert done.code == 0, done.errors
    assert [event["device"] for event in done.of("model_loaded")] == ["cuda:0"]
    logs = "".join(path.read_text() for path in Path(rig.out / ".helix-crawl").glob("worker-*.log"))
    halved = re.findall(r"a batch of (\d+) genes is halved: OutOfMemoryError", logs)
    assert "2048" in halved, logs[-3000:]
    verified = rig.verify()
    assert verified["code"] == 0
    assert verified["vectors"] == verified["genes"] > 2048
    print(f"\n  {verified['genes']} genes; halved: {', '.join(halved)}")
