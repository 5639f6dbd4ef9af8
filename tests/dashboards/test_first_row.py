"""What the first row of a job's board shows, of a run in each state: its own queries, asked of promtool.

The answer goes through the panel's mappings as Grafana takes them, so that a case is what a person sees.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from tests.dashboards.shipped import BOARDS
from tests.docs.pages import Page
from tests.programs import require_program
from tests.rules.tree import ROOT

BOARD: dict[str, Any] = json.loads(next(path for path in BOARDS if "job" in path.name).read_text(encoding="utf-8"))
PANELS = {panel["title"]: panel for panel in BOARD["panels"]}
STEP = 15
WHO = 'job="helix-crawl", instance="rig:9464"'
HOUR = 240
"""Samples of an hour."""


class Shown(NamedTuple):
    """What a person sees of a run."""

    now: str
    color: str
    since: int
    to_do: str
    section: str


def start(
    run_id: str,
    *states: tuple[str, int],
    waits: int = 0,
    run: str = "/out",
    who: str = WHO,
    info: str = 'policy="ladder"',
) -> dict[str, str]:
    """Series of one start of a run that goes through states, each for a number of samples; stale afterwards.

    Args:
        run_id: Of the start.
        states: Name, and for how many samples.
        waits: Samples before it begins.
        run: What it resumes.
        who: Job and instance.
        info: Further labels of `helix_dense_run_info`.
    """
    who = f'{who}, run="{run}", run_id="{run_id}"'
    total = sum(count for _, count in states)
    before, after = (f"_x{waits} " if waits else ""), " stale _x400"
    found = {f"helix_dense_run_info{{{who}, {info}}}": f"{before}1x{total - 1}{after}"}
    for name in ("running", "paused", "done", "failed"):
        values = " ".join(f"{int(name == state)}x{count - 1}" for state, count in states)
        found[f'helix_dense_run_state{{{who}, state="{name}"}}'] = f"{before}{values}{after}"
    return found


RUNS = start("1", ("running", 2 * HOUR))
A = f'{WHO}, shard="a", device="cuda:0"'
B = f'{WHO}, shard="b", device="cuda:0"'
A_ON_CPU = f'{WHO}, shard="a", device="cpu"'
CARD = f'{WHO}, device="cuda:0", source="nvml"'
ALWAYS = f"x{2 * HOUR}"

CASES: dict[str, tuple[dict[str, str], Shown]] = {
    "running": (RUNS, Shown("running", "blue", 0, "nothing", "contents")),
    "on the card again, after a shard that was on the CPU": (
        RUNS
        | {
            f"helix_dense_ladder_rung{{{A}}}": "3x200 stale",
            f"helix_dense_ladder_rung{{{B}}}": "_x201 0x200",
            f'helix_dense_last_action_timestamp_seconds{{{WHO}, shard="a", action="DEMOTE_CPU"}}': "900" + ALWAYS,
        },
        Shown("running", "blue", 0, "nothing", "contents"),
    ),
    "its last rung was one that nobody could take": (
        RUNS | {f"helix_dense_ladder_rung{{{A}}}": "3" + ALWAYS},
        Shown("running", "blue", 0, "nothing", "contents"),
    ),
    "on the CPU": (
        RUNS
        | {
            f"helix_dense_ladder_rung{{{A_ON_CPU}}}": "3" + ALWAYS,
            f"helix_dense_crawl_active{{{A}}}": "0" + ALWAYS,
            f'helix_dense_last_action_timestamp_seconds{{{WHO}, shard="a", action="DEMOTE_CPU"}}': "900" + ALWAYS,
        },
        Shown("on the CPU", "dark-orange", 900, "nothing for one shard", "helixcrawloncpu"),
    ),
    "on the CPU by an earlier start": (
        start("0", ("running", 9), ("paused", 1))
        | start("1", ("running", HOUR), waits=20)
        | {f"helix_dense_ladder_rung{{{A_ON_CPU}}}": "_x20 3" + ALWAYS},
        Shown("on the CPU", "dark-orange", 300, "nothing for one shard", "helixcrawloncpu"),
    ),
    "crawling": (
        RUNS
        | {
            f"helix_dense_crawl_active{{{A}}}": "1" + ALWAYS,
            f"helix_dense_ladder_rung{{{A}}}": "2" + ALWAYS,
            f"helix_dense_ladder_rung{{{B}}}": "3" + ALWAYS,
            f"helix_dense_last_crawl_timestamp_seconds{{{A}}}": "1234" + ALWAYS,
            f"helix_dense_last_crawl_timestamp_seconds{{{B}}}": "1000" + ALWAYS,
        },
        Shown("crawling", "red", 1234, "let the ladder act", "helixcrawlcrawling"),
    ),
    "stuck": (
        RUNS
        | {
            f"helix_dense_crawl_active{{{A}}}": "1" + ALWAYS,
            f"helix_dense_batch_inflight_seconds{{{A}}}": "2000" + ALWAYS,
            f"helix_dense_batch_deadline_seconds{{{A}}}": "1800" + ALWAYS,
        },
        Shown("stuck in a batch", "red", 1600, "end its worker", "helixcrawlbatchstuck"),
    ),
    "a batch that takes long and is not stuck": (
        RUNS
        | {
            f"helix_dense_batch_inflight_seconds{{{A}}}": "2000" + ALWAYS,
            f"helix_dense_batch_deadline_seconds{{{A}}}": "5400" + ALWAYS,
        },
        Shown("running", "blue", 0, "nothing", "contents"),
    ),
    "stuck, and nobody can end it": (
        RUNS | {f"helix_dense_batch_inflight_seconds{{{A}}}": "1801" + ALWAYS},
        Shown("stuck in a batch", "red", 1799, "end its worker", "helixcrawlbatchstuck"),
    ),
    "blind": (
        RUNS | {f"helix_dense_vram_probe_up{{{CARD}}}": "1x100 0" + ALWAYS},
        Shown("memory not read", "orange", 1500, "repair the probe", "helixcrawlprobedown"),
    ),
    "blind from its start": (
        start("1", ("running", 2 * HOUR), waits=4) | {f"helix_dense_vram_probe_up{{{CARD}}}": "_x4 0" + ALWAYS},
        Shown("memory not read", "orange", 60, "repair the probe", "helixcrawlprobedown"),
    ),
    "one of two sources answers": (
        RUNS
        | {
            f"helix_dense_vram_probe_up{{{CARD}}}": "1" + ALWAYS,
            f'helix_dense_vram_probe_up{{{WHO}, device="cuda:0", source="torch"}}': "0" + ALWAYS,
        },
        Shown("running", "blue", 0, "nothing", "contents"),
    ),
    "workers crash": (
        RUNS
        | {f'helix_dense_worker_starts_total{{{WHO}, device="cuda:0", reason="crash"}}': "0x160 1x20 2x20 3" + ALWAYS},
        Shown("crash loop", "red", 161 * STEP, "read its log", "helixcrawlcrashloop"),
    ),
    "two workers crashed": (
        RUNS | {f'helix_dense_worker_starts_total{{{WHO}, device="cuda:0", reason="crash"}}': "0x160 1x20 2" + ALWAYS},
        Shown("running", "blue", 0, "nothing", "contents"),
    ),
    "its starts die one after the other": (
        start("1", ("running", 20), waits=140)
        | start("2", ("running", 20), waits=170)
        | start("3", ("running", 20), waits=200)
        | start("4", ("running", 40), waits=230),
        Shown("crash loop", "red", 159 * STEP, "read its log", "helixcrawlcrashloop"),
    ),
    "finished": (
        start("1", ("running", 100), ("done", 2)),
        Shown("finished", "green", 101 * STEP, "nothing", "contents"),
    ),
    "finished on the CPU": (
        start("1", ("running", HOUR - 2), ("done", 9)) | {f"helix_dense_ladder_rung{{{A_ON_CPU}}}": "3x238 stale"},
        Shown("finished", "green", HOUR * STEP, "nothing", "contents"),
    ),
    "paused": (
        start("1", ("running", 100), ("paused", 2)),
        Shown("paused", "purple", 101 * STEP, "start it again", "helixcrawljobgone"),
    ),
    "failed": (
        start("1", ("running", 100), ("failed", 2)),
        Shown("failed", "red", 101 * STEP, "read its last lines", "helixcrawlrunfailed"),
    ),
    "killed": (
        start("1", ("running", 100))
        | {
            f"helix_dense_crawl_active{{{A}}}": "1x99 stale",
            f"helix_dense_last_crawl_timestamp_seconds{{{A}}}": "1234x99 stale",
        },
        Shown("gone, work left", "red", 99 * STEP, "start it again", "helixcrawljobgone"),
    ),
    "embedded, its endpoint ended with its process": (
        start("1", ("running", 100), info='command="embedded"') | {f"up{{{WHO}}}": "1x99 0" + ALWAYS},
        Shown("gone, end not seen", "gray", 99 * STEP, "look at its log", "helixcrawljobgone"),
    ),
    "embedded, pushed, and its end was not": (
        start("1", ("running", 100), info='command="embedded"'),
        Shown("gone, work left", "red", 99 * STEP, "start it again", "helixcrawljobgone"),
    ),
    "killed after it was paused, and started again": (
        start("1", ("running", 50), ("paused", 1)) | start("2", ("running", 50), waits=60),
        Shown("gone, work left", "red", 109 * STEP, "start it again", "helixcrawljobgone"),
    ),
    "started again after it was killed": (
        start("1", ("running", 50)) | start("2", ("running", HOUR), waits=60),
        Shown("running", "blue", 60 * STEP, "nothing", "contents"),
    ),
}
"""Series that were scraped for an hour, and what is seen then."""


def target(title: str) -> str:
    """Query of a panel, for all jobs; the hour that there was stands for its day, which takes longer to ask of."""
    expr: str = PANELS[title]["targets"][0]["expr"].replace("[1d", "[1h")
    for name in ("job", "instance", "device", "shard"):
        expr = expr.replace(f"${name}", ".*" if name in ("device", "shard") else ".+")
    return expr.replace("$__rate_interval", "1m")


def asked(series: dict[str, str], expected: dict[str, list[tuple[str, float]]]) -> dict[str, Any]:
    """A promtool test of panels after an hour."""
    return {
        "interval": f"{STEP}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": target(title),
                "eval_time": "1h",
                "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
            }
            for title, samples in expected.items()
        ],
    }


def complaint(folder: Path, *tests: dict[str, Any]) -> str:
    """What promtool says; empty when all is as expected."""
    path = folder / "test.yml"
    path.write_text(json.dumps({"rule_files": [], "evaluation_interval": "15s", "tests": tests}))
    command = [require_program("promtool"), "test", "rules", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_each_state_has_a_section_of_the_runbook() -> None:
    """A click leads there; the colour of a state is the same wherever it is named."""
    anchors = Page(ROOT / "docs" / "runbook.md").anchors()
    sections = set(re.findall(r'"section", "([^"]*)"', PANELS["Now"]["targets"][0]["expr"]))
    assert sections
    assert sections <= anchors
    for title in ("Now", "What to do"):
        [link] = PANELS[title]["fieldConfig"]["defaults"]["links"]
        assert link["url"] == "runbook.md#${__field.labels.section}"


def texts(title: str) -> dict[int, tuple[str, str]]:
    """Value, text and colour of a panel's mappings."""
    options = PANELS[title]["fieldConfig"]["defaults"]["mappings"][0]["options"]
    return {int(value): (shown["text"], shown["color"]) for value, shown in options.items()}


def test_what_is_shown_of_a_run(tmp_path: Path) -> None:
    """State, colour, since when, what to do and where the runbook speaks of it: one state, said by each panel."""
    tests = []
    for case, (series, shown) in CASES.items():
        [number] = [value for value, text in texts("Now").items() if text == (shown.now, shown.color)]
        assert texts("What to do")[number] == (shown.to_do, shown.color)
        labels = f'{WHO}, run="/out"'
        state = [(f'{{{labels}, section="{shown.section}"}}', float(number))]
        expected = {"Now": state, "What to do": state, "Since": [(f"{{{labels}}}", 1000.0 * shown.since)]}
        tests.append({"name": case, **asked(series, expected)})
    assert complaint(tmp_path, *tests) == ""


def test_of_what_was_never_started_nothing_is_said_and_not_in_green(tmp_path: Path) -> None:
    """No value, the panel's own words for it, and the colour of its first threshold."""
    assert (
        complaint(tmp_path, asked({}, {"Now": [], "Since": [], "What to do": [], "Last action": [], "To go": []})) == ""
    )
    assert PANELS["Now"]["fieldConfig"]["defaults"]["noValue"] == "not seen today"
    for path in BOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            if panel["type"] == "stat":
                defaults = panel["fieldConfig"]["defaults"]
                assert defaults["thresholds"]["steps"][0]["color"] == "gray", panel["title"]
                assert defaults["noValue"], panel["title"]


def test_two_runs_on_one_port_are_both_shown(tmp_path: Path) -> None:
    """One that takes the place of a dead one does not hide it."""
    series = start("1", ("running", 50), run="/a") | start("2", ("running", HOUR), waits=60, run="/b")
    numbers = {text: float(value) for value, (text, _) in texts("Now").items()}
    state = [
        (f'{{{WHO}, run="/a", section="helixcrawljobgone"}}', numbers["gone, work left"]),
        (f'{{{WHO}, run="/b", section="contents"}}', numbers["running"]),
    ]
    assert complaint(tmp_path, asked(series, {"Now": state})) == ""


def test_a_start_on_another_instance(tmp_path: Path) -> None:
    """It takes the place of one that is over, and stands beside one that goes on."""
    there = 'job="helix-crawl", instance="other"'
    numbers = {text: float(value) for value, (text, _) in texts("Now").items()}
    running = f'{{{there}, run="/out", section="contents"}}', numbers["running"]
    over = start("1", ("running", 50)) | start("2", ("running", HOUR), waits=60, who=there)
    beside = start("1", ("running", 90)) | start("2", ("running", HOUR), waits=60, who=there)
    gone = f'{{{WHO}, run="/out", section="helixcrawljobgone"}}', numbers["gone, work left"]
    deaths = [start(str(n), ("running", 20), waits=130 + 30 * n, who=f'{WHO[:-1]}{n}"') for n in range(3)]
    dying = deaths[0] | deaths[1] | deaths[2] | start("4", ("running", 40), waits=230)
    loop = f'{{{WHO}, run="/out", section="helixcrawlcrashloop"}}', numbers["crash loop"]
    found = complaint(
        tmp_path,
        asked(over, {"Now": [running]}),
        asked(beside, {"Now": [running, gone]}),
        asked(dying, {"Now": [loop]}),
    )
    assert found == ""


def test_the_last_action_is_of_the_newest_start(tmp_path: Path) -> None:
    """With its shard and time; what an earlier start did is not told of this one."""
    acted = "helix_dense_last_action_timestamp_seconds"
    series = RUNS | {
        f'{acted}{{{WHO}, shard="a", action="RECYCLE"}}': "900" + ALWAYS,
        f'{acted}{{{WHO}, shard="b", action="EMPTY_CACHE"}}': "1000x90 stale",
        f'{acted}{{{WHO}, shard="b", action="DETECT"}}': "1100" + ALWAYS,
    }
    last = [(f'{{{WHO}, shard="b", action="EMPTY_CACHE", what="cache emptied"}}', 1000.0 * 1000)]
    again = start("0", ("running", 99)) | start("1", ("running", HOUR), waits=100)
    earlier = {f'{acted}{{{WHO}, shard="a", action="RECYCLE"}}': "900x90 stale"}
    found = complaint(tmp_path, asked(series, {"Last action": last}), asked(again | earlier, {"Last action": []}))
    assert found == ""


def test_time_to_go_covers_the_shards_not_begun(tmp_path: Path) -> None:
    """Two genes a second, 600 wait in a shard that runs and 6000 in one that does not; nothing once it has ended."""
    genes = {
        f"helix_dense_genes_total{{{A}}}": f"0+30x{HOUR}",
        f'helix_dense_genes_pending{{{WHO}, shard="a"}}': "600" + ALWAYS,
        f'helix_dense_genes_pending{{{WHO}, shard="b"}}': "6000" + ALWAYS,
    }
    to_go = [(f'{{{WHO}, run="/out"}}', 3300.0)]
    ended = start("1", ("running", 100), ("done", 200))
    assert complaint(tmp_path, asked(RUNS | genes, {"To go": to_go}), asked(ended | genes, {"To go": []})) == ""


def test_a_rung_that_nobody_took_is_not_shown_as_the_cpu(tmp_path: Path) -> None:
    """By where the shard is; by OTLP what it was on the card is shown beside that for five minutes."""
    rungs = {
        4: "third rung, on its card",
        3: "on the CPU",
        2: "worker recycled",
        1: "cache emptied",
        0: "nothing needed",
    }
    assert {number: text for number, (text, _) in texts("Rung of the ladder").items()} == rungs
    series = {
        f"helix_dense_ladder_rung{{{A_ON_CPU}}}": "3" + ALWAYS,
        f"helix_dense_ladder_rung{{{A}}}": "3" + ALWAYS,
        f"helix_dense_ladder_rung{{{B}}}": "3" + ALWAYS,
        f'helix_dense_ladder_rung{{{WHO}, shard="c", device="cuda:0"}}': "2" + ALWAYS,
    }
    expected = [('{shard="a"}', 3.0), ('{shard="b"}', 4.0), ('{shard="c"}', 2.0)]
    assert complaint(tmp_path, asked(series, {"Rung of the ladder": expected})) == ""
