"""The board of many shards and hosts: which of them needs a look."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from dashboards.source.pieces import (
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
    states,
    steps,
    text_of,
)

__all__ = ["fleet_board"]

_ANY = steps((None, "green"), (1, "red"))
_WHERE = "{{instance}} {{shard}}"


def fleet_board() -> dashboard.Dashboard:
    """The whole board."""
    made = board(
        "helix-crawl-fleet",
        "Helix crawl: all jobs",
        "Which of many shards and hosts needs a look. A click on an instance in the table opens the board of that job.",
        many=True,
    )
    row(made, "Now", *_now())
    row(made, "Shards", _shard_table())
    row(made, "Over time", *_over_time())
    return made


def _now() -> Iterator[stat.Panel]:
    by_shard = "by (job, instance, shard)"
    for title, says, expr, thresholds, section in (
        ("Jobs", "That can be scraped.", f"count(helix_dense_crawl_limit_ratio{{{JOBS}}})", None, "helixcrawljobgone"),
        (
            "Shards that crawl",
            "With an open episode.",
            f"count(max {by_shard} (helix_dense_crawl_active{{{SHARDS}}}) == 1) or vector(0)",
            _ANY,
            "helixcrawlcrawling",
        ),
        (
            "Shards sent to the CPU",
            "Open shards whose ladder is exhausted.",
            f"count(max {by_shard} (helix_dense_ladder_rung{{{SHARDS}}}) == 3) or vector(0)",
            steps((None, "green"), (1, "orange")),
            "helixcrawloncpu",
        ),
        (
            "Shards failed",
            "In the runs that can be scraped.",
            f'sum(helix_dense_shards{{{JOBS}, state="failed"}}) or vector(0)',
            _ANY,
            "helixcrawlshardfailed",
        ),
        (
            "Cards that cannot be read",
            "No source answers: no crawl can be recognised there.",
            f'count(max by (job, instance, device) (helix_dense_vram_probe_up{{{DEVICES}, device!="cpu"}}) == 0)'
            " or vector(0)",
            steps((None, "green"), (1, "orange")),
            "helixcrawlprobedown",
        ),
        (
            "Oldest batch",
            "The batch that has been running for longest, on any host.",
            f"max(helix_dense_batch_inflight_seconds{{{SHARDS}}})",
            steps((None, "gray"), (0, "green"), (300, "orange"), (600, "red")),
            "helixcrawlbatchstuck",
        ),
    ):
        unit = "s" if title == "Oldest batch" else "none"
        yield number(title, says, expr, unit=unit, thresholds=thresholds, section=section, decimals=0)


def _shard_table() -> table.Panel:
    columns = {
        "Crawls": f"max by (job, instance, shard) (helix_dense_crawl_active{{{SHARDS}}})",
        "Done about it": f"max by (job, instance, shard) (helix_dense_ladder_rung{{{SHARDS}}})",
        "Of baseline": f"min by (job, instance, shard) (helix_dense_crawl_ratio{{{SHARDS}}})",
        "Rate": f"max by (job, instance, shard) (helix_dense_throughput_per_second{{{SHARDS}}})",
        "Baseline": f"max by (job, instance, shard) (helix_dense_baseline_per_second{{{SHARDS}}})",
        "Batch in flight": f"max by (job, instance, shard) (helix_dense_batch_inflight_seconds{{{SHARDS}}})",
        "Genes that wait": f'sum by (job, instance, shard) (helix_dense_genes_pending{{{JOBS}, shard=~"$shard"}})',
    }
    panel = table.Panel().title("Open shards").datasource(SOURCE).height(8).span(24).links([link("helixcrawlcrawling")])
    panel.description("One line an open shard, those that crawl first.")
    for name, expr in zip("ABCDEFG", columns.values(), strict=True):
        query = prometheus.Dataquery().expr(expr).ref_id(name).instant()
        panel.with_target(query.format(prometheus_models.PromQueryFormat.TABLE))
    renamed = {f"Value #{name}": title for name, title in zip("ABCDEFG", columns, strict=True)}
    renamed |= {"job": "Job", "instance": "Instance", "shard": "Shard"}
    order = {name: index for index, name in enumerate(["instance", "shard", *list(renamed)[:7], "job"])}
    panel.with_transformation(models.DataTransformerConfig("merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            "organize", options={"excludeByName": {"Time": True}, "renameByName": renamed, "indexByName": order}
        )
    )
    panel.with_transformation(
        models.DataTransformerConfig("sortBy", options={"sort": [{"field": "Crawls", "desc": True}]})
    )
    colored = models.DynamicConfigValue("custom.cellOptions", {"type": "color-background"})
    yes_no = text_of({0: ("no", "green"), 1: ("CRAWLS", "red")})
    panel.override_by_name("Crawls", [models.DynamicConfigValue("mappings", yes_no), colored])
    panel.override_by_name("Done about it", [models.DynamicConfigValue("mappings", text_of(RUNG_TEXTS)), colored])
    panel.override_by_name("Of baseline", [models.DynamicConfigValue("unit", "percentunit")])
    for name in ("Rate", "Baseline"):
        panel.override_by_name(name, [models.DynamicConfigValue("unit", GENES)])
    panel.override_by_name("Batch in flight", [models.DynamicConfigValue("unit", "s")])
    address = "/d/helix-crawl-job?var-job=${__data.fields.Job}&var-instance=${__value.raw}&${__url_time_range}"
    to_job = [{"title": "Board of this job", "url": address}]
    panel.override_by_name("Instance", [models.DynamicConfigValue("links", to_job)])
    return panel


def _over_time() -> Iterator[statetimeline.Panel | timeseries.Panel]:
    yield states(
        "Hosts with a crawl",
        "A band a job.",
        (f"max by (job, instance) (helix_dense_crawl_active{{{SHARDS}}})", "{{instance}}"),
        texts={0: ("no", "green"), 1: ("crawls", "red")},
        section="helixcrawlcrawling",
    )
    yield states(
        "Highest rung a job",
        "Of its open shards.",
        (f"max by (job, instance) (helix_dense_ladder_rung{{{SHARDS}}})", "{{instance}}"),
        texts=RUNG_TEXTS,
        section="what-the-ladder-does",
    )
    yield graph(
        "The ten slowest shards, of their baseline",
        "Logarithmic; the limit is dashed.",
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
        "By device; from 92 % on it counts as full.",
        (
            f"helix_dense_vram_used_bytes{{{DEVICES}}} / helix_dense_vram_limit_bytes{{{DEVICES}}}",
            "{{instance}} {{device}}",
        ),
        unit="percentunit",
        thresholds=steps((None, "transparent"), (0.92, "red")),
        section="helixcrawlmemoryfull",
    )
    yield graph(
        "Workers started anew within an hour",
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
