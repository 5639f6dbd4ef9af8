"""A real run of the product, on a modelled card, scraped by a real Prometheus: every query returns series.

The run goes down the whole ladder in about 15 seconds. What is said in minutes in rules and boards is shortened for it.
A machine that stands still for seconds leaves gaps in what is scraped, and to a clock that is fast they are minutes:
whoever misses something runs the job again, at most twice, and looks at all of the runs.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from helix_crawl_otel.cli import main
from tests.build.rig import Rig
from tests.dashboards.servers import Prometheus, server, wait_until, webhook
from tests.dashboards.shipped import ALERTS, BOARDS, FILES, Query, known_metrics, metrics_in, queries
from tests.ports import HERE, free_port
from tests.programs import require_program

pytestmark = pytest.mark.timeout(600)

MOST_RUNS = 3

RUNBOOK = "https://wiki.example/runbook"

NOT_IN_THIS_RUN = {
    "HelixCrawlCrawling": "the ladder ends each crawl in time",
    "HelixCrawlBatchStuck": "no batch of the run lasts ten minutes",
    "HelixCrawlRecycleLoop": "two shards make three restarts",
    "HelixCrawlProbeDown": "the modelled card can always be read",
    "HelixCrawlNoProgress": "genes are encoded within every quarter of an hour",
    "HelixCrawlJobGone": "the job comes to its end",
    "HelixCrawlShardFailed": "no shard fails",
    "HelixCrawlQuarantined": "every gene can be encoded",
    "HelixCrawlRunFailed": "the run is done",
    "HelixCrawlCrashLoop": "no worker crashes",
    "HelixCrawlActionOverdue": "no action fails",
    "run:helix_dense_shards_failed:sum": "no shard fails",
    "shard:helix_dense_shard_failed:max": "no shard fails",
    "run:helix_dense_genes_quarantined:sum": "every gene can be encoded",
    "shard:helix_dense_genes_quarantined:sum": "every gene can be encoded",
}
"""Rules whose expression need not return anything here; `test_alerts` shows each alert firing."""

OF_A_CLUSTER = 'slot!=""'
"""A label of what `build --ray` serves, by its `targets.json`: no job here has it."""

OF_A_REAL_CARD = {name for name in known_metrics() if name.startswith("hw_")} | {"helix_dense_device_info"}
"""NVML tells them; the modelled card has none."""


@dataclass
class Watched:
    """The runs so far, and what was seen of them."""

    prometheus: Prometheus
    run: Callable[[], dict[str, Any]]
    arrived: list[dict[str, Any]]
    begun: float = field(default_factory=time.time)
    ended: float = 0.0
    summaries: list[dict[str, Any]] = field(default_factory=list)

    def run_once(self) -> None:
        """From beginning to end."""
        self.summaries.append(self.run())
        self.ended = time.time()

    def is_seen(self, is_so: Callable[[], bool]) -> bool:
        """Whether something is so of the runs; the job is run again while it is not."""
        while not is_so():
            if len(self.summaries) == MOST_RUNS:
                return False
            self.run_once()
        return True

    def has(self, expr: str) -> bool:
        """Whether an expression returns series of any moment."""
        return bool(self.prometheus.series(expr, self.begun, self.ended))


def shortened(text: str) -> str:
    """Minutes become seconds: the run's clock is fast."""
    return re.sub(r"\b(\d+)h\b", r"\1m", re.sub(r"\b(\d+)m\b", r"\1s", text))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Servers first, then the job."""
    folder = tmp_path_factory.mktemp("servers")
    programs = [require_program(name) for name in ("prometheus", "prometheus-alertmanager")]
    job, prometheus_port, alertmanager_port = free_port(), free_port(), free_port()

    def run() -> dict[str, Any]:
        rig = Rig(folder / uuid4().hex, ("--model", "hashing", "--metrics-port", str(job)))
        rig.write_shards(2, 16, 90)
        card = "card:fragment_gib=1.0,spill_cost=12,spill_power=0.1,cpu_tokens_per_second=400"
        faults = (card, "clock:rate=30", "slow:seconds=0.01")
        # A worker that releases its cache by need may never crawl.
        options = (
            "--batch-size",
            "8",
            "--release-every",
            "0",
            "--window",
            "4",
            *(word for fault in faults for word in ("--fault", fault)),
        )
        done = rig.build(*options, seconds=180.0)
        assert done.code == 0, done.errors
        return done.summary

    assert main(["dashboards", str(folder / "files"), "--runbook-url", RUNBOOK]) == 0
    config, alerting = folder / "files" / "prometheus", folder / "files" / "alertmanager"
    for rules in (config / "rules").iterdir():
        rules.write_text(shortened(rules.read_text(encoding="utf-8")))
    shipped = (config / "prometheus.yml").read_text(encoding="utf-8")
    with webhook() as (address, arrived):
        text = shipped.replace("15s", "1s").replace(":9464", f":{job}").replace(":9093", f":{alertmanager_port}")
        (config / "prometheus.yml").write_text(text)
        path = alerting / "alertmanager.yml"
        text = path.read_text(encoding="utf-8").replace("group_wait: 30s", "group_wait: 0s")
        text = text.replace("critical|warning", "critical|warning|info")  # what this run has is on the board as a rule
        path.write_text(text.replace("http://127.0.0.1:8080/alert", address))
        first = [
            programs[0],
            f"--config.file={config / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={HERE}:{prometheus_port}",
        ]
        second = [
            programs[1],
            f"--config.file={path}",
            f"--storage.path={folder / 'alerts'}",
            f"--web.listen-address={HERE}:{alertmanager_port}",
            "--cluster.listen-address=",
        ]
        with (
            server(second, f"http://{HERE}:{alertmanager_port}/-/ready", folder / "alertmanager.log"),
            server(first, f"http://{HERE}:{prometheus_port}/-/ready", folder / "prometheus.log"),
        ):
            seen = Watched(Prometheus(prometheus_port), run, arrived)
            seen.run_once()
            yield seen
    shutil.rmtree(folder, ignore_errors=True)


def filled(expr: str) -> str:
    """A query as Grafana would send it, every variable at `All`."""
    expr = re.sub(r"\$(job|instance|device|shard)\b", ".*", expr)
    return re.sub(r"\[(1d|30m|10m):15s\]", "[60s:1s]", expr).replace("$__rate_interval", "4s")


def test_the_run_goes_down_the_whole_ladder(watched: Watched) -> None:
    """Else the queries below would be asked of a job that nothing happens to."""

    def went_down() -> bool:
        last = watched.summaries[-1]
        actions = {"DETECT", "EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"} <= set(last["actions"])
        return actions and {"first", "recycle", "demote"} <= set(last["starts"])

    assert watched.is_seen(went_down), watched.summaries


@pytest.mark.parametrize("board", BOARDS, ids=lambda path: str(path.stem))
def test_every_query_of_a_board_returns_series(watched: Watched, board: Path) -> None:
    """Panels, annotations and variables."""
    asked = [query for query in queries(board) if not metrics_in(query.expr) & OF_A_REAL_CARD]
    asked = [query for query in asked if OF_A_CLUSTER not in query.expr]
    assert [query for query in asked if "$" in filled(query.expr)] == []

    def empty() -> list[Query]:
        return [query for query in asked if not watched.has(filled(query.expr))]

    assert watched.is_seen(lambda: not empty()), empty()


def test_every_rule_is_healthy_and_returns_series(watched: Watched) -> None:
    """All of them, but for those whose condition the run does not meet."""
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(ALERTS)

    def silent() -> set[str]:
        return {rule["name"] for rule in rules if not watched.has(rule["query"])} - set(NOT_IN_THIS_RUN)

    assert watched.is_seen(lambda: not silent()), silent()


def test_a_scrape_shows_what_the_table_promises(watched: Watched) -> None:
    """Every name that the table gives an instrument, and none beside it."""

    def shown() -> set[str]:
        names = watched.prometheus.get("label/__name__/values", start=watched.begun, end=watched.ended)
        return {name for name in names if name.startswith("helix_dense_")}

    promised = known_metrics() - OF_A_REAL_CARD
    assert watched.is_seen(lambda: shown() >= promised), promised - shown()
    assert shown() == promised


def test_an_alert_arrives_at_a_webhook(watched: Watched) -> None:
    """Prometheus, Alertmanager, webhook: with its texts filled in and the address of its section of the runbook."""

    def on_cpu() -> list[dict[str, Any]]:
        return [alert for alert in watched.arrived if alert["labels"]["alertname"] == "HelixCrawlOnCpu"]

    def arrives() -> bool:
        with contextlib.suppress(AssertionError):  # what has not arrived by then did not fire in this run
            wait_until(lambda: bool(on_cpu()), "the alert", 30.0)
        return bool(on_cpu())

    assert watched.is_seen(arrives), watched.arrived
    alert = on_cpu()[0]
    assert alert["status"] == "firing"
    assert alert["labels"]["severity"] == "info"
    folder = alert["labels"]["folder"]
    assert alert["annotations"]["summary"].startswith(
        f"Shard {alert['labels']['shard']} of {folder} has gone from cuda:0 to the CPU"
    )
    assert alert["annotations"]["command"] == f'helix-crawl status "{folder}"'
    assert alert["annotations"]["runbook_url"] == f"{RUNBOOK}#helixcrawloncpu"


@pytest.mark.slow
def test_the_end_is_stored_with_the_shipped_configuration(tmp_path: Path) -> None:
    """Of ten runs ten, whenever they end between two scrapes: the endpoint answers for one more."""
    program, at = require_program("prometheus"), f"{HERE}:{free_port()}"
    ports = [free_port() for _ in range(10)]
    text = (FILES / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    targets = ", ".join(f'"{HERE}:{port}"' for port in ports)
    (tmp_path / "prometheus.yml").write_text(text.replace('"127.0.0.1:9464"', targets), encoding="utf-8")
    command = [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    listens = [f"--web.listen-address={at}"]
    with (
        server([*command, *listens], f"http://{at}/-/ready", tmp_path / "prometheus.log"),
        contextlib.ExitStack() as stack,
    ):
        begun, builds = time.time(), []
        for number, port in enumerate(ports):
            rig = Rig(tmp_path / f"run-{number}", ("--model", "hashing", "--metrics-port", str(port)))
            rig.write_shards(1, 25, 3)
            slow = ("--batch-size", "1", "--fault", "slow:seconds=1")
            builds.append((rig, stack.enter_context(rig.started(rig.build_command(*slow)))))
        ended = [(rig, rig.ended(process)) for rig, process in builds]
        assert [done.code for _, done in ended] == [0] * 10
        prometheus = Prometheus(int(at.rpartition(":")[2]))
        until = time.time() + 2  # the last second is asked for as well

        def stored(value: int) -> set[str]:
            said = prometheus.series(f'helix_dense_run_state{{state="done"}} == {value}', begun, until)
            return {one["metric"]["run"] for one in said}

        runs = {str(rig.out) for rig, _ in ended}
        assert stored(0) == runs, "each was scraped while it ran"
        assert stored(1) == runs, "and once it had ended"
