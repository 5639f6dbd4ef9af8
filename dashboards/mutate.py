"""Changes each number, comparison and label of each rule, one at a time, and asks whether the tests of rules notice.

    python -m dashboards.mutate            all of them; a tenth with --tenth DAY
    python -m dashboards.mutate --help

A mutant is killed when a case of `tests/dashboards/alert_cases.py` goes another way with it. One that survives stands
in `dashboards/survivors.toml` with its reason, or a test is missing, or that part of the rule does nothing and can go.
Needs promtool on PATH. All mutants of a rule are asked about in one run of promtool, each as a variant of its alert.

PromQL is taken apart into words here, not parsed: what is changed is a place in the file, which parsers do not keep.
That every mutant is still a rule is said by promtool, which refuses the file otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from tests.dashboards.alert_cases import CASES
from tests.dashboards.promtool import ask
from tests.dashboards.shipped import RULES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["MOST", "Mutant", "complaints", "main", "mutants", "run", "tenth"]

REASONS = Path(__file__).resolve().parent / "survivors.toml"
MOST = 0.05
"""Share of all mutants that may survive."""

WORD = re.compile(
    r"""(?P<comment>\#.*)|(?P<text>"(?:[^"\\]|\\.)*")|(?P<span>(?:\d+(?:ms|[smhdwy]))+)|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<name>[A-Za-z_:][\w:]*)|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%^<>=(){}\[\],])"""
)
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
COMPARISONS = {"==": ["!="], "!=": ["=="], ">": [">=", "<"], ">=": [">", "<"], "<": ["<=", ">"], "<=": ["<", ">"]}
SETS = {"and": ["unless"], "unless": ["and"], "or": ["and"]}
MATCHES = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}
LISTS = ("by", "on", "ignoring", "without", "group_left", "group_right")


class Rule(NamedTuple):
    """An alert or a recording.

    Args:
        name: Of it.
        group: Where it stands.
        text: Its lines.
    """

    name: str
    group: str
    text: str


@dataclass(frozen=True)
class Mutant:
    """A rule with one change.

    Args:
        rule: That is changed.
        kind: Of the change.
        change: The line, with what went as `[-1h-]` and what came as `{+2h+}`, as word diffs have it.
        text: The rule with the change.
    """

    rule: Rule
    kind: str
    change: str
    text: str


class Change(NamedTuple):
    """What stands from `start` to `end` of a rule's text becomes `after`."""

    kind: str
    start: int
    end: int
    after: str


def rules() -> list[Rule]:
    """Every rule that is shipped: recordings first, as they are evaluated."""
    found: list[Rule] = []
    for path in reversed(RULES):
        for group in re.split(r"^  - name: ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            for part in re.split(r"^(?=      - (?:alert|record): )", group, flags=re.MULTILINE)[1:]:
                found.append(Rule(part.split()[2], group.split()[0], part.rstrip() + "\n"))
    return found


def _spans(text: str) -> list[str]:
    seconds = sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", text))
    return [f"{value:g}s" if value == int(value) else f"{value * 1000:g}ms" for value in (seconds * 2, seconds / 2)]


def _numbers(text: str) -> list[str]:
    value = float(text)
    return ["1"] if value == 0 else ["2", "0"] if value == 1 else [f"{value * 2:g}", f"{value / 2:g}"]


def _of_list(kind: str, items: Sequence[str], at: Sequence[int]) -> Iterator[Change]:
    """Each item of a list gone; `at` is where each begins."""
    for n, item in enumerate(items):
        first, last = n == 0, n == len(items) - 1
        end = at[n] + len(item) if last else at[n + 1]
        yield Change(kind, at[n] if first or not last else at[n - 1] + len(items[n - 1]), end, "")


def _in_expr(text: str, start: int, end: int) -> Iterator[Change]:
    """What can be changed in an expression that stands at a place of a rule."""
    words = [found for found in WORD.finditer(text, start, end) if found.lastgroup != "comment"]
    n = 0
    while n < len(words):
        word, kind = words[n][0], words[n].lastgroup
        if word == "{" or (word in LISTS and n + 1 < len(words) and words[n + 1][0] == "("):
            n += word != "{"
            close = next(k for k in range(n, len(words)) if words[k][0] == ("}" if word == "{" else ")"))
            inside = words[n + 1 : close]
            if word == "{":
                firsts, last = inside[0::4], inside[2::4]
                items = [text[a.start() : b.end()] for a, b in zip(firsts, last, strict=True)]
                yield from _of_list("matcher dropped", items, [one.start() for one in firsts])
                for sign, value in zip(inside[1::4], last, strict=True):
                    yield Change("matcher's operator", *sign.span(), MATCHES[sign[0]])
                    parts = value[0][1:-1].split("|")
                    for k in range(len(parts)):
                        rest = parts[:k] + parts[k + 1 :] if len(parts) > 1 else [f"not-{parts[0]}"]
                        yield Change("matcher's value", *value.span(), f'"{"|".join(rest)}"')
            else:
                names = inside[0::2]
                what = f"label of {word}"
                yield from _of_list(what, [one[0] for one in names], [one.start() for one in names])
            n = close
        elif kind == "span":
            yield from (Change("range", *words[n].span(), after) for after in _spans(word))
        elif kind == "number":
            yield from (Change("number", *words[n].span(), after) for after in _numbers(word))
        elif word in COMPARISONS:
            yield from (Change("comparison", *words[n].span(), after) for after in COMPARISONS[word])
        elif word in SETS:
            yield from (Change("set operator", *words[n].span(), after) for after in SETS[word])
        n += 1


def _changes(rule: Rule) -> Iterator[Change]:
    expr = re.search(r"^        expr: (?:\|\n(?:          .*\n|\n)+|.*\n)", rule.text, re.MULTILINE)
    if expr is None:
        raise ValueError(f"rule {rule.name} has no expr")
    yield from _in_expr(rule.text, expr.start() + len("        expr: "), expr.end())
    for found in re.finditer(r"^        (for|keep_firing_for): (\w+)", rule.text, re.MULTILINE):
        yield from (Change(found[1], *found.span(2), after) for after in _spans(found[2]))
    labels = re.search(r"^        labels:\n((?:          .*\n)+)", rule.text, re.MULTILINE)
    for found in re.finditer(r"^ +\w+: (\w+)\n", labels[1], re.MULTILINE) if labels else ():
        at = labels.start(1) if labels else 0
        yield Change("label's value", at + found.start(1), at + found.end(1), f"not-{found[1]}")
        yield Change("label dropped", at + found.start(), at + found.end(), "")
    for found in re.finditer(r"\$labels\.\w+", rule.text):
        yield Change("label in a text", *found.span(), "$labels.nothing")


def mutants(of: Iterable[Rule] | None = None) -> list[Mutant]:
    """Every mutant of these rules, or of all, in their order. No two have the same rule and change."""
    found: list[Mutant] = []
    for rule in rules() if of is None else of:
        seen: Counter[str] = Counter()
        for kind, start, end, after in _changes(rule):
            text = rule.text[:start] + after + rule.text[end:]
            begin, stop = rule.text.rfind("\n", 0, start) + 1, rule.text.find("\n", max(start, end - 1))
            came = f"{{+{after}+}}" if after else ""
            gone = rule.text[start:end].strip("\n")
            change = f"{rule.text[begin:start]}[-{gone}-]{came}{rule.text[end:stop]}".strip()
            seen[change] += 1
            change += f" ({seen[change]})" if seen[change] > 1 else ""
            found.append(Mutant(rule, kind, change, text))
    return found


def tenth(every: Sequence[Mutant], day: date) -> Sequence[Mutant]:
    """The part of a day: neighbours, which share a run of promtool. Ten days in a row have all."""
    part = day.toordinal() % 10
    return every[len(every) * part // 10 : len(every) * (part + 1) // 10]


def _names(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w:]){re.escape(name)}(?![\w:])")


class _Asked:
    """Puts the mutants of a rule to promtool."""

    def __init__(self, promtool: str, rule: Rule) -> None:
        self.promtool = promtool
        self.rule = rule
        self.rules = rules()
        self.uses = {
            one.name: {other.name for other in self.rules if _names(other.name).search(one.text) and other != one}
            for one in self.rules
        }

    def below(self, name: str) -> set[str]:
        """A rule and all that it is built on."""
        return {name}.union(*(self.below(other) for other in self.uses[name]))

    def survivors(self, some: Sequence[Mutant]) -> list[Mutant]:
        """Those whose change is not noticed by any case."""
        alive = {f"__{n}": mutant for n, mutant in enumerate(some)}
        minutes: Counter[str] = Counter()
        for case in CASES.values():
            minutes[case.about] += round(case.last * 60 / case.every)
        built = [one.name for one in self.rules if one.name in minutes and self.rule.name in self.below(one.name)]
        for alert in sorted(built, key=minutes.__getitem__):  # what is quick first: most are killed by any
            self._kill(alive, alert)
        return list(alive.values())

    def _kill(self, alive: dict[str, Mutant], alert: str) -> None:
        cases = {
            name: replace(case, fires={alert: case.fires[alert]} if alert in case.fires else {}, minutes=case.last)
            for name, case in CASES.items()
            if case.about == alert
        }
        while alive:
            with tempfile.TemporaryDirectory() as given:
                path = Path(given) / "rules.yml"
                path.write_text(self._file(alive, alert), encoding="utf-8")
                answer = ask(self.promtool, Path(given), cases, [path], [alert + variant for variant in alive])
            # An error ends a test before the others are asked: they are asked again.
            failed = set(re.findall(r"rule: \S+?(__\d+), time: ", answer))
            noticed = set(re.findall(r"__\d+", answer))
            if answer and not noticed & alive.keys():
                raise RuntimeError(f"promtool does not take the mutants of {self.rule.name}: {answer}")
            for variant in noticed:
                alive.pop(variant, None)
            if not failed:
                return

    def _file(self, alive: Mapping[str, Mutant], alert: str) -> str:
        """The rules below an alert, and a variant of those that the changed one reaches for each mutant."""
        needed = self.below(alert)
        reached = [name for name in needed if self.rule.name in self.below(name)]
        groups: dict[str, list[str]] = {}
        for one in self.rules:
            if one.name not in needed:
                continue
            lines = groups.setdefault(one.group, [])
            if one.name != alert:
                lines.append(one.text)
            if one.name in reached:
                for variant, mutant in alive.items():
                    text = mutant.text if one == self.rule else one.text
                    for name in reached:
                        text = _names(name).sub(name + variant, text)
                    lines.append(text)
        return "groups:\n" + "".join(f"  - name: {name}\n    rules:\n" + "".join(each) for name, each in groups.items())


def run(some: Sequence[Mutant], promtool: str, jobs: int | None = None) -> Iterator[tuple[Rule, int, list[Mutant]]]:
    """Ask about mutants, several rules side by side.

    Args:
        some: The mutants.
        promtool: The program.
        jobs: How many runs of promtool at a time; `None` for as many as there are cores.

    Yields:
        A rule, how many mutants of it there were, and those that survived, as soon as it is known.
    """
    of_rule: dict[Rule, list[Mutant]] = {}
    for mutant in some:
        of_rule.setdefault(mutant.rule, []).append(mutant)
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        waiting = {pool.submit(_Asked(promtool, rule).survivors, each): rule for rule, each in of_rule.items()}
        for done in as_completed(waiting):
            yield waiting[done], len(of_rule[waiting[done]]), done.result()


def reasons() -> dict[tuple[str, str], str]:
    """Why a mutant may survive, by rule and change."""
    table = tomllib.loads(REASONS.read_text(encoding="utf-8"))
    return {(rule, change): reason for rule, each in table.items() for change, reason in each.items()}


def complaints(asked: Iterable[Mutant], alive: Iterable[Mutant]) -> list[str]:
    """What is wrong with the table of reasons, a line each, after these mutants were asked about."""
    given, every = reasons(), mutants()
    exist = {(mutant.rule.name, mutant.change) for mutant in every}
    survived = {(mutant.rule.name, mutant.change) for mutant in alive}
    killed = {(mutant.rule.name, mutant.change) for mutant in asked} - survived
    found = [f"no such mutant any more: {rule}: {change}" for rule, change in given if (rule, change) not in exist]
    found += [f"it is killed, and needs no reason: {rule}: {change}" for rule, change in given.keys() & killed]
    found += [f"it survives without a reason: {rule}: {change}" for rule, change in sorted(survived - given.keys())]
    if len(given) > MOST * len(every):
        found.append(f"{len(given)} of {len(every)} mutants may survive by the table; {MOST:.0%} are the most")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0 when every survivor has its reason and they are few, 1 if not, 2 without promtool."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.mutate",
        description="Change each number, comparison and label of each rule and run the tests of rules on it.",
        epilog="Exit code 0: every survivor has its reason in dashboards/survivors.toml; 1: not so; 2: no promtool.",
    )
    parser.add_argument("--rule", help="only this alert or recording")
    parser.add_argument(
        "--tenth", type=date.fromisoformat, metavar="DAY", help="only the tenth that the gate asks about on a day"
    )
    parser.add_argument("--jobs", type=int, help="runs of promtool at a time (default: one a core)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    given = parser.parse_args(arguments)
    every = mutants()
    some = [one for one in (tenth(every, given.tenth) if given.tenth else every) if given.rule in (None, one.rule.name)]
    if not some:
        parser.error(
            f"--rule {given.rule}: no mutant of a rule of that name; there are {', '.join(r.name for r in rules())}"
        )
    promtool = shutil.which("promtool")
    if promtool is None:
        print("promtool is not on PATH; it comes with Prometheus", file=sys.stderr)
        return 2
    alive: list[Mutant] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("mutants", total=len(some))
        for rule, count, left in run(some, promtool, given.jobs):
            alive += left
            bar.advance(task, count)
            if not console.is_terminal:
                print(f"{rule.name}: {count} mutants, {len(left)} survive", file=sys.stderr, flush=True)
    wrong, why = complaints(some, alive), reasons()
    asked, left_over = Counter(one.kind for one in some), Counter(one.kind for one in alive)
    if given.json:
        kinds = {kind: {"mutants": count, "survived": left_over[kind]} for kind, count in sorted(asked.items())}
        survivors = [
            {
                "rule": one.rule.name,
                "kind": one.kind,
                "change": one.change,
                "reason": why.get((one.rule.name, one.change)),
            }
            for one in alive
        ]
        print(json.dumps({"mutants": len(some), "kinds": kinds, "survivors": survivors, "complaints": wrong}, indent=2))
        return 1 if wrong else 0
    print(f"{'kind':<22} {'mutants':>7} {'killed':>7} {'survived':>8}")
    for kind, count in sorted(asked.items()):
        print(f"{kind:<22} {count:>7} {count - left_over[kind]:>7} {left_over[kind]:>8}")
    print(f"{'all':<22} {len(some):>7} {len(some) - len(alive):>7} {len(alive):>8}  {len(alive) / len(some):.1%}")
    for one in alive:
        if (one.rule.name, one.change) in why:
            print(f"{one.rule.name}: {one.change}\n    {why[one.rule.name, one.change]}")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
