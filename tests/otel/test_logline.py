"""The log lines about verdicts and actions: a prefix, and every field on every line."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from helix_crawl_otel.otel.logline import action_line, decision_line
from helix_crawl_otel.policy.model import Action, ActionKind, Decision, DecisionKind
from tests.watch.rig import Rig

GIB = 1024**3

FIELDS = re.compile(
    r"\[crawl-watchdog\] (?P<sentence>.+); (?P<happened>[a-z ]+?) action=(?P<action>[A-Z_]+|-) shard=(?P<shard>\S+) "
    r"device=(?P<device>\S+) rung=(?P<rung>[0-3]) rate=(?P<rate>\S+) ema=(?P<ema>\S+) baseline=(?P<baseline>\S+) "
    r"limit=(?P<limit>\S+) genes/s memory=(?P<memory>[0-9.]+%|unknown)"
)


def test_a_decision_as_a_line() -> None:
    """Written out once, because people's scripts grep it."""
    decision = Decision(
        1.0,
        DecisionKind.ISSUE,
        "slack__eng",
        "cuda:0",
        "w",
        ActionKind.EMPTY_CACHE,
        7,
        1,
        reason="release the cache",
        evidence={"rate": 0.75, "ema": 2.345678, "baseline": 15.3, "limit": 3.06, "memory_fraction": 0.98765},
    )
    assert decision_line("issued", decision) == (
        "slack__eng: release the cache; issued action=EMPTY_CACHE shard=slack__eng device=cuda:0 rung=1 "
        "rate=0.75 ema=2.35 baseline=15.3 limit=3.06 genes/s memory=98.8%"
    )


def test_shared_memory_is_on_the_line_as_far_as_it_is_known() -> None:
    """After the fields that every line has, so that a script that splits the line still finds those."""
    evidence: dict[str, Any] = {"memory_fraction": 0.98765, "shared_bytes": 2 * GIB, "shared_rise_bytes": 1932735283}
    line = decision_line(
        "issued", Decision(1.0, DecisionKind.ISSUE, "a", "cuda:0", "w", ActionKind.DETECT, evidence=evidence)
    )
    assert line.endswith("memory=98.8% shared=2.00GiB shared_rise=1.80GiB")
    evidence["other_shared_bytes"] = 0
    line = decision_line(
        "issued", Decision(1.0, DecisionKind.ISSUE, "a", "cuda:0", "w", ActionKind.DETECT, evidence=evidence)
    )
    assert line.endswith("shared_rise=1.80GiB others_shared=0.00GiB")
    evidence |= dict.fromkeys(("shared_bytes", "shared_rise_bytes", "other_shared_bytes"))
    line = decision_line(
        "issued", Decision(1.0, DecisionKind.ISSUE, "a", "cuda:0", "w", ActionKind.DETECT, evidence=evidence)
    )
    assert "shared" not in line


def test_what_is_unknown_says_so() -> None:
    """A field is never left out: a script that splits the line finds it."""
    decision = Decision(1.0, DecisionKind.HANG, "a", "cuda:0", "w")
    assert decision_line("hang", decision) == (
        "a: hang; hang action=- shard=a device=cuda:0 rung=0 "
        "rate=unknown ema=unknown baseline=unknown limit=unknown genes/s memory=unknown"
    )


@pytest.mark.parametrize(
    ("name", "shown"), [("a b", "'a b'"), ("a\nb", r"'a\nb'"), ("caf\udce9", r"'caf\udce9'"), ("Ünï", "Ünï")]
)
def test_a_name_never_breaks_the_line(name: str, shown: str) -> None:
    """A shard is named after a folder, and a folder may be named anything."""
    line = action_line("applied", Action(1, ActionKind.RECYCLE, name, "cpu", "why"), "done")
    assert line == (
        f"{name}: RECYCLE applied: done; applied action=RECYCLE shard={shown} device=cpu rung=2 "
        "rate=unknown ema=unknown baseline=unknown limit=unknown genes/s memory=unknown"
    )


def test_every_line_of_a_whole_ladder_has_every_field(caplog: pytest.LogCaptureFixture) -> None:
    """From the first crawl over each rung, a veto, a failure, a hang and an overdue action to recovery."""

    def broken() -> None:
        raise RuntimeError("no CPU model here")

    with caplog.at_level(logging.INFO, "helix_crawl_otel"), Rig() as rig:
        rig.watch.on_action(lambda action: action.shard != "vetoed")
        with rig.watch.shard("climbs", on_demote=broken) as shard:
            rig.healthy(shard).crawl(shard, 12)
        with rig.watch.shard("vetoed") as shard:
            rig.healthy(shard).crawl(shard, 5)
        with rig.watch.shard("recovers") as shard:
            rig.healthy(shard).crawl(shard, 5).batches(shard, 40)
        with rig.watch.shard("stuck") as shard:
            rig.healthy(shard)
            rig.fraction = 0.99
            rig.batch(shard, 4000)
    happened: dict[str, re.Match[str]] = {}
    for line in caplog.messages:
        if "internal error" in line:
            continue
        fields = FIELDS.fullmatch(line)
        assert fields, line
        happened.setdefault(fields["happened"], fields)
        assert fields["sentence"].startswith(f"{fields['shard']}: "), line
    assert set(happened) == {
        "issued",
        "applied",
        "passed over",
        "failed",
        "vetoed by the hook",
        "recovered",
        "overdue",
        "hang",
    }
    issued = happened["issued"]
    assert (issued["shard"], issued["action"], issued["device"]) == ("climbs", "DETECT", "cuda:0")
    assert (float(issued["baseline"]), float(issued["limit"]), issued["memory"]) == (16.0, 3.2, "99.0%")
    assert "helix-crawl run" in happened["passed over"]["sentence"]
    assert "no CPU model here" in happened["failed"]["sentence"]
