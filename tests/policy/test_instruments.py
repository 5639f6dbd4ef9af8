"""The table of instruments, against the one of section 3.5. Names, kinds, units and labels are a contract."""

from __future__ import annotations

import itertools

import pytest

from helix_crawl_otel.policy.instruments import (
    BATCH_DURATION_BOUNDS,
    INSTRUMENTS,
    MAX_LABELLED_SHARDS,
    Instrument,
    Kind,
)
from helix_crawl_otel.policy.model import Outcome

# OTel name | kind | unit | Prometheus name | labels. A unit of "" is one that the specification leaves open.
FIXED = """
helix_dense_crawl_detected      |counter   |{crawl}       |helix_dense_crawl_detected_total   |shard, device
helix_dense_genes               |counter   |{gene}        |helix_dense_genes_total            |shard, device
helix_dense_batch_duration      |histogram |s             |helix_dense_batch_duration_seconds |device, stage
helix_dense_throughput          |gauge     |{gene}/s      |helix_dense_throughput_per_second  |shard, device
helix_dense_baseline            |gauge     |{gene}/s      |helix_dense_baseline_per_second    |shard, device
helix_dense_crawl_ratio         |gauge     |1             |helix_dense_crawl_ratio            |shard, device
helix_dense_crawl_limit_ratio   |gauge     |1             |helix_dense_crawl_limit_ratio      |
helix_dense_crawl_active        |gauge     |{episode}     |helix_dense_crawl_active           |shard, device
helix_dense_crawl_streak        |gauge     |{observation} |helix_dense_crawl_streak           |shard, device
helix_dense_batch_inflight      |gauge     |s             |helix_dense_batch_inflight_seconds |shard, device
helix_dense_vram_used           |up-down counter|By            |helix_dense_vram_used_bytes        |device
helix_dense_vram_limit          |up-down counter|By            |helix_dense_vram_limit_bytes       |device
helix_dense_vram_probe_up       |gauge     |{probe}       |helix_dense_vram_probe_up          |device, source
helix_dense_ladder_rung         |gauge     |{rung}        |helix_dense_ladder_rung            |shard, device
helix_dense_ladder_actions      |counter   |{action}      |helix_dense_ladder_actions_total   |shard, action, outcome
helix_dense_action_queue_length |up-down counter|              |helix_dense_action_queue_length    |
helix_dense_worker_starts       |counter   |              |helix_dense_worker_starts_total    |device, reason
helix_dense_worker_up           |gauge     |{worker}      |helix_dense_worker_up              |device
helix_dense_genes_pending       |up-down counter|{gene}        |helix_dense_genes_pending          |shard
helix_dense_shards              |up-down counter|              |helix_dense_shards                 |state
"""

ROWS = [[cell.strip() for cell in line.split("|")] for line in FIXED.strip().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_contract(row: list[str]) -> None:
    """Dashboards, alerts and scripts of other people are built on it."""
    name, kind, unit, prometheus_name, labels = row
    (instrument,) = (row for row in INSTRUMENTS if row.name == name)
    assert instrument.kind.value == kind
    assert not unit or instrument.unit == unit
    assert instrument.prometheus_name == prometheus_name
    assert ", ".join(instrument.labels) == labels


def test_the_contract_has_20_rows_and_the_table_has_them_first() -> None:
    """Whatever is added comes after, and does not look like one of them."""
    assert [instrument.name for instrument in INSTRUMENTS][: len(ROWS)] == [row[0] for row in ROWS]
    assert len(ROWS) == 20


def test_names_are_unique_and_ours() -> None:
    """As the instrument is named and as Prometheus shows it; `hw.` is that of the semantic conventions."""
    assert len({instrument.name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)
    assert len({instrument.prometheus_name for instrument in INSTRUMENTS}) == len(INSTRUMENTS)
    assert all(instrument.name.startswith(("helix_dense_", "hw.")) for instrument in INSTRUMENTS)


@pytest.mark.parametrize("instrument", INSTRUMENTS, ids=lambda instrument: instrument.name)
def test_each_has_a_unit_and_one_sentence(instrument: Instrument) -> None:
    """They make the reference page."""
    assert instrument.unit
    assert instrument.description.endswith(".")
    assert instrument.description[0].isupper() or instrument.description[0].isdigit()


def test_counters_end_in_total() -> None:
    """And nothing else does."""
    for instrument in INSTRUMENTS:
        assert instrument.prometheus_name.endswith("_total") is (instrument.kind is Kind.COUNTER)


def test_the_buckets_are_made_for_seconds() -> None:
    """Floats, rising, from milliseconds to a hang of half an hour."""
    assert all(type(bound) is float for bound in BATCH_DURATION_BOUNDS)
    assert all(low < high for low, high in itertools.pairwise(BATCH_DURATION_BOUNDS))
    assert BATCH_DURATION_BOUNDS[0] <= 0.01
    assert BATCH_DURATION_BOUNDS[-1] >= 1800.0


def test_the_shard_is_a_label_up_to_1000_shards() -> None:
    """The SDK folds everything past 2,000 label sets into one overflow series."""
    assert MAX_LABELLED_SHARDS == 1000


def test_the_outcomes_are_those_of_the_table() -> None:
    """The values of the label `outcome`."""
    assert [outcome.value for outcome in Outcome] == [
        "applied",
        "vetoed",
        "passed_over",
        "superseded",
        "overdue",
        "failed",
    ]
