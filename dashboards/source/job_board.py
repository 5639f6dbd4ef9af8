"""The board of one job: does it crawl, since when, and what was done."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import common as common_models

from dashboards.source.pieces import (
    COLORS,
    DEVICES,
    GENES,
    JOBS,
    RUNG_TEXTS,
    SHARDS,
    annotation,
    board,
    fixed_color,
    graph,
    number,
    row,
    rung_by,
    states,
    steps,
)
from dashboards.source.run_states import LAST_ACTION, SINCE, STATE, TO_GO, of_state

__all__ = ["ANNOTATIONS", "job_board"]

_DETECTED = f"helix_dense_crawl_detected_total{{{SHARDS}}}"
_ACTIONS = f'helix_dense_ladder_actions_total{{{JOBS}, shard=~"$shard"'
_ACTED = f'1000 * helix_dense_last_action_timestamp_seconds{{{JOBS}, shard=~"$shard"}}'
_LIMIT = f"helix_dense_crawl_limit_ratio{{{JOBS}}}"
_SHARD_DEVICE = "{{shard}} on {{device}}"
_CRAWLS = f"max by (job, instance, shard, device) (helix_dense_crawl_active{{{SHARDS}}}) == 1"

ANNOTATIONS: list[dict[str, Any]] = [
    annotation("Crawl", "red", _CRAWLS, "crawl of {{shard}} on {{device}}"),
    annotation("Action of the ladder", "blue", _ACTED, "{{action}}: {{shard}}", is_when=True),
]


def job_board() -> dashboard.Dashboard:
    """The whole board."""
    made = board(
        "helix-crawl-job",
        "Helix crawl: one job",
        "Does the job crawl, since when, and what was done about it: read the first row from left to right.",
    )
    for add in (_now, _speed, _ladder, _memory, _card, _stages, _progress, _health):
        add(made)
    return made


def _now(made: dashboard.Dashboard) -> None:
    run = "{{instance}} {{run}}"
    row(
        made,
        "Now: what it does, since when, what was done, what to do",
        number(
            "Now",
            "What each run does at this moment, by its newest start. Gone: it has said nothing of its end.",
            STATE,
            legend=run,
            texts=of_state("text"),
            unknown="not seen today",
            section="contents",
            link_section="${__field.labels.section}",
        ),
        number(
            "Since",
            "Since when it does that.",
            SINCE,
            legend=run,
            unit="dateTimeFromNow",
            width=4,
            section="contents",
        ),
        number(
            "Last action",
            "What the ladder did last since the newest start, for which shard, and when.",
            LAST_ACTION,
            legend="{{what}}: {{shard}}",
            unit="dateTimeFromNow",
            unknown="none",
            section="what-the-ladder-does",
        )
        .text_mode(common_models.BigValueTextMode.VALUE_AND_NAME)
        .wide_layout(False),
        number(
            "What to do",
            "In a few words; a click opens the section of the runbook.",
            STATE,
            legend=run,
            texts=of_state("to_do"),
            unknown="start a job",
            width=5,
            section="contents",
            link_section="${__field.labels.section}",
        ),
        number(
            "To go",
            "All genes that wait, those of shards not begun as well, at the speed of the last ten minutes.",
            TO_GO,
            legend=run,
            unit="s",
            width=3,
            section="helixcrawlnoprogress",
            decimals=1,
        ),
        number(
            "Speed of baseline",
            "Of the slowest shard, in work, as it is judged: below the crawl limit it is slow.",
            f"min by (job, instance) (helix_dense_crawl_ratio{{{SHARDS}}})",
            unit="percentunit",
            unknown="warming up, or none",
            section="helixcrawlcrawling",
            decimals=0,
        ),
        number(
            "Batch in flight",
            "Age of the oldest batch that is running.",
            f"max by (job, instance) (helix_dense_batch_inflight_seconds{{{SHARDS}}})",
            unit="s",
            section="helixcrawlbatchstuck",
            decimals=0,
        ),
        number(
            "Memory used",
            "Of the fullest device. Unknown memory never counts as full.",
            "max by (job, instance) ("
            f"helix_dense_vram_used_bytes{{{DEVICES}}} / helix_dense_vram_limit_bytes{{{DEVICES}}})",
            unit="percentunit",
            unknown="unknown",
            section="helixcrawlmemoryfull",
            decimals=0,
        ),
        number(
            "Quarantined genes",
            "Without a vector, since they could not be encoded. The run ends with exit code 1.",
            f"sum by (job, instance) (helix_dense_genes_quarantined{{{JOBS}}})",
            thresholds=steps((None, "gray"), (0, COLORS["done"]), (1, COLORS["failed"])),
            section="helixcrawlquarantined",
            decimals=0,
        ),
    )


def _speed(made: dashboard.Dashboard) -> None:
    row(
        made,
        "Speed",
        graph(
            "Rate, baseline (grey) and crawl limit (red)",
            "Of each shard: throughput of the encode stage (moving average); dashed, its baseline and the crawl limit. "
            "Long passages make fewer genes a second and are no crawl: the next panel shows what is judged.",
            (f"helix_dense_throughput_per_second{{{SHARDS}}}", f"{_SHARD_DEVICE}"),
            (f"helix_dense_baseline_per_second{{{SHARDS}}}", f"{_SHARD_DEVICE}: baseline"),
            (
                f"helix_dense_baseline_per_second{{{SHARDS}}} * on (job, instance) group_left () {_LIMIT}",
                f"{_SHARD_DEVICE}: limit",
            ),
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
            (f"max({_LIMIT})", "limit"),
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
            "Highest rung used for each shard; it never goes down. How each action ended: see the counts below. "
            "The third on its card: the worker is not on the CPU yet, or nobody can send it there.",
            (rung_by("shard"), "{{shard}}"),
            texts=RUNG_TEXTS,
            section="what-the-ladder-does",
        ),
        states(
            "Episodes",
            "From a crawl's detection to its end.",
            (f"max by (shard) (helix_dense_crawl_active{{{SHARDS}}})", "{{shard}}"),
            texts={0: ("no", COLORS["done"]), 1: ("crawls", COLORS["crawling"])},
            section="helixcrawlcrawling",
        ),
        graph(
            "Crawls and actions so far",
            "DETECT counts crawls; the others are remedies, by how they ended.",
            (f'sum by (action, outcome) ({_ACTIONS}, action!="DETECT"}}) > 0', "{{action}} {{outcome}}"),
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
            colors=("first", "recycle", "demote", "crash", "resume"),
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
            "Dedicated memory; from the dashed red line on it counts as full. "
            "A missing line is unknown memory. Under Windows also the system's memory that the driver lends the card: "
            "a rise of the worker's is a spill.",
            (f"helix_dense_vram_used_bytes{{{DEVICES}}}", "{{device}} used"),
            (f"helix_dense_vram_limit_bytes{{{DEVICES}}}", "{{device}}: limit"),
            (
                f"helix_dense_vram_limit_bytes{{{DEVICES}}}"
                f" * on (job, instance) group_left () helix_dense_vram_full_ratio{{{JOBS}}}",
                "{{device}}: full",
            ),
            (f"helix_dense_vram_shared_bytes{{{DEVICES}}}", "{{device}} shared, {{owner}}"),
            unit="bytes",
            dashed={"/: limit$/": "gray", "/: full$/": "red"},
            section="helixcrawlmemoryfull",
        )
        .override_by_regexp("/ used$/", [fixed_color("green")])
        .override_by_regexp("/ shared, worker$/", [fixed_color("orange")])
        .override_by_regexp("/ shared, other$/", [fixed_color("purple")]),
        graph(
            "Age of the batch in flight",
            "A healthy batch draws a low saw. A line that only climbs is a batch that does not end.",
            (f"helix_dense_batch_inflight_seconds{{{SHARDS}}}", _SHARD_DEVICE),
            unit="s",
            section="helixcrawlbatchstuck",
        ),
    )


def _card(made: dashboard.Dashboard) -> None:
    row(
        made,
        "The card",
        graph(
            "Utilisation",
            "By any program; the legend names the card. A spill keeps it busy as well: look at its power.",
            (
                f"hw_gpu_utilization_ratio{{{DEVICES}}} * on (job, instance, device)"
                f" group_left (modelName, UUID) helix_dense_device_info{{{DEVICES}}}",
                "{{device}} {{modelName}}",
            ),
            unit="percentunit",
            width=6,
            unknown="NVML tells nothing",
            section="slow-but-no-crawl",
        ),
        graph(
            "Temperature",
            "Of the chip.",
            (f"hw_temperature_celsius{{{DEVICES}}}", "{{device}}"),
            unit="celsius",
            width=6,
            unknown="NVML tells nothing",
            section="slow-but-no-crawl",
        ),
        graph(
            "Power and clocks",
            "A card that waits for memory over the bus draws little power at a full clock.",
            (f"hw_power_watts{{{DEVICES}}}", "{{device}} power"),
            (f"hw_gpu_speed_hertz{{{DEVICES}}}", "{{device}} {{hw_gpu_clock}}"),
            unit="watt",
            width=6,
            unknown="NVML tells nothing",
            right_axis={"/ (sm|memory)$/": "hertz"},
            section="slow-but-no-crawl",
        ),
        states(
            "Throttled",
            "By which reason the card holds its clocks down. Slow for it is no crawl.",
            (
                f"max by (device, hw_gpu_throttle_reason) (hw_gpu_throttled{{{DEVICES}}})",
                "{{device}} {{hw_gpu_throttle_reason}}",
            ),
            texts={0: ("no", COLORS["done"]), 1: ("yes", "orange")},
            width=6,
            height=8,
            section="slow-but-no-crawl",
        ).no_value("NVML tells nothing"),
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
                f"histogram_quantile(0.5, sum by (device, le) (rate({bucket}[$__rate_interval]))) >= 0",
                "median on {{device}}",
            ),
            (
                f"histogram_quantile(0.95, sum by (device, le) (rate({bucket}[$__rate_interval]))) >= 0",
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
            "In all shards that are not complete, as far as they have been counted.",
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
            colors=("pending", "running", "done", "paused", "failed"),
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
            texts={0: ("down", COLORS["failed"]), 1: ("up", COLORS["done"])},
            width=8,
            height=8,
            section="helixcrawlprobedown",
        ),
        states(
            "Workers",
            "None for a moment is a recycle; a shard that was sent to the CPU has its worker there.",
            (f"max by (device) (helix_dense_worker_up{{{DEVICES}}})", "{{device}}"),
            texts={0: ("none", COLORS["pending"]), 1: ("runs", COLORS["running"])},
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
