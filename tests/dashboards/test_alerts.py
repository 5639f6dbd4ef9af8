"""When each alert fires and when it stays quiet, by `promtool test rules`.

Each case asks for every alert that ever fired: a case for one alert is a case for the silence of the others.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from helix_crawl_otel.policy.batch import HANG_SECONDS
from helix_crawl_otel.supervise.rules import RESTARTS
from tests.dashboards.alert_cases import CASES, a_run
from tests.dashboards.promtool import Case, Firing, ask, texts_of
from tests.dashboards.recorded import SCRAPE_SECONDS, WHO, scraped
from tests.dashboards.shipped import ALERTS, RULES
from tests.programs import require_program
from tests.rules.tree import ROOT

TIMELINES = ROOT / "tests" / "data" / "timelines"

RECORDED: dict[str, tuple[str, str, str | None, set[str], str]] = {
    "0610 watched only": (
        "incident-0610-confluence",
        "off",
        None,
        {"HelixCrawlCrawling"},
        "29 minutes of crawl that nobody ends",
    ),
    "0610 down the ladder": (
        "incident-0610-confluence",
        "ladder",
        None,
        {"HelixCrawlCrawling"},
        "the recording stays slow, and on its card, whatever the ladder does",
    ),
    "0611 watched only": (
        "incident-0611-slack",
        "off",
        None,
        {"HelixCrawlCrawling", "HelixCrawlBatchStuck", "HelixCrawlActionOverdue", "HelixCrawlMemoryFull"},
        "one batch of 47 minutes: it crawls, is stuck and keeps the DETECT waiting, the card full",
    ),
    "healthy": ("healthy", "ladder", None, set(), "a card that is rightly full, for an hour less"),
    # The card is rightly full for over an hour in these two: that is severity info, and wakes nobody.
    "long documents": (
        "long-documents",
        "ladder",
        None,
        {"HelixCrawlMemoryFull"},
        "a twentieth of the genes/s is the same work",
    ),
    "slow disk": ("slow-disk", "ladder", None, {"HelixCrawlMemoryFull"}, "the encode stage is as always"),
    "CPU only": ("healthy", "ladder", "cpu", set(), "no card, no probe, no alert"),
    "CPU only, slow": ("incident-0610-confluence", "ladder", "cpu", set(), "slow without a memory that is full"),
}


@pytest.mark.parametrize("alert", ALERTS)
def test_by_hand(tmp_path: Path, alert: str) -> None:
    """Quiet one evaluation before, firing, with every word on it, and over when it should be; or quiet all along."""
    cases = {name: case for name, case in CASES.items() if case.about == alert}
    assert ask(require_program("promtool"), tmp_path, cases) == ""


def test_recorded_jobs(tmp_path: Path) -> None:
    """Both incidents wake somebody when nothing acts; healthy jobs of every kind do not."""
    cases = {}
    for name, (recording, action, device, fired, why) in RECORDED.items():
        taken = scraped(TIMELINES / f"{recording}.jsonl", action=action, device=device)
        who = a_run(180, every=SCRAPE_SECONDS, instance=WHO["instance"], command="embedded")
        series = who | {one["series"]: one["values"] for one in taken}
        cases[name] = Case("", why, series, dict.fromkeys(fired, Firing()), 180.0, SCRAPE_SECONDS)
    assert ask(require_program("promtool"), tmp_path, cases) == ""


def test_numbers_that_are_no_knobs() -> None:
    """A budget and a limit of the supervisor, which it does not export, are the same in the rules."""
    rules = "".join(path.read_text(encoding="utf-8") for path in RULES)
    assert f"min_over_time(run:helix_dense_worker_starts:sum[1h]) > {RESTARTS}\n" in rules
    assert f"{HANG_SECONDS:g} * group by (job, instance, device) (helix_dense_batch_inflight_seconds)" in rules


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
def test_a_folder_is_one_word_of_the_command() -> None:
    """Whatever its name is, in a shell: the escapes of each rule, done here and read by one."""
    patterns = set()
    for alert in ALERTS:
        command = texts_of(alert)["command"]
        found = re.findall(r'"\{\{ reReplaceAll "((?:[^"\\]|\\.)*)" "\\\\\$1" \$labels\.folder \}\}"', command)
        assert len(found) == ("$labels.folder }}" in command), alert
        patterns.update(found)
    for pattern in patterns:
        for folder in ("/a b/c", 'a "b"', "$(echo) `x`", "it's", "\\", "/a\\b\\"):
            word = re.sub(json.loads(f'"{pattern}"'), r"\\\1", folder)
            shell = ["sh", "-c", f'printf %s "{word}"']
            assert subprocess.run(shell, check=True, capture_output=True, text=True, timeout=50).stdout == folder


def test_every_alert_is_tested_both_ways() -> None:
    """It fires, with its texts, and it ends; and a job that looks like one for it is not one."""
    fires: dict[str, int] = defaultdict(int)
    ends: dict[str, int] = defaultdict(int)
    speaks: dict[str, int] = defaultdict(int)
    is_quiet: dict[str, int] = defaultdict(int)
    for case in CASES.values():
        is_quiet[case.about] += case.about not in case.fires
        for alert, times in case.fires.items():
            for one in [times] if isinstance(times, Firing) else times:
                fires[alert] += 1
                ends[alert] += one.last is not None
                speaks[alert] += one.labels is not None
    for alert in ALERTS:
        assert fires[alert] > 0, alert
        assert ends[alert] > 0, alert
        assert speaks[alert] > 0, alert
        assert is_quiet[alert] > 0, alert


def test_promtool_contradicts_a_wrong_claim(tmp_path: Path) -> None:
    """The cases above can fail: an alert that is not named, one too many, and each edge by a minute."""
    promtool, case = require_program("promtool"), CASES["shard failed, and tried again"]
    firing = case.fires["HelixCrawlShardFailed"]
    assert isinstance(firing, Firing)
    wrong: dict[str, dict[str, Firing]] = {
        "unnamed": {},
        "too many": {"HelixCrawlShardFailed": firing, "HelixCrawlOnCpu": Firing()},
        "later": {"HelixCrawlShardFailed": firing._replace(first=11)},
        "earlier": {"HelixCrawlShardFailed": firing._replace(first=9)},
        "longer": {"HelixCrawlShardFailed": firing._replace(last=60)},
        "shorter": {"HelixCrawlShardFailed": firing._replace(last=58)},
    }
    for name, fires in wrong.items():
        assert ask(promtool, tmp_path, {name: Case(case.about, "", case.series, fires, 70.0)}) != "", name
