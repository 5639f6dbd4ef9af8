"""What a run has come to, from its events alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.console.run_record import standing
from helix_crawl_otel.console.text import lines_of, progress_lines, progress_text
from helix_crawl_otel.link import messages
from helix_crawl_otel.supervise import events
from tests.console.story import told
from tests.supervise.stage import Stage, build_job


def test_time_to_go_covers_shards_that_wait() -> None:
    """512 genes are left in the running shard and 400 in the one that waits; all is known, so no `at least`."""
    progress = told(120.0)
    assert progress.left == 912
    assert progress.is_all_known
    assert progress.rate(120.0) == pytest.approx(16.0)
    assert progress.to_go(120.0) == pytest.approx(57.0)
    assert progress_text(120.0, progress) == "1 of 3 shards, 128 of 1,040 genes (12 %), 16.0 genes/s, 57 s to go"


def test_a_shard_that_nobody_has_counted_makes_it_at_least() -> None:
    """Also beside shards that are known."""
    progress = told(120.0)
    progress.shards += 1
    assert progress_text(120.0, progress) == (
        "1 of 4 shards, 128 of at least 1,040 genes, 16.0 genes/s, at least 57 s to go"
    )


def many_shards(*, begun: int) -> Progress:
    """100 shards, each estimated at 100 genes; those that were begun had 200 and are done, the next is half done."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "build", "/b", "minilm", ("cpu",), "", 100, 0))
    for n in range(100):
        progress.take(events.ShardCounted(0.0, f"s{n}", 100, is_estimate=True))
    t = 0.0
    for n in range(begun + 1):
        progress.take(events.ShardStarted(t, f"s{n}", "cpu", "cpu", 200))
        for left in (150, 100, 50, 0)[: 4 if n < begun else 2]:
            t += 5.0
            progress.take(events.Committed(t, f"s{n}", "cpu", "cpu", 50, left, 10.0, None, None, 0, False))
        if n < begun:
            progress.take(events.ShardEnded(t, f"s{n}", "done", 200, ""))
    return progress


def test_the_time_to_go_of_a_hundred_shards_is_right_from_the_first_minute() -> None:
    """20,000 genes at 10 a second, estimated at half of that: the first shard says how far estimates are out."""
    progress = many_shards(begun=0)
    assert progress.left == 100 + 99 * 200
    assert progress.to_go(10.0) == pytest.approx(1990.0)
    assert progress.share == pytest.approx(100 / 20_000)
    assert progress_text(10.0, progress) == (
        "0 of 100 shards, 100 of about 20,000 genes (0 %), 10.0 genes/s, about 33 min 10 s to go"
    )
    assert many_shards(begun=50).share == pytest.approx(10_100 / 20_000)


def test_what_was_estimated_and_has_nothing_to_encode_is_known_as_well() -> None:
    """A shard of pictures alone ends without a worker on it; one that failed tells nothing."""
    progress = many_shards(begun=0)
    progress.take(events.ShardEnded(11.0, "s98", "done", 0, ""))
    assert progress.left == 100 + 98 * 100
    progress.take(events.ShardEnded(11.0, "s99", "failed", 0, "no such file"))
    assert progress.left == 100 + 97 * 100


def test_between_two_shards_the_time_to_go_stays() -> None:
    """While the next one is read, nothing runs, and much waits."""
    progress = many_shards(begun=0)
    progress.take(events.ShardEnded(11.0, "s0", "done", 200, ""))
    assert progress.to_go(11.0) is not None
    assert not Progress().to_go(11.0)


@pytest.mark.parametrize(("left", "says"), [(24_000, False), (300, True)])
def test_a_few_genes_tell_no_time_for_many(left: int, says: bool) -> None:
    """Two tiny shards were encoded in a second, and a large one is being read: it was 17 hours, and took a minute."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "build", "/b", "minilm", ("cpu",), "", 3, 0))
    progress.take(events.ShardCounted(0.0, "large", left, is_estimate=True))
    for n, name in enumerate(("a", "b")):
        progress.take(events.ShardStarted(n, name, "cpu", "cpu", 2))
        progress.take(events.Committed(n + 0.5, name, "cpu", "cpu", 2, 0, 4.0, None, None, 0, False))
        progress.take(events.ShardEnded(n + 0.5, name, "done", 2, ""))
    progress.take(events.Ingesting(3.0, "large", "cpu", 1, 0))
    assert (progress.to_go(10.0) is not None) is says
    assert "reading large: 1 source, 0 genes, for 7.0 s" in progress_lines(10.0, progress)[1]
    assert progress.counts() == {"planned": 3, "done": 2, "running": 1, "paused": 0, "failed": 0, "not_begun": 0}


def test_vectors_of_a_shard_in_which_nothing_is_left_to_encode_count() -> None:
    """Its sources were read again, for a filter or a file that went; no line says that nothing is encoded."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "build", "/b", "minilm", ("cpu",), "", 1, 0))
    started = events.ShardStarted(1.0, "a", "cpu", "cpu", 0, 40)
    progress.take(started)
    progress.take(events.ShardEnded(1.0, "a", "done", 0, ""))
    assert (progress.vectors, progress.ended, progress.running) == (40, 1, {})
    assert lines_of(started) == []


def test_a_batch_that_crawls_shows_its_age_and_its_crawl() -> None:
    """Nothing is committed for 80 s: the age of the batch, the rate, the rung and the crawl are seen all the same."""
    lines = progress_lines(200.0, told(200.0))
    assert lines[1] == (
        "  . (loose files): 20 %, CRAWLING, cuda:0 0.3 of 15.3 genes/s, "
        "batch of 64 running for 1 min 20 s, memory 99 %, rung 1"
    )
    assert "0.76 genes/s" in lines[0]


@pytest.mark.parametrize(
    ("t", "says"),
    [
        (100.5, "cuda:0: process 4711 starts, for 0.4 s"),
        (101.5, "cuda:0: reading . (loose files): 3 sources, 90 genes, for 0.5 s"),
        (110.0, "cuda:0: loading minilm, for 8.0 s"),
        (203.0, "waiting for the card's memory, 11.0 GiB in use, for 1.0 s"),
        (207.5, "crashed, about to start again"),
    ],
)
def test_what_a_worker_does_that_encodes_nothing(t: float, says: str) -> None:
    """A start, a model that loads and a wait for memory are never mere silence."""
    assert says in "\n".join(progress_lines(t, told(t)))


def test_a_worker_that_is_gone_has_no_batch() -> None:
    """Its batch stops ageing; what is known of the shard stays."""
    shard = told(201.0).running["."]
    assert shard.batch_since is None
    assert shard.rung == 1


def test_an_overdue_release_is_counted_as_the_recycle_that_it_became() -> None:
    """DESIGN.md, section 5."""
    assert told(210.0).actions == {"DETECT": 1, "RECYCLE": 1}


def test_troubles_are_named_up_to_a_few() -> None:
    """So that the end can say which, whatever their number."""
    progress = Progress()
    for n in range(9):
        progress.take(events.SourceTrouble(0.0, "a", f"{n}.txt", "gone"))
        progress.take(events.Quarantined(0.0, "a", f"g{n}", "b.txt", "Once", "poison"))
    assert [row["source"] for row in progress.troubles] == [f"{n}.txt" for n in range(5)]
    assert len(progress.quarantines) == 5
    assert progress.quarantined == 9


def test_a_restart_counts_nothing_twice() -> None:
    """The shard goes on with what it had done; its total stays."""
    progress = told(206.0)
    progress.take(events.ShardStarted(230.0, ".", "cuda:0", "cuda:0", 512))
    assert (progress.running["."].done, progress.running["."].total) == (128, 640)
    assert progress.running["."].rung == 1


def test_a_driver_of_the_users_own_has_no_totals() -> None:
    """Genes and rate are shown, no share and no time to go."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "c", "o", "job.py", ("cuda:0",), "w", 0, 0))
    progress.take(events.ShardStarted(1.0, "a", "job", "cuda:0", None))
    for t in (2.0, 4.0):
        progress.take(events.Committed(t, "a", "job", "cuda:0", 8, None, 4.0, 4.0, None, 0, False))
    assert progress.to_go(4.0) is None
    assert progress_lines(4.0, progress) == ["16 genes, 4.0 genes/s", "  a: cuda:0 4.0 of 4.0 genes/s"]


def test_a_driver_that_says_nothing_is_not_starting_for_ever() -> None:
    """It may load a model for an hour, or use no `CrawlWatch` at all: it runs, and that is all that is known."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "c", "o", "job.py", ("unknown",), "w", 0, 0))
    progress.take(events.WorkerStarted(1.0, "job", "unknown", 4711, "first"))
    assert progress_lines(7201.0, progress)[1:] == [
        "  job: process 4711 runs and has begun no shard yet, for 2 h 00 min"
    ]


def test_nothing_known_is_no_number() -> None:
    """Before the first event, and at a clock that stands still."""
    progress = Progress()
    assert progress.rate(0.0) is None
    assert progress.to_go(0.0) is None
    assert progress_text(0.0, progress) == "0 genes"


def test_between_two_shards_no_total_is_made_up() -> None:
    """What is done is all that is known: it is not `128 of at least 128`."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "c", "o", "minilm", ("cpu",), "w", 2, 0))
    progress.take(events.ShardStarted(1.0, "a", "cpu", "cpu", 128))
    progress.take(events.Committed(2.0, "a", "cpu", "cpu", 128, 0, 8.0, 8.0, None, 0, False))
    progress.take(events.ShardEnded(2.0, "a", "done", 128, ""))
    assert progress_text(2.0, progress) == "1 of 2 shards, 128 genes"


def hung(t: float) -> Progress:
    """A driver whose batches of 16 took a second each, twenty times; the next one begins at 21 s and does not end."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "c", "o", "job.py", ("unknown",), "w", 0, 0))
    progress.take(events.ShardStarted(1.0, "a", "job", "cpu", None))
    for n in range(20):
        progress.take(events.BatchStarted(1.0 + n, "a", "job", 16))
        progress.take(events.Committed(2.0 + n, "a", "job", "cpu", 16, None, 16.0, 16.0, None, 0, False))
    progress.take(events.BatchStarted(t, "a", "job", 16))
    return progress


AT_MOST = "  a: cpu at most {} of 16.0 genes/s, batch of 16 running for {}"


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (22.0, ["320 genes, 15.2 genes/s", "  a: cpu 16.0 of 16.0 genes/s"]),
        (
            53.0,
            ["320 genes, at most 0.5 genes/s", AT_MOST.format("0.5", "32 s")],
        ),
        (
            1621.0,
            [
                "320 genes, at most 0.01 genes/s",
                AT_MOST.format("0.01", "26 min 40 s"),
            ],
        ),
    ],
)
def test_a_hung_batch_shows_its_age_and_no_rate_of_before(now: float, lines: list[str]) -> None:
    """What it can still come to is all that is known: of the job, and of its shard."""
    assert progress_lines(now, hung(21.0)) == lines


def test_a_batch_that_has_raised_does_not_age() -> None:
    """Its driver may do something else for an hour."""
    progress = hung(21.0)
    progress.take(events.BatchAbandoned(22.0, "a", "job"))
    assert "running for" not in "\n".join(progress_lines(1621.0, progress))


def test_a_job_whose_user_says_how_many_genes_there_are_has_a_time_to_go() -> None:
    """Those of earlier runs are done; more than was said is no negative rest."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "c", "o", "job.py", ("unknown",), "w", 0, 0, 100, 500))
    progress.take(events.ShardStarted(1.0, "a", "job", "cpu", None))
    for n in range(5):
        progress.take(events.Committed(2.0 + n, "a", "job", "cpu", 20, None, 20.0, 20.0, None, 0, False))
    assert (progress.left, progress.share, progress.is_all_known) == (300, 0.4, True)
    assert progress_text(6.0, progress) == "200 of 500 genes (40 %), 20.0 genes/s, 15 s to go"
    assert progress.run is not None
    assert progress.run.devices == ("cpu",)
    progress.take(events.Committed(7.0, "a", "job", "cpu", 400, None, 20.0, 20.0, None, 0, False))
    assert (progress.left, progress.to_go(7.0)) == (0, None)


# -- work --------------------------------------------------------------------------------------------------------------

LENGTHS = [1000.0 * (1 - 0.9 * n / 63) for n in range(64)]
"""Padded tokens of a gene in each of 64 batches, the longest first: the first cost ten times what the last do."""

GENES_EACH, TOKENS_A_SECOND = 16, 2000.0
SECONDS_EACH = [GENES_EACH * length / TOKENS_A_SECOND for length in LENGTHS]


def test_the_time_to_go_is_right_all_along_a_shard_that_begins_with_its_longest_genes(tmp_path: Path) -> None:
    """Played to the end, with a worker that dies in the middle: at a quarter, half and three quarters of the genes.

    By genes it was 1.9, 2.0 and 2.1 times too long.
    """
    progress, genes = Progress(), GENES_EACH * len(LENGTHS)
    progress.take(events.RunStarted(0.0, "build", "/b", "hashing", ("cpu",), "", 1, 0))
    stages: list[Stage] = []

    def clock() -> float:
        return stages[0].clock()

    with Stage(build_job(tmp_path, ["a"], set(), progress.take, clock), ["cpu"], logs=tmp_path) as stage:
        stages.append(stage)
        worker, left = stage.begin(), [GENES_EACH * sum(LENGTHS[n:]) for n in range(len(LENGTHS) + 1)]
        worker.hello()
        worker.open("a", "cpu")
        worker.say(messages.Encoding("a", "cpu", genes, 0, left[0]))
        began = stage.clock()
        for n, (length, seconds) in enumerate(zip(LENGTHS, SECONDS_EACH, strict=True), start=1):
            worker.start("a", GENES_EACH, GENES_EACH * length, "cpu", n)
            stage.clock.now += seconds
            worker.finish(seconds, n)
            worker.boundary("a", GENES_EACH, genes - n * GENES_EACH, "cpu", left[n])
            if n in (16, 32, 48):
                now, really = stage.clock(), sum(SECONDS_EACH[n:])
                by_genes = progress.left / (progress.rate(now) or 1.0)
                assert progress.to_go(now) == pytest.approx(really, rel=0.01)
                assert by_genes > 1.5 * really
                assert progress.share == pytest.approx((now - began) / sum(SECONDS_EACH))
                assert progress.encoded == progress.running["a"].done == n * GENES_EACH
            if n == 40:  # a worker in its place says anew what is left
                worker.say(messages.Encoding("a", "cpu", genes - n * GENES_EACH, 0, left[n]))
        worker.sync()
    assert progress.share == 1.0
    assert standing(progress, stage.clock()).running[0].share == 1.0


def weighed(left: float | None = 8000.0) -> Progress:
    """A shard of 100 genes that cost 10,000, with 400 genes in one that waits; 4 of them cost as much as 20 others."""
    progress = Progress()
    progress.take(events.RunStarted(0.0, "build", "/b", "minilm", ("cpu",), "", 2, 0))
    progress.take(events.ShardCounted(0.0, "late", 400))
    progress.take(events.ShardStarted(0.0, "a", "cpu", "cpu", 100, 0, 10_000.0))
    for t, done, work in ((5.0, 2, 9000.0), (10.0, 4, left)):
        progress.take(events.Committed(t, "a", "cpu", "cpu", 2, 100 - done, 0.4, None, None, 0, False, work))
    return progress


def test_a_shard_that_waits_costs_what_the_shards_so_far_do() -> None:
    """48,000 units are left at 200 a second, not 496 genes at 0.4."""
    progress = weighed()
    assert progress.rate(10.0) == pytest.approx(0.4)
    assert progress.to_go(10.0) is None  # 4 genes say little of 500
    progress.take(events.Committed(15.0, "a", "cpu", "cpu", 2, 94, 0.4, None, None, 0, False, 7000.0))
    assert progress.to_go(15.0) == pytest.approx((7000 + 40_000) / 200)
    assert progress.share == pytest.approx(3000 / 50_000)
    assert progress_lines(15.0, progress)[0].startswith("0 of 2 shards, 6 of 500 genes (6 % of the work), 0.4 genes/s")
    assert progress_lines(15.0, progress)[1].startswith("  a: 30 %, ")


def test_genes_that_the_next_worker_finds_committed_cost_what_the_others_do_until_it_says_better() -> None:
    """Its predecessor died between a commit and saying so: nothing is counted twice, and no share falls."""
    progress = weighed(left=None)
    assert progress.running["a"].work_left == pytest.approx(9000 * 96 / 98)
    assert 1000 / 50_000 < (progress.share or 0.0) < 2000 / 50_000
    progress.take(events.ShardStarted(11.0, "a", "cpu", "cpu", 96, 4, 8000.0))
    assert (progress.running["a"].work_left, progress.running["a"].done) == (8000.0, 4)


def test_work_that_is_unknown_counts_genes() -> None:
    """A driver of the user's own, or an older worker: as if all genes cost the same."""
    assert told(120.0).share == pytest.approx(128 / 1040)
    assert not told(120.0).knows_work
