"""The board of one job: does it crawl, since when, and what was done."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard

from dashboards.source.pieces import (
    DEVICES,
    GENES,
    JOBS,
    RUNG_TEXTS,
    SHARDS,
    annotation,
    board,
    graph,
    number,
    row,
    states,
    steps,
)

__all__ = ["ANNOTATIONS", "job_board"]

_DETECTED = f"helix_dense_crawl_detected_total{{{SHARDS}}}"
_ACTIONS = f'helix_dense_ladder_actions_total{{{JOBS}, shard=~"$shard"'
_ON_LIMIT = "* on (job, instance) group_left () helix_dense_crawl_limit_ratio"
_SHARD_DEVICE = "{{shard}} on {{device}}"

# A counter first seen at 1 has no increase(): what was not there a minute ago counts as new.
_REMEDIES = f'{_ACTIONS}, action!="DETECT"}}'
_NEW_ACTIONS = f"({_REMEDIES} > {_REMEDIES} offset 1m) or ({_REMEDIES} > 0 unless {_REMEDIES} offset 1m)"

# From its detection to its end. One that ends between two scrapes is only seen in its counter.
_BY = "max by (job, instance, shard, device)"
_CRAWLS = f"{_BY} (helix_dense_crawl_active{{{SHARDS}}}) == 1 or {_BY} ({_DETECTED} > {_DETECTED} offset 1m)"

ANNOTATIONS: list[dict[str, Any]] = [
    annotation("Crawl", "red", _CRAWLS, "crawl of {{shard}} on {{device}}"),
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
    for add in (_now, _speed, _ladder, _memory, _stages, _progress, _health):
        add(made)
    return made


def _now(made: dashboard.Dashboard) -> None:
    row(
        made,
        "Now: does it crawl, since when, what was done",
        number(
            "Does it crawl?",
            "Whether an episode is open on any of the shards chosen above.",
            f"max(helix_dense_crawl_active{{{SHARDS}}})",
            texts={0: ("no", "green"), 1: ("CRAWLS", "red")},
            unknown="no job",
            section="helixcrawlcrawling",
        ),
        number(
            "Last crawl began",
            "When the newest crawl in the time range was detected, to within 15 seconds.",
            f"1000 * (max(max_over_time(timestamp({_DETECTED} > {_DETECTED} offset 1m)[$__range:15s])) - 60)",
            unit="dateTimeFromNow",
            unknown="none in this range",
            section="helixcrawlcrawling",
        ),
        number(
            "What was done",
            "The highest rung that any of the shards took within the time range.",
            f"max(max_over_time(helix_dense_ladder_rung{{{SHARDS}}}[$__range]))",
            texts=RUNG_TEXTS,
            unknown="no job",
            section="what-the-ladder-does",
        ),
        number(
            "Speed of baseline",
            "Of the slowest shard, in work, as it is judged. Below a fifth it is slow (with the default factor of 5).",
            f"min(helix_dense_crawl_ratio{{{SHARDS}}})",
            unit="percentunit",
            width=3,
            thresholds=steps((None, "gray"), (0, "red"), (0.2, "orange"), (0.5, "green")),
            unknown="warming up",
            section="helixcrawlcrawling",
            decimals=0,
        ),
        number(
            "Batch in flight",
            "Age of the oldest batch that is running.",
            f"max(helix_dense_batch_inflight_seconds{{{SHARDS}}})",
            unit="s",
            width=3,
            thresholds=steps((None, "gray"), (0, "green"), (300, "orange"), (600, "red")),
            section="helixcrawlbatchstuck",
            decimals=0,
        ),
        number(
            "Memory used",
            "Of the fullest device. Unknown memory never counts as full.",
            f"max(helix_dense_vram_used_bytes{{{DEVICES}}} / helix_dense_vram_limit_bytes{{{DEVICES}}})",
            unit="percentunit",
            width=3,
            thresholds=steps((None, "gray"), (0, "green"), (0.85, "yellow"), (0.92, "orange")),
            unknown="unknown",
            section="helixcrawlmemoryfull",
            decimals=0,
        ),
        number(
            "Time to go",
            "Genes that wait in the open shards, at the speed of the last minutes. Shards not begun are not in it.",
            f'sum(helix_dense_genes_pending{{{JOBS}, shard=~"$shard"}})'
            f" / (sum(rate(helix_dense_genes_total{{{SHARDS}}}[$__rate_interval])) > 0)",
            unit="s",
            width=3,
            unknown="unknown",
            section="helixcrawlnoprogress",
            decimals=1,
        ),
    )


def _speed(made: dashboard.Dashboard) -> None:
    row(
        made,
        "Speed",
        graph(
            "Rate of each shard, its baseline (grey) and crawl limit (red)",
            "Throughput of the encode stage (moving average); dashed, its healthy baseline and the crawl limit. "
            "Long passages make fewer genes a second and are no crawl: the next panel shows what is judged.",
            (f"helix_dense_throughput_per_second{{{SHARDS}}}", f"{_SHARD_DEVICE}"),
            (f"helix_dense_baseline_per_second{{{SHARDS}}}", f"{_SHARD_DEVICE}: baseline"),
            (f"helix_dense_baseline_per_second{{{SHARDS}}} {_ON_LIMIT}", f"{_SHARD_DEVICE}: limit"),
            unit=GENES,
            dashed={"/: baseline$/": "gray", "/: limit$/": "red"},
            in_legend=False,
            section="helixcrawlcrawling",
        ),
        graph(
            "Crawl ratio",
            "Speed over baseline in work, on a logarithmic axis. Below the limit (dashed), with the memory full, "
            "for a whole window: a crawl.",
            (f"helix_dense_crawl_ratio{{{SHARDS}}}", _SHARD_DEVICE),
            (f"max(helix_dense_crawl_limit_ratio{{{JOBS}}})", "limit"),
            unit="percentunit",
            dashed={"/^limit$/": "red"},
            is_log=True,
            section="helixcrawlcrawling",
        ),
    )


def _ladder(made: dashboard.Dashboard) -> None:
    row(
        made,
        "The ladder: what was done",
        states(
            "Rung of the ladder",
            "Highest remedy taken for each shard. It never goes down, and begins anew with the next shard.",
            (f"max by (shard) (helix_dense_ladder_rung{{{SHARDS}}})", "{{shard}}"),
            texts=RUNG_TEXTS,
            section="what-the-ladder-does",
        ),
        states(
            "Episodes",
            "From a crawl's detection to its end.",
            (f"max by (shard) (helix_dense_crawl_active{{{SHARDS}}})", "{{shard}}"),
            texts={0: ("no", "green"), 1: ("crawls", "red")},
            section="helixcrawlcrawling",
        ),
        graph(
            "Crawls and actions so far",
            "DETECT counts crawls; the others are remedies, by how they ended.",
            (f'sum by (action, outcome) ({_ACTIONS}, action!="DETECT"}})', "{{action}} {{outcome}}"),
            (f"sum({_DETECTED})", "crawls detected"),
            width=8,
            counts=True,
            section="what-the-ladder-does",
        ),
        graph(
            "Worker starts by reason",
            "So far. A start for recycle or demote is the ladder's; crash is not.",
            (f"sum by (reason) (helix_dense_worker_starts_total{{{DEVICES}}})", "{{reason}}"),
            width=8,
            counts=True,
            section="helixcrawlrecycleloop",
        ),
        graph(
            "Streak and waiting actions",
            "Observations in a row that fit the signature of a crawl (a whole window trips), and actions that the "
            "driver has not taken yet.",
            (f"helix_dense_crawl_streak{{{SHARDS}}}", f"streak of {_SHARD_DEVICE}"),
            (f"sum(helix_dense_action_queue_length{{{JOBS}}})", "actions that wait"),
            width=8,
            counts=True,
            section="helixcrawlactionoverdue",
        ),
    )


def _memory(made: dashboard.Dashboard) -> None:
    row(
        made,
        "Memory and the batch in flight",
        graph(
            "Memory used of limit",
            "Dedicated memory; from the dashed line on it counts as full (92 % by default). "
            "A missing line is unknown memory. Under Windows also the system's memory that the driver lends the card: "
            "a rise of the worker's is a spill.",
            (f"helix_dense_vram_used_bytes{{{DEVICES}}}", "{{device}} used"),
            (f"helix_dense_vram_limit_bytes{{{DEVICES}}}", "{{device}}: limit"),
            (f"0.92 * helix_dense_vram_limit_bytes{{{DEVICES}}}", "{{device}}: full"),
            (f"helix_dense_vram_shared_bytes{{{DEVICES}}}", "{{device}} shared, {{owner}}"),
            unit="bytes",
            dashed={"/: limit$/": "gray", "/: full$/": "red"},
            section="helixcrawlmemoryfull",
        ),
        graph(
            "Age of the batch in flight",
            "A healthy batch draws a low saw. A line that only climbs is a batch that does not end.",
            (f"helix_dense_batch_inflight_seconds{{{SHARDS}}}", _SHARD_DEVICE),
            unit="s",
            section="helixcrawlbatchstuck",
        ),
    )


def _stages(made: dashboard.Dashboard) -> None:
    seconds = f"helix_dense_batch_duration_seconds_sum{{{DEVICES}}}"
    count = f"helix_dense_batch_duration_seconds_count{{{DEVICES}}}"
    bucket = f'helix_dense_batch_duration_seconds_bucket{{{DEVICES}, stage="encode"}}'
    row(
        made,
        "Stages of a batch",
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
        ),
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
        ),
    )


def _progress(made: dashboard.Dashboard) -> None:
    row(
        made,
        "Progress",
        graph(
            "Genes that wait",
            "In the open shards.",
            (f'helix_dense_genes_pending{{{JOBS}, shard=~"$shard"}}', "{{shard}}"),
            width=8,
            counts=True,
            section="helixcrawlnoprogress",
        ),
        graph(
            "Genes encoded a second",
            "Of the whole job, reads, commits and restarts included.",
            (f"sum by (device) (rate(helix_dense_genes_total{{{SHARDS}}}[$__rate_interval]))", "{{device}}"),
            unit=GENES,
            width=8,
            section="helixcrawlnoprogress",
        ),
        graph(
            "Shards by state",
            "A failed shard is set aside; the run goes on and ends with exit code 1.",
            (f"sum by (state) (helix_dense_shards{{{JOBS}}})", "{{state}}"),
            width=8,
            counts=True,
            section="helixcrawlshardfailed",
        ),
    )


def _health(made: dashboard.Dashboard) -> None:
    row(
        made,
        "Health of the watchdog",
        states(
            "Memory probes",
            "Of the cards, by source. With every source of a card down nothing trips there.",
            (
                f'max by (device, source) (helix_dense_vram_probe_up{{{DEVICES}, device!="cpu"}})',
                "{{device}} {{source}}",
            ),
            texts={0: ("down", "red"), 1: ("up", "green")},
            width=8,
            height=8,
            section="helixcrawlprobedown",
        ),
        states(
            "Workers",
            "None for a moment is a recycle; a shard that was sent to the CPU has its worker there.",
            (f"max by (device) (helix_dense_worker_up{{{DEVICES}}})", "{{device}}"),
            texts={0: ("none", "gray"), 1: ("runs", "green")},
            width=8,
            height=8,
            section="helixcrawljobgone",
        ),
        graph(
            "Trouble of the watchdog itself",
            "Errors that were caught and logged, and samples that could not be judged. None reaches the job.",
            (f"sum by (where) (helix_dense_internal_errors_total{{{JOBS}}})", "error: {{where}}"),
            (f"sum by (reason) (helix_dense_samples_ignored_total{{{JOBS}}})", "not judged: {{reason}}"),
            width=8,
            counts=True,
            section="trouble-of-the-watchdog-itself",
        ),
    )
