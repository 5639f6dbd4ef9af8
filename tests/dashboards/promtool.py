"""Cases of rules, put to `promtool test rules`: when an alert begins to fire, with what on it, and when it ends."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.dashboards.shipped import RULES

__all__ = ["Case", "Firing", "ask", "steps", "texts_of"]

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


def texts_of(alert: str, rules: Iterable[Path] = RULES) -> dict[str, str]:
    """Annotations of an alert as they stand in the rules, by name."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in rules)
    body = text.partition(f"- alert: {alert}\n")[2].partition("annotations:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^ +(\w+): ([\"'])(.*)\2$", body, re.MULTILINE)
    return {name: words for name, _, words in found}


def _fires(one: Firing, minute: float) -> bool:
    return (one.first or 0) <= minute and (one.last is None or minute <= one.last)


def _test(name: str, case: Case, texts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    step = case.every / 60
    queries: list[dict[str, Any]] = []
    alerts: list[dict[str, Any]] = []

    def ask_at(minute: float, alert: str, count: int) -> None:
        queries.append(
            {
                "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})',
                "eval_time": f"{round(minute * 60)}s",
                "exp_samples": [{"labels": "{}", "value": count}] if count else [],
            }
        )

    counts: dict[str, int] = {}
    for alert, times in case.fires.items():
        each = [times] if isinstance(times, Firing) else list(times)
        begins = [one for one in each if one.first is not None]
        edges = {time for one in begins for time in ((one.first or 0) - step, one.first or 0) if time >= 0}
        edges |= {time for one in each if one.last is not None for time in (one.last, one.last + step)}
        for minute in sorted(edges):
            ask_at(minute, alert, sum(_fires(one, minute) for one in each))
        counts[alert] = len(each)
        told = [one for one in each if one.labels is not None]
        if told:
            static = {key: value for key, value in texts[alert].items() if key not in ("summary", "command")}
            alerts.append(
                {
                    "eval_time": f"{round((told[0].first or 0) * 60)}s",
                    "alertname": alert,
                    "exp_alerts": [
                        {
                            "exp_labels": dict(one.labels or {}),
                            "exp_annotations": {**static, "summary": one.says[0], "command": one.says[1]},
                        }
                        for one in told
                    ],
                }
            )
    queries.append(
        {
            "expr": 'count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[3d]))',
            "eval_time": f"{round(case.last * 60)}s",
            "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": count} for alert, count in counts.items()],
        }
    )
    return {
        "name": name,
        "interval": f"{case.every}s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": queries,
        "alert_rule_test": alerts,
    }


def ask(
    promtool: str,
    folder: Path,
    cases: Mapping[str, Case],
    rules: Sequence[Path] = RULES,
) -> str:
    """Ask promtool whether each case goes as it says. Returns its complaint, empty when it agrees.

    Args:
        promtool: The program.
        folder: Where the questions are written.
        cases: By name; those that are evaluated as often share a file.
        rules: The files of rules.
    """
    texts = {alert: texts_of(alert, rules) for case in cases.values() for alert in case.fires}
    complaints = ""
    for every in sorted({case.every for case in cases.values()}):
        asked = {
            "rule_files": [str(path) for path in rules],
            "evaluation_interval": f"{every}s",
            "group_eval_order": list(GROUPS),
            "tests": [_test(name, case, texts) for name, case in cases.items() if case.every == every],
        }
        path = folder / f"test-{every}.yml"
        path.write_text(json.dumps(asked), encoding="utf-8")  # JSON is YAML
        done = subprocess.run(
            [promtool, "test", "rules", str(path)], check=False, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0:
            complaints += done.stdout + done.stderr
    return complaints
