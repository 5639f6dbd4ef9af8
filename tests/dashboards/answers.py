"""What a board's queries return, put as Grafana puts it: variables filled in, legends, annotations, a table's columns.

For whoever draws a board without a Grafana.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.dashboards.servers import Prometheus

__all__ = ["Line", "Mark", "Moment", "rows_of", "value_of"]

Panel = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One series of a panel.

    Args:
        name: In the legend.
        times: Seconds since 1970.
        values: As many.
    """

    name: str
    times: list[float]
    values: list[float]


@dataclass(frozen=True)
class Mark:
    """An annotation, from its first moment to its last."""

    color: str
    begin: float
    end: float


@dataclass(frozen=True)
class Moment:
    """A board as somebody sees it at a moment.

    Args:
        prometheus: The board's data source.
        begin: Left end of every graph, in seconds since 1970.
        end: Right end, which is the moment.
        scrape_seconds: As Grafana's data source is told.
        variables: What is chosen above the board; a variable that is not named here is at `All`.
    """

    prometheus: Prometheus
    begin: float
    end: float
    scrape_seconds: int
    variables: Mapping[str, str]

    def filled(self, expr: str) -> str:
        """A query as Grafana sends it."""
        for name in ("job", "instance", "device", "shard"):
            expr = expr.replace(f'"${name}"', f'"{self.variables.get(name, ".*")}"')
        # https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables: four scrapes at least.
        expr = expr.replace("$__rate_interval", f"{4 * self.scrape_seconds}s")
        return expr.replace("$__range", f"{round(self.end - self.begin)}s")

    def lines(self, panel: Panel) -> list[Line]:
        """Series of a panel over time, in the order of its queries."""
        found = []
        for target in panel["targets"]:
            for series in self._over_time(target["expr"], self.scrape_seconds):
                points = [(float(t), float(value)) for t, value in series["values"]]
                points = [point for point in points if point[1] == point[1]]
                times, values = [t for t, _ in points], [value for _, value in points]
                found.append(Line(_legend(target["legendFormat"], series["metric"]), times, values))
        return found

    def now(self, expr: str) -> list[tuple[Mapping[str, str], float]]:
        """Labels and values at the moment."""
        answer = self.prometheus.get("query", query=self.filled(expr), time=self.end)["result"]
        return [(series["metric"], float(series["value"][1])) for series in answer]

    def marks(self, annotations: list[dict[str, Any]]) -> list[Mark]:
        """Annotations that are switched on; values that follow each other within a step are one region."""
        found = []
        for annotation in (one for one in annotations if one["enable"]):
            step = int(annotation["step"].removesuffix("s"))
            for series in self._over_time(annotation["expr"], step):
                times = [float(t) for t, value in series["values"] if float(value) >= 1]
                begins = [t for n, t in enumerate(times) if n == 0 or t - times[n - 1] > step]
                ends = [t for n, t in enumerate(times) if n + 1 == len(times) or times[n + 1] - t > step]
                found += [Mark(annotation["iconColor"], *both) for both in zip(begins, ends, strict=True)]
        return found

    def _over_time(self, expr: str, step: int) -> list[dict[str, Any]]:
        begin, end = self.begin // step * step, self.end // step * step
        query = {"query": self.filled(expr), "start": begin, "end": end, "step": step}
        series: list[dict[str, Any]] = self.prometheus.get("query_range", **query)["result"]
        return series


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def value_of(moment: Moment, panel: Panel) -> float | None:
    """The number of a stat panel, None for none."""
    answers = moment.now(panel["targets"][0]["expr"])
    return answers[0][1] if answers and answers[0][1] == answers[0][1] else None


def rows_of(moment: Moment, panel: Panel) -> tuple[list[str], list[list[str | float | None]]]:
    """Header and rows of a table panel: its queries merged by their labels, put in order, renamed and sorted.

    Raises:
        ValueError: A transformation that is not known here.
    """
    merged: dict[tuple[tuple[str, str], ...], dict[str, str | float]] = {}
    for target in panel["targets"]:
        for labels, value in moment.now(target["expr"]):
            row = merged.setdefault(tuple(sorted(labels.items())), dict(labels))
            row[f"Value #{target['refId']}"] = value
    rows = list(merged.values())
    columns = sorted({name for row in rows for name in row})
    for step in panel["transformations"]:
        options = step["options"]
        if step["id"] == "organize":
            columns.sort(key=lambda name: options["indexByName"][name])
            names = {name: options["renameByName"].get(name, name) for name in columns}
            rows = [{names[name]: value for name, value in row.items()} for row in rows]
            columns = [names[name] for name in columns if not options["excludeByName"].get(name)]
        elif step["id"] == "sortBy":
            for key in reversed(options["sort"]):
                _sort(rows, key["field"], key["desc"])
        elif step["id"] != "merge":
            raise ValueError(f"transformation {step['id']} of {panel['title']!r}")
    return columns, [[row.get(name) for name in columns] for row in rows]


def _sort(rows: list[dict[str, str | float]], field: str, is_down: bool) -> None:
    rows.sort(key=lambda row: float(row.get(field, 0.0)), reverse=is_down)
