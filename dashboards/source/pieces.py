"""Pieces that both boards are built from: selectors, variables, panels, annotations.

Built with `grafana-foundation-sdk` of the flavour for Grafana 11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

__all__ = [
    "COLORS",
    "DEVICES",
    "GENES",
    "JOBS",
    "RUNBOOK",
    "RUNG_TEXTS",
    "SHARDS",
    "Target",
    "annotation",
    "board",
    "fixed_color",
    "graph",
    "link",
    "number",
    "row",
    "rung_by",
    "states",
    "steps",
    "text_of",
]

RUNBOOK = "runbook.md"
"""Stands for the runbook's address; `helix-crawl dashboards` puts the real one in its place."""

JOBS = 'job=~"$job", instance=~"$instance"'
DEVICES = f'{JOBS}, device=~"$device"'
SHARDS = f'{DEVICES}, shard=~"$shard"'

GENES = "suffix:genes/s"
"""Grafana puts the space before it."""

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

COLORS = {
    "running": "blue",
    "done": "green",
    "paused": "purple",
    "pending": "gray",
    "failed": "red",
    "crawling": "red",
    "crash": "red",
    "release": "super-light-yellow",
    "recycle": "semi-dark-yellow",
    "demote": "dark-orange",
    "exhausted": "light-orange",
    "first": "green",
    "resume": "blue",
}
"""What is called so has this colour on every panel of every board."""

RUNG_TEXTS = {
    0: ("nothing needed", COLORS["done"]),
    1: ("cache emptied", COLORS["release"]),
    2: ("worker recycled", COLORS["recycle"]),
    3: ("on the CPU", COLORS["demote"]),
    4: ("third rung, on its card", COLORS["exhausted"]),
}
"""Of the values of `rung_by`."""


def rung_by(labels: str) -> str:
    """PromQL: the highest rung; 4 where it is the third and the shard is on its card: nobody took it, or not yet.

    Args:
        labels: What one value is for, `job, instance, shard` or fewer.
    """
    on_card = f'helix_dense_ladder_rung{{{SHARDS}, device!="cpu"}}'
    # By OTLP the card's series is shown for five minutes beside that of the CPU.
    return (
        f'max by ({labels}) (helix_dense_ladder_rung{{{SHARDS}, device="cpu"}}'
        f" or on (job, instance, shard) {on_card} + ({on_card} == bool 3))"
    )


Target = tuple[str, str]
"""PromQL and legend."""

AnyPanel = TypeVar("AnyPanel", stat.Panel, timeseries.Panel, statetimeline.Panel)


def steps(*pairs: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Thresholds: from which value on which colour. The first value is None: that colour is also of no value at all."""
    found = [models.Threshold(value, color) for value, color in pairs]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def text_of(values: Mapping[int, tuple[str, str]] | Mapping[str, tuple[str, str]]) -> list[Any]:
    """Value mappings: value to text and colour; no colour of its own where that is empty."""
    options = {
        str(value): models.ValueMappingResult(text=text, color=color or None, index=index)
        for index, (value, (text, color)) in enumerate(values.items())
    }
    return [models.ValueMap(options=options)]


def link(section: str) -> dashboard.DashboardLink:
    """A link of a panel to the section of the runbook."""
    title = "Runbook" if not section else f"Runbook: {section}"
    return (
        dashboard.DashboardLink(title)
        .type(models.DashboardLinkType.LINK)
        .url(f"{RUNBOOK}#{section}" if section else f"{RUNBOOK}#contents")
        .target_blank(True)
    )


def fixed_color(color: str) -> models.DynamicConfigValue:
    """For an override."""
    return models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})


def _common(panel: AnyPanel, title: str, says: str, targets: list[Target], section: str, *, instant: bool) -> AnyPanel:
    panel.title(title).description(says).datasource(SOURCE)
    for number_, (expr, legend) in enumerate(targets):
        query = prometheus.Dataquery().expr(expr).legend_format(legend or "__auto").ref_id(chr(ord("A") + number_))
        panel.with_target(query.instant() if instant else query.range())
    if section:
        panel.links([link(section)])
    return panel


def number(
    title: str,
    says: str,
    expr: str,
    *,
    legend: str = "{{instance}}",
    unit: str = "none",
    width: int = 6,
    thresholds: dashboard.ThresholdsConfig | None = None,
    texts: dict[int, tuple[str, str]] | None = None,
    unknown: str = "-",
    section: str = "",
    link_section: str = "",
    decimals: int | None = None,
) -> stat.Panel:
    """One number, large; one a job where several are chosen.

    Args:
        title: Of the panel.
        says: What it shows and how to read it.
        expr: PromQL.
        legend: Name of each, shown where there are several.
        unit: Grafana's name of it.
        width: Of 24.
        thresholds: Colours of the background by value, that of no value first.
        texts: Text and background of each value.
        unknown: Shown where there is no value, on grey.
        section: Of the runbook.
        link_section: Where a click on the number leads, in the runbook; may name a label.
        decimals: Grafana's choice if None.
    """
    panel = _common(stat.Panel(), title, says, [(expr, legend)], section, instant=True)
    panel.unit(unit).no_value(unknown).height(4).span(width).graph_mode(common_models.BigValueGraphMode.NONE)
    is_colored = bool(thresholds or texts)
    color = common_models.BigValueColorMode.BACKGROUND if is_colored else common_models.BigValueColorMode.NONE
    panel.color_mode(color).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.thresholds(thresholds or steps((None, "gray")))
    if texts:
        panel.mappings(text_of(texts))
    if link_section:
        panel.data_links([link(link_section)])
    if decimals is not None:
        panel.decimals(decimals)
    return panel


def graph(
    title: str,
    says: str,
    *targets: Target,
    unit: str = "none",
    width: int = 12,
    height: int = 8,
    thresholds: dashboard.ThresholdsConfig | None = None,
    section: str = "",
    least: float | None = 0,
    is_log: bool = False,
    dashed: Mapping[str, str] | None = None,
    in_legend: bool = True,
    counts: bool = False,
    colors: Iterable[str] = (),
    right_axis: Mapping[str, str] | None = None,
    unknown: str = "",
) -> timeseries.Panel:
    """Lines over time.

    Args:
        title: Of the panel.
        says: What it shows and how to read it.
        targets: PromQL and legend of each query.
        unit: Grafana's name of it.
        width: Of 24.
        height: In rows.
        thresholds: Drawn as lines.
        section: Of the runbook.
        least: Lower end of the axis, None for the data's.
        is_log: Logarithmic axis.
        dashed: Regular expressions of legends that are limits, and their colour: dashed and thin.
        in_legend: Whether those have a place in the legend; else the title names their colours.
        counts: Of things, that stay until the next one: steps, no decimals.
        colors: Legends that have a colour of their own in `COLORS`.
        right_axis: Regular expressions of legends that have an axis of their own, and its unit.
        unknown: Shown where there is nothing to draw; Grafana's words for it if empty.
    """
    panel = _common(timeseries.Panel(), title, says, list(targets), section, instant=False)
    panel.unit(unit).height(height).span(width).fill_opacity(0).line_width(2).span_nulls(False)
    panel.show_points(common_models.VisibilityMode.AUTO)
    panel.tooltip(
        common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
    )
    panel.legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.TABLE)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    if least is not None and not is_log:
        panel.min(least)
    if is_log:
        scale = common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10)
        panel.scale_distribution(scale)
    if thresholds is not None:
        panel.thresholds(thresholds)
        style = common.GraphThresholdsStyleConfig().mode(common_models.GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    for pattern, color in (dashed or {}).items():
        panel.override_by_regexp(
            pattern,
            [
                models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
                models.DynamicConfigValue("custom.lineWidth", 1),
                fixed_color(color),
                models.DynamicConfigValue("custom.hideFrom", {"legend": not in_legend, "tooltip": False, "viz": False}),
            ],
        )
    if unknown:
        panel.no_value(unknown)
    for name in colors:
        panel.override_by_name(name, [fixed_color(COLORS[name])])
    for pattern, unit_ in (right_axis or {}).items():
        panel.override_by_regexp(
            pattern,
            [models.DynamicConfigValue("unit", unit_), models.DynamicConfigValue("custom.axisPlacement", "right")],
        )
    if counts:
        panel.line_interpolation(common_models.LineInterpolation.STEP_AFTER).decimals(0)
    return panel


def states(
    title: str,
    says: str,
    *targets: Target,
    texts: dict[int, tuple[str, str]],
    width: int = 12,
    height: int = 6,
    section: str = "",
) -> statetimeline.Panel:
    """A band of states a series."""
    panel = _common(statetimeline.Panel(), title, says, list(targets), section, instant=False)
    panel.height(height).span(width).mappings(text_of(texts)).merge_values(True).fill_opacity(80).row_height(0.8)
    panel.show_value(common_models.VisibilityMode.AUTO).thresholds(steps((None, "gray")))
    panel.legend(
        common.VizLegendOptions()
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    return panel


def annotation(name: str, color: str, expr: str, title: str, *, is_when: bool = False) -> dict[str, Any]:
    """Marks on every graph, from a query. Plain JSON: the SDK's class lacks the fields that Prometheus wants.

    Args:
        name: Of its switch.
        color: Of the marks.
        expr: A mark where it has a value.
        title: Of each.
        is_when: The value says when, in milliseconds.
    """
    return {
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "expr": expr,
        "hide": False,
        "iconColor": color,
        "name": name,
        "step": "15s",
        "tagKeys": "shard,action,outcome,device",
        "textFormat": "{{instance}}",
        "titleFormat": title,
        "useValueForTime": is_when,
    }


def row(made: dashboard.Dashboard, title: str, *panels: Builder[models.Panel]) -> None:
    """A row of a board: its line, and its panels from left to right."""
    made.with_row(dashboard.Row(title))
    for panel in panels:
        made.with_panel(panel)


def _variable(name: str, label: str, metric: str, every: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": f"label_values({metric}, {name})", "refId": f"variable-{name}"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(every)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def board(uid: str, title: str, says: str) -> dashboard.Dashboard:
    """An empty board with its variables and links.

    Args:
        uid: Kept for ever: bookmarks hold it.
        title: Shown.
        says: Description.
    """
    genes = "helix_dense_genes_total"
    info = "helix_dense_run_info"
    # `.*` also takes series without the label: beyond 1,000 shards the label `shard` is left out.
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags(["helix-crawl"])
        .readonly()
        .refresh("10s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job", info, ".+"))
        .with_variable(_variable("instance", "Instance", f'{info}{{job=~"$job"}}', ".+"))
        .with_variable(_variable("device", "Device", f"{genes}{{{JOBS}}}", ".*"))
        .with_variable(_variable("shard", "Shard", f"{genes}{{{DEVICES}}}", ".*"))
        .link(link(""))
        .link(
            dashboard.DashboardLink("Helix crawl boards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["helix-crawl"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
