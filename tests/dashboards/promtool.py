"""Cases of rules, put to `promtool test rules`: when an alert begins to fire, with what on it, and when it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.dashboards.shipped import ALERTS, RULES

__all__ = ["Case", "Firing", "ask", "plain_name", "steps", "texts_of"]

GROUPS = ("helix-crawl.run", "helix-crawl.shard", "helix-crawl.device", "helix-crawl.alerts")
"""What is recorded first; promtool takes them in any order else."""


class Firing(NamedTuple):
    """An alert that fires.

    Args:
        first: Minute at which it fires; one evaluation before it does not. `None` where any will do.
        last: The last minute at which it does, `None` where it still fires at the end.
        labels: All that it has beside its name; `None` to ask for the times only.
        says: Summary and command with everything filled in; asked for together with the labels.
    """

    first: float | None = None
    last: float | None = None
    labels: Mapping[str, str] | None = None
    says: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Case:
    """A job as a Prometheus sees it.

    Args:
        about: The alert that it is about, which need not fire.
        why: One clause.
        series: Values by series, in promtool's notation.
        fires: Every alert that fires, and when: the others are silent all along.
        minutes: How long it is looked at; 0 for as long as there is something, or ten minutes after the last alert.
        every: Seconds between two scrapes, and between two evaluations.
    """

    about: str
    why: str
    series: Mapping[str, str]
    fires: Mapping[str, Firing | Sequence[Firing]] = field(default_factory=dict)
    minutes: float = 0.0
    every: int = 60

    @property
    def last(self) -> float:
        """The last minute that is looked at."""
        if self.minutes:
            return self.minutes
        seen = (max(len(values.split()) for values in self.series.values()) - 2) * self.every / 60
        ends = [one.last for times in self.fires.values() for one in ([times] if isinstance(times, Firing) else times)]
        return min(seen, max(filter(None, ends), default=seen) + 10) if None not in ends else seen


def steps(*parts: tuple[Any, float], every: int = 60, scraped: bool = True) -> str:
    """Values in promtool's notation, of parts of so many minutes: a number, `None` where nothing is seen, or a first
    value with what is added each minute. What is scraped no more is gone at once, what is pushed after five minutes."""
    words: list[str] = []
    for value, minutes in parts:
        count = round(minutes * 60 / every)
        if value is None:
            words += ["_"] * count
        elif isinstance(value, tuple):
            begin, a_minute = value
            words += [f"{begin + a_minute * n * every / 60:.9g}" for n in range(count)]
        else:
            words += [f"{value:g}"] * count
    if scraped:
        words = [*words, "_"]
        words = ["stale" if word == "_" != before else word for before, word in zip(["_", *words], words, strict=False)]
    return " ".join(words)


def plain_name(alert: str) -> str:
    """Of an alert, of which this may be a variant."""
    return alert.partition("__")[0]


@cache
def texts_of(alert: str) -> dict[str, str]:
    """Annotations of an alert as they stand in the rules, by name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in RULES)
    body = text.partition(f"- alert: {alert}\n")[2].partition("annotations:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ +(\w+): ([\"'])(.*)\2$", body, re.MULTILINE)
    return {name: words for name, _, words in found}


def _fires(one: Firing, minute: float) -> bool:
    return (one.first or 0) <= minute and (one.last is None or minute <= one.last)


class _Place(NamedTuple):
    """Where a case is put, so that many can be looked at together: each two share a job and have instances and runs of
    their own, and the next two another job with the same instances. None sees another, unless a rule forgets a label.
    """

    job: str
    end: str

    @property
    def where(self) -> str:
        """What selects its alerts."""
        return f'job="{self.job}", run{"=~" if self.end else "!~"}".+-b"'

    def series(self, text: str) -> str:
        """Its own name of a series."""
        text = text.replace('job="helix-crawl"', f'job="{self.job}"')
        text = re.sub(r'\b(run_id="[^"]+)"', rf'\1 of {self.job}{self.end}"', text)
        return re.sub(r'\b((?:run|folder|instance)="[^"]+)"', rf'\1{self.end}"', text)

    def labels(self, labels: Mapping[str, str]) -> dict[str, str]:
        """Its own labels of an alert."""
        own = {key: value + self.end for key, value in labels.items() if key in ("run", "folder", "instance")}
        own |= {key: f"{value} of {self.job}{self.end}" for key, value in labels.items() if key == "run_id"}
        return {**labels, **own, "job": self.job}

    def says(self, text: str, labels: Mapping[str, str]) -> str:
        """Its own words on an alert."""
        for name in {labels["run"], labels.get("instance", labels["run"])}:
            text = text.replace(name, name + self.end)
        return text


def _places(cases: Mapping[str, Case]) -> dict[str, _Place]:
    names = list(cases)
    return {name: _Place(names[n - n % 2], "-b" if n % 2 else "") for n, name in enumerate(names)}


def _input(cases: Mapping[str, Case]) -> list[dict[str, str]]:
    places = _places(cases)
    return [
        {"series": places[name].series(series), "values": values}
        for name, case in cases.items()
        for series, values in case.series.items()
    ]


def _times(cases: Mapping[str, Case], alerts: Iterable[str]) -> dict[str, Any]:
    """When each alert fires and when not, of any number of cases."""
    queries: list[dict[str, Any]] = []
    places = _places(cases)
    for name, case in cases.items():
        step = case.every / 60
        for alert in alerts:
            firing = f'ALERTS{{alertname="{alert}", alertstate="firing", {places[name].where}}}'
            times = case.fires.get(plain_name(alert), ())
            each = [times] if isinstance(times, Firing) else list(times)
            begins = [one.first for one in each if one.first is not None]
            ends = [one.last for one in each if one.last is not None]
            edges = {*begins, *(time - step for time in begins if time >= step), *ends, *(time + step for time in ends)}
            for minute in sorted(edges):
                count = sum(_fires(one, minute) for one in each)
                queries.append(
                    {
                        "expr": f"count({firing})",
                        "eval_time": f"{round(minute * 60)}s",
                        "exp_samples": [{"labels": "{}", "value": count}] if count else [],
                    }
                )
            queries.append(
                {
                    "expr": f"count(count_over_time({firing}[3d]))",
                    "eval_time": f"{round(case.last * 60)}s",
                    "exp_samples": [{"labels": "{}", "value": len(each)}] if each else [],
                }
            )
    return {"input_series": _input(cases), "promql_expr_test": queries}


def _words(cases: Mapping[str, Case], alerts: Iterable[str]) -> dict[str, Any]:
    """What stands on each alert when it begins, of cases that have no alert in common."""
    asked = []
    places = _places(cases)
    for name, case in cases.items():
        for alert in alerts:
            texts = texts_of(plain_name(alert))
            told = _told(case).get(plain_name(alert), [])
            if not told:
                continue
            static = {key: value for key, value in texts.items() if key not in ("summary", "command")}
            asked.append(
                {
                    "eval_time": f"{round((told[0].first or 0) * 60)}s",
                    "alertname": alert,
                    "exp_alerts": [
                        {
                            "exp_labels": places[name].labels(one.labels or {}),
                            "exp_annotations": {
                                **static,
                                "summary": places[name].says(one.says[0], one.labels or {}),
                                "command": places[name].says(one.says[1], one.labels or {}),
                            },
                        }
                        for one in told
                    ],
                }
            )
    return {"input_series": _input(cases), "alert_rule_test": asked}


def _told(case: Case) -> dict[str, list[Firing]]:
    each = {alert: [times] if isinstance(times, Firing) else times for alert, times in case.fires.items()}
    told = {alert: [one for one in times if one.labels is not None] for alert, times in each.items()}
    return {alert: times for alert, times in told.items() if times}


def _apart(cases: Mapping[str, Case]) -> list[dict[str, Case]]:
    """Those with words, such that no alert is in two cases of a lot: promtool asks for all that fire under a name."""
    lots: list[dict[str, Case]] = []
    for name, case in cases.items():
        if _told(case):
            free = (lot for lot in lots if not any(case.fires.keys() & other.fires.keys() for other in lot.values()))
            lot = next(free, None)
            if lot is None:
                lots.append(lot := {})
            lot[name] = case
    return lots


def ask(
    promtool: str,
    folder: Path,
    cases: Mapping[str, Case],
    rules: Sequence[Path] = RULES,
    alerts: Sequence[str] = ALERTS,
) -> str:
    """Ask promtool whether each case goes as it says. Returns its complaint, empty when it agrees.

    Args:
        promtool: The program.
        folder: Where the questions are written.
        cases: By name; those that are evaluated as often are looked at together, which takes a fifth of the time.
        rules: The files of rules.
        alerts: Those that are asked about, in every case: `NAME__3` is the third variant of an alert, which should do
            what the alert does.
    """
    paths = []
    for every in sorted({case.every for case in cases.values()}):
        some = {name: case for name, case in cases.items() if case.every == every}
        tests = [_times(some, alerts), *(_words(lot, alerts) for lot in _apart(some))]
        asked = {
            "rule_files": [str(path) for path in rules],
            "evaluation_interval": f"{every}s",
            "group_eval_order": list(GROUPS),
            "tests": [{"interval": f"{every}s", **test} for test in tests],
        }
        paths.append(folder / f"test-{every}.yml")
        paths[-1].write_text(json.dumps(asked), encoding="utf-8")  # JSON is YAML
    command = [promtool, "test", "rules", *map(str, paths)]
    # One thread and a lazy garbage collector: a third less of the processor's time.
    environ = {**os.environ, "GOMAXPROCS": "1", "GOGC": "400"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, env=environ)
    return done.stdout + done.stderr if done.returncode else ""
