"""The rules of grafana/dashboard-linter, on the boards: those it had in its newest version, without the program.

What is left out on purpose stands in `.lint`, in the form that the linter reads.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.dashboards.shipped import BOARDS, queries
from tests.programs import require_program

SHOWN = ("stat", "singlestat", "graph", "timeseries", "gauge")
"""Types of panels that the rules look at."""

UNITS = (
    "none",
    "short",
    "string",
    "percent",
    "percentunit",
    "bytes",
    "s",
    "celsius",
    "watt",
    "hertz",
    "dateTimeFromNow",
)
"""Of the linter's list, those that the boards use or may use."""

SELECTOR = re.compile(r"\b(helix_dense_[\w:]+|ALERTS\w*|up|hw_\w+(?=\{))(?:\{([^}]*)\})?")


class Finding(NamedTuple):
    """A rule that does not hold."""

    rule: str
    dashboard: str
    panel: str
    why: str


def findings(board: dict[str, Any]) -> Iterator[Finding]:
    """What the linter would find."""
    for rule, why in _of_board(board):
        yield Finding(rule, board["title"], "", why)
    for panel in board["panels"]:
        for rule, why in _of_panel(panel):
            yield Finding(rule, board["title"], panel["title"], why)


def _of_board(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    variables = {one["name"]: one for one in board["templating"]["list"]}
    if board["editable"]:
        yield "uneditable-dashboard", "is editable"
    sources = [one for one in variables.values() if one["type"] == "datasource"]
    if [(one["name"], one["label"], one["query"]) for one in sources] != [("datasource", "Data source", "prometheus")]:
        yield "template-datasource-rule", "no data source to choose"
    for name in ("job", "instance"):
        one = variables.get(name, {})
        wanted = {"label": name.title(), "type": "query", "multi": True, "includeAll": True, "allValue": ".+"}
        if {key: one.get(key) for key in wanted} != wanted or one["datasource"]["uid"] != "${datasource}":
            yield f"template-{name}-rule", str(one)
    for one in variables.values():
        if one["type"] == "query" and one["refresh"] != 2:
            yield "template-on-time-change-reload-rule", one["name"]
        if one["type"] == "query" and not re.fullmatch(r"label_values\(.+, \w+\)", one["query"]["query"]):
            yield "template-label-promql-rule", one["name"]


def _of_panel(panel: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if panel["type"] in SHOWN:
        if not panel.get("title") or not panel.get("description"):
            yield "panel-title-description-rule", panel["type"]
        if panel["datasource"]["uid"] != "${datasource}":
            yield "panel-datasource-rule", panel["datasource"]["uid"]
        if not panel.get("targets"):
            yield "panel-no-targets-rule", panel["type"]
        config = panel["fieldConfig"]
        changed = [one for override in config["overrides"] for one in override["properties"]]
        units = [one["value"] for one in changed if one["id"] == "unit"] or [config["defaults"].get("unit")]
        if not config["defaults"].get("mappings") and units[-1] not in UNITS:
            yield "panel-units-rule", str(units[-1])
    for target in panel.get("targets", ()):
        expr = target["expr"]
        for name in ("job", "instance"):
            if any(f'{name}=~"${name}"' not in (labels or "") for _, labels in SELECTOR.findall(expr)):
                yield f"target-{name}-rule", expr
        if any(window != "$__rate_interval" for window in re.findall(r"\bi?rate\([^\[]*\[([^\]]*)\]", expr)):
            yield "target-rate-interval-rule", expr
        if re.search(r"\w+_total\b(?!\{)", expr):
            yield "target-counter-agg-rule", expr


def exceptions(path: Path) -> list[tuple[str, str, str]]:
    """Rule, board and panel of each exception beside a board."""
    text = re.sub(r"(?m)^#.*$", "", (path.parent / ".lint").read_text(encoding="utf-8"))
    read: dict[str, Any] = json.loads(text)
    for rule in read["exclusions"].values():
        assert rule["reason"].endswith(".")
    return [
        (name, entry["dashboard"], entry["panel"])
        for name, rule in read["exclusions"].items()
        for entry in rule["entries"]
    ]


def test_the_rules_hold_but_for_what_is_written_down() -> None:
    """And no exception is written down that is not needed."""
    found = [one for path in BOARDS for one in findings(json.loads(path.read_text(encoding="utf-8")))]
    allowed = exceptions(BOARDS[0])
    assert [one for one in found if one[:3] not in allowed] == []
    assert [one for one in allowed if one not in [finding[:3] for finding in found]] == []


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("uneditable-dashboard", lambda board: board.update(editable=True)),
        ("template-job-rule", lambda board: board["templating"]["list"][1].update(multi=False)),
        ("template-instance-rule", lambda board: board["templating"]["list"][2].update(allValue=".*")),
        ("template-on-time-change-reload-rule", lambda board: board["templating"]["list"][3].update(refresh=1)),
        ("template-datasource-rule", lambda board: board["templating"]["list"][0].update(name="source")),
        ("panel-title-description-rule", lambda board: board["panels"][1].update(description="")),
        ("panel-units-rule", lambda board: board["panels"][2]["fieldConfig"]["defaults"].update(unit="genes")),
        ("panel-no-targets-rule", lambda board: board["panels"][1].update(targets=[])),
        ("target-job-rule", lambda board: board["panels"][1]["targets"][0].update(expr="helix_dense_run_info")),
        ("target-instance-rule", lambda board: board["panels"][1]["targets"][0].update(expr='ALERTS{job=~"$job"}')),
        ("target-rate-interval-rule", lambda board: board["panels"][1]["targets"][0].update(expr="rate(up[5m])")),
        ("target-counter-agg-rule", lambda board: board["panels"][1]["targets"][0].update(expr="helix_dense_x_total")),
    ],
)
def test_a_broken_rule_is_found(rule: str, change: Any) -> None:
    """Each of them."""
    board: dict[str, Any] = json.loads(BOARDS[-1].read_text(encoding="utf-8"))
    before = len([one for one in findings(board) if one.rule == rule])
    change(board)
    assert len([one for one in findings(board) if one.rule == rule]) > before


def test_every_query_is_promql(tmp_path: Path) -> None:
    """Asked of promtool, as the linter's target-promql-rule does of its parser."""
    rules = []
    for number, query in enumerate(query for path in BOARDS for query in queries(path)):
        expr = re.sub(r"\$__(rate_interval|range|interval)", "1m", query.expr)
        rules.append({"record": f"board:query:number{number}", "expr": expr})
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "boards", "rules": rules}]}))
    command = [require_program("promtool"), "check", "rules", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: str(path.stem))
def test_no_title_is_cut_at_900_pixels(path: Path) -> None:
    """By the width that pictures showed: a column is 36.5 pixels there, 7.3 a letter, and two icons take 64."""
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] != "row":
            room = (panel["gridPos"]["w"] * 36.5 - 8 - 64) / 7.3
            assert len(panel["title"]) <= room, (panel["title"], room)
