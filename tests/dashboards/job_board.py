"""The board of one job: does it crawl, since when, and what was done."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard

from tests.dashboards.pieces import (
    DEVICES,
    JOBS,
    RUNG_TEXTS,
    SHARDS,
    annotation,
    board,
    graph,
    number,
    states,
    steps,
)

__all__ = ["ANNOTATIONS", "job_board"]

_DETECTED = f"helix_dense_crawl_detected_total{{{SHARDS}}}"
_ACTIONS = f'helix_dense_ladder_actions_total{{{JOBS}, shard=~"$shard"'
_ON_LIMIT = "* on (job, instance) group_left () helix_dense_crawl_limit_ratio"
_GENES = "suffix: genes/s"
_SHARD_DEVICE = "{{shard}} on {{device}}"

# A counter first seen at 1 has no increase(): what was not there a minute ago counts as new.
_REMEDIES = f'{_ACTIONS}, action!="DETECT"}}'
_NEW_ACTIONS = f"({_REMEDIES} > {_REMEDIES} offset 1m) or ({_REMEDIES} > 0 unless {_REMEDIES} offset 1m)"

ANNOTATIONS: list[dict[str, Any]] = [
    annotation("Crawl detected", "red", f"{_DETECTED} > {_DETECTED} offset 1m", "crawl of {{shard}} on {{device}}"),
    annotation("Action of the ladder", "blue", _NEW_ACTIONS, "{{action}} {{outcome}}: {{shard}}"),
]


def job_board() -> dashboard.Dashboard:
    """The whole board."""
    made = board(
        "helix-crawl-job",
        "Helix crawl: one job",
        "Does the job crawl, since when, and what was done about it: read the first row from left to right.",
        many=False,
    )
    for row in (_now, _speed, _ladder, _memory, _stages, _progress, _health):
        row(made)
    return made


def _now(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Now: does it crawl, since when, what was done"))
    made.with_panel(
        number(
            "Does it crawl?",
            "Whether an episode is open on any of the shards chosen above.",
            f"max(helix_dense_crawl_active{{{SHARDS}}})",
            texts={0: ("no", "green"), 1: ("CRAWLS", "red")},
            unknown="no job",
            section="helixcrawlcrawling",
        )
    )
    made.with_panel(
        number(
            "Last crawl began",
            "When the newest crawl in the time range was detected, to within 15 seconds.",
            f"1000 * (max(max_over_time(timestamp({_DETECTED} > {_DETECTED} offset 1m)[$__range:15s])) - 60)",
            unit="dateTimeFromNow",
            unknown="none in this range",
            section="helixcrawlcrawling",
        )
    )
    made.with_panel(
        number(
            "What was done",
            "The highest rung that any of the shards took within the time range.",
            f"max(max_over_time(helix_dense_ladder_rung{{{SHARDS}}}[$__range]))",
            texts=RUNG_TEXTS,
            unknown="no job",
            section="what-the-ladder-does",
        )
    )
    made.with_panel(
        number(
            "Speed of baseline",
            "Of the slowest shard, in work, as it is judged. Below a fifth it is slow (with the default factor of 5).",
            f"min(helix_dense_crawl_ratio{{{SHARDS}}})",
            unit="percentunit",
            width=3,
            thresholds=steps((None, "red"), (0.2, "orange"), (0.5, "green")),
            unknown="warming up",
            section="helixcrawlcrawling",
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Batch in flight",
            "Age of the oldest batch that is running.",
            f"max(helix_dense_batch_inflight_seconds{{{SHARDS}}})",
            unit="s",
            width=3,
            thresholds=steps((None, "green"), (300, "orange"), (600, "red")),
            section="helixcrawlbatchstuck",
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Memory used",
            "Of the fullest device. Unknown memory never counts as full.",
            f"max(helix_dense_vram_used_bytes{{{DEVICES}}} / helix_dense_vram_limit_bytes{{{DEVICES}}})",
            unit="percentunit",
            width=3,
            thresholds=steps((None, "green"), (0.85, "yellow"), (0.92, "orange")),
            unknown="unknown",
            section="helixcrawlmemoryfull",
            decimals=0,
        )
    )
    made.with_panel(
        number(
            "Time to go",
            "Genes that wait in the open shards, at the speed of the last minutes. Shards not begun are not in it.",
            f'sum(helix_dense_genes_pending{{{JOBS}, shard=~"$shard"}})'
            f" / (sum(rate(helix_dense_genes_total{{{SHARDS}}}[$__rate_interval])) > 0)",
            unit="s",
            width=3,
            unknown="unknown",
            section="helixcrawlnoprogress",
            decimals=0,
        )
    )


def _speed(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Speed"))
    made.with_panel(
        graph(
            "Rate, baseline and limit a shard",
            "Throughput of the encode stage (moving average), the healthy baseline and the crawl limit (dashed). "
            "Long passages make fewer genes a second and are no crawl: the next panel shows what is judged.",
            (f"helix_dense_throughput_per_second{{{SHARDS}}}", f"{_SHARD_DEVICE}"),
            (f"helix_dense_baseline_per_second{{{SHARDS}}}", f"{_SHARD_DEVICE}: baseline"),
            (f"helix_dense_baseline_per_second{{{SHARDS}}} {_ON_LIMIT}", f"{_SHARD_DEVICE}: limit"),
            unit=_GENES,
            dashed="/: (baseline|limit)$/",
            section="helixcrawlcrawling",
        )
    )
    made.with_panel(
        graph(
            "Crawl ratio",
            "Speed over baseline in work, on a logarithmic axis. Below the limit (dashed), with the memory full, "
            "for a whole window: a crawl.",
            (f"helix_dense_crawl_ratio{{{SHARDS}}}", _SHARD_DEVICE),
            (f"max(helix_dense_crawl_limit_ratio{{{JOBS}}})", "limit"),
            unit="percentunit",
            dashed="/^limit$/",
            is_log=True,
            section="helixcrawlcrawling",
        )
    )


def _ladder(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("The ladder: what was done"))
    made.with_panel(
        states(
            "Rung of the ladder",
            "Highest remedy taken for each shard. It never goes down, and begins anew with the next shard.",
            (f"max by (shard) (helix_dense_ladder_rung{{{SHARDS}}})", "{{shard}}"),
            texts=RUNG_TEXTS,
            section="what-the-ladder-does",
        )
    )
    made.with_panel(
        states(
            "Episodes",
            "From a crawl's detection to its end.",
            (f"max by (shard) (helix_dense_crawl_active{{{SHARDS}}})", "{{shard}}"),
            texts={0: ("no", "green"), 1: ("crawls", "red")},
            section="helixcrawlcrawling",
        )
    )
    made.with_panel(
        graph(
            "Crawls and actions so far",
            "DETECT counts crawls; the others are remedies, by how they ended.",
            (f'sum by (action, outcome) ({_ACTIONS}, action!="DETECT"}})', "{{action}} {{outcome}}"),
            (f"sum({_DETECTED})", "crawls detected"),
            width=8,
            section="what-the-ladder-does",
        )
    )
    made.with_panel(
        graph(
            "Worker starts by reason",
            "In each interval. A start for recycle or demote is the ladder's; crash is not.",
            (
                f"sum by (reason) (increase(helix_dense_worker_starts_total{{{DEVICES}}}[$__rate_interval])) > 0",
                "{{reason}}",
            ),
            width=8,
            bars=True,
            section="helixcrawlrecycleloop",
        )
    )
    made.with_panel(
        graph(
            "Streak and waiting actions",
            "Observations in a row that fit the signature of a crawl (a whole window trips), and actions that the "
            "driver has not taken yet.",
            (f"helix_dense_crawl_streak{{{SHARDS}}}", f"streak of {_SHARD_DEVICE}"),
            (f"sum(helix_dense_action_queue_length{{{JOBS}}})", "actions that wait"),
            width=8,
            section="helixcrawlactionoverdue",
        )
    )


def _memory(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Memory and the batch in flight"))
    made.with_panel(
        graph(
            "Memory used of limit",
            "Dedicated memory; from the dashed line on it counts as full (92 % by default). "
            "A missing line is unknown memory.",
            (f"helix_dense_vram_used_bytes{{{DEVICES}}}", "{{device}} used"),
            (f"helix_dense_vram_limit_bytes{{{DEVICES}}}", "{{device}}: limit"),
            (f"0.92 * helix_dense_vram_limit_bytes{{{DEVICES}}}", "{{device}}: full"),
            unit="bytes",
            dashed="/: (limit|full)$/",
            section="helixcrawlmemoryfull",
        )
    )
    made.with_panel(
        graph(
            "Age of the batch in flight",
            "A healthy batch draws a low saw. A line that only climbs is a batch that does not end.",
            (f"helix_dense_batch_inflight_seconds{{{SHARDS}}}", _SHARD_DEVICE),
            unit="s",
            section="helixcrawlbatchstuck",
        )
    )


def _stages(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Stages of a batch"))
    seconds = f"helix_dense_batch_duration_seconds_sum{{{DEVICES}}}"
    count = f"helix_dense_batch_duration_seconds_count{{{DEVICES}}}"
    bucket = f'helix_dense_batch_duration_seconds_bucket{{{DEVICES}, stage="encode"}}'
    made.with_panel(
        graph(
            "Read, encode and commit: mean",
            "Where a batch's time goes. Slow reads or commits are the disk's, and no recycle helps.",
            (
                f"sum by (device, stage) (rate({seconds}[$__rate_interval]))"
                f" / (sum by (device, stage) (rate({count}[$__rate_interval])) > 0)",
                "{{stage}} on {{device}}",
            ),
            unit="s",
            section="slow-but-no-crawl",
        )
    )
    made.with_panel(
        graph(
            "Encode: median and 95 %",
            "Of the batches that have ended.",
            (
                f"histogram_quantile(0.5, sum by (device, le) (rate({bucket}[$__rate_interval])))",
                "median on {{device}}",
            ),
            (
                f"histogram_quantile(0.95, sum by (device, le) (rate({bucket}[$__rate_interval])))",
                "95 % on {{device}}",
            ),
            unit="s",
            section="slow-but-no-crawl",
        )
    )


def _progress(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Progress"))
    made.with_panel(
        graph(
            "Genes that wait",
            "In the open shards.",
            (f'helix_dense_genes_pending{{{JOBS}, shard=~"$shard"}}', "{{shard}}"),
            width=8,
            section="helixcrawlnoprogress",
        )
    )
    made.with_panel(
        graph(
            "Genes encoded a second",
            "Of the whole job, reads, commits and restarts included.",
            (f"sum by (device) (rate(helix_dense_genes_total{{{SHARDS}}}[$__rate_interval]))", "{{device}}"),
            unit=_GENES,
            width=8,
            section="helixcrawlnoprogress",
        )
    )
    made.with_panel(
        graph(
            "Shards by state",
            "A failed shard is set aside; the run goes on and ends with exit code 1.",
            (f"sum by (state) (helix_dense_shards{{{JOBS}}})", "{{state}}"),
            width=8,
            section="helixcrawlshardfailed",
        )
    )


def _health(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Health of the watchdog"))
    up = {0: ("down", "red"), 1: ("up", "green")}
    made.with_panel(
        states(
            "Memory probes",
            "By device and source. With every source of a card down nothing trips there; the CPU has nothing to spill.",
            (f"max by (device, source) (helix_dense_vram_probe_up{{{DEVICES}}})", "{{device}} {{source}}"),
            texts=up,
            width=8,
            section="helixcrawlprobedown",
        )
    )
    made.with_panel(
        states(
            "Workers",
            "Gaps are recycles.",
            (f"max by (device) (helix_dense_worker_up{{{DEVICES}}})", "{{device}}"),
            texts=up,
            width=8,
            section="helixcrawljobgone",
        )
    )
    made.with_panel(
        graph(
            "Trouble of the watchdog itself",
            "Errors that were caught and logged, and samples that could not be judged. None reaches the job.",
            (f"sum by (where) (helix_dense_internal_errors_total{{{JOBS}}})", "error: {{where}}"),
            (f"sum by (reason) (helix_dense_samples_ignored_total{{{JOBS}}})", "not judged: {{reason}}"),
            width=8,
            section="trouble-of-the-watchdog-itself",
        )
    )
