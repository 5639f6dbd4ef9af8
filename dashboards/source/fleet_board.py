"""The board of many shards and hosts: which of them needs a look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from dashboards.source.pieces import (
    COLORS,
    DEVICES,
    GENES,
    JOBS,
    RUNG_TEXTS,
    SHARDS,
    SOURCE,
    board,
    graph,
    link,
    number,
    row,
    rung_by,
    states,
    steps,
    text_of,
)
from dashboards.source.run_states import RUN_STATES, SINCE, STATE, TO_GO, of_runs, of_state

__all__ = ["fleet_board"]

_SHARD = "job, instance, shard"
_WHERE = "{{instance}} {{shard}}"
_TO_JOB = "/d/helix-crawl-job?var-job=${__data.fields.Job}&var-instance=${__data.fields.Instance}&${__url_time_range}"

_SHARD_STATES = {
    0: ("running", COLORS["running"]),
    1: ("on the CPU", COLORS["demote"]),
    2: ("crawling", COLORS["crawling"]),
    3: ("failed", COLORS["failed"]),
    4: ("stuck in a batch", COLORS["failed"]),
}
_INFLIGHT = f"helix_dense_batch_inflight_seconds{{{SHARDS}}}"
_DEADLINE = f"helix_dense_batch_deadline_seconds{{{SHARDS}}}"
_PAIR = "job, instance, shard, device"
_STUCK = f"{_INFLIGHT} > on ({_PAIR}) {_DEADLINE} or ({_INFLIGHT} > 1800) unless on ({_PAIR}) {_DEADLINE}"
_SHARD_STATE = (
    f"4 * group by ({_SHARD}) ({_STUCK})"
    f' or 3 * group by ({_SHARD}) (helix_dense_shard_failed{{{JOBS}, shard=~"$shard"}} == 1)'
    f" or 2 * group by ({_SHARD}) (helix_dense_crawl_active{{{SHARDS}}} == 1)"
    f' or group by ({_SHARD}) (helix_dense_ladder_rung{{{SHARDS}, device="cpu"}} == 3)'
    f" or 0 * group by ({_SHARD}) (helix_dense_ladder_rung{{{SHARDS}}})"
)
_RUN = "job, instance, run"
_SLOT_INFO = f'helix_dense_run_info{{{JOBS}, node!="", slot!=""}}'
# One target may have been another slot's earlier that day.
_SLOTS = f"0 * topk by ({_RUN}) (1, max by ({_RUN}, node, slot) (max_over_time(timestamp({_SLOT_INFO})[1d:15s])))"
"""The slot that a run was seen on last, by the labels that the targets of a fleet have (`targets.json`)."""
_FIRING = 'ALERTS{alertname=~"HelixCrawl.*", alertstate="firing", job=~"$job", instance=~"$instance|"}'
_FOR_THE_BOARD = 'ALERTS{severity="info", job=~"$job", instance=~"$instance|"}'
_FIRES_SINCE = 'ALERTS_FOR_STATE{alertname=~"HelixCrawl.*", job=~"$job", instance=~"$instance|"}'


def fleet_board() -> dashboard.Dashboard:
    """The whole board."""
    made = board(
        "helix-crawl-fleet",
        "Helix crawl: all jobs",
        "Which of many runs needs a look: the worst is at the top of each table. A click opens the board of that job.",
    )
    row(made, "Now", *_now())
    row(made, "What is wrong", _alert_table(), _run_table())
    row(made, "Nodes of a fleet", _node_table())
    row(made, "Shards", _shard_table())
    row(made, "Over time", *_over_time())
    return made


def _now() -> Iterator[stat.Panel]:
    """Counts; none is green where no run was seen, since nothing is known there."""
    some = f"0 * count(last_over_time(helix_dense_run_info{{{JOBS}}}[1d]))"
    ranks = {state.text: state.rank for state in RUN_STATES}
    worst = steps((None, "gray"), (0, COLORS["done"]), (1, COLORS["failed"]))
    mild = steps((None, "gray"), (0, COLORS["done"]), (1, "orange"))
    for title, says, expr, thresholds, section in (
        (
            "Running",
            "Runs that say so.",
            f'count(helix_dense_run_state{{{JOBS}, state="running"}} == 1) or {some}',
            steps((None, "gray"), (1, COLORS["running"])),
            "helixcrawljobgone",
        ),
        (
            "Gone or crash loop",
            "Runs that said nothing of their end and had work left, or that die again and again.",
            f"count(({STATE}) >= {ranks['gone, work left']} != {ranks['stuck in a batch']}) or {some}",
            worst,
            "helixcrawljobgone",
        ),
        (
            "Alerts to be seen to",
            "Those that fire, without those that are for the board only. Grey: the rules are not loaded.",
            f"count({_FIRING} unless {_FOR_THE_BOARD}) or 0 * count(run:helix_dense_run:seen{{{JOBS}}})",
            worst,
            "contents",
        ),
        (
            "Stuck in a batch",
            "Shards whose batch is older than the deadline at which its worker should have been ended.",
            f"count(group by ({_SHARD}) ({_STUCK})) or {some}",
            worst,
            "helixcrawlbatchstuck",
        ),
        (
            "Crawling",
            "Shards with an open episode.",
            f"count(max by ({_SHARD}) (helix_dense_crawl_active{{{SHARDS}}}) == 1) or {some}",
            worst,
            "helixcrawlcrawling",
        ),
        (
            "On the CPU",
            "Open shards whose ladder is exhausted.",
            f'count(max by ({_SHARD}) (helix_dense_ladder_rung{{{SHARDS}, device="cpu"}}) == 3) or {some}',
            mild,
            "helixcrawloncpu",
        ),
        (
            "Failed",
            "Shards, in the runs that can be scraped.",
            f'sum(helix_dense_shards{{{JOBS}, state="failed"}}) or {some}',
            worst,
            "helixcrawlshardfailed",
        ),
        (
            "Blind",
            "Cards that no source can read: no crawl can be recognised there.",
            f'count(max by (job, instance, device) (helix_dense_vram_probe_up{{{DEVICES}, device!="cpu"}}) == 0)'
            f" or {some}",
            mild,
            "helixcrawlprobedown",
        ),
    ):
        yield number(title, says, expr, width=6, thresholds=thresholds, section=section, decimals=0)


class _Column(NamedTuple):
    """Of a table: its query, and what its values are shown as."""

    title: str
    expr: str
    unit: str = ""
    texts: dict[int, tuple[str, str]] | None = None


def _table(title: str, says: str, columns: tuple[_Column, ...], labels: dict[str, str], section: str) -> table.Panel:
    """A line for each set of labels; those with the highest first column at the top.

    Args:
        title: Of the panel.
        says: What it shows.
        columns: From left to right; the first one stands before the labels.
        labels: Those that are shown, and their titles.
        section: Of the runbook.
    """
    panel = (
        table.Panel().title(title).datasource(SOURCE).span(24).min_width(140).links([link(section)]).description(says)
    )
    values = [f"Value #{chr(ord('A') + index)}" for index in range(len(columns))] if len(columns) > 1 else ["Value"]
    for index, column in enumerate(columns):
        query = prometheus.Dataquery().expr(column.expr).ref_id(chr(ord("A") + index)).instant()
        panel.with_target(query.format(prometheus_models.PromQueryFormat.TABLE))
        shown = [models.DynamicConfigValue("unit", column.unit)] if column.unit else []
        if column.texts:
            shown.append(models.DynamicConfigValue("mappings", text_of(column.texts)))
            if all(color for _, color in column.texts.values()):
                shown.append(models.DynamicConfigValue("custom.cellOptions", {"type": "color-background"}))
        panel.override_by_name(column.title, shown)
    order = [*values[:1], *labels, *values[1:]]
    options = {
        "includeByName": dict.fromkeys(order, True),
        "indexByName": {name: index for index, name in enumerate(order)},
        "renameByName": labels | {value: column.title for value, column in zip(values, columns, strict=True)},
    }
    panel.with_transformation(models.DataTransformerConfig("merge", options={}))
    panel.with_transformation(models.DataTransformerConfig("organize", options=options))
    first = {"sort": [{"field": columns[0].title, "desc": True}]}
    panel.with_transformation(models.DataTransformerConfig("sortBy", options=first))
    if "instance" in labels:
        to_job = [{"title": "Board of this job", "url": _TO_JOB}]
        panel.override_by_name("Instance", [models.DynamicConfigValue("links", to_job)])
    return panel


def _alert_table() -> table.Panel:
    columns = (_Column("Since", f"1000 * ({_FIRES_SINCE} and ignoring (alertstate) {_FIRING})", "dateTimeFromNow"),)
    labels = {"alertname": "Alert", "severity": "Severity", "job": "Job", "instance": "Instance"}
    labels |= {"run": "Run", "shard": "Shard", "device": "Device"}
    says = "From the rules that are written beside the boards; the newest first."
    panel = _table("Alerts that fire", says, columns, labels, "contents").height(6)
    colors = {"critical": ("critical", "red"), "warning": ("warning", "orange"), "info": ("info", "blue")}
    mappings = models.DynamicConfigValue("mappings", text_of(colors))
    panel.override_by_name(
        "Severity", [mappings, models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"})]
    )
    panel.override_by_name("Alert", [models.DynamicConfigValue("custom.width", 210)])
    return panel.no_value("none fires, or the rules are not loaded")


def _run_table() -> table.Panel:
    shards = f'sum by (job, instance) (helix_dense_shards{{{JOBS}, state="done"}})'
    quarantined = f"sum by (job, instance) (helix_dense_genes_quarantined{{{JOBS}}})"
    failed = f'sum by (job, instance) (helix_dense_shards{{{JOBS}, state="failed"}})'
    columns = (
        _Column("State", STATE, texts=of_state("text")),
        _Column("Since", SINCE, "dateTimeFromNow"),
        _Column("To do", STATE, texts={rank: (text, "") for rank, (text, _) in of_state("to_do").items()}),
        _Column("To go", TO_GO, "s"),
        _Column("Shards done", of_runs(shards)),
        _Column("Shards failed", of_runs(failed)),
        _Column("Quarantined", of_runs(quarantined)),
    )
    labels = {"job": "Job", "instance": "Instance", "run": "Run"}
    says = "One line a run that was seen within a day, the worst first; also those that are gone."
    return _table("Runs", says, columns, labels, "contents").height(8)


def _on_slots(expr: str) -> str:
    """A value of each run of a slot, from an expression with one for each run."""
    return f"({expr}) + on ({_RUN}) group_left (node, slot) ({_SLOTS})"


def _node_table() -> table.Panel:
    by_instance = "by (job, instance)"
    used = f"helix_dense_vram_used_bytes{{{JOBS}}} / helix_dense_vram_limit_bytes{{{JOBS}}}"
    columns = (
        _Column("State", _on_slots(STATE), texts=of_state("text")),
        _Column("Ladder", _on_slots(of_runs(rung_by("job, instance"))), texts=RUNG_TEXTS),
        _Column(
            "Of baseline",
            _on_slots(of_runs(f"min {by_instance} (helix_dense_crawl_ratio{{{SHARDS}}})")),
            "percentunit",
        ),
        _Column(
            "Rate", _on_slots(of_runs(f"max {by_instance} (helix_dense_throughput_per_second{{{SHARDS}}})")), GENES
        ),
        _Column("Memory", _on_slots(of_runs(f"max {by_instance} ({used})")), "percentunit"),
        _Column("Since", _on_slots(SINCE), "dateTimeFromNow"),
    )
    labels = {"node": "Node", "slot": "Slot", "job": "Job", "instance": "Instance"}
    says = "One line a slot of a build on several machines, the worst first; also those that are gone."
    panel = _table("Nodes and their slots", says, columns, labels, "contents").height(8)
    return panel.no_value("no target has the labels node and slot")


def _shard_table() -> table.Panel:
    columns = (
        _Column("State", _SHARD_STATE, texts=_SHARD_STATES),
        _Column("Ladder", rung_by(_SHARD), texts=RUNG_TEXTS),
        _Column("Of baseline", f"min by ({_SHARD}) (helix_dense_crawl_ratio{{{SHARDS}}})", "percentunit"),
        _Column("Rate", f"max by ({_SHARD}) (helix_dense_throughput_per_second{{{SHARDS}}})", GENES),
        _Column("Baseline", f"max by ({_SHARD}) (helix_dense_baseline_per_second{{{SHARDS}}})", GENES),
        _Column("In flight", f"max by ({_SHARD}) ({_INFLIGHT})", "s"),
        _Column("Genes wait", f'sum by ({_SHARD}) (helix_dense_genes_pending{{{JOBS}, shard=~"$shard"}})'),
    )
    labels = {"job": "Job", "instance": "Instance", "shard": "Shard"}
    says = "One line a shard: those that are stuck first, then those that were given up, then those that crawl."
    return _table("Shards", says, columns, labels, "helixcrawlcrawling").height(8)


def _over_time() -> Iterator[statetimeline.Panel | timeseries.Panel]:
    yield states(
        "Hosts with a crawl",
        "A band a job.",
        (f"max by (job, instance) (helix_dense_crawl_active{{{SHARDS}}})", "{{instance}}"),
        texts={0: ("no", COLORS["done"]), 1: ("crawls", COLORS["crawling"])},
        section="helixcrawlcrawling",
    )
    yield states(
        "Highest rung a job",
        "Of its open shards.",
        (rung_by("job, instance"), "{{instance}}"),
        texts=RUNG_TEXTS,
        section="what-the-ladder-does",
    )
    yield graph(
        "The ten slowest shards",
        "Their speed of their baseline, logarithmic; the limit is dashed.",
        (f"bottomk(10, min by (job, instance, shard) (helix_dense_crawl_ratio{{{SHARDS}}}))", _WHERE),
        (f"max(helix_dense_crawl_limit_ratio{{{JOBS}}})", "limit"),
        unit="percentunit",
        is_log=True,
        dashed={"/^limit$/": "red"},
        section="helixcrawlcrawling",
    )
    yield graph(
        "Genes encoded a second, by job",
        "Reads, commits and restarts included.",
        (
            f"sum by (instance) (rate(helix_dense_genes_total{{{SHARDS}}}[$__rate_interval]))",
            "{{instance}}",
        ),
        unit=GENES,
        section="helixcrawlnoprogress",
    )
    yield graph(
        "Memory used of limit",
        "By device; from the dashed line on it counts as full.",
        (
            f"helix_dense_vram_used_bytes{{{DEVICES}}} / helix_dense_vram_limit_bytes{{{DEVICES}}}",
            "{{instance}} {{device}}",
        ),
        (f"min(helix_dense_vram_full_ratio{{{JOBS}}})", "full"),
        unit="percentunit",
        dashed={"/^full$/": "red"},
        section="helixcrawlmemoryfull",
    )
    yield graph(
        "Workers started anew, within an hour",
        "After a recycle, a demotion or a crash. More than five a host and hour: the card does not fit the job.",
        (
            "sum by (instance) (increase("
            f'helix_dense_worker_starts_total{{{DEVICES}, reason=~"recycle|demote|crash"}}[1h]))',
            "{{instance}}",
        ),
        thresholds=steps((None, "transparent"), (5, "red")),
        counts=True,
        section="helixcrawlrecycleloop",
    )
