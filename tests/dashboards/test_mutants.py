"""A number, comparison or label of a rule is changed, and the tests of rules notice: `dashboards/mutate.py`."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest

from dashboards import mutate
from tests.dashboards.shipped import RULES
from tests.programs import require_program

EVERY = mutate.mutants()


def _wrong(some: list[mutate.Mutant]) -> list[str]:
    alive = [one for _, _, left in mutate.run(some, require_program("promtool"), 2) for one in left]
    return mutate.complaints(some, alive)


def test_the_tenth_of_today() -> None:
    """No mutant of it survives that has no reason, and none has a reason that is killed."""
    assert _wrong(list(mutate.tenth(EVERY, date.today()))) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_of_them() -> None:
    """At most a twentieth survives, each with its reason."""
    assert _wrong(EVERY) == []


def test_ten_days_have_all_mutants_once() -> None:
    """Whatever day they begin with."""
    days = [date(2026, 11, 28) + timedelta(days=n) for n in range(10)]
    assert Counter(one for day in days for one in mutate.tenth(EVERY, day)) == Counter(EVERY)


def test_every_number_comparison_and_label_is_changed() -> None:
    """A rule of each kind of place, with all that becomes of it."""
    text = """      - alert: Some
        # 1 > 0
        expr: |
          max by (job, shard) (rate(some_total{state=~"a|b", device!="cpu"}[5m] offset 1h)) >= 0.5  # 2 > 1
            unless on ()
          other:name3
        for: 10m
        labels:
          severity: warning
        annotations:
          summary: "{{ $labels.shard }}"
"""
    made = [re.search(r"\[-(.*?)-\](?:\{\+(.*?)\+\})?", one.change) for one in _of(text)]
    assert [(one[1].strip(), one[2]) for one in made if one] == [
        ("job,", None),
        (", shard", None),
        ('state=~"a|b",', None),
        (', device!="cpu"', None),
        ("=~", "!~"),
        ('"a|b"', '"b"'),
        ('"a|b"', '"a"'),
        ("!=", "="),
        ('"cpu"', '"not-cpu"'),
        ("5m", "600s"),
        ("5m", "150s"),
        ("1h", "7200s"),
        ("1h", "1800s"),
        (">=", ">"),
        (">=", "<"),
        ("0.5", "1"),
        ("0.5", "0.25"),
        ("unless", "and"),
        ("10m", "1200s"),
        ("10m", "300s"),
        ("warning", "not-warning"),
        ("severity: warning", None),
        ("$labels.shard", "$labels.nothing"),
    ]


def _of(text: str) -> list[mutate.Mutant]:
    return mutate.mutants([mutate.Rule("Some", "some.alerts", text)])


def test_no_two_have_the_same_name() -> None:
    """The table of reasons names them by rule and change; each differs from its rule."""
    assert max(Counter((one.rule.name, one.change) for one in EVERY).values()) == 1
    assert [one for one in EVERY if one.text == one.rule.text] == []
    shipped = "".join(path.read_text(encoding="utf-8") for path in RULES)
    assert all(one.rule.text.rstrip() in shipped for one in EVERY)


def test_a_table_that_is_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason for a mutant that is gone, for one that is killed, and too many of them; a survivor without one."""
    gone, killed, alive = ("HelixCrawlNone", "gone"), EVERY[0], EVERY[1]
    table = tmp_path / "survivors.toml"
    table.write_text(f"[{gone[0]}]\ngone = 'x'\n['{killed.rule.name}']\n'{killed.change}' = 'x'\n", encoding="utf-8")
    monkeypatch.setattr(mutate, "REASONS", table)
    assert mutate.complaints([killed, alive], [alive]) == [
        "no such mutant any more: HelixCrawlNone: gone",
        f"it is killed, and needs no reason: {killed.rule.name}: {killed.change}",
        f"it survives without a reason: {alive.rule.name}: {alive.change}",
    ]
    monkeypatch.setattr(mutate, "MOST", 0.001)
    assert "mutants may survive by the table" in mutate.complaints([], [])[-1]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """One rule, as JSON and as a table; a rule that does not exist is named."""
    require_program("promtool")
    assert mutate.main(["--rule", "device:helix_dense_vram_probe_up:max", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mutants"] == sum(kind["mutants"] for kind in told["kinds"].values()) > 0
    with pytest.raises(SystemExit) as ended:
        mutate.main(["--rule", "HelixCrawlNone"])
    assert ended.value.code == 2
    assert "--rule HelixCrawlNone: no mutant" in capsys.readouterr().err
