"""What a batch boundary applies: the release, the exit for a recycle, the demotion in place or by exit."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable

import pytest

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.watch.release import release_cache
from tests.otel.fresh import run_fresh
from tests.watch.rig import FULL, LOW, Rig


class Cuda:
    """A stand-in for `torch.cuda`."""

    def __init__(self, initialized: bool = True, reserved: tuple[int, ...] = (3 << 30, 1 << 30)) -> None:
        self.calls: list[str] = []
        self._initialized = initialized
        self._reserved = list(reserved)

    def is_initialized(self) -> bool:
        """Whether there is a context."""
        return self._initialized

    def device_count(self) -> int:
        """Cards; torch's current one is the first, and what it holds of that does not change."""
        return 2

    def memory_reserved(self, index: int | None = None) -> int:
        """What the allocator holds: of the second card, which the job is on."""
        return self._reserved.pop(0) if index == 1 else 7

    def empty_cache(self) -> None:
        """Release it."""
        self.calls.append("empty_cache")


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Puts a stand-in into `sys.modules`."""

    def install(cuda: object) -> None:
        module = types.ModuleType("torch")
        if cuda is not None:
            module.cuda = cuda  # type: ignore[attr-defined]  # a stand-in module
        monkeypatch.setitem(sys.modules, "torch", module)

    return install


# -- rung 1 -----------------------------------------------------------------------------------------------------------


def test_the_release_frees_the_cache_and_says_how_much(
    torch: Callable[[object], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The bytes are what torch's allocator gave back."""
    cuda = Cuda()
    torch(cuda)
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard).crawl(shard, 5)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert rig.outcomes() == {"DETECT/applied": 1, "EMPTY_CACHE/applied": 1}
    assert cuda.calls == ["empty_cache"]
    (line,) = [line for line in caplog.messages if "applied" in line]
    assert ": 2048 MiB freed; applied action=" in line


@pytest.mark.parametrize(
    ("cuda", "freed", "calls"),
    [
        (None, None, []),
        (Cuda(initialized=False), None, []),
        (Cuda(reserved=(5, 5)), 0, ["empty_cache"]),
        (Cuda(reserved=(5, 9)), 0, ["empty_cache"]),
        (Cuda(reserved=(9, 5)), 4, ["empty_cache"]),
    ],
    ids=["no cuda", "no context", "nothing freed", "grown meanwhile", "freed"],
)
def test_the_release_makes_no_context(
    cuda: Cuda | None, freed: int | None, calls: list[str], torch: Callable[[object], None]
) -> None:
    """A context would take memory instead of giving it back."""
    torch(cuda)
    assert release_cache() == freed
    assert (cuda.calls if cuda else []) == calls


def test_the_release_collects_garbage_first(torch: Callable[[object], None]) -> None:
    """Tensors in cycles hold blocks of the cache."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            cuda.calls.append("collected")

    cuda = Cuda()
    torch(cuda)
    Cycle()
    release_cache()
    assert cuda.calls == ["collected", "empty_cache"]


def test_a_release_that_fails_is_counted_and_the_job_goes_on(
    torch: Callable[[object], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A driver in trouble raises there; the next rung comes with the next trip."""

    class Broken(Cuda):
        def empty_cache(self) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure")

    torch(Broken(reserved=(1,) * 9))
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.healthy(shard).crawl(shard, 8)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "DEMOTE_CPU"]
        assert rig.outcomes()["EMPTY_CACHE/failed"] == 1
        assert rig.total("helix_dense_internal_errors", "where=release") == 1
    (line,) = [line for line in caplog.messages if " failed action=EMPTY_CACHE" in line]
    assert "RuntimeError: CUDA error: unspecified launch failure; the job goes on as it is; " in line


# -- rungs 2 and 3 by exit --------------------------------------------------------------------------------------------


def test_a_recycle_raises_a_request_to_pause() -> None:
    """With the action in it; counted as applied; the shard is paused, not failed."""
    with Rig() as rig:
        with (
            pytest.raises(PauseRequested) as raised,
            rig.watch.shard("a", exit_to_recycle=True) as shard,
        ):
            rig.healthy(shard).crawl(shard, 20)
        assert raised.value.code == 75
        assert raised.value.action is not None
        assert raised.value.action.kind.value == "RECYCLE"
        assert raised.value.action.shard == "a"
        assert rig.outcomes() == {"DETECT/applied": 1, "EMPTY_CACHE/applied": 1, "RECYCLE/applied": 1}
        assert rig.series("helix_dense_shards")["state=paused",] == 1


def test_what_is_applied_before_a_recycle_is_applied() -> None:
    """A release and a recycle can wait together only when the release was not superseded: then both are counted."""
    with Rig() as rig:
        shard = rig.watch.shard("a", exit_to_recycle=True).__enter__()
        rig.healthy(shard)
        rig.fraction = FULL
        for _ in range(12):
            rig.batch(shard, 80.0)
        with pytest.raises(PauseRequested):
            shard.boundary()
        assert rig.outcomes() == {"DETECT/applied": 1, "EMPTY_CACHE/superseded": 1, "RECYCLE/applied": 1}
        assert shard.boundary() == []


REAL = """
    import sys
    from tests.watch.rig import Rig
    rig = Rig(state=sys.argv[1])
    try:
        with rig.watch.shard("a", exit_to_recycle=True) as shard:
            print("rung", shard.status().rung, flush=True)
            rig.healthy(shard)
            for _ in range(40):
                try:
                    rig.crawl(shard)
                except Exception:
                    print("swallowed", flush=True)
    finally:
        print("cleaned up", flush=True)
        rig.watch.close()
"""


def test_real_processes_end_and_go_on(tmp_path: object) -> None:
    """75 for the recycle, 79 for the CPU; `except Exception` swallows neither, `finally` runs, the rung is kept."""
    state = f"{tmp_path}/state.json"
    assert run_fresh(REAL, state, code=75) == "rung 0\ncleaned up\n"
    assert run_fresh(REAL, state, code=79) == "rung 2\ncleaned up\n"
    assert run_fresh(REAL, state, code=0) == "rung 3\ncleaned up\n"


def test_outside_the_main_thread_an_exit_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """There it would end one thread, not the process; the log says where to call it."""
    with Rig() as rig, rig.watch.shard("a", exit_to_recycle=True) as shard:
        rig.healthy(shard)
        thread = threading.Thread(target=rig.crawl, args=(shard, 20), daemon=True)
        thread.start()
        thread.join(50)
        assert not thread.is_alive()
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert rig.outcomes() == {
            "DETECT/applied": 1,
            "EMPTY_CACHE/applied": 1,
            "RECYCLE/passed_over": 1,
            "DEMOTE_CPU/passed_over": 1,
        }
        assert shard.status().rung == 3
    lines = [line for line in caplog.messages if "passed over" in line]
    assert len(lines) == 2
    assert all("only the main thread can end the process; call boundary() there; " in line for line in lines)


@pytest.mark.parametrize("exit_to_recycle", [None, False])
def test_a_job_that_nobody_restarts_is_never_ended(
    exit_to_recycle: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A rung that cannot be taken is passed over, and the log says what would have made it possible."""
    with Rig() as rig, rig.watch.shard("a", exit_to_recycle=exit_to_recycle) as shard:
        rig.healthy(shard).crawl(shard, 20)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert rig.outcomes()["RECYCLE/passed_over"] == 1
        assert rig.outcomes()["DEMOTE_CPU/passed_over"] == 1
        assert shard.status().rung == 3
    recycle, demote = [line for line in caplog.messages if "passed over" in line]
    assert "action=RECYCLE" in recycle
    assert "`helix-crawl run`" in recycle
    assert "exit_to_recycle=True" in recycle
    assert "action=DEMOTE_CPU" in demote
    assert "`helix-crawl run`" in demote
    assert "on_demote=" in demote


# -- rung 3 in place --------------------------------------------------------------------------------------------------


def test_on_demote_moves_the_shard_to_the_cpu_in_place() -> None:
    """The process goes on; from then on the shard is one of the CPU's, judged by the CPU's own baseline."""
    moved: list[str] = []
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: moved.append("cpu")) as shard:
        rig.healthy(shard).crawl(shard, 10)
        assert moved == ["cpu"]
        assert shard.device == "cpu"
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE", "DEMOTE_CPU"]
        rig.crawl(shard, 20)  # as slow as before: that is how fast this CPU is
        assert moved == ["cpu"]
        status = shard.status()
        assert (status.rung, status.episode_open, status.baseline) == (3, False, pytest.approx(0.8))
        assert rig.series("helix_dense_worker_up") == {("device=cuda:0",): 0, ("device=cpu",): 1}
        assert rig.series("helix_dense_ladder_rung") == {("device=cpu", "shard=a"): 3}


def test_the_next_shard_starts_on_the_card_again() -> None:
    """The demotion is of one shard. The card's memory goes on being read, with a fresh worker's judgement."""
    with Rig() as rig:
        with rig.watch.shard("a", on_demote=lambda: None) as shard:
            rig.healthy(shard).crawl(shard, 10)
        with rig.watch.shard("b", on_demote=lambda: None) as shard:
            assert shard.device == "cuda:0"
            assert shard.status().rung == 0
            assert rig.series("helix_dense_worker_up")["device=cuda:0",] == 1
            rig.healthy(shard).crawl(shard, 5)
            assert [action.kind.value for action in rig.applied[3:]] == ["DETECT", "EMPTY_CACHE"]
            starts = rig.series("helix_dense_worker_starts")
            assert starts["device=cuda:0", "reason=first"] == 2
            assert starts["device=cpu", "reason=demote"] == 1


def test_a_demotion_leaves_another_shard_on_the_card_alone() -> None:
    """Two shards in two threads of one process: one goes to the CPU, the other's batches stay judged, its worker up."""
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None) as a, rig.watch.shard("b") as b:
        rig.healthy(a).healthy(b, 10)
        before = b.status()
        with b.batch(64, 4000):
            rig.crawl(a, 10)
            assert a.device == "cpu"
            assert rig.series("helix_dense_worker_up") == {("device=cuda:0",): 1, ("device=cpu",): 1}
            assert rig.total("helix_dense_batch_inflight", "shard=b") > 0
        rig.fraction = LOW
        rig.batches(b, 20)
        assert b.status().baseline == before.baseline
        with rig.watch.shard("c") as c:
            rig.healthy(c, 1)
            assert rig.series("helix_dense_worker_starts")["device=cuda:0", "reason=first"] == 1


def test_on_demote_that_raises_has_failed_and_the_job_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The encoder is where it was; the rung is used up; there is no second try."""

    def broken() -> None:
        raise MemoryError("no room for the model")

    with Rig() as rig, rig.watch.shard("a", on_demote=broken) as shard:
        rig.healthy(shard).crawl(shard, 20)
        assert shard.device == "cuda:0"
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert rig.outcomes()["DEMOTE_CPU/failed"] == 1
        assert rig.total("helix_dense_internal_errors", "where=driver") == 1
        assert rig.series("helix_dense_worker_up") == {("device=cuda:0",): 1}
    assert "MemoryError: no room for the model" in caplog.text


def test_on_demote_that_exits_is_the_drivers_wish() -> None:
    """`sys.exit` in the driver's own callable is not an error of ours."""

    def leave() -> None:
        sys.exit(4)

    with Rig() as rig:
        with pytest.raises(SystemExit, match="4"), rig.watch.shard("a", on_demote=leave) as shard:
            rig.healthy(shard).crawl(shard, 20)
        assert rig.series("helix_dense_shards")["state=paused",] == 1


def test_with_both_the_demotion_happens_in_place() -> None:
    """`on_demote` is the better of the two; the recycle still ends the process."""
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None, exit_to_recycle=True) as shard:
        rig.healthy(shard)
        with pytest.raises(PauseRequested) as raised:
            rig.crawl(shard, 20)
        assert raised.value.code == 75
        rig.crawl(shard, 10)
        assert shard.device == "cpu"


def test_a_demotion_in_a_thread_of_the_drivers_is_possible_in_place() -> None:
    """Only an exit needs the main thread."""
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.healthy(shard)
        thread = threading.Thread(target=rig.crawl, args=(shard, 10), daemon=True)
        thread.start()
        thread.join(50)
        assert shard.device == "cpu"


def test_a_shard_on_the_cpu_is_not_demoted_to_it() -> None:
    """There is nothing below."""
    with Rig() as rig, rig.watch.shard("a", device="cpu", on_demote=lambda: None) as shard:
        rig.healthy(shard).crawl(shard, 20)
        assert rig.outcomes() == {
            "DETECT/applied": 1,
            "EMPTY_CACHE/applied": 1,
            "RECYCLE/passed_over": 1,
            "DEMOTE_CPU/passed_over": 1,
        }


def test_boundary_of_one_shard_takes_nothing_of_another() -> None:
    """Each driver obeys for itself."""
    with Rig() as rig, rig.watch.shard("a") as a, rig.watch.shard("b") as b:
        rig.healthy(a)
        rig.fraction = FULL
        for _ in range(5):
            rig.batch(a, 80.0)
        assert b.boundary() == []
        assert [action.kind.value for action in a.boundary()] == ["DETECT", "EMPTY_CACHE"]
        assert a.boundary() == []


@pytest.mark.parametrize(("mode", "kinds"), [("off", ["DETECT"]), ("cpu", ["DETECT", "DEMOTE_CPU"])])
def test_the_mode_of_the_ladder(mode: str, kinds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, as the operator sets it."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_ACTION", mode)
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.healthy(shard).crawl(shard, 12)
        assert [action.kind.value for action in rig.applied] == kinds
