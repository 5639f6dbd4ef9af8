"""Workers and shards as the gauges show them, with several slots and after crashes."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import cast

from helix_crawl_otel.otel.gauges import START_REASONS, ExportedMetrics, GaugeState, Snapshot
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.otel.policy_reader import LockedPolicy
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import REMEDIES, UNKNOWN_DEVICE, ActionKind, CardReading, Outcome
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from tests.watch.rig import Series, collected, make_provider


class Board(GaugeState):
    """Told of shards together with the policy, as the pipeline does it."""

    def __init__(self) -> None:
        super().__init__(LockedPolicy(Policy(Settings())))

    def open(self, shard: str, device: str) -> None:
        """A worker begins a shard."""
        self._feed.tell(lambda policy: policy.open_shard(0.0, shard, "w", device))
        self.open_shard(shard)

    def close(self, shard: str, state: str) -> None:
        """A worker leaves it."""
        was_open = self._feed.ask(lambda policy: shard in policy.open_shards())
        self._feed.tell(lambda policy: policy.close_shard(0.0, shard))
        self.close_shard(shard, state, was_open=was_open)


def _seen(board: GaugeState) -> Snapshot:
    return board.snapshot(0.0)


def test_a_device_is_up_while_one_of_its_workers_runs() -> None:
    """Two slots share the CPU; a worker whose driver moves to the CPU in place leaves its card."""
    board = Board()
    board.start_worker("cpu#1", "cpu")
    board.start_worker("cpu#2", "cpu")
    board.stop_worker("cpu#1")
    assert _seen(board).workers == {"cpu": True}
    board.stop_worker("cpu#2")
    assert _seen(board).workers == {"cpu": False}
    board.start_worker("job", "cuda:0")
    board.start_worker("job", "cpu")
    assert _seen(board).workers == {"cpu": True, "cuda:0": False}


def test_every_shard_is_counted_in_one_state() -> None:
    """From pending to done, also one that was never opened, one that failed and came back, and one left by a crash."""
    board = Board()
    board.expect_shards(["a", "b", "c"])
    board.set_shard_state("done", 5)
    board.open("a", "cpu")
    board.open("a", "cpu")
    board.close("b", "done")
    states = _seen(board).shard_states
    assert states == {"pending": 1, "running": 1, "done": 6, "paused": 0, "failed": 0}
    board.close("a", "failed")
    board.open("a", "cpu")
    board.close("a", "done")
    board.close("a", "done")
    board.open("c", "cpu")
    board.close("c", "paused")
    board.close("never heard of", "done")
    assert _seen(board).shard_states == {"pending": 0, "running": 0, "done": 7, "paused": 1, "failed": 0}


def test_genes_of_shards_that_wait_are_shown_until_each_is_begun() -> None:
    """A board that adds them up knows what is left of the whole run; one that is not counted has no series."""
    board = Board()
    board.expect_shards(["a", "b", "c"], {"a": 100, "b": 50})
    before = _seen(board)
    assert before.waiting == {"a": 100, "b": 50}
    board.set_pending("a", 120)
    board.open("a", "cpu")
    assert _seen(board).waiting == {"b": 50}
    assert _seen(board).shards["a"].pending_genes == 120
    board.close("b", "done")
    assert _seen(board).waiting == {}
    assert before.waiting == {"a": 100, "b": 50}


def test_pending_genes_are_those_told_last() -> None:
    """The worker that has the store counts them, which may be before the shard is opened, and anew by the next one."""
    board = Board()
    board.set_pending("a", 100)
    assert _seen(board).shards == {}
    board.open("a", "cuda:0")
    board.set_pending("a", 36)
    assert _seen(board).shards["a"].pending_genes == 36
    board.open("a", "cpu")
    board.set_pending("a", 100)
    assert _seen(board).shards["a"].pending_genes == 100


def test_a_device_that_is_not_known_yet_is_none_that_was_left() -> None:
    """A job under `run` says later where it encodes: then it never was anywhere else."""
    board = Board()
    board.start_worker("job", UNKNOWN_DEVICE)
    assert _seen(board).workers == {"unknown": True}
    board.start_worker("job", "cpu")
    assert _seen(board).workers == {"cpu": True}
    board.stop_worker("job")
    assert _seen(board).workers == {"cpu": False}


def test_the_throughput_of_a_hung_batch_is_what_it_can_still_come_to() -> None:
    """Before there is a baseline no slice of it is observed: the EMA stays what it was."""
    feed = LockedPolicy(Policy(Settings()))
    board = GaugeState(feed)
    feed.tell(lambda policy: policy.open_shard(0.0, "a", "w", "cpu"))
    board.open_shard("a")
    for n in range(4):
        t, info = 4.0 * n, BatchInfo(str(n), "a", "w", "cpu", 64, None)
        feed.tell(partial(Policy.start_batch, t=t, info=info))
        feed.ask(partial(Policy.finish_batch, t=t + 4.0, info=info, seconds=4.0))
    assert board.snapshot(16.0).shards["a"].rate == 16.0
    feed.tell(lambda policy: policy.start_batch(16.0, BatchInfo("last", "a", "w", "cpu", 64, None)))
    assert board.snapshot(18.0).shards["a"].rate == 16.0
    assert board.snapshot(656.0).shards["a"].rate == 0.1
    assert board.snapshot(656.0).shards["a"].status.ema == 16.0


def test_what_is_left_of_a_whole_job_has_no_shard() -> None:
    """Its user has said how many genes it has, of no shard in particular."""
    board = Board()
    assert _seen(board).pending_in_all is None
    board.set_pending_in_all(680)
    hub = SimpleNamespace(labels=None, add=None, count=lambda *_: None)
    exported = ExportedMetrics(
        cast("Instruments", hub),
        lambda: _seen(board),
        settings=Settings(),
        batch_deadline=lambda shard: None,
        batch_age=lambda _: 0.0,
        queue_length=lambda: 0,
    )
    assert list(exported.rows("helix_dense_genes_pending")) == [(680, {})]


class Shown:
    """A board with what it exports, to a reader of the test's.

    Attributes:
        now: Unix time.
    """

    def __init__(self) -> None:
        self.now = 1_795_896_000.0
        self.board = Board()
        provider, self._reader = make_provider()
        self.exported = ExportedMetrics(
            Instruments(provider.get_meter("test")),
            lambda: _seen(self.board),
            settings=Settings(vram_full=0.9),
            batch_deadline={"a": 1800.0}.get,
            batch_age=lambda _: 0.0,
            queue_length=lambda: 0,
            wall=lambda: self.now,
        )
        self.exported.open()

    def series(self, name: str) -> Series:
        """What a scrape sees now."""
        self.exported.has_changed = True
        return collected(self._reader).get(name, {})


def test_the_newest_crawl_and_action_have_their_time() -> None:
    """Absent before the first; it stays when the shard is closed, and what was not carried out has none."""
    shown = Shown()
    shown.board.open("a", "cuda:0")
    shown.exported.begin_shard("a", "cuda:0")
    for outcome in (Outcome.VETOED, Outcome.PASSED_OVER, Outcome.SUPERSEDED, Outcome.FAILED):
        shown.exported.action("a", ActionKind.RECYCLE, outcome)
    assert shown.series("helix_dense_last_crawl_timestamp") == {}
    assert shown.series("helix_dense_last_action_timestamp") == {}
    shown.exported.crawl("a", "cuda:0")
    shown.now += 60.0
    shown.exported.action("a", ActionKind.EMPTY_CACHE, Outcome.APPLIED)
    shown.now += 60.0
    shown.exported.action("a", ActionKind.RECYCLE, Outcome.OVERDUE)
    shown.board.close("a", "done")
    assert shown.series("helix_dense_last_crawl_timestamp") == {("device=cuda:0", "shard=a"): 1_795_896_000.0}
    assert shown.series("helix_dense_last_action_timestamp") == {
        ("action=EMPTY_CACHE", "shard=a"): 1_795_896_060.0,
        ("action=RECYCLE", "shard=a"): 1_795_896_120.0,
    }


def test_what_an_alert_sums_is_there_before_anything_happens() -> None:
    """A shard that ends between two scrapes has its whole increase seen; so has the first action of all."""
    shown = Shown()
    shown.exported.begin_worker("cuda:0", "first")
    shown.exported.expect_shards(["a", "b"], ["cuda:0"])
    assert shown.series("helix_dense_genes") == {("device=cuda:0", f"shard={shard}"): 0 for shard in "ab"}
    assert shown.series("helix_dense_crawl_detected") == {("device=cuda:0", f"shard={shard}"): 0 for shard in "ab"}
    starts = shown.series("helix_dense_worker_starts")
    assert {labels for labels, value in starts.items() if value} == {("device=cuda:0", "reason=first")}
    assert set(starts) == {
        (f"device={device}", f"reason={reason}") for device in ("cuda:0", "cpu") for reason in START_REASONS
    }
    shown.exported.begin_shard("a", "cuda:0")
    assert shown.series("helix_dense_ladder_actions") == {
        (f"action={kind.value}", f"outcome={outcome}", "shard=a"): 0
        for kind in REMEDIES
        for outcome in ("applied", "overdue", "failed")
    }


def test_many_shards_on_many_cards_keep_their_labels_for_what_happens() -> None:
    """Where the zeros alone would use up what an instrument may have, they are left out."""
    shown = Shown()
    shown.exported.expect_shards([f"s{n}" for n in range(600)], ["cuda:0", "cuda:1"])
    assert shown.series("helix_dense_genes") == {}


def test_genes_that_have_no_vector_for_ever_are_shown_to_the_end() -> None:
    """From the start of a shard, with what earlier runs have left; its end changes nothing of it."""
    shown = Shown()
    for shard, genes in (("a", 0), ("b", 2)):
        shown.board.set_quarantined(shard, genes)
    shown.board.open("a", "cuda:0")
    shown.board.set_quarantined("a", 1)
    shown.board.close("a", "done")
    assert shown.series("helix_dense_genes_quarantined") == {("shard=a",): 1, ("shard=b",): 2}


def test_genes_quarantined_in_shards_without_a_label_are_added_up() -> None:
    """Of the last one alone an alert would see nothing."""
    shown = Shown()
    for n in range(1000):
        shown.board.set_quarantined(f"s{n}", 0)
    for shard, genes in (("x", 2), ("y", 3), ("z", 0)):
        shown.board.set_quarantined(shard, genes)
    assert shown.series("helix_dense_genes_quarantined")[()] == 5


def test_a_shard_that_was_given_up_is_named() -> None:
    """Until it is begun again; one that has ended otherwise is not."""
    shown = Shown()
    for shard, state in (("a", "failed"), ("b", "done"), ("c", "failed")):
        shown.board.open(shard, "cpu")
        shown.board.close(shard, state)
    assert shown.series("helix_dense_shard_failed") == {("shard=a",): 1, ("shard=c",): 1}
    shown.board.open("a", "cpu")
    assert shown.series("helix_dense_shard_failed") == {("shard=a",): 0, ("shard=c",): 1}


def test_a_shard_that_is_paused_still_lacks_what_it_lacked() -> None:
    """The last scrape of a run that was paused says how much is left; one that is done lacks nothing."""
    shown = Shown()
    for shard, state in (("a", "paused"), ("b", "done")):
        shown.board.open(shard, "cpu")
        shown.board.set_pending(shard, 30)
        shown.board.close(shard, state)
    assert shown.series("helix_dense_genes_pending") == {("shard=a",): 30}
    shown.board.open("a", "cpu")
    assert shown.series("helix_dense_genes_pending") == {}


def test_a_card_is_named_so_that_others_metrics_join() -> None:
    """`on (UUID)` with DCGM's; what it does not answer is absent, and all of it once nobody reads it any more."""
    shown = Shown()
    throttled = {"thermal": True, "power": False, "hardware": False}
    shown.board.set_card("cuda:0", CardReading("GPU-1", "RTX 3090", 0.5, 71, None, {"sm": 1.5e9}, throttled))
    shown.board.set_card("cuda:1", CardReading())
    card = ("device=cuda:0", "hw.id=GPU-1", "hw.name=RTX 3090", "hw.type=gpu")
    assert shown.series("helix_dense_device_info") == {("UUID=GPU-1", "device=cuda:0", "modelName=RTX 3090"): 1}
    assert shown.series("hw.gpu.utilization") == {card: 0.5}
    assert shown.series("hw.temperature") == {card: 71}
    assert shown.series("hw.power") == {}
    assert shown.series("hw.gpu.speed") == {(card[0], "hw.gpu.clock=sm", *card[1:]): 1.5e9}
    reasons = shown.series("hw.gpu.throttled")
    assert {labels[1]: value for labels, value in reasons.items()} == {
        "hw.gpu.throttle_reason=thermal": 1,
        "hw.gpu.throttle_reason=power": 0,
        "hw.gpu.throttle_reason=hardware": 0,
    }
    shown.board.forget_readings()
    assert shown.series("helix_dense_device_info") == {}
    assert shown.series("hw.temperature") == {}


def test_limits_are_exported_so_that_no_rule_has_to_hold_them() -> None:
    """The knob of full memory, and the age at which a batch has its worker ended; none for one that nobody ends."""
    shown = Shown()
    shown.board.open("a", "cuda:0")
    shown.board.open("b", "cuda:0")
    assert shown.series("helix_dense_vram_full_ratio") == {(): 0.9}
    assert shown.series("helix_dense_batch_deadline") == {("device=cuda:0", "shard=a"): 1800.0}
