"""What the package carries, read back: queries of the boards, rules, names of metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from helix_crawl_otel.policy.instruments import INSTRUMENTS, Kind
from tests.rules.tree import ROOT

__all__ = ["ALERTS", "BOARDS", "FILES", "RULES", "Query", "known_metrics", "metrics_in", "queries", "rows_in"]

FILES = ROOT / "dashboards"
BOARDS = sorted((FILES / "grafana" / "boards").glob("*.json"))
RULES = sorted((FILES / "prometheus" / "rules").glob("*.yml"))
ALERTS: list[str] = re.findall(
    r"- alert: (\w+)", (FILES / "prometheus/rules/helix-crawl-alerts.yml").read_text("utf-8")
)


class Query(NamedTuple):
    """A query of a board."""

    board: str
    where: str
    expr: str


def queries(path: Path) -> Iterator[Query]:
    """Every query of a board: panels, annotations, variables."""
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield Query(path.stem, f"{panel['title']} {target['refId']}", target["expr"])
    for mark in board["annotations"]["list"]:
        yield Query(path.stem, f"annotation {mark['name']}", mark["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found, variable["query"]
            yield Query(path.stem, f"variable {variable['name']}", found[1])


def metrics_in(text: str) -> set[str]:
    """Every name of ours in a text; recorded series are named by level and operation and not meant, nor labels."""
    return set(re.findall(r"(?<![:\w])(?:helix_dense_\w+(?![:\w])|hw_\w+(?=\{))", text))


def known_metrics() -> set[str]:
    """Names that a scrape can show."""
    names = set()
    for row in INSTRUMENTS:
        parts = ("_bucket", "_sum", "_count") if row.kind is Kind.HISTOGRAM else ("",)
        names |= {row.prometheus_name + part for part in parts}
    return names


def rows_in(text: str) -> set[str]:
    """Instruments of the table that a text names."""
    found = metrics_in(text)
    return {row.name for row in INSTRUMENTS if any(name.startswith(row.prometheus_name) for name in found)}
