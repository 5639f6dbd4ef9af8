"""What a run is doing now: the states of the first row, and their queries.

One list makes everything that the row says: state, since when, what to do. So they cannot contradict each other. A run
is what the same command resumes (`run`); of its starts (`run_id`) the one seen last counts. Seen means scraped:
a run that says nothing any more and has not said how it ended is gone. No look-back here depends on the range of the
board.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dashboards.source.pieces import COLORS, JOBS

__all__ = ["LAST_ACTION", "RUN_STATES", "SINCE", "STATE", "TO_GO", "RunState", "of_runs", "of_state"]

_DAY = "[1d:15s]"
_RUN = "job, instance, run"
_START = "job, instance, run, run_id"
_SHARD = "job, instance, shard, device"

_INFO = f"helix_dense_run_info{{{JOBS}}}"
_RUNS = f'(helix_dense_run_state{{{JOBS}, state="running"}} == 1)'

_SEEN = f"max by ({_START}) (max_over_time(timestamp({_INFO}){_DAY}))"
_FIRST_SEEN = f"min by ({_START}) (min_over_time(timestamp({_INFO}){_DAY}))"
_NEWEST = f"({_SEEN} >= on (job, run) group_left () max by (job, run) ({_FIRST_SEEN}))"
"""When the newest start of each run was seen last. None of the same run has begun since, on whichever instance: by OTLP
each start is one of its own. Starts on two hosts that overlap are both the newest."""

_BEGAN = f"min by ({_RUN}) ({_FIRST_SEEN} and on ({_START}) {_RUNS})"
"""Of each run that runs: when this start of it was seen first."""


class RunState(NamedTuple):
    """One of them.

    Attributes:
        rank: The higher the worse; its number in the queries.
        text: Shown.
        color: Of its background, the same everywhere.
        since: PromQL with a value for each run that is in this state: since when, in Unix seconds.
        to_do: Shown beside it.
        section: Of the runbook.
    """

    rank: int
    text: str
    color: str
    since: str
    to_do: str
    section: str


def _said_last(state: str) -> str:
    """Runs whose newest start said this last, and when."""
    said = f'last_over_time(helix_dense_run_state{{{JOBS}, state="{state}"}}[1d]) == 1'
    return f"max by ({_RUN}) ({_NEWEST} and on ({_START}) ({said}))"


def of_runs(expr: str) -> str:
    """A value of each run that runs, from an expression with one for each instance."""
    return f"group by ({_RUN}) {_RUNS} * on (job, instance) group_left () ({expr})"


def _runs_with(since: str) -> str:
    """Runs that run on the instances of an expression, with its lowest value there."""
    return of_runs(f"min by (job, instance) ({since})")


def _else_began(since: str, condition: str) -> str:
    """Since when; where nothing says so, since the start."""
    return f"{since} or on (job, instance) {_BEGAN} and on (job, instance) ({condition})"


_STARTS_AFTER_CRASH = f'helix_dense_worker_starts_total{{{JOBS}, reason="crash"}}'
_CRASHED = (
    f"min_over_time(timestamp(changes({_STARTS_AFTER_CRASH}[2m]) > 0)[30m:15s])"
    f" and on (job, instance) (sum by (job, instance) (changes({_STARTS_AFTER_CRASH}[30m])) > 2)"
)
_DIED = f"last_over_time(timestamp({_RUNS})[30m:15s]) unless on ({_START}) {_INFO}"
_INFLIGHT = f"helix_dense_batch_inflight_seconds{{{JOBS}}}"
_DEADLINE = f"helix_dense_batch_deadline_seconds{{{JOBS}}}"
_PROBES = f'max by (job, instance, device) (helix_dense_vram_probe_up{{{JOBS}, device!="cpu"}})'
_BLIND = f"{_PROBES} == 0"
_CRAWLS = f"helix_dense_crawl_active{{{JOBS}}} == 1"
# On a card its last rung is one that nobody could take.
_ON_CPU = f'helix_dense_ladder_rung{{{JOBS}, device="cpu"}} == 3'

_GONE = f"{_said_last('running')} unless on ({_RUN}) {_INFO}"
_EMBEDDED = (
    f'(last_over_time(helix_dense_run_info{{{JOBS}, command="embedded"}}[1d])'
    f" and on (job, instance) last_over_time(up{{{JOBS}}}[1d]))"
)

# What has ended says so, and then nothing else counts; of what goes on, the worst.
RUN_STATES: tuple[RunState, ...] = (
    RunState(0, "finished", COLORS["done"], _said_last("done"), "nothing", "contents"),
    RunState(2, "paused", COLORS["paused"], _said_last("paused"), "start it again", "helixcrawljobgone"),
    RunState(7, "failed", COLORS["failed"], _said_last("failed"), "read its last lines", "helixcrawlrunfailed"),
    RunState(
        10,
        "crash loop",
        COLORS["crash"],
        # Three starts of the run, or of its workers after a crash, within half an hour.
        f"max by ({_RUN}) (0 * {_NEWEST} + on (job, run) group_left () "
        f"(min by (job, run) ({_DIED}) and (count by (job, run) ({_DIED}) > 2))) or {_runs_with(_CRASHED)}",
        "read its log",
        "helixcrawlcrashloop",
    ),
    RunState(
        3,
        "gone, end not seen",
        COLORS["pending"],
        # A job that watches itself and is scraped: its endpoint ends with its process, whichever way that has ended.
        f"{_GONE} and on ({_RUN}) {_EMBEDDED}",
        "look at its log",
        "helixcrawljobgone",
    ),
    RunState(
        8,
        "gone, work left",
        COLORS["failed"],
        _GONE,
        "start it again",
        "helixcrawljobgone",
    ),
    RunState(
        9,
        "stuck in a batch",
        COLORS["failed"],
        # Where nobody can end a worker there is no deadline: half an hour.
        _runs_with(
            f"time() - ({_INFLIGHT} > on ({_SHARD}) {_DEADLINE}"
            f" or ({_INFLIGHT} > 1800) unless on ({_SHARD}) {_DEADLINE})"
        ),
        "end its worker",
        "helixcrawlbatchstuck",
    ),
    RunState(
        6,
        "crawling",
        COLORS["crawling"],
        _runs_with(
            _else_began(f"helix_dense_last_crawl_timestamp_seconds{{{JOBS}}} and on ({_SHARD}) ({_CRAWLS})", _CRAWLS)
        ),
        "let the ladder act",
        "helixcrawlcrawling",
    ),
    RunState(
        5,
        "memory not read",
        "orange",
        _runs_with(
            _else_began(
                f"max_over_time(timestamp({_PROBES} == 1){_DAY}) and on (job, instance, device) ({_BLIND})", _BLIND
            )
        ),
        "repair the probe",
        "helixcrawlprobedown",
    ),
    RunState(
        4,
        "on the CPU",
        COLORS["demote"],
        _runs_with(
            _else_began(
                f'helix_dense_last_action_timestamp_seconds{{{JOBS}, action="DEMOTE_CPU"}}'
                f" and on (job, instance, shard) ({_ON_CPU})",
                _ON_CPU,
            )
        ),
        "nothing for one shard",
        "helixcrawloncpu",
    ),
    RunState(1, "running", COLORS["running"], _BEGAN, "nothing", "contents"),
)


def _first_of(parts: list[str]) -> str:
    """A value a run, of the first expression that has one."""
    return f" or on ({_RUN}) ".join(f"({part})" for part in parts)


STATE = _first_of(
    [f'label_replace(0 * ({state.since}) + {state.rank}, "section", "{state.section}", "", "")' for state in RUN_STATES]
)
"""Number of the state of each run, and in the label `section` where the runbook speaks of it."""

SINCE = f"1000 * ({_first_of([state.since for state in RUN_STATES])})"
"""Since when each run is in that state, in the milliseconds that Grafana takes for a date."""

_ACTED = f'helix_dense_last_action_timestamp_seconds{{{JOBS}, action!="DETECT"}}'
_NEWEST_BEGAN = f"max by (job, instance) ({_FIRST_SEEN})"

_GENES = f"helix_dense_genes_total{{{JOBS}}}"

# Ten minutes, or what there has been of them: a batch of a shard that crawls takes minutes.
TO_GO = of_runs(
    f"sum by (job, instance) (helix_dense_genes_pending{{{JOBS}}})"
    f" / (sum by (job, instance) (increase({_GENES}[10m])) > 0)"
    f" * (time() - min by (job, instance) (min_over_time(timestamp({_GENES})[10m:15s])))"
)
"""Seconds that each run still takes, at the speed of the last minutes."""


def _said_as(texts: Mapping[str, str], expr: str) -> str:
    """The label `what` says in words what the label `action` says."""
    for action, text in texts.items():
        expr = f'label_replace({expr}, "what", "{text}", "action", "{action}")'
    return expr


LAST_ACTION = _said_as(
    {"EMPTY_CACHE": "cache emptied", "RECYCLE": "worker recycled", "DEMOTE_CPU": "sent to the CPU"},
    f"topk by (job, instance) (1, 1000 * (max_over_time({_ACTED}[1d])"
    f" > on (job, instance) group_left () ({_NEWEST_BEGAN} - 60)))",
)
"""When the newest start on an instance acted last, in milliseconds; `what` and `shard` say the rest."""


def of_state(field: str) -> dict[int, tuple[str, str]]:
    """Text and colour of each number of a state.

    Args:
        field: Which text: `text` or `to_do`.
    """
    return {state.rank: (getattr(state, field), state.color) for state in RUN_STATES}
