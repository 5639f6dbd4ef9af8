"""What a scrape of a real endpoint shows: the table of DESIGN.md 3.5, and nothing that is not in it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helix_crawl_otel.policy.instruments import INSTRUMENTS, Kind
from tests.otel.fresh import run_fresh
from tests.programs import require_program
from tests.rules.tree import ROOT
from tests.watch.rig import Rig, collected, make_provider

# Name, kind, Prometheus name, labels: written down here once more, because dashboards rely on them.
CARD = {"device", "hw_id", "hw_name", "hw_type"}
TABLE = {
    "helix_dense_crawl_detected": ("counter", "helix_dense_crawl_detected_total", {"shard", "device"}),
    "helix_dense_genes": ("counter", "helix_dense_genes_total", {"shard", "device"}),
    "helix_dense_batch_duration": ("histogram", "helix_dense_batch_duration_seconds", {"device", "stage"}),
    "helix_dense_throughput": ("gauge", "helix_dense_throughput_per_second", {"shard", "device"}),
    "helix_dense_baseline": ("gauge", "helix_dense_baseline_per_second", {"shard", "device"}),
    "helix_dense_crawl_ratio": ("gauge", "helix_dense_crawl_ratio", {"shard", "device"}),
    "helix_dense_crawl_limit_ratio": ("gauge", "helix_dense_crawl_limit_ratio", set()),
    "helix_dense_crawl_active": ("gauge", "helix_dense_crawl_active", {"shard", "device"}),
    "helix_dense_crawl_streak": ("gauge", "helix_dense_crawl_streak", {"shard", "device"}),
    "helix_dense_batch_inflight": ("gauge", "helix_dense_batch_inflight_seconds", {"shard", "device"}),
    "helix_dense_vram_used": ("up-down counter", "helix_dense_vram_used_bytes", {"device"}),
    "helix_dense_vram_limit": ("up-down counter", "helix_dense_vram_limit_bytes", {"device"}),
    "helix_dense_vram_shared": ("up-down counter", "helix_dense_vram_shared_bytes", {"device", "owner"}),
    "helix_dense_vram_probe_up": ("gauge", "helix_dense_vram_probe_up", {"device", "source"}),
    "helix_dense_ladder_rung": ("gauge", "helix_dense_ladder_rung", {"shard", "device"}),
    "helix_dense_ladder_actions": ("counter", "helix_dense_ladder_actions_total", {"shard", "action", "outcome"}),
    "helix_dense_action_queue_length": ("up-down counter", "helix_dense_action_queue_length", set()),
    "helix_dense_worker_starts": ("counter", "helix_dense_worker_starts_total", {"device", "reason"}),
    "helix_dense_worker_up": ("gauge", "helix_dense_worker_up", {"device"}),
    "helix_dense_genes_pending": ("up-down counter", "helix_dense_genes_pending", {"shard"}),
    "helix_dense_shards": ("up-down counter", "helix_dense_shards", {"state"}),
    "helix_dense_shard_failed": ("gauge", "helix_dense_shard_failed", {"shard"}),
    "helix_dense_run_info": (
        "gauge",
        "helix_dense_run_info",
        {"run", "run_id", "command", "folder", "model", "version", "policy", "factor", "window", "vram_full"},
    ),
    "helix_dense_run_state": ("gauge", "helix_dense_run_state", {"run", "run_id", "state"}),
    "helix_dense_last_crawl_timestamp": ("gauge", "helix_dense_last_crawl_timestamp_seconds", {"shard", "device"}),
    "helix_dense_last_action_timestamp": ("gauge", "helix_dense_last_action_timestamp_seconds", {"shard", "action"}),
    "helix_dense_genes_quarantined": ("up-down counter", "helix_dense_genes_quarantined", {"shard"}),
    "helix_dense_vram_full_ratio": ("gauge", "helix_dense_vram_full_ratio", set()),
    "helix_dense_batch_deadline": ("gauge", "helix_dense_batch_deadline_seconds", {"shard", "device"}),
    "helix_dense_device_info": ("gauge", "helix_dense_device_info", {"device", "UUID", "modelName"}),
    "hw.gpu.utilization": ("gauge", "hw_gpu_utilization_ratio", CARD),
    "hw.temperature": ("gauge", "hw_temperature_celsius", CARD),
    "hw.power": ("gauge", "hw_power_watts", CARD),
    "hw.gpu.speed": ("gauge", "hw_gpu_speed_hertz", CARD | {"hw_gpu_clock"}),
    "hw.gpu.throttled": ("gauge", "hw_gpu_throttled", CARD | {"hw_gpu_throttle_reason"}),
}

ABSENT_EMBEDDED = {
    "helix_dense_genes_pending",  # only the driver knows
    "helix_dense_genes_quarantined",
    "helix_dense_batch_deadline",  # nobody can end a batch
}
ABSENT_WITHOUT_NVML = {"helix_dense_device_info"} | {name for name in TABLE if name.startswith("hw.")}

SCRAPED = """
    import json, urllib.request
    from prometheus_client.parser import text_string_to_metric_families
    from tests.watch.rig import Rig
    from helix_crawl_otel import serve_metrics

    def scrape():
        text = urllib.request.urlopen(endpoint.url, timeout=30).read().decode()
        return text, {
            family.name: [
                family.type,
                family.documentation,
                [[sample.name, sample.labels, sample.value] for sample in family.samples],
            ]
            for family in text_string_to_metric_families(text)
        }

    with serve_metrics(port=0) as endpoint:
        rig = Rig(provider=endpoint.provider)
        with rig.watch.shard("a", on_demote=lambda: None) as shard:
            rig.watch.tick()
            begun = scrape()[1]
            rig.shared, rig.other_shared = 3_000_000_000, 0
            rig.healthy(shard, 10)
            rig.crawl(shard, 24)
            text, crawled = scrape()
        rig.watch.close()
    print(json.dumps({"begun": begun, "crawled": crawled, "text": text}))
"""


class Scraped(NamedTuple):
    """What Prometheus gets of a shard just opened, and of one that has climbed the whole ladder.

    By family: kind, help, samples. A sample is name, labels, value.
    """

    begun: dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]]
    crawled: dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]]
    text: str


@pytest.fixture(scope="module")
def scraped() -> Scraped:
    """Both scrapes, of a real endpoint in a process of its own."""
    found: dict[str, Any] = json.loads(run_fresh(SCRAPED))
    return Scraped(**found)


def values_of(
    scrape: dict[str, tuple[str, str, list[tuple[str, dict[str, str], float]]]],
) -> dict[tuple[str, ...], float]:
    """Values by name and sorted label values."""
    return {
        (name, *sorted(labels.values())): value for _, _, samples in scrape.values() for name, labels, value in samples
    }


def family_of(prometheus_name: str) -> str:
    """A counter's family has no suffix in the parser."""
    return prometheus_name.removesuffix("_total")


@pytest.mark.parametrize("name", sorted(set(TABLE) - ABSENT_EMBEDDED - ABSENT_WITHOUT_NVML))
def test_each_instrument_has_its_name_kind_and_labels(name: str, scraped: Scraped) -> None:
    """Names, kinds and labels are a contract: boards and alerts are written against them."""
    kind, prometheus_name, labels = TABLE[name]
    found_kind, found_help, samples = scraped.crawled[family_of(prometheus_name)]
    assert found_kind == kind.replace("up-down counter", "gauge")
    row = next(row for row in INSTRUMENTS if row.name == name)
    assert found_help == row.description
    assert samples
    for sample_name, sample_labels, _ in samples:
        assert sample_name.startswith(prometheus_name)
        assert set(sample_labels) - {"le"} == labels


def test_the_table_in_code_is_the_table_of_the_contract() -> None:
    """Beside the contract's rows there are only the two that count what was ignored and what failed."""
    rows = {row.name: (row.kind.value, row.prometheus_name, set(row.prometheus_labels)) for row in INSTRUMENTS}
    extra = {"helix_dense_samples_ignored", "helix_dense_internal_errors"}
    assert {name: row for name, row in rows.items() if name not in extra} == TABLE
    assert set(rows) - set(TABLE) == extra


def test_nothing_else_is_exported(scraped: Scraped) -> None:
    """No scope label, no overflow series, no instrument of the policy's own."""
    known = {family_of(row.prometheus_name) for row in INSTRUMENTS}
    assert set(scraped.crawled) - known == {"target_info"}
    assert "otel_" not in scraped.text
    assert "policy_" not in scraped.text


def test_shared_memory_is_shown_by_owner_and_absent_while_it_is_unknown(scraped: Scraped) -> None:
    """0 is a reading. Where nobody reads it, as everywhere but under Windows, there is no series."""
    assert "helix_dense_vram_shared_bytes" not in scraped.begun
    name = "helix_dense_vram_shared_bytes"
    shown = {labels[1:]: value for labels, value in values_of(scraped.crawled).items() if labels[0] == name}
    assert shown == {("cuda:0", "worker"): 3_000_000_000, ("cuda:0", "other"): 0}


def test_series_begin_at_zero(scraped: Scraped) -> None:
    """A counter first seen at 1 has no increase(), so an alert on the first crawl would stay quiet."""
    begun = values_of(scraped.begun)
    assert begun["helix_dense_crawl_detected_total", "a", "cuda:0"] == 0
    assert begun["helix_dense_genes_total", "a", "cuda:0"] == 0
    for action in ("EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"):
        assert begun[("helix_dense_ladder_actions_total", *sorted((action, "a", "applied")))] == 0
    assert begun["helix_dense_worker_starts_total", "cuda:0", "first"] == 1
    for reason in ("recycle", "demote", "crash", "resume"):
        assert begun[("helix_dense_worker_starts_total", *sorted(("cuda:0", reason)))] == 0
    assert begun["helix_dense_worker_starts_total", "cpu", "demote"] == 0, "the CPU has no worker before a demotion"
    for reason in ("genes", "seconds", "work"):
        assert begun["helix_dense_samples_ignored_total", reason] == 0
    for place in ("driver", "hook", "policy", "probe", "release", "state", "timeline"):
        assert begun["helix_dense_internal_errors_total", place] == 0
    for stage in ("read", "encode", "commit"):
        assert begun[("helix_dense_batch_duration_seconds_count", *sorted(("cuda:0", stage)))] == 0
        assert begun[("helix_dense_batch_duration_seconds_bucket", *sorted(("+Inf", "cuda:0", stage)))] == 0
    assert begun["helix_dense_shards", "running"] == 1
    assert begun["helix_dense_shards", "failed"] == 0


def test_values_after_the_whole_ladder(scraped: Scraped) -> None:
    """One crawl, three rungs: release applied, recycle passed over, demotion in place."""
    values = values_of(scraped.crawled)
    assert values["helix_dense_crawl_detected_total", "a", "cuda:0"] == 1
    assert values["helix_dense_ladder_actions_total", "DETECT", "a", "applied"] == 1
    assert values["helix_dense_ladder_actions_total", "EMPTY_CACHE", "a", "applied"] == 1
    assert values["helix_dense_ladder_actions_total", "RECYCLE", "a", "passed_over"] == 1
    assert values["helix_dense_ladder_actions_total", "DEMOTE_CPU", "a", "applied"] == 1
    assert values["helix_dense_ladder_rung", "a", "cpu"] == 3
    assert values["helix_dense_crawl_limit_ratio",] == pytest.approx(0.2)
    assert values["helix_dense_worker_up", "cuda:0"] == 0
    assert values["helix_dense_worker_up", "cpu"] == 1
    assert values["helix_dense_worker_starts_total", "cpu", "demote"] == 1
    assert values["helix_dense_vram_used_bytes", "cuda:0"] == 0.99 * 12e9
    assert values["helix_dense_vram_limit_bytes", "cuda:0"] == 12e9
    assert values["helix_dense_vram_probe_up", "cuda:0", "custom"] == 1
    assert values["helix_dense_batch_duration_seconds_count", "cuda:0", "encode"] >= 10


def test_promtool_accepts_the_scrape(scraped: Scraped) -> None:
    """The linter of Prometheus finds nothing to say: no missing help, no odd unit, no odd name."""
    promtool = require_program("promtool")
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=scraped.text,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_units_are_those_of_the_table() -> None:
    """OTLP carries the unit itself, not a suffix."""
    provider, reader = make_provider()
    rig = Rig(provider=provider)
    rig.shared = 0
    with rig.watch.shard("a") as shard:
        rig.healthy(shard, 10)
        data = reader.get_metrics_data()
    rig.watch.close()
    assert data is not None
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    for row in INSTRUMENTS:
        if row.name in metrics:
            assert metrics[row.name].unit == row.unit, row.name
            assert metrics[row.name].description == row.description
    absent = {row.name for row in INSTRUMENTS} - set(metrics)
    crawled_once = {"helix_dense_last_crawl_timestamp", "helix_dense_last_action_timestamp"}
    assert absent == ABSENT_EMBEDDED | ABSENT_WITHOUT_NVML | crawled_once
    assert next(r.unit for r in INSTRUMENTS if r.kind is Kind.HISTOGRAM) == "s"


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_an_unknown_reading_is_an_absent_series_beside_probe_up_0(fraction: float | None) -> None:
    """A NaN would be dropped by the exporter and a 0 would be a lie: probe_up says which of both it is."""
    with Rig(fraction) as rig, rig.watch.shard("a"):
        rig.watch.tick()
        up = rig.series("helix_dense_vram_probe_up")
        used, limit = rig.series("helix_dense_vram_used"), rig.series("helix_dense_vram_limit")
    assert up == {("device=cuda:0", "source=custom"): 0 if fraction is None else 1}
    assert used == ({} if fraction is None else {("device=cuda:0",): 6e9})
    assert limit == {("device=cuda:0",): 12e9}  # known on its own


def test_a_reading_that_gets_unknown_leaves_no_last_good_value() -> None:
    """The last value shown for ever would look like a card that is fine."""
    with Rig(0.5) as rig, rig.watch.shard("a"):
        rig.watch.tick()
        assert rig.series("helix_dense_vram_used")
        rig.fraction = None
        rig.watch.tick()
        assert rig.series("helix_dense_vram_used") == {}
        assert rig.series("helix_dense_vram_probe_up") == {("device=cuda:0", "source=custom"): 0}


def test_gauges_of_a_closed_shard_are_gone_and_its_counters_stay() -> None:
    """A board must not show the last rate of a shard that is done; its genes were encoded all the same."""
    with Rig() as rig:
        with rig.watch.shard("a") as shard:
            rig.healthy(shard, 10)
            assert rig.series("helix_dense_throughput") == {("device=cuda:0", "shard=a"): 16.0}
        seen = collected(rig.reader) if rig.reader else {}
    assert "helix_dense_throughput" not in seen
    assert seen["helix_dense_genes"] == {("device=cuda:0", "shard=a"): 640}
    assert seen["helix_dense_shards"] == {
        ("state=done",): 1,
        ("state=running",): 0,
        ("state=pending",): 0,
        ("state=paused",): 0,
        ("state=failed",): 0,
    }


def test_after_close_only_how_it_ended_is_shown() -> None:
    """A watch that is closed says nothing about now but that it is over."""
    rig = Rig()
    with rig.watch.shard("a") as shard:
        rig.healthy(shard, 10)
    rig.watch.close()
    gauges = {row.name for row in INSTRUMENTS if row.kind in (Kind.GAUGE, Kind.UP_DOWN_COUNTER)}
    assert rig.reader is not None
    shown = collected(rig.reader)
    assert gauges & set(shown) == {"helix_dense_run_info", "helix_dense_run_state"}
    assert [labels[2] for labels, value in shown["helix_dense_run_state"].items() if value] == ["state=done"]


def test_age_of_the_batch_in_flight_is_seen_while_it_runs() -> None:
    """64 genes in 47 minutes is one batch: its age has to be on the board meanwhile."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        assert rig.total("helix_dense_batch_inflight") == 0
        with shard.batch(64):
            rig.clock.now += 100
            with shard.batch(64):
                rig.clock.now += 7
                assert rig.series("helix_dense_batch_inflight") == {("device=cuda:0", "shard=a"): 107}
        assert rig.total("helix_dense_batch_inflight") == 0


def test_stages_between_two_encodes_are_measured() -> None:
    """From an encode to the boundary is commit, from the boundary to the next encode is read."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        for _ in range(3):
            with shard.batch(64):
                rig.clock.now += 4
            rig.clock.now += 0.5
            shard.boundary()
            rig.clock.now += 0.25
        assert rig.series("helix_dense_batch_duration") == {
            ("device=cuda:0", "stage=encode"): 3,
            ("device=cuda:0", "stage=commit"): 3,
            ("device=cuda:0", "stage=read"): 2,
        }


def test_a_batch_that_raises_is_part_of_no_stage() -> None:
    """Neither its own time nor what follows it is the reading of the next batch."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.batch(shard)
        rig.clock.now += 0.5
        with pytest.raises(KeyError), shard.batch(64):
            rig.wait(100).fail(KeyError())
        rig.batch(shard)
        assert rig.series("helix_dense_batch_duration") == {
            ("device=cuda:0", "stage=encode"): 2,
            ("device=cuda:0", "stage=read"): 1,
        }


def test_the_query_of_the_reference_joins_with_dcgm(tmp_path: Path) -> None:
    """A metric as NVIDIA's exporter labels it, for the cards of one job, under the names that the job has for them."""
    [query] = re.findall(r"```promql\n(.*)\n```", (ROOT / "docs/reference/instruments.md").read_text(encoding="utf-8"))
    theirs = 'gpu="{n}", UUID="GPU-{n}", device="nvidia{n}", modelName="RTX 3090", Hostname="rig-2"'
    ours = 'instance="{at}", device="cuda:0", UUID="GPU-{n}", modelName="RTX 3090"'
    series = [("DCGM_FI_PROF_PCIE_RX_BYTES", theirs.format(n=n), f"{n}00") for n in (1, 2)]
    series += [
        ("helix_dense_device_info", ours.format(n=n, at=at), "1") for n, at in ((1, "rig-2:9464"), (2, "rig-2:9465"))
    ]
    wanted = '{gpu="1", UUID="GPU-1", device="cuda:0", modelName="RTX 3090", Hostname="rig-2"}'
    case = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "input_series": [{"series": f"{name}{{{labels}}}", "values": value} for name, labels, value in series],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "0m", "exp_samples": [{"labels": wanted, "value": 100}]}
                ],
            }
        ],
    }
    file = tmp_path / "join.yml"
    file.write_text(json.dumps(case), encoding="utf-8")
    subprocess.run([require_program("promtool"), "test", "rules", str(file)], check=True, timeout=50)
