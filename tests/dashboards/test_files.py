"""Boards, rules and runbook name what exists, and nothing that exists is left out."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.policy.instruments import INSTRUMENTS
from tests.dashboards.promtool import texts_of
from tests.dashboards.shipped import ALERTS, BOARDS, FILES, RULES, known_metrics, metrics_in, queries, rows_in
from tests.docs.pages import Page
from tests.programs import require_program
from tests.rules.tree import ROOT

RUNBOOK = Page(ROOT / "docs" / "runbook.md")
RULE_TEXT = "\n".join(path.read_text(encoding="utf-8") for path in RULES)
SECTION_PARTS = (
    "What it means.",
    "How to see it.",
    "What the ladder does by itself.",
    "What to do by hand.",
    "When to leave it alone.",
)


def test_the_boards_are_what_the_code_makes() -> None:
    """The committed JSON is regenerated to the letter: `python -m dashboards.source.make`."""
    pytest.importorskip("grafana_foundation_sdk", reason="the SDK needs Python 3.11")
    from dashboards.source.make import made_boards

    made = made_boards()
    assert sorted(made) == BOARDS
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m dashboards.source.make"


@pytest.mark.parametrize("path", [*BOARDS, *RULES, RUNBOOK.path], ids=lambda path: str(path.name))
def test_every_metric_named_is_exported(path: Path) -> None:
    """A panel that names a metric nobody exports is the bug that this part exists to prevent."""
    named = metrics_in(path.read_text(encoding="utf-8"))
    assert named
    assert named - known_metrics() == set()


def test_every_instrument_is_on_the_board_of_a_job() -> None:
    """Whoever adds an instrument finds a place for it."""
    text = " ".join(query.expr for path in BOARDS for query in queries(path))
    assert rows_in(text) == {row.name for row in INSTRUMENTS}


def test_a_missing_and_an_invented_metric_are_noticed() -> None:
    """The two rules above can fail."""
    assert metrics_in("sum(helix_dense_gene_total)") - known_metrics() == {"helix_dense_gene_total"}
    assert metrics_in("shard:helix_dense_crawl_active:max") == set()
    assert rows_in("rate(helix_dense_genes_total[5m])") == {"helix_dense_genes"}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: str(path.stem))
def test_every_panel_says_what_it_shows(path: Path) -> None:
    """Title, description, unit, a link to a section of the runbook, and no place shared with another panel."""
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert place["x"] + place["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        anchors = {link["url"].partition("#")[2] for link in panel["links"]}
        assert anchors, panel["title"]
        assert anchors <= RUNBOOK.anchors(), panel["title"]
        if panel["type"] in ("stat", "timeseries"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    assert [one["name"] for one in board["templating"]["list"]] == ["datasource", "job", "instance", "device", "shard"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: str(path.stem))
def test_queries_take_the_variables(path: Path) -> None:
    """Every selector is narrowed to the jobs chosen above; no rate has a window of its own.

    But for the time to go: a batch of a shard that crawls takes minutes.
    """
    for query in queries(path):
        selectors = re.findall(r"(helix_dense_[\w:]+)(\{[^}]*\})?", query.expr)
        if query.where != "variable job":
            assert all('job=~"$job"' in labels for name, labels in selectors)
            assert 'job=~"$job"' in query.expr
        for window in re.findall(r"(?:rate|increase)\(.*?\[([^\]]*)\]", query.expr):
            assert window in ("$__rate_interval", "1h", "10m"), query


def test_alerts_and_runbook_belong_together() -> None:
    """An alert, a section, with its five parts; it can be gone through in a shell, and on the boards."""
    assert len(ALERTS) == len(set(ALERTS)) == 13
    assert [heading for heading in RUNBOOK.headings(2) if heading.startswith("HelixCrawl")] == ALERTS
    for alert in ALERTS:
        section = RUNBOOK.text.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]
        assert [part for part in SECTION_PARTS if f"**{part}**" not in section] == [], alert
        see = section.partition("**How to see it.**")[2].partition("\n\n")[0]
        assert re.match(r" Shell: .*`(helix-crawl \w+|curl -s http://HOST:PORT/metrics)", see), alert
        assert "Board" in see, alert
    severities = re.findall(r"severity: (\w+)", RULE_TEXT)
    assert RUNBOOK.table("Contents", "alert").column("severity") == severities


def test_every_alert_says_what_somebody_needs() -> None:
    """Severity, the run's name, what a shell takes, and a link to its own section."""
    commands = {f"helix-crawl {name}" for name in ("status", "report", "verify", "doctor")}
    for alert in ALERTS:
        body = RULE_TEXT.partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]
        assert re.search(r"severity: (critical|warning|info)\n", body), alert
        texts = texts_of(alert)
        assert "{{ $labels.run }}" in texts["summary"], alert
        assert texts["description"].endswith("."), alert
        assert any(command in texts["command"] for command in commands), alert
        assert texts["runbook_url"] == f"runbook.md#{alert.lower()}"
        if "shard" in texts["summary"].split("{{")[0].lower() and "failed" not in texts["summary"]:
            assert "{{ or $labels.shard `" in texts["summary"], alert


def test_recorded_names_say_level_metric_and_operation() -> None:
    """And each is used by an alert, or by another one that is."""
    recorded = re.findall(r"- record: (\S+)", RULE_TEXT)
    assert recorded
    assert [name for name in recorded if not re.fullmatch(r"(run|shard|device):helix_dense_\w+:\w+", name)] == []
    assert [name for name in recorded if len(re.findall(rf"{name}\b", RULE_TEXT)) < 2] == []


def test_the_runbooks_links_lead_somewhere() -> None:
    """Also in the copy, which lies beside nothing else: anchors only."""
    targets = re.findall(r"\]\(([^)]*)\)", RUNBOOK.text)
    assert targets
    assert [target for target in targets if target[:1] != "#" or target[1:] not in RUNBOOK.anchors()] == []


def test_prometheus_and_alertmanager_take_the_files_as_they_are() -> None:
    """`promtool check` and `amtool check-config`."""
    promtool, amtool = require_program("promtool"), require_program("amtool")
    for command in (
        [promtool, "check", "config", str(FILES / "prometheus" / "prometheus.yml")],
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES)],
        [amtool, "check-config", str(FILES / "alertmanager" / "alertmanager.yml")],
    ):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("severity", "receiver"), [("critical", "somebody"), ("warning", "somebody"), ("info", "board")]
)
def test_information_wakes_nobody(severity: str, receiver: str) -> None:
    """`amtool config routes test`."""
    command = [require_program("amtool"), "config", "routes", "test", f"severity={severity}", "run=/data/out"]
    config = f"--config.file={FILES / 'alertmanager' / 'alertmanager.yml'}"
    done = subprocess.run([*command, config], check=True, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == [receiver]


def test_alerts_that_hold_others_back_exist() -> None:
    """And they are told apart by the run: another one is not held back."""
    text = (FILES / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    named = {f"HelixCrawl{name}" for names in re.findall(r"HelixCrawl\(?([\w|]+)", text) for name in names.split("|")}
    assert named - set(ALERTS) == set()
    assert all("run" in equal.split(", ") for equal in re.findall(r"equal: \[(.*)\]", text))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: str(path.stem))
def test_every_unit_is_one_of_grafana(path: Path) -> None:
    """One that it does not know is written behind the number as it stands; it puts the blank before a suffix itself."""
    text = path.read_text(encoding="utf-8")
    units = re.findall(r'"unit": "([^"]*)"', text) + re.findall(r'"id": "unit",\s*"value": "([^"]*)"', text)
    assert units
    for unit in units:
        known = ("none", "percentunit", "s", "bytes", "celsius", "watt", "hertz", "dateTimeFromNow")
        assert unit in known or re.match(r"suffix:\S", unit), unit
