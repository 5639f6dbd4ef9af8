"""What watching costs a batch, beside the same instruments recorded alone and beside a bare loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from helix_crawl_otel import CrawlWatch, MemoryReading
from helix_crawl_otel.policy.instruments import BATCH_DURATION_BOUNDS
from tests.benchmarks.figures import Benchmark, Figures, Samples
from tests.benchmarks.metrics import CONDITIONS, SCRAPE_SECONDS, Endpoint, endpoint

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

ROUNDS, BLOCKS, BLOCK = 5, 10, 100
"""Each round times the kinds of step by turns, a block of each: what else the machine does meets all of them."""

Step = Callable[[], None]

_names = itertools.count()


def bare_step() -> Step:
    """A driver's loop with nothing in it but its own counting."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 64

    return step


def recorded_step(exported: Endpoint) -> Step:
    """A counter and a histogram, recorded as a driver without the package would."""
    meter = exported.provider.get_meter("alone")
    genes = meter.create_counter("alone_genes", "{gene}")
    seconds = meter.create_histogram(
        "alone_batch_duration", "s", explicit_bucket_boundaries_advisory=BATCH_DURATION_BOUNDS
    )
    attributes = {"shard": "a", "device": "cuda:0"}
    stage = {"device": "cuda:0", "stage": "encode"}

    def step() -> None:
        began = time.perf_counter()
        genes.add(64, attributes)
        seconds.record(time.perf_counter() - began, stage)

    return step


@contextmanager
def watched_step(exported: Endpoint, timeline: Path | None = None, state: Path | None = None) -> Iterator[Step]:
    """A driver's loop with the lines that the package asks for."""
    with ExitStack() as stack:
        watch = stack.enter_context(
            CrawlWatch(
                meter_provider=exported.provider,
                memory=lambda: MemoryReading(5_000_000_000, 12_000_000_000),
                timeline=timeline,
                state=state,
            )
        )
        shard = stack.enter_context(watch.shard(f"shard-{next(_names)}"))

        def step() -> None:
            with shard.batch(genes=64, work=81_234):
                pass
            shard.boundary()

        yield step


def timed(step: Step, times: int) -> tuple[list[float], list[float]]:
    """Seconds of each call by the clock, and of this thread on the processor."""
    seconds, cpu_seconds = [], []
    clock, cpu_clock = time.perf_counter, time.thread_time
    for _ in range(times):
        cpu_began = cpu_clock()
        began = clock()
        step()
        ended = clock()
        cpu_seconds.append(cpu_clock() - cpu_began)
        seconds.append(ended - began)
    return seconds, cpu_seconds


def ratio(value: float) -> str:
    """A ratio, to two digits or whole."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


@pytest.mark.parametrize("exported", CONDITIONS, indirect=True)
def test_watching_a_batch_costs_a_small_multiple_of_recording_it(
    benchmark: Benchmark, figures: Figures, exported: Endpoint, tmp_path: Path
) -> None:
    """The goal is 0.05 ms at the median; here only ratios are held, since a shared machine has times of its own."""
    with ExitStack() as stack:
        steps = {
            "bare loop": bare_step(),
            "instruments alone": recorded_step(exported),
            "watched": stack.enter_context(watched_step(exported)),
            "watched, timeline and state kept": stack.enter_context(
                watched_step(exported, tmp_path / "timeline.jsonl", tmp_path / "state.json")
            ),
        }
        samples = {name: Samples() for name in steps}
        cpu_samples = {name: Samples() for name in steps}
        for step in steps.values():
            timed(step, 300)  # the baseline is known, label sets and series exist

        def run_round() -> None:
            for name in steps:
                samples[name].rounds.append([])
                cpu_samples[name].rounds.append([])
            for _ in range(BLOCKS):
                for name, step in steps.items():
                    seconds, cpu_seconds = timed(step, BLOCK)
                    samples[name].rounds[-1] += seconds
                    cpu_samples[name].rounds[-1] += cpu_seconds

        benchmark.group = "watched batch"
        benchmark.pedantic(run_round, rounds=ROUNDS)

    alone = samples["instruments alone"]
    for name, sample in samples.items():
        least, most = sample.spread
        figures.add(
            f"Cost of one batch in microseconds, {exported.condition}",
            {
                "loop": name,
                "median": f"{sample.median * 1e6:.1f}",
                "p99": f"{sample.p99 * 1e6:.1f}",
                "median / alone": ratio(sample.median / alone.median),
                "p99 / alone": ratio(sample.p99 / alone.p99),
                "CPU median": f"{cpu_samples[name].median * 1e6:.1f}",
                "CPU p99": f"{cpu_samples[name].p99 * 1e6:.1f}",
                "medians of the rounds": f"{least * 1e6:.1f} to {most * 1e6:.1f}",
            },
        )
        benchmark.extra_info[name] = {"median": sample.median, "p99": sample.p99}
    assert samples["bare loop"].median < alone.median < samples["watched"].median
    # "No reader" records nothing, so there is nothing to be a multiple of.
    if exported.condition != "no reader":
        assert samples["watched"].median < 20 * alone.median


def test_the_scraped_condition_is_scraped() -> None:
    """Somebody fetches the page while batches run; otherwise the third condition would say nothing."""
    with endpoint("Prometheus, scraped") as exported, watched_step(exported) as step:
        until = time.monotonic() + 100 * SCRAPE_SECONDS
        while exported.looks < 2 and time.monotonic() < until:
            step()
    assert exported.scrapes >= 2
