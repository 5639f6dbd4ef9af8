"""What stands on a line of the log: date and time in a file, and no more than a person reads on a terminal."""

from __future__ import annotations

import logging
import re

import pytest

from helix_crawl_otel.logs import LineFormatter, watchdog
from helix_crawl_otel.otel.logline import decision_line
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind

EVIDENCE = {"rate": 0.75, "ema": 2.345678, "baseline": 15.3, "limit": 3.06, "memory_fraction": 0.98765}
REASON = "finish the shard on the CPU: 8.48 % of the shard's baseline for 8 observations, memory 99.0 % full"


def shown(caplog: pytest.LogCaptureFixture, text: str, *, is_terminal: bool) -> str:
    """A line of the watchdog as one of our handlers writes it."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "helix_crawl_otel"):
        watchdog.warning("%s", text)
    return LineFormatter(is_terminal=is_terminal).format(caplog.records[0])


@pytest.mark.parametrize("shard", ["a", "slack__eng-oncall", "s" * 200])
def test_a_decision_is_one_sentence_then_its_numbers(caplog: pytest.LogCaptureFixture, shard: str) -> None:
    """In a file all of it, behind date, time and zone; on a terminal the sentence, and of the numbers what fits."""
    decision = Decision(
        1.0, DecisionKind.ISSUE, shard, "cuda:0", "w", ActionKind.DEMOTE_CPU, 7, 3, reason=REASON, evidence=EVIDENCE
    )
    text = decision_line("issued", decision)
    line = shown(caplog, text, is_terminal=False)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d \[crawl-watchdog\] (?P<text>.*)", line)
    assert line.endswith(text)
    line = shown(caplog, text, is_terminal=True)
    assert re.match(r"\d\d:\d\d:\d\d \[crawl-watchdog\] ", line)
    assert len(line) <= 160
    assert f": {REASON}" in line
    assert line.endswith(" ...")
    assert "\n" not in line


def test_what_has_no_numbers_is_never_cut(caplog: pytest.LogCaptureFixture) -> None:
    """It stands nowhere else: on a terminal it goes on in the next line."""
    words = " ".join(f"word{n}" for n in range(60))
    assert shown(caplog, words, is_terminal=False).endswith(words)
    lines = shown(caplog, words, is_terminal=True).split("\n")
    assert max(map(len, lines)) <= 160
    assert " ".join(" ".join(lines).split()).endswith(words)


def test_a_sentence_that_is_too_long_loses_whole_parts(caplog: pytest.LogCaptureFixture) -> None:
    """Not half of what it says of the batch."""
    reason = f"{REASON}, a batch running for 3720 s"
    decision = Decision(
        1.0, DecisionKind.ISSUE, "slack__eng-oncall", "cuda:0", "w", ActionKind.DEMOTE_CPU, 7, 3, reason=reason
    )
    line = shown(caplog, decision_line("issued", decision), is_terminal=True)
    assert len(line) <= 160
    assert line.endswith("memory 99.0 % full ...")
