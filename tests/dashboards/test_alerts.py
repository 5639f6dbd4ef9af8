"""When each alert fires and when it stays quiet, by `promtool test rules`.

Each case asks for every alert that ever fired: a case for one alert is a case for the silence of the nine others.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.dashboards.recorded import SCRAPE_SECONDS, scraped
from tests.dashboards.shipped import ALERTS, RULES
from tests.programs import require_program
from tests.rules.tree import ROOT

TIMELINES = ROOT / "tests" / "data" / "timelines"
SHARD = 'job="helix-crawl", instance="rig:9464", shard="a"'
HOST = 'job="helix-crawl", instance="rig:9464"'
CARD = f'{HOST}, device="cuda:0"'


def run_promtool(folder: Path, series: Sequence[Mapping[str, str]], fired: Mapping[str, int], at: str) -> str:
    """Ask which alerts fired, of how many label sets each. Returns promtool's complaint, empty when it agrees."""
    test = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": f"{SCRAPE_SECONDS}s",
        "tests": [
            {
                "interval": f"{SCRAPE_SECONDS}s",
                "input_series": list(series),
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[2d]))',
                        "eval_time": at,
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": count} for name, count in fired.items()
                        ],
                    }
                ],
            }
        ],
    }
    path = folder / "test.yml"
    path.write_text(json.dumps(test))  # JSON is YAML
    done = subprocess.run(
        [require_program("promtool"), "test", "rules", str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


RECORDED: dict[str, tuple[str, str, str | None, dict[str, int], str]] = {
    "0610 watched only": (
        "incident-0610-confluence",
        "off",
        None,
        {"HelixCrawlCrawling": 1},
        "29 minutes of crawl that nobody ends",
    ),
    "0610 down the ladder": (
        "incident-0610-confluence",
        "ladder",
        None,
        {"HelixCrawlCrawling": 1, "HelixCrawlOnCpu": 1},
        "the recording stays slow whatever the ladder does, so it ends on the CPU",
    ),
    "0611 watched only": (
        "incident-0611-slack",
        "off",
        None,
        {
            "HelixCrawlCrawling": 1,
            "HelixCrawlBatchStuck": 1,
            "HelixCrawlNoProgress": 1,
            "HelixCrawlActionOverdue": 1,
            "HelixCrawlMemoryFull": 1,
        },
        "one batch of 47 minutes: it crawls, is stuck, encodes nothing and keeps the DETECT waiting, the card full",
    ),
    "healthy": ("healthy", "ladder", None, {}, "a card that is rightly full, for an hour less"),
    # The card is rightly full for over an hour in these two: that is severity info, and wakes nobody.
    "long documents": (
        "long-documents",
        "ladder",
        None,
        {"HelixCrawlMemoryFull": 1},
        "a twentieth of the genes/s is the same work",
    ),
    "slow disk": ("slow-disk", "ladder", None, {"HelixCrawlMemoryFull": 1}, "the encode stage is as always"),
    "CPU only": ("healthy", "ladder", "cpu", {}, "no card, no probe, no alert"),
    "CPU only, slow": ("incident-0610-confluence", "ladder", "cpu", {}, "slow without a memory that is full"),
}


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_jobs(tmp_path: Path, case: str) -> None:
    """Both incidents wake somebody when nothing acts; healthy jobs of every kind do not."""
    name, action, device, fired, _ = RECORDED[case]
    series = scraped(TIMELINES / f"{name}.jsonl", action=action, device=device)
    assert run_promtool(tmp_path, series, fired, "3h") == ""


class Case(NamedTuple):
    """Series by hand, in promtool's notation, one value each 30 seconds."""

    reason: str
    series: Mapping[str, str]
    fired: Sequence[str] = ()
    at: str = "4h"


ACTIVE = f'helix_dense_crawl_active{{{SHARD}, device="cuda:0"}}'
RUNG = f"helix_dense_ladder_rung{{{SHARD}"
INFLIGHT = f'helix_dense_batch_inflight_seconds{{{SHARD}, device="cuda:0"}}'
SUM = f'helix_dense_batch_duration_seconds_sum{{{CARD}, stage="encode"}}'
COUNT = f'helix_dense_batch_duration_seconds_count{{{CARD}, stage="encode"}}'
STARTS = f"helix_dense_worker_starts_total{{{CARD}"
USED, LIMIT = f"helix_dense_vram_used_bytes{{{CARD}}}", f"helix_dense_vram_limit_bytes{{{CARD}}}"
PROBE = f"helix_dense_vram_probe_up{{{CARD}"
GENES = f'helix_dense_genes_total{{{SHARD}, device="cuda:0"}}'
WORKER = f"helix_dense_worker_up{{{CARD}}}"
STATES = f"helix_dense_shards{{{HOST}"
PENDING = f"helix_dense_genes_pending{{{SHARD}}}"
OVERDUE = f'helix_dense_ladder_actions_total{{{SHARD}, action="RECYCLE", outcome="overdue"}}'
QUEUE = f"helix_dense_action_queue_length{{{HOST}}}"

CASES: Mapping[str, Case] = {
    "crawl ended by the ladder": Case(
        "four minutes of episode are the ladder's work, not somebody's", {ACTIVE: "0x20 1x7 0x200"}
    ),
    "crawl through a recycle": Case(
        "the episode ends with the worker and comes back eight minutes later: one crawl",
        {ACTIVE: "0x20 1x10 _x4 0x12 1x20 0x60"},
        ["HelixCrawlCrawling"],
    ),
    "crawl at the first scrape": Case("it was there before Prometheus", {ACTIVE: "1x60"}, ["HelixCrawlCrawling"]),
    "demoted": Case(
        "the label device changes with the demotion: one shard, one alert",
        {f'{RUNG}, device="cuda:0"}}': "0x10 2x10 3x2 _x100", f'{RUNG}, device="cpu"}}': "_x25 3x90"},
        ["HelixCrawlOnCpu"],
    ),
    "recycled once": Case("the second rung is no end", {f'{RUNG}, device="cuda:0"}}': "0x10 1x10 2x100"}),
    "batch of twenty means": Case(
        "4.2 s as a rule, 11 minutes now",
        {SUM: "0+29.4x400", COUNT: "0+7x400", INFLIGHT: "2x200 0+30x24 2x40"},
        ["HelixCrawlBatchStuck"],
    ),
    "long batches as a rule": Case(
        "five minutes on a slow CPU are what a batch costs there: eleven are not twenty times that",
        {SUM: "0+30x400", COUNT: "0+0.1x400", INFLIGHT: "0+30x22 0+30x22 0+30x22"},
    ),
    "first batch stuck": Case(
        "no batch has ended, so half an hour counts", {INFLIGHT: "0+30x70"}, ["HelixCrawlBatchStuck"]
    ),
    "recycle loop": Case(
        "six crashes within an hour; the counter begins at 0 with the first start",
        {f'{STARTS}, reason="crash"}}': "0x10 1x10 2x10 3x10 4x10 5x10 6x40", f'{STARTS}, reason="first"}}': "1x100"},
        ["HelixCrawlRecycleLoop"],
    ),
    "two shards recycled and demoted": Case(
        "four restarts within an hour are the ladder's work",
        {
            f'{STARTS}, reason="recycle"}}': "0x10 1x30 2x200",
            f'{STARTS}, reason="demote"}}': "0x20 1x30 2x190",
            f'{STARTS}, reason="resume"}}': "0+1x240",
        },
    ),
    "memory full for over an hour": Case(
        "a release every few minutes lowers the reading for one scrape",
        {USED: " ".join(["11.9x8 6"] * 20), LIMIT: "12x200"},
        ["HelixCrawlMemoryFull"],
    ),
    "memory full, then recycled": Case(
        "forty minutes full, a recycle, and full again", {USED: "11.9x80 _x4 3x40 11.9x60 3x20", LIMIT: "12x220"}
    ),
    "memory unknown": Case("absent is not full", {LIMIT: "12x300", f'{PROBE}, source="torch"}}': "1x300"}),
    "control group of a CPU job full": Case(
        "page cache fills it", {USED.replace("cuda:0", "cpu"): "12x300", LIMIT.replace("cuda:0", "cpu"): "12x300"}
    ),
    "probe down": Case(
        "both sources of a card",
        {f'{PROBE}, source="nvml"}}': "1x10 0x60", f'{PROBE}, source="torch"}}': "0x70"},
        ["HelixCrawlProbeDown"],
    ),
    "probe down between two workers": Case(
        "torch is silent through a recycle, NVML is not",
        {f'{PROBE}, source="nvml"}}': "1x100", f'{PROBE}, source="torch"}}': "1x20 0x60 1x20"},
    ),
    "own probe down for a recycle": Case(
        "two minutes without the only source", {f'{PROBE}, source="custom"}}': "1x20 0x4 _x4 1x60"}
    ),
    "CPU without a control group": Case(
        "nothing to spill", {PROBE.replace("cuda:0", "cpu") + ', source="cgroup"}': "0x100"}
    ),
    "no progress": Case(
        "40 minutes; the worker was recycled in between",
        {GENES: "0+64x20 1280x90", WORKER: "1x50 0x2 1x58"},
        ["HelixCrawlNoProgress"],
    ),
    "slow CPU": Case(
        "64 genes in ten minutes are progress", {GENES: " ".join(f"{n}x19" for n in range(0, 640, 64)), WORKER: "1x200"}
    ),
    "nothing to do": Case("a supervisor without a worker", {GENES: "640x200", WORKER: "0x200"}),
    "job gone": Case(
        "three shards were left",
        {f'{STATES}, state="pending"}}': "3x20", f'{STATES}, state="running"}}': "1x20"},
        ["HelixCrawlJobGone"],
    ),
    "job gone in its last shard": Case(
        "half an hour of work was left",
        {
            f'{STATES}, state="pending"}}': "0x20",
            f'{STATES}, state="running"}}': "1x20",
            GENES: "0+300x20",
            PENDING: "24000-300x20",
        },
        ["HelixCrawlJobGone"],
    ),
    "job done": Case(
        "its last scrape shows the last shard in its last batches",
        {
            f'{STATES}, state="pending"}}': "1x10 0x10",
            f'{STATES}, state="running"}}': "1x20",
            f'{STATES}, state="done"}}': "0x10 1x10",
            GENES: "0+300x20",
            PENDING: "6000-300x20",
        },
    ),
    "job started again": Case("two minutes later", {f'{STATES}, state="pending"}}': "3x20 _x4 3x500"}),
    "shard failed": Case(
        "the job ended a minute later",
        {f'{STATES}, state="failed"}}': "0x10 1x2", f'{STATES}, state="running"}}': "1x10 0x2"},
        ["HelixCrawlShardFailed"],
    ),
    "none failed": Case("exported as 0 all along", {f'{STATES}, state="failed"}}': "0x100"}),
    "overdue, first seen at 1": Case(
        "increase() of a counter that begins at 1 is 0", {OVERDUE: "_x20 1x60"}, ["HelixCrawlActionOverdue"]
    ),
    "overdue, counted before": Case("0 from the start", {OVERDUE: "0x20 1x60"}, ["HelixCrawlActionOverdue"]),
    "applied in time": Case(
        "the usual end of an action", {OVERDUE.replace("overdue", "applied"): "_x20 1x60", QUEUE: "0x20 1x4 0x56"}
    ),
    "never asked for": Case(
        "a driver that neither polls nor reaches a boundary", {QUEUE: "0x20 1x60"}, ["HelixCrawlActionOverdue"]
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_by_hand(tmp_path: Path, case: str) -> None:
    """Each alert both ways, through the gap of a recycle and the first increment of a counter."""
    series = [{"series": name, "values": values} for name, values in CASES[case].series.items()]
    assert run_promtool(tmp_path, series, dict.fromkeys(CASES[case].fired, 1), CASES[case].at) == ""


def test_every_alert_is_tested_both_ways() -> None:
    """A new alert needs a case in which it fires; every other case shows it quiet."""
    assert {name for case in CASES.values() for name in case.fired} == set(ALERTS)


def test_promtool_contradicts_a_wrong_claim(tmp_path: Path) -> None:
    """The cases above can fail, in both directions."""
    series: list[dict[str, Any]] = [{"series": f'{STATES}, state="failed"}}', "values": "0x4 1x40"}]
    assert "HelixCrawlShardFailed" in run_promtool(tmp_path, series, {}, "1h")
    assert "HelixCrawlOnCpu" in run_promtool(tmp_path, series, {"HelixCrawlShardFailed": 1, "HelixCrawlOnCpu": 1}, "1h")
