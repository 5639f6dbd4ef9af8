"""Whom jobs wake, with a real Prometheus and Alertmanager: real processes that end well, hang, are killed, crash, ...

All times are a fifteenth: the shipped interval of 15 seconds is one, the minutes of rules and boards are four seconds,
and the clocks of the jobs are fast. So an hour and a half passes in six minutes. `pytest -m slow -s` on this file shows
the table of jobs, with the alerts that were to be seen and those that were.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.exit_codes import DONE, FAILED, NEVER, PAUSED
from tests.build.rig import COMMAND, Rig
from tests.dashboards.servers import Prometheus, server, webhook
from tests.dashboards.shipped import ALERTS
from tests.dashboards.test_first_row import PANELS, texts
from tests.docs.pages import Page
from tests.ports import HERE, free_port
from tests.programs import require_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), pytest.mark.skipif(sys.platform == "win32", reason="kills")]

RATE = 15
"""Of the jobs' clocks; what was written in seconds for rules and boards is divided by it."""

MINUTE = 60 / RATE
BATCH = 10
"""Seconds of a job's clock that its batches take."""

AFTERWARDS = 20 * MINUTE
"""For how long one looks on when the last job has ended."""

STAYS, ENDS = "stays", "ends"
RUNBOOK = "https://wiki.example/runbook"


@dataclass
class Stage:
    """Where one job plays.

    Args:
        folder: Of its own, with a space in its name.
        ports: Where it is scraped.
    """

    folder: Path
    ports: list[int]
    codes: list[int] = field(default_factory=list)

    def rig(self, name: str = "", port: int = 0) -> Rig:
        """A tree to build, scraped at one of the ports."""
        clock = ("--fault", f"clock:rate={RATE}")
        options = ("--model", "hashing", "--batch-size", "4", "--metrics-port", str(self.ports[port]), *clock)
        return Rig(self.folder / name, options)

    def build(self, batches: int, *faults: str, rig: Rig | None = None) -> list[str]:
        """The command of a build of so many batches, each of which takes its time."""
        rig = rig or self.rig()
        rig.write_shards(1, batches, 14)
        laid = [word for fault in (f"slow:seconds={BATCH}", *faults) for word in ("--fault", fault)]
        return rig.build_command("--device", "cpu", *laid)

    def runs(
        self, command: list[str], minutes: float | None = None, ends_by: int = signal.SIGKILL, **environ: str
    ) -> None:
        """Run a command to its end, or for so many minutes."""
        rig = self.rig()
        with rig.started(command, **environ) as process:
            try:
                process.communicate(timeout=600 if minutes is None else minutes * MINUTE)
            except subprocess.TimeoutExpired:
                process.send_signal(ends_by)
                process.communicate(timeout=60)
            self.codes.append(process.returncode)

    def embedded(self, trouble: str, minutes: float) -> None:
        """A job that watches itself."""
        told = trouble, str(self.ports[0]), str(RATE), str(minutes)
        command = [sys.executable, "-m", "tests.dashboards.embedded_job", *told]
        self.runs(command, OTEL_SERVICE_NAME=self.folder.name)


# -- the jobs ----------------------------------------------------------------------------------------------------------


def ends_well(stage: Stage) -> None:
    stage.runs(stage.build(60))


def hangs_once(stage: Stage) -> None:
    stage.runs(stage.build(40, "hang:batch=5,worker=1"))


def is_paused(stage: Stage) -> None:
    stage.runs(stage.build(120), 10, signal.SIGINT)


def is_killed(stage: Stage) -> None:
    stage.runs(stage.build(120), 10)


def is_killed_and_its_port_taken(stage: Stage) -> None:
    """Two runs: the first is killed, the other one starts on its port and ends well."""
    stage.runs(stage.build(120, rig=stage.rig("first")), 10)
    stage.runs(stage.build(240, rig=stage.rig("second")))


def is_killed_and_started_again(stage: Stage) -> None:
    """On another port, after a quarter of an hour."""
    stage.runs(stage.build(90), 8)
    time.sleep(15 * MINUTE)
    stage.runs(stage.build(90, rig=stage.rig(port=1)))


CARD = "card:fragment_gib=1.0,spill_cost=12,spill_power=0.1,cpu_tokens_per_second=400"
LADDER = ("--release-every", "0", "--window", "4", "--batch-size", "8")


def on_a_card(stage: Stage, shards: int, files: int, paragraphs: int, card: str) -> list[str]:
    """A build that crawls on a modelled card."""
    rig = stage.rig()
    rig.write_shards(shards, files, paragraphs)
    return rig.build_command(*LADDER, "--fault", card)


def crawls_and_is_recycled(stage: Stage) -> None:
    stage.runs(on_a_card(stage, 1, 16, 30, CARD))


def goes_to_the_cpu(stage: Stage) -> None:
    stage.runs(on_a_card(stage, 1, 16, 90, CARD))


def is_recycled_again_and_again(stage: Stage) -> None:
    stage.runs(on_a_card(stage, 5, 16, 90, CARD))


def quarantines(stage: Stage) -> None:
    command = stage.build(30, "poison:text=ruinous")
    stage.rig().write({"shard-0/file-100.txt": "A ruinous passage.\n"})
    stage.runs(command)


def workers_crash(stage: Stage) -> None:
    stage.runs(stage.build(110, "crash:batch=9"))


def starts_die(stage: Stage) -> None:
    """Something outside starts it anew each time; in the end it ends well."""
    for _ in range(6):
        stage.runs(stage.build(90), 4)
    stage.runs(stage.build(90))


GIVES_UP = f"""
import sys, time
from helix_crawl_otel import CrawlWatch
with CrawlWatch() as watch, watch.shard("notes", device="cpu") as shard:
    for _ in range(20):
        with shard.batch(genes=64):
            time.sleep({BATCH / RATE})
        shard.boundary()
sys.exit({NEVER})
"""


def gives_up(stage: Stage) -> None:
    (stage.folder / "driver.py").write_text(GIVES_UP)
    port = ("--metrics-port", str(stage.ports[0]))
    run = [*COMMAND, "run", "--clock-rate", str(RATE), *port, "--state", str(stage.folder / "state")]
    stage.runs([*run, "--", sys.executable, str(stage.folder / "driver.py")], OTEL_SERVICE_NAME=stage.folder.name)


def fails_a_shard(stage: Stage) -> None:
    stage.runs(stage.build(30, "crash:batch=1"))


def is_short(stage: Stage) -> None:
    """Over before it could be scraped twice."""
    rig = stage.rig()
    rig.write_shards(1, 4, 14)
    stage.runs(rig.build_command())


def is_blind(stage: Stage) -> None:
    stage.embedded("blind", 30)


def is_full(stage: Stage) -> None:
    stage.embedded("full", 80)


def is_stuck(stage: Stage) -> None:
    stage.embedded("stuck", 85)


def waits(stage: Stage) -> None:
    stage.embedded("waits", 60)


def crawls_unheard(stage: Stage) -> None:
    stage.embedded("deaf", 50)


@dataclass(frozen=True)
class Job:
    """One of them, and what is expected.

    Args:
        plays: What happens.
        why: That it wakes somebody, or that it does not.
        code: Exit code of its last process.
        alerts: Of each that fires, whether it is over when one looks last.
        quiet: Those of them that are sent to nobody: on the board only, or held back by another one.
        states: What the board's first row says of the run that it is about, one after the other.
        meanwhile: What it may say as well, before the last of them.
        ports: How many.
        run: Its label; by default the folder of the build.
    """

    plays: Callable[[Stage], None]
    why: str
    code: int
    alerts: Mapping[str, str]
    states: tuple[str, ...]
    meanwhile: frozenset[str] = frozenset()
    quiet: frozenset[str] = frozenset()
    ports: int = 1
    run: str = "out"


EMBEDDED = ""
ON_A_CARD = frozenset({"running", "crawling", "on the CPU"})

JOBS: dict[str, Job] = {
    "good end": Job(ends_well, "over is over", DONE, {}, ("running", "finished")),
    "hang that is ended": Job(hangs_once, "the supervisor ends it at half an hour", DONE, {}, ("running", "finished")),
    "pause": Job(is_paused, "on purpose, with work left", PAUSED, {}, ("running", "paused")),
    "killed": Job(
        is_killed, "dead until somebody looks", -9, {"HelixCrawlJobGone": STAYS}, ("running", "gone, work left")
    ),
    "port taken (the dead one)": Job(
        is_killed_and_its_port_taken,
        "another run on its port does not hide it",
        DONE,
        {"HelixCrawlJobGone": STAYS},
        ("running", "gone, work left"),
        run="first/out",
    ),
    "killed and resumed": Job(
        is_killed_and_started_again,
        "over with the next start, on another port",
        DONE,
        {"HelixCrawlJobGone": ENDS},
        ("running", "gone, work left", "running", "finished"),
        ports=2,
    ),
    "crawl that is recycled": Job(
        crawls_and_is_recycled, "the ladder heals it", DONE, {}, ("running", "finished"), meanwhile=ON_A_CARD
    ),
    "crawl that goes to the CPU": Job(
        goes_to_the_cpu,
        "nothing is to be done for one shard",
        DONE,
        {"HelixCrawlOnCpu": ENDS},
        ("running", "on the CPU", "finished"),
        meanwhile=ON_A_CARD,
        quiet=frozenset({"HelixCrawlOnCpu"}),
    ),
    "recycle loop, good end": Job(
        is_recycled_again_and_again,
        "while it goes on; over with the run",
        DONE,
        {"HelixCrawlRecycleLoop": ENDS, "HelixCrawlOnCpu": ENDS},
        ("running", "on the CPU", "finished"),
        meanwhile=ON_A_CARD,
        quiet=frozenset({"HelixCrawlOnCpu"}),
    ),
    "quarantined genes": Job(
        quarantines,
        "they lack a vector",
        FAILED,
        {"HelixCrawlQuarantined": STAYS},
        ("running", "failed"),
        meanwhile=frozenset({"crash loop"}),
    ),
    "crash loop": Job(
        workers_crash,
        "while it goes on; over with the run",
        DONE,
        {"HelixCrawlCrashLoop": ENDS},
        ("running", "crash loop", "finished"),
    ),
    "starts that die": Job(
        starts_die,
        "the run itself crashes again and again",
        DONE,
        {"HelixCrawlCrashLoop": ENDS},
        ("running", "crash loop", "finished"),
        meanwhile=frozenset({"running", "gone, work left"}),
    ),
    "run that fails": Job(
        gives_up, "for no shard's sake", NEVER, {"HelixCrawlRunFailed": STAYS}, ("running", "failed"), run=EMBEDDED
    ),
    "shard that fails": Job(
        fails_a_shard,
        "given up",
        FAILED,
        {"HelixCrawlShardFailed": STAYS},
        ("running", "failed"),
        meanwhile=frozenset({"crash loop"}),
    ),
    "short": Job(is_short, "over is over", DONE, {}, ()),
    "blind probe": Job(
        is_blind,
        "no crawl can be seen",
        DONE,
        {"HelixCrawlProbeDown": ENDS},
        ("memory not read", "gone, end not seen"),
        run=EMBEDDED,
    ),
    "memory full for an hour": Job(
        is_full,
        "the speed is right",
        DONE,
        {"HelixCrawlMemoryFull": ENDS},
        ("running", "gone, end not seen"),
        quiet=frozenset({"HelixCrawlMemoryFull"}),
        run=EMBEDDED,
    ),
    "stuck for good": Job(
        is_stuck,
        "nothing will end it",
        DONE,
        {"HelixCrawlBatchStuck": ENDS},
        ("running", "stuck in a batch", "gone, end not seen"),
        run=EMBEDDED,
    ),
    "waits for something": Job(
        waits, "between batches", DONE, {"HelixCrawlNoProgress": ENDS}, ("running", "gone, end not seen"), run=EMBEDDED
    ),
    "crawl, nobody asks": Job(
        crawls_unheard,
        "no ladder can act",
        DONE,
        {"HelixCrawlCrawling": ENDS, "HelixCrawlActionOverdue": ENDS},
        ("running", "crawling", "gone, end not seen"),
        run=EMBEDDED,
    ),
}


# -- played once, looked at by each test -------------------------------------------------------------------------------


def scaled(text: str) -> str:
    """Durations of rules, queries and configurations, a fifteenth of them."""
    units = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    return re.sub(r"\b(\d+)([smhd])\b", lambda found: f"{int(found[1]) * units[found[2]] // RATE}ms", text)


def scaled_rules(text: str) -> str:
    """Of a file of rules what is evaluated. Beside durations one number is of seconds of Prometheus' own clock."""
    is_said = re.compile(r" +(summary|description|command|#)")
    lines = [line if is_said.match(line) else scaled(line) for line in text.splitlines(keepends=True)]
    return re.sub(r"\b120(?= \* last_over_time\(run:helix_dense_genes:rate5m)", f"{120 // RATE}", "".join(lines))


@dataclass
class Watched:
    """What was seen.

    Attributes:
        fired: Of each run, each alert that has fired, and whether it still does.
        told: Of each run, what arrived at the receiver: alert and status.
        texts: Of each alert that arrived, its labels and annotations.
        states: Of each run, what the first row has said, one after the other.
    """

    stages: dict[str, Stage]
    fired: dict[str, dict[str, str]]
    told: dict[str, set[tuple[str, str]]]
    texts: list[dict[str, Any]]
    states: dict[str, list[str]]

    def run_of(self, name: str) -> str:
        """The label of the run that a job is about."""
        run = JOBS[name].run
        return str(self.stages[name].folder / run) if run else name


def play(stages: Mapping[str, Stage], jobs: Mapping[str, Job]) -> None:
    """All jobs side by side, a few seconds apart."""
    troubles: list[BaseException] = []

    def guarded(name: str) -> None:
        try:
            jobs[name].plays(stages[name])
        except BaseException as error:  # noqa: BLE001 - of a thread: told below
            troubles.append(error)

    threads = [threading.Thread(target=guarded, args=(name,), name=name) for name in jobs]
    for thread in threads:
        thread.start()
        time.sleep(1.5)
    for thread in threads:
        thread.join()
    if troubles:
        raise troubles[0]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Servers first, then the jobs."""
    folder = tmp_path_factory.mktemp("fourteen")
    programs = [require_program(name) for name in ("prometheus", "prometheus-alertmanager")]
    stages = {}
    for name, job in JOBS.items():
        (folder / name).mkdir()
        stages[name] = Stage(folder / name, [free_port() for _ in range(job.ports)])
    prometheus_port, alertmanager_port = free_port(), free_port()
    assert main(["dashboards", str(folder / "files"), "--runbook-url", RUNBOOK]) == 0
    config, alerting = folder / "files" / "prometheus", folder / "files" / "alertmanager" / "alertmanager.yml"
    for rules in (config / "rules").iterdir():
        rules.write_text(scaled_rules(rules.read_text(encoding="utf-8")))
    ports = ", ".join(f'"{HERE}:{port}"' for stage in stages.values() for port in stage.ports)
    text = scaled((config / "prometheus.yml").read_text(encoding="utf-8"))
    text = text.replace('"127.0.0.1:9464"', ports).replace(":9093", f":{alertmanager_port}")
    (config / "prometheus.yml").write_text(text)
    with ExitStack() as stack:
        address, arrived = stack.enter_context(webhook())
        text = scaled(alerting.read_text(encoding="utf-8"))
        alerting.write_text(text.replace("http://127.0.0.1:8080/alert", address))
        at = f"{HERE}:{alertmanager_port}"
        command = [programs[1], f"--config.file={alerting}", f"--storage.path={folder / 'alerts'}"]
        command += [f"--web.listen-address={at}", "--cluster.listen-address="]
        stack.enter_context(server(command, f"http://{at}/-/ready", folder / "alertmanager.log"))
        at = f"{HERE}:{prometheus_port}"
        command = [programs[0], f"--config.file={config / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        command += [f"--web.listen-address={at}", "--query.lookback-delta=20s", "--rules.alert.resend-delay=4s"]
        stack.enter_context(server(command, f"http://{at}/-/ready", folder / "prometheus.log"))
        begun = time.time()
        play(stages, JOBS)
        time.sleep(AFTERWARDS)
        prometheus, ended = Prometheus(prometheus_port), time.time()
        seen = Watched(
            stages,
            fired_in(prometheus, begun, ended),
            told_in(arrived),
            arrived,
            states_in(prometheus, begun, ended),
        )
        show(seen)
        yield seen


def fired_in(prometheus: Prometheus, begun: float, ended: float) -> dict[str, dict[str, str]]:
    """See `Watched.fired`."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for one in prometheus.series('max by (run, alertname) (ALERTS{alertstate="firing"})', begun, ended):
        is_over = float(one["values"][-1][0]) < ended - 3
        found[one["metric"]["run"]][one["metric"]["alertname"]] = ENDS if is_over else STAYS
    return found


def told_in(arrived: list[dict[str, Any]]) -> dict[str, set[tuple[str, str]]]:
    """See `Watched.told`."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for alert in arrived:
        found[alert["labels"]["run"]].add((alert["labels"]["alertname"], alert["status"]))
    return found


def states_in(prometheus: Prometheus, begun: float, ended: float) -> dict[str, list[str]]:
    """See `Watched.states`."""
    expr: str = PANELS["Now"]["targets"][0]["expr"]
    expr = re.sub(r"\$(job|instance)\b", ".+", expr).replace("[1d:15s]", f"[{12 * 60}s:1s]").replace("[1d]", "[12m]")
    expr = re.sub(r"\[(30m|10m|2m)(:15s)?\]", lambda found: scaled(found[0]), expr)
    said: dict[str, dict[float, str]] = defaultdict(dict)
    for one in prometheus.get("query_range", query=expr, start=begun, end=ended, step=3)["result"]:
        for at, number in one["values"]:
            said[one["metric"]["run"]][at] = texts("Now")[int(number)][0]
    found: dict[str, list[str]] = {}
    for run, by_time in said.items():
        each = [by_time[at] for at in sorted(by_time)]
        found[run] = [state for state, before in zip(each, [None, *each], strict=False) if state != before]
    return found


def show(seen: Watched) -> None:
    """The table, for whoever runs this with `-s`."""
    print()
    for name, job in JOBS.items():
        run = seen.run_of(name)
        print(f"{name} ({job.why}); exit codes {seen.stages[name].codes}")
        print(f"    expected     {_listed(job.alerts.items())}")
        print(f"    seen         {_listed(seen.fired.get(run, {}).items())}")
        print(f"    at receiver  {_listed(seen.told.get(run, ()))}")
        print(f"    first row    {' > '.join(seen.states.get(run, ['nothing']))}")


def _listed(pairs: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{alert} {what}" for alert, what in sorted(pairs)) or "nothing"


# -- what is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", JOBS)
def test_the_job_went_as_it_should(watched: Watched, name: str) -> None:
    """Else what is said of its alerts is said of another one."""
    assert watched.stages[name].codes[-1] == JOBS[name].code


@pytest.mark.parametrize("name", JOBS)
def test_what_fires_is_what_needs_a_hand(watched: Watched, name: str) -> None:
    """Nothing else, and only what still is so at the end."""
    assert watched.fired.get(watched.run_of(name), {}) == JOBS[name].alerts


@pytest.mark.parametrize("name", JOBS)
def test_what_arrives(watched: Watched, name: str) -> None:
    """Each that is for somebody is told once it fires, and once it is over."""
    job = JOBS[name]
    expected = {(alert, "firing") for alert in job.alerts.keys() - job.quiet}
    expected |= {(alert, "resolved") for alert in job.alerts.keys() - job.quiet if job.alerts[alert] == ENDS}
    assert watched.told.get(watched.run_of(name), set()) == expected


def test_nobody_else_is_named(watched: Watched) -> None:
    """By an alert: the run on a dead one's port, above all."""
    known = {watched.run_of(name) for name in JOBS}
    assert set(watched.fired) <= known
    assert set(watched.told) <= known


def test_every_alert_is_seen(watched: Watched) -> None:
    """By one job at least."""
    assert {alert for alerts in watched.fired.values() for alert in alerts} == set(ALERTS)


@pytest.mark.parametrize("name", JOBS)
def test_the_first_row(watched: Watched, name: str) -> None:
    """It says one state after the other, nothing that is not so meanwhile, and in the end what is so."""
    job, said = JOBS[name], watched.states.get(watched.run_of(name), [])
    if not job.states:
        assert set(said) <= {"running", "finished"}
        return
    assert said[-1] == job.states[-1], said
    assert set(said) <= {*job.states, *job.meanwhile}, said
    asked = iter(said)
    assert all(state in asked for state in job.states), said


def test_what_is_told_can_be_followed(watched: Watched) -> None:
    """Each command is typed as it stands; each link has its section; job, shard and card are named."""
    anchors = Page(Path(__file__).parents[2] / "docs" / "runbook.md").anchors()
    environ = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}
    for alert in watched.texts:
        told, labels = alert["annotations"], alert["labels"]
        address, _, section = told["runbook_url"].partition("#")
        assert address == RUNBOOK
        assert section in anchors
        assert all(labels[name] in told["summary"] for name in ("run", "shard", "device") if name in labels), told
        assert "error" not in told["summary"]
    folder = watched.stages["good end"].folder
    still = [alert for alert in watched.texts if alert["labels"].get("folder")]
    for command in {alert["annotations"]["command"] for alert in still}:
        done = subprocess.run(
            ["sh", "-c", command], check=False, capture_output=True, text=True, timeout=120, env=environ, cwd=folder
        )
        assert done.returncode in (DONE, FAILED, NEVER), (command, done.stderr)  # `status` ends as the run has ended
        assert done.stdout, command
