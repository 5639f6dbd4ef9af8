"""Jobs as a Prometheus sees them, by hand: each alert at both of its edges, and what must not wake anybody.

A case asks for every alert that fires: a case for one is a case for the silence of the others. Times are minutes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.dashboards.promtool import Case, Firing, steps

__all__ = ["CASES", "a_run"]

JOB, PORT, RUN = "helix-crawl", "rig:9464", "/data/out"
BOX, NOTES = "box:9464", "notes"
DAY = 24 * 60.0


def labels(**more: str) -> str:
    """Of a series, in promtool's notation."""
    return "{" + ", ".join(f'{key}="{value}"' for key, value in {"job": JOB, "instance": PORT, **more}.items()) + "}"


def a_run(
    minutes: float,
    end: str | None = None,
    *,
    after: float = 0.0,
    run_id: str = "one",
    run: str = RUN,
    instance: str = PORT,
    every: int = 60,
    gaps: tuple[float, float] | None = None,
    scraped: bool = True,
    command: str = "build",
    folder: str | None = None,
) -> dict[str, str]:
    """What every run shows: its name, its state, and that it is up.

    Args:
        minutes: For how long it runs.
        end: The state that is scraped once more after that; `None` where it is just gone.
        after: Minutes before it starts.
        run_id: Of this start.
        run: What the same command goes on with.
        instance: Where it is scraped.
        every: Seconds between two scrapes.
        gaps: From which minute, and for how long, nothing is scraped.
        scraped: And not pushed.
        command: Its first word.
        folder: For `helix-crawl status`; as a rule the run's name.
    """
    who = {"instance": instance, "run": run, "run_id": run_id}
    seconds = every / 60
    told = (1.0 if end is None else 0.0, seconds if end else 0.0)

    def shown(value: float, last: float) -> str:
        if gaps is None:
            return steps((None, after), (value, minutes), (last, told[1]), every=every, scraped=scraped)
        begin, length = gaps
        return steps(
            (None, after),
            (value, begin),
            (None, length),
            (value, minutes - begin - length),
            (last, told[1]),
            every=every,
        )

    how = {"folder": run if folder is None else folder, "command": command, "version": "1"}
    series = {f"helix_dense_run_info{labels(**who, **how)}": shown(1, 1)}
    for state in ("running", "paused", "done", "failed"):
        name = f"helix_dense_run_state{labels(**who, state=state)}"
        series[name] = shown(float(state == "running"), float(state == end))
    return series


def shard(name: str, device: str = "cuda:0", instance: str = PORT) -> str:
    """Labels of a shard on a device."""
    return labels(instance=instance, shard=name, device=device)


def work(
    minutes: float, left: float, a_minute: float, *, after: float = 0.0, instance: str = PORT, every: int = 60
) -> dict[str, str]:
    """Genes that are encoded, and those that are left at the beginning."""
    return {
        f"helix_dense_genes_total{shard('a', instance=instance)}": steps(
            (None, after), ((0, a_minute), minutes), every=every
        ),
        f"helix_dense_genes_pending{labels(instance=instance, shard='a')}": steps(
            (None, after), ((left, -a_minute), minutes), every=every
        ),
    }


def told(shard: str = "a", **more: str) -> dict[str, str]:
    """Labels of an alert about a shard of the run."""
    return {"job": JOB, "instance": PORT, "run": RUN, "folder": RUN, "shard": shard, **more}


def both(series: Mapping[str, str]) -> dict[str, str]:
    """The same of a second job beside it, which has no folder: its alerts name another command."""
    changes = {
        re.escape(PORT): BOX,
        r'\brun="[^"]*"': f'run="{NOTES}"',
        r'\bfolder="[^"]*"': 'folder=""',
        r'\brun_id="one"': 'run_id="box"',
    }
    beside = {}
    for name, values in series.items():
        other = name
        for old, new in changes.items():
            other = re.sub(old, new, other)
        beside[other] = values
    return {**series, **beside}


def told_of_notes(**more: str) -> dict[str, str]:
    """Labels of an alert about the second of `both`."""
    return {"job": JOB, "instance": BOX, "run": NOTES, **more}


STATUS = f'helix-crawl status "{RUN}"'
CURL = f"curl http://{BOX}/metrics"
WAS_SEEN = f"""promtool query instant  'last_over_time({{__name__=~"run:.+", run="{NOTES}"}}[25h])'"""
ACTIVE = "helix_dense_crawl_active" + shard("a")
INFLIGHT, DEADLINE = (
    "helix_dense_batch_inflight_seconds" + shard("a"),
    "helix_dense_batch_deadline_seconds" + shard("a"),
)
LIMIT = "helix_dense_crawl_limit_ratio" + labels()
SUM = "helix_dense_batch_duration_seconds_sum" + labels(device="cuda:0", stage="encode")
COUNT = "helix_dense_batch_duration_seconds_count" + labels(device="cuda:0", stage="encode")
USED, SIZE = ("helix_dense_vram_" + part + "_bytes" + labels(device="cuda:0") for part in ("used", "limit"))
FULL = "helix_dense_vram_full_ratio" + labels()
GENES = "helix_dense_genes_total" + shard("a")
PENDING = "helix_dense_genes_pending" + labels(shard="a")
QUEUE = "helix_dense_action_queue_length" + labels()


def rung(device: str) -> str:
    return "helix_dense_ladder_rung" + shard("a", device)


def starts(reason: str, device: str = "cuda:0") -> str:
    return "helix_dense_worker_starts_total" + labels(device=device, reason=reason)


def worker(device: str = "cuda:0") -> str:
    return "helix_dense_worker_up" + labels(device=device)


def probe(source: str, device: str = "cuda:0") -> str:
    return "helix_dense_vram_probe_up" + labels(device=device, source=source)


def shards(state: str) -> str:
    return "helix_dense_shards" + labels(state=state)


def outcome(kind: str, action: str = "RECYCLE") -> str:
    return "helix_dense_ladder_actions_total" + labels(shard="a", action=action, outcome=kind)


CRAWLING = {
    "crawl ended by the ladder": Case(
        "HelixCrawlCrawling",
        "ten minutes of episode are the ladder's work",
        {**a_run(120), ACTIVE: steps((0, 10), (1, 10), (0, 100))},
    ),
    "crawl that goes on": Case(
        "HelixCrawlCrawling",
        "a quarter of an hour; the end is believed after ten minutes",
        {**a_run(120), ACTIVE: steps((0, 20), (1, 30), (0, 70))},
        {
            "HelixCrawlCrawling": Firing(
                35,
                59,
                told(device="cuda:0", severity="warning"),
                (f"Shard a of {RUN} crawls on cuda:0 ({PORT})", STATUS),
            )
        },
    ),
    "crawl of a shard without a label": Case(
        "HelixCrawlCrawling",
        "one of thousands, of which the first 1,000 have one",
        {**a_run(40), "helix_dense_crawl_active" + labels(device="cuda:0"): steps((0, 10), (1, 30))},
        {
            "HelixCrawlCrawling": Firing(
                25,
                None,
                {key: value for key, value in told(device="cuda:0", severity="warning").items() if key != "shard"},
                (f"Shard (beyond the 1,000th) of {RUN} crawls on cuda:0 ({PORT})", STATUS),
            )
        },
        38,
    ),
    "crawl through a recycle": Case(
        "HelixCrawlCrawling",
        "the episode ends with the worker and comes back eight minutes later: one crawl",
        {**a_run(120), ACTIVE: steps((0, 10), (1, 5), (None, 2), (0, 6), (1, 10), (0, 80))},
        {"HelixCrawlCrawling": Firing(25, 42)},
    ),
    "two crawls": Case(
        "HelixCrawlCrawling",
        "with more than ten minutes between: the ladder has ended each",
        {**a_run(120), ACTIVE: steps((0, 10), (1, 9), (0, 11), (1, 9), (0, 80))},
    ),
    "crawl at the first scrape": Case(
        "HelixCrawlCrawling",
        "it was there before Prometheus",
        {**a_run(60), ACTIVE: steps((1, 60))},
        {"HelixCrawlCrawling": Firing(15)},
        59,
    ),
    "crawl through a gap": Case(
        "HelixCrawlCrawling",
        "two minutes without a scrape; it ends with the job, which says so",
        {**a_run(50, "done", gaps=(24, 2)), ACTIVE: steps((0, 10), (1, 14), (None, 2), (1, 24), (None, 60))},
        {"HelixCrawlCrawling": Firing(25, 59)},
    ),
    "crawl that is no longer shown, embedded": Case(
        "HelixCrawlCrawling",
        "three minutes without a sample are the end of it",
        {
            **a_run(120, command="embedded", folder="", run="notes"),
            ACTIVE: steps((0, 10), (1, 24), (None, 86)),
        },
        {
            "HelixCrawlCrawling": Firing(
                25,
                46,
                {"job": JOB, "instance": PORT, "run": "notes", "shard": "a", "device": "cuda:0", "severity": "warning"},
                (f"Shard a of notes crawls on cuda:0 ({PORT})", f"curl http://{PORT}/metrics"),
            )
        },
    ),
}

ON_CPU = {
    "demoted": Case(
        "HelixCrawlOnCpu",
        "device changes with the demotion, and a worker is away for three minutes: one alert, until the end",
        {
            **both(
                {
                    **a_run(60, "done"),
                    rung("cuda:0"): steps((0, 5), (2, 5), (3, 1), (None, 109)),
                    rung("cpu"): steps((None, 13), (3, 10), (None, 3), (3, 34)),
                }
            )
        },
        {
            "HelixCrawlOnCpu": [
                Firing(
                    13,
                    59,
                    told(severity="info"),
                    (f"Shard a of {RUN} has gone from cuda:0 to the CPU ({PORT})", STATUS),
                ),
                Firing(
                    13,
                    59,
                    told_of_notes(shard="a", severity="info"),
                    (f"Shard a of {NOTES} has gone from cuda:0 to the CPU ({BOX})", CURL),
                ),
            ]
        },
    ),
    "demoted, then the next shard": Case(
        "HelixCrawlOnCpu",
        "five minutes after its last sample",
        {**a_run(120), rung("cpu"): steps((None, 10), (3, 10), (None, 100))},
        {"HelixCrawlOnCpu": Firing(10, 24)},
    ),
    "demoted, and killed": Case(
        "HelixCrawlOnCpu",
        "three minutes after it was seen last",
        {**a_run(20), rung("cpu"): steps((None, 10), (3, 10), (None, 20))},
        {"HelixCrawlOnCpu": Firing(10, 22)},
        24,
    ),
    "demoted, killed and started again at once": Case(
        "HelixCrawlOnCpu",
        "both starts have been seen within three minutes; the newer one counts",
        {**a_run(20), **a_run(30, after=22, run_id="two"), rung("cpu"): steps((None, 10), (3, 10), (None, 32))},
        {"HelixCrawlOnCpu": Firing(10, 24)},
    ),
    "its last rung used up on the card": Case(
        "HelixCrawlOnCpu",
        "nobody could take it: the shard is where it was",
        {**a_run(60, command="embedded"), rung("cuda:0"): steps((0, 5), (3, 55))},
    ),
    "recycled once": Case(
        "HelixCrawlOnCpu",
        "the second rung is no end",
        {**a_run(15, "done"), rung("cuda:0"): steps((0, 5), (1, 5), (2, 110))},
    ),
}

STUCK = {
    "hang that the supervisor ends": Case(
        "HelixCrawlBatchStuck",
        "half an hour, a minute more until its worker is gone",
        {
            **a_run(120),
            DEADLINE: steps((1800, 120)),
            INFLIGHT: steps((2, 10), ((0, 60), 31), (None, 2), (2, 77)),
            GENES: steps(((0, 64), 10), (640, 33), ((640, 64), 77)),
            worker(): steps((1, 41), (0, 2), (1, 77)),
            SUM: steps(((0, 60), 10), (600, 33), ((600, 60), 77)),
            COUNT: steps(((0, 15), 10), (150, 33), ((150, 15), 77)),
            LIMIT: steps((0.2, 120)),
        },
    ),
    "hang whose worker cannot be ended": Case(
        "HelixCrawlBatchStuck",
        "five minutes beyond the deadline; another shard's batch has one of its own",
        {
            **a_run(120),
            DEADLINE: steps((1800, 120)),
            INFLIGHT: steps((2, 10), ((0, 60), 50), (2, 60)),
            DEADLINE.replace('"a"', '"b"'): steps((3000, 120)),
            INFLIGHT.replace('"a"', '"b"'): steps(((0, 60), 50), (2, 70)),
        },
        {
            "HelixCrawlBatchStuck": Firing(
                46,
                59,
                told(device="cuda:0", severity="critical"),
                (f"A batch of shard a of {RUN} has been running for 36m 0s on cuda:0 ({PORT})", STATUS),
            )
        },
    ),
    "embedded, batch of four times the limit": Case(
        "HelixCrawlBatchStuck",
        "40 s as a rule, 200 at the limit: 800 s, and then five minutes",
        {
            **a_run(120, command="embedded", folder="", run="notes"),
            LIMIT: steps((0.2, 120)),
            SUM: steps((4000, 120)),
            COUNT: steps((100, 120)),
            SUM.replace("encode", "tokenize"): steps((9000, 120)),
            COUNT.replace("encode", "tokenize"): steps((900, 120)),
            SUM.replace("cuda:0", "cuda:1"): steps((400, 120)),
            COUNT.replace("cuda:0", "cuda:1"): steps((100, 120)),
            INFLIGHT: steps((2, 10), ((0, 60), 30), (2, 80)),
        },
        {
            "HelixCrawlBatchStuck": Firing(
                29,
                39,
                {
                    "job": JOB,
                    "instance": PORT,
                    "run": "notes",
                    "shard": "a",
                    "device": "cuda:0",
                    "severity": "critical",
                },
                (
                    f"A batch of shard a of notes has been running for 19m 0s on cuda:0 ({PORT})",
                    f"curl http://{PORT}/metrics",
                ),
            )
        },
    ),
    "embedded, quick batches": Case(
        "HelixCrawlBatchStuck",
        "one of a second: ten minutes count; two minutes without a scrape are no end, three are",
        {
            **a_run(120, command="embedded", gaps=(24, 2)),
            LIMIT: steps((0.2, 120)),
            SUM: steps((1, 120)),
            COUNT: steps((1, 120)),
            INFLIGHT: steps((2, 10), ((0, 60), 14), (None, 2), ((960, 60), 14), (None, 80)),
        },
        {"HelixCrawlBatchStuck": Firing(26, 42)},
    ),
    "embedded, first batch": Case(
        "HelixCrawlBatchStuck",
        "no batch has ended, so half an hour counts",
        {
            **a_run(120, command="embedded"),
            INFLIGHT: steps(((0, 60), 60), (0, 60)),
            LIMIT: steps((0.2, 120)),
            COUNT: steps((0, 120)),
            SUM: steps((0, 120)),
        },
        {"HelixCrawlBatchStuck": Firing(36, 59)},
    ),
    "stuck through a gap": Case(
        "HelixCrawlBatchStuck",
        "two minutes without a scrape are no end, three are",
        {
            **a_run(120),
            DEADLINE: steps((600, 20), (None, 2), (600, 98)),
            INFLIGHT: steps((2, 5), ((0, 60), 15), (None, 2), ((1020, 60), 18), (None, 80)),
        },
        {"HelixCrawlBatchStuck": Firing(21, 42)},
    ),
    "stuck, and its deadline is no longer shown": Case(
        "HelixCrawlBatchStuck",
        "after three minutes it is judged without: half an hour",
        {
            **a_run(60),
            DEADLINE: steps((600, 22), (None, 38)),
            INFLIGHT: steps((2, 5), ((0, 60), 55)),
        },
        {"HelixCrawlBatchStuck": Firing(21, 24)},
        35,
    ),
    "stuck, and the job is ended": Case(
        "HelixCrawlBatchStuck",
        "what a run leaves behind is stuck no longer",
        {**a_run(50, "paused"), DEADLINE: steps((1800, 50)), INFLIGHT: steps(((0, 60), 50))},
        {"HelixCrawlBatchStuck": Firing(36, 49)},
        65,
    ),
}

ENCODED = steps(((0, 64), 200))

RECYCLE = {
    "recycle loop": Case(
        "HelixCrawlRecycleLoop",
        "six of one card within the hour, in whole numbers; over as soon as the first is an hour old",
        {
            **a_run(200),
            GENES: ENCODED,
            worker(): steps((1, 200)),
            worker("cpu"): steps((0, 200)),
            starts("recycle"): steps((0, 10), (1, 10), (2, 10), (3, 170)),
            starts("demote", "cpu"): steps((0, 15), (1, 10), (2, 10), (3, 165)),
            starts("first"): steps((1, 200)),
        },
        {
            "HelixCrawlRecycleLoop": Firing(
                40,
                69,
                {"job": JOB, "instance": PORT, "run": RUN, "run_id": "one", "folder": RUN, "severity": "warning"},
                (
                    f"{RUN} has recycled or demoted 6 workers within an hour, of cuda:0 ({PORT})",
                    f'helix-crawl report "{RUN}" -o report.html',
                ),
            )
        },
    ),
    "recycle loop, then a good end": Case(
        "HelixCrawlRecycleLoop",
        "over with the run; another one on the same port begins anew",
        {
            **a_run(50, "done"),
            **a_run(69, after=51, run_id="two", run="/data/other"),
            GENES: ENCODED,
            worker(): steps((1, 120)),
            starts("recycle"): steps((0, 10), (6, 40), (0, 10), (5, 60)),
        },
        {"HelixCrawlRecycleLoop": Firing(15, 49)},
        110,
    ),
    "two cards": Case(
        "HelixCrawlRecycleLoop",
        "ten within the hour are five a card",
        {
            **a_run(120),
            GENES: ENCODED,
            worker(): steps((1, 120)),
            worker("cuda:1"): steps((1, 120)),
            starts("recycle"): steps((0, 10), (10, 110)),
            starts("crash"): steps((0, 10), (1, 110)),
        },
        {},
        80,
    ),
    "recycle loop through a gap": Case(
        "HelixCrawlRecycleLoop",
        "two minutes without a scrape",
        {
            **a_run(60, gaps=(13, 2)),
            GENES: ENCODED,
            worker(): steps((1, 13), (None, 2), (1, 45)),
            starts("recycle"): steps((0, 10), (6, 3), (None, 2), (6, 45)),
        },
        {"HelixCrawlRecycleLoop": Firing(15)},
        40,
    ),
    "recycle loop that is no longer counted": Case(
        "HelixCrawlRecycleLoop",
        "three minutes without a sample are the end of it",
        {**a_run(60), GENES: ENCODED, worker(): steps((1, 60)), starts("recycle"): steps((0, 10), (6, 20), (None, 30))},
        {"HelixCrawlRecycleLoop": Firing(15, 32)},
    ),
    "recycle loop on a card that is gone": Case(
        "HelixCrawlRecycleLoop",
        "three minutes without a sample of its worker are the end of it",
        {**a_run(60), GENES: ENCODED, worker(): steps((1, 30), (None, 30)), starts("recycle"): steps((0, 10), (6, 50))},
        {"HelixCrawlRecycleLoop": Firing(15, 32)},
    ),
}

CRASHES = {
    "crash loop": Case(
        "HelixCrawlCrashLoop",
        "the fourth crash within the hour; over ten minutes after the last",
        {
            **both(
                {
                    **a_run(120),
                    starts("crash"): steps(*((n, 5) for n in range(10)), (10, 70)),
                    INFLIGHT: steps((2, 120)),
                    DEADLINE: steps((1800, 120)),
                }
            )
        },
        {
            "HelixCrawlCrashLoop": [
                Firing(
                    35,
                    59,
                    {"job": JOB, "instance": PORT, "run": RUN, "run_id": "one", "folder": RUN, "severity": "warning"},
                    (f"Workers of {RUN} have crashed 7 times within an hour, shard a on cuda:0 ({PORT})", STATUS),
                ),
                Firing(
                    35,
                    59,
                    told_of_notes(run_id="box", severity="warning"),
                    (f"Workers of {NOTES} have crashed 7 times within an hour, shard a on cuda:0 ({BOX})", CURL),
                ),
            ]
        },
    ),
    "bad gene": Case(
        "HelixCrawlCrashLoop",
        "its batch is cut until it stands alone, and it is put aside: that heals itself within minutes",
        {**a_run(120), starts("crash"): steps((0, 10), ((0, 2), 4), (11, 105))},
    ),
    "three crashes now and then": Case(
        "HelixCrawlCrashLoop",
        "within the budget; recycles are no crashes",
        {
            **a_run(120),
            starts("crash"): steps((0, 10), (1, 8), (2, 8), (3, 94)),
            starts("recycle"): steps(*((n, 5) for n in range(10)), (10, 70)),
        },
    ),
    "three crashes, and three more an hour later": Case(
        "HelixCrawlCrashLoop",
        "within the budget of each hour",
        {**a_run(120), starts("crash"): steps((0, 2), (1, 3), (2, 3), (3, 62), (4, 5), (5, 5), (6, 40))},
    ),
    "crash loop that is no longer counted": Case(
        "HelixCrawlCrashLoop",
        "three minutes without a sample are the end of it",
        {**a_run(60), starts("crash"): steps(*((n, 5) for n in range(6)), (6, 6), (None, 24))},
        {"HelixCrawlCrashLoop": Firing(35, 38)},
    ),
    "crash loop, then a good end": Case(
        "HelixCrawlCrashLoop",
        "over with the run",
        {**a_run(40, "done"), starts("crash"): steps(*((n, 2) for n in range(20)))},
        {"HelixCrawlCrashLoop": Firing(23, 39)},
        60,
    ),
    "slow crash loop": Case(
        "HelixCrawlCrashLoop",
        "one in twenty minutes gets on",
        {**a_run(240), starts("crash"): steps(*((n, 20) for n in range(12)))},
        {},
        240,
    ),
    "starts that die": Case(
        "HelixCrawlCrashLoop",
        "started anew every five minutes by something outside, dead after three",
        {
            key: value
            for n in range(12)
            for run, port, folder in ((RUN, 9464, RUN), (NOTES, 9465, ""))
            for key, value in a_run(
                3, after=5 * n, run_id=f"{n} on {port}", instance=f"pod-{n}:{port}", run=run, folder=folder
            ).items()
        }
        | {
            "helix_dense_worker_up" + labels(instance=f"pod-{n}:9464", device=device): steps((None, 5 * n), (1, 3))
            for n in range(12)
            for device in ("cpu", "cuda:0", "cuda:1")
        },
        {
            "HelixCrawlCrashLoop": [
                Firing(
                    28,
                    77,
                    {"job": JOB, "run": RUN, "folder": RUN, "severity": "warning"},
                    (f"6 starts of {RUN} have died within half an hour on cuda:0 and cuda:1", STATUS),
                ),
                Firing(
                    28,
                    77,
                    {"job": JOB, "run": NOTES, "severity": "warning"},
                    (f"6 starts of {NOTES} have died within half an hour", WAS_SEEN),
                ),
            ],
            "HelixCrawlJobGone": [Firing(63), Firing(63)],
        },
        90,
    ),
    "a fleet is switched off": Case(
        "HelixCrawlCrashLoop",
        "four machines whose folders have one name: none of them was started again",
        {
            key: value
            for n in range(4)
            for key, value in a_run(30, run_id=f"start-{n}", instance=f"rig-{n}:9464").items()
        },
        {"HelixCrawlJobGone": [Firing()] * 4},
        80,
    ),
    "paused and done again and again": Case(
        "HelixCrawlCrashLoop",
        "by somebody who tries settings",
        {
            key: value
            for n in range(12)
            for key, value in a_run(3, "done" if n % 2 else "paused", after=5 * n, run_id=f"start-{n}").items()
        },
    ),
}

MEMORY = {
    "memory full for over an hour": Case(
        "HelixCrawlMemoryFull",
        "a release every few minutes lowers the reading for one scrape; the limit is the knob",
        {
            **a_run(120),
            USED: " ".join(["8.9"] * 20 + ["9", *["8.9"] * 7, "6"] * 8 + ["6"] * 28),
            SIZE: steps((12, 120)),
            FULL: steps((0.75, 120)),
        },
        {
            "HelixCrawlMemoryFull": Firing(
                80,
                93,
                {"job": JOB, "instance": PORT, "run": RUN, "folder": RUN, "device": "cuda:0", "severity": "info"},
                (f"Memory of cuda:0 has been full for over an hour: 75%, {RUN} ({PORT})", "helix-crawl doctor"),
            )
        },
    ),
    "memory full, then recycled": Case(
        "HelixCrawlMemoryFull",
        "forty minutes full, a recycle, and full again",
        {
            **a_run(120),
            USED: steps((11.9, 40), (None, 2), (3, 20), (11.9, 30), (3, 28)),
            SIZE: steps((12, 120)),
            FULL: steps((0.92, 120)),
        },
    ),
    "memory unknown": Case(
        "HelixCrawlMemoryFull",
        "absent is not full",
        {**a_run(150), SIZE: steps((12, 150)), FULL: steps((0.92, 150)), probe("torch"): steps((1, 150))},
        {},
        150,
    ),
    "control group of a CPU job full": Case(
        "HelixCrawlMemoryFull",
        "page cache fills it",
        {
            **a_run(150),
            FULL: steps((0.92, 150)),
            USED.replace("cuda:0", "cpu"): steps((12, 150)),
            SIZE.replace("cuda:0", "cpu"): steps((12, 150)),
        },
        {},
        150,
    ),
}

PROBE = {
    "probe down": Case(
        "HelixCrawlProbeDown",
        "both sources of a card; over when one answers, or with the run",
        {
            **a_run(60, "done"),
            probe("nvml"): steps((1, 5), (0, 20), (1, 1), (0, 34)),
            probe("torch"): steps((0, 60)),
        },
        {
            "HelixCrawlProbeDown": [
                Firing(
                    20,
                    24,
                    {
                        "job": JOB,
                        "instance": PORT,
                        "run": RUN,
                        "folder": RUN,
                        "device": "cuda:0",
                        "severity": "warning",
                    },
                    (f"Memory of cuda:0 cannot be read, {RUN} ({PORT})", "helix-crawl doctor"),
                )
            ]
        },
        40,
    ),
    "probe down to the end": Case(
        "HelixCrawlProbeDown",
        "nobody needs it any longer",
        {**a_run(30, "done"), probe("nvml"): steps((0, 31))},
        {"HelixCrawlProbeDown": Firing(10, 29)},
        50,
    ),
    "probe down between two workers": Case(
        "HelixCrawlProbeDown",
        "torch is silent through a recycle, NVML is not",
        {**a_run(60), probe("nvml"): steps((1, 60)), probe("torch"): steps((1, 10), (0, 40), (1, 10))},
    ),
    "own probe down for a recycle": Case(
        "HelixCrawlProbeDown",
        "four minutes without the only source",
        {**a_run(60), probe("custom"): steps((1, 10), (0, 12), (None, 2), (1, 36))},
    ),
    "CPU without a control group": Case(
        "HelixCrawlProbeDown", "nothing to spill", {**a_run(60), probe("cgroup", "cpu"): steps((0, 60))}
    ),
}

QUIET_AT_35 = {worker(): steps((1, 25), (0, 1), (1, 64)), shards("running"): steps((1, 90))}

PROGRESS = {
    "no progress": Case(
        "HelixCrawlNoProgress",
        "between batches, with a shard open; the worker was recycled in between, and it ends with the next gene",
        {
            **both(
                {
                    **a_run(90),
                    **QUIET_AT_35,
                    GENES: steps(((0, 128), 10), (1280, 50), ((1344, 128), 30)),
                    PENDING: steps(((9000, -128), 10), (7720, 80)),
                    INFLIGHT: steps((2, 10), (0, 50), (2, 30)),
                }
            ),
            **{
                name.replace(JOB, job).replace(PORT, instance): values
                for job, instance in ((JOB, "busy:9464"), ("busy", PORT))
                for name, values in ((INFLIGHT, steps((2, 90))), (shards("running"), steps((0, 90))))
            },
        },
        {
            "HelixCrawlNoProgress": [
                Firing(
                    45,
                    59,
                    {"job": JOB, "instance": PORT, "run": RUN, "run_id": "one", "folder": RUN, "severity": "critical"},
                    (f"{RUN} has encoded nothing for over half an hour, shard a on cuda:0 ({PORT})", STATUS),
                ),
                Firing(
                    45,
                    59,
                    told_of_notes(run_id="box", severity="critical"),
                    (f"{NOTES} has encoded nothing for over half an hour, shard a on cuda:0 ({BOX})", CURL),
                ),
            ]
        },
        89,
    ),
    "no progress after a source was read": Case(
        "HelixCrawlNoProgress",
        "a shard waits; eight minutes without a worker are no end, ten are",
        {
            **a_run(90),
            worker(): steps((1, 20), (0, 8), (1, 32), (0, 30)),
            shards("pending"): steps((1, 90)),
            shards("running"): steps((0, 90)),
            GENES: steps(((0, 128), 10), (1280, 80)),
            PENDING: steps(((9000, -128), 10), (7720, 5), (7800, 75)),
        },
        {"HelixCrawlNoProgress": Firing(50, 69)},
    ),
    "no progress, and its last batch is no longer shown": Case(
        "HelixCrawlNoProgress",
        "three minutes after that it is between batches",
        {
            **a_run(60),
            worker(): steps((1, 60)),
            shards("running"): steps((1, 60)),
            GENES: steps(((0, 64), 5), (320, 55)),
            INFLIGHT: steps((2, 15), (None, 45)),
        },
        {"HelixCrawlNoProgress": Firing(48)},
        58,
    ),
    "batches of a second": Case(
        "HelixCrawlNoProgress",
        "each scrape finds one in flight",
        {**a_run(90), **QUIET_AT_35, GENES: steps((1280, 90)), INFLIGHT: steps((1, 90))},
    ),
    "no progress, then the end": Case(
        "HelixCrawlNoProgress",
        "its last half hour was without a gene, and it has ended",
        {
            **a_run(39, "done"),
            worker(): steps((1, 39)),
            GENES: steps(((0, 128), 9), (1280, 29)),
            INFLIGHT: steps((0, 39)),
        },
        {},
        60,
    ),
    "one batch for an hour": Case(
        "HelixCrawlNoProgress",
        "the supervisor will end it: two hours of deadline",
        {
            **a_run(90),
            **QUIET_AT_35,
            GENES: steps((1280, 90)),
            INFLIGHT: steps(((0, 60), 90)),
            DEADLINE: steps((7200, 90)),
        },
    ),
    "a large source is read": Case(
        "HelixCrawlNoProgress",
        "it is cut into passages, which are counted, every five minutes here",
        {**a_run(90), **QUIET_AT_35, GENES: steps((1280, 90)), PENDING: steps(*((100 * n, 5) for n in range(18)))},
    ),
    "slow CPU": Case(
        "HelixCrawlNoProgress",
        "64 genes in ten minutes are progress",
        {**a_run(90), **QUIET_AT_35, GENES: steps(*((64 * n, 10) for n in range(9)))},
    ),
    "supervisor without a worker": Case(
        "HelixCrawlNoProgress", "nothing is tried", {**a_run(90), GENES: steps((640, 90)), worker(): steps((0, 90))}
    ),
    "embedded, nothing to do": Case(
        "HelixCrawlNoProgress",
        "no shard is open, none waits",
        {
            **a_run(90),
            GENES: steps((640, 90)),
            worker(): steps((1, 90)),
            shards("running"): steps((0, 90)),
            shards("done"): steps((3, 90)),
        },
    ),
}

GONE_LABELS = {"job": JOB, "instance": PORT, "run": RUN, "run_id": "one", "folder": RUN, "severity": "warning"}

GONE = {
    "killed with work left": Case(
        "HelixCrawlJobGone",
        "it stays for a day, and an hour more",
        both({**a_run(60, every=300), **work(60, 24000, 300, every=300)}),
        {
            "HelixCrawlJobGone": [
                Firing(
                    65,
                    55 + 25 * 60,
                    GONE_LABELS,
                    (
                        f"{RUN} is gone with work left; it was seen last at 1970-01-01 00:55:00 +0000 UTC ({PORT})",
                        STATUS,
                    ),
                ),
                Firing(
                    65,
                    55 + 25 * 60,
                    told_of_notes(run_id="box", severity="warning"),
                    (
                        f"{NOTES} is gone with work left; it was seen last at 1970-01-01 00:55:00 +0000 UTC ({BOX})",
                        WAS_SEEN,
                    ),
                ),
            ]
        },
        26 * 60 + 10,
        300,
    ),
    "paused, for a day": Case(
        "HelixCrawlJobGone",
        "it stays paused",
        {**a_run(60, "paused", every=300), **work(65, 24000, 300, every=300)},
        {},
        26 * 60 + 10,
        300,
    ),
    "done between two scrapes, for a day": Case(
        "HelixCrawlJobGone",
        "two minutes of work were left; its end could not have gone unseen, but its work was counted",
        {**a_run(60, every=300), **work(60, 55 * 300 + 600, 300, every=300)},
        {},
        26 * 60 + 10,
        300,
    ),
    "work that nobody has counted, for a day": Case(
        "HelixCrawlJobGone",
        "it stays as long",
        {**a_run(60, every=300, command="run")},
        {"HelixCrawlJobGone": Firing(65, 55 + 25 * 60)},
        26 * 60 + 10,
        300,
    ),
    "killed and taken up again": Case(
        "HelixCrawlJobGone",
        "by the next start, on another port",
        {
            **a_run(20),
            **work(20, 24000, 300),
            **a_run(80, after=40, run_id="two", instance="rig:9465"),
            **work(80, 18000, 300, after=40, instance="rig:9465"),
        },
        {"HelixCrawlJobGone": Firing(25, 39)},
    ),
    "killed and taken up at once": Case(
        "HelixCrawlJobGone",
        "within five minutes nobody needs to know",
        {
            **a_run(20),
            **work(20, 24000, 300),
            **a_run(96, after=24, run_id="two"),
            PENDING: steps(((24000, -300), 20), (None, 4), (18000, 96)),
        },
        {},
        119,
    ),
    "killed, and its port taken by another run": Case(
        "HelixCrawlJobGone",
        "which hides nothing",
        {
            **a_run(20),
            GENES: steps(((0, 300), 20), (None, 1), ((0, 300), 99)),
            PENDING: steps(((24000, -300), 20), (None, 1), ((90000, -300), 99)),
            **a_run(99, after=21, run_id="two", run="/data/other"),
        },
        {"HelixCrawlJobGone": Firing(25)},
        119,
    ),
    "the same folder on two hosts": Case(
        "HelixCrawlJobGone",
        "one is killed, the other goes on, and has not begun since",
        {
            **a_run(20),
            **work(20, 24000, 300),
            **a_run(120, run_id="two", instance="box:9464"),
            **work(120, 90000, 300, instance="box:9464"),
        },
        {"HelixCrawlJobGone": Firing(25)},
        119,
    ),
    "killed in a hang": Case(
        "HelixCrawlJobGone",
        "five genes without a speed are not done between two scrapes",
        {
            **a_run(30),
            GENES: steps(((0, 300), 10), (3000, 20)),
            PENDING: steps((5, 30)),
            INFLIGHT: steps((0, 10), ((0, 60), 20)),
        },
        {"HelixCrawlJobGone": Firing(35)},
        45,
    ),
    "killed shortly before its end": Case(
        "HelixCrawlJobGone",
        "two and a half minutes of work were left",
        {**a_run(20), **work(20, 19 * 300 + 750, 300)},
        {"HelixCrawlJobGone": Firing(25)},
        45,
    ),
    "done between two scrapes": Case(
        "HelixCrawlJobGone",
        "a minute and a half of work was left",
        {**a_run(20), **work(20, 19 * 300 + 450, 300)},
        {},
        45,
    ),
    "paused": Case(
        "HelixCrawlJobGone", "by somebody, with work left", {**a_run(20, "paused"), **work(21, 24000, 300)}, {}, 45
    ),
    "done": Case("HelixCrawlJobGone", "and said so", {**a_run(20, "done"), **work(21, 24000, 300)}, {}, 45),
    "a gap of minutes": Case(
        "HelixCrawlJobGone",
        "it cannot be scraped for four minutes",
        {
            **a_run(60, gaps=(20, 4)),
            PENDING: steps((24000, 20), (None, 4), (24000, 36)),
            GENES: steps((640, 20), (None, 4), (640, 36)),
        },
        {},
        59,
    ),
    "work that nobody has counted": Case(
        "HelixCrawlJobGone",
        "its end could not have gone unseen, scraped every 20 seconds",
        {**a_run(10, every=20, command="run"), "up" + labels(): steps((1, 10), (0, 50), every=20)},
        {"HelixCrawlJobGone": Firing(15)},
        30,
        20,
    ),
    "work that nobody has counted, every 30 seconds": Case(
        "HelixCrawlJobGone",
        "its end may not have been scraped",
        {**a_run(10, every=30, command="run"), "up" + labels(): steps((1, 10), (0, 30), every=30)},
        {},
        30,
        30,
    ),
    "embedded": Case(
        "HelixCrawlJobGone",
        "the endpoint ends with the process, whichever way it ended",
        {**a_run(10, every=20, command="embedded"), "up" + labels(): steps((1, 10), (0, 50), every=20)},
        {},
        30,
        20,
    ),
    "pushed, work that nobody has counted": Case(
        "HelixCrawlJobGone",
        "the last push would have told the end; after five minutes it is no longer shown; others are scraped",
        {
            **a_run(10, every=60, scraped=False, command="embedded", run="notes", folder=""),
            "up" + labels(instance=BOX): steps((1, 40)),
            "up" + labels(job="node"): steps((1, 40)),
        },
        {
            "HelixCrawlJobGone": Firing(
                20,
                None,
                {"job": JOB, "instance": PORT, "run": "notes", "run_id": "one", "severity": "warning"},
                (
                    f"notes is gone with work left; it was seen last at 1970-01-01 00:09:00 +0000 UTC ({PORT})",
                    """promtool query instant  'last_over_time({__name__=~"run:.+", run="notes"}[25h])'""",
                ),
            )
        },
        40,
        60,
    ),
}


def quarantined(shard: str) -> str:
    return "helix_dense_genes_quarantined" + labels(shard=shard)


ENDS = {
    "shard failed": Case(
        "HelixCrawlShardFailed",
        "for a day and an hour after the end of the run; what a shell would take for its own is escaped",
        {
            **both(
                {
                    **a_run(15, "failed", folder="/data/$(out)", every=300),
                    shards("failed"): steps((0, 10), (2, 10), every=300),
                    shards("running"): steps((1, 10), (0, 10), every=300),
                    "helix_dense_shard_failed" + labels(shard="b"): steps((None, 10), (1, 10), every=300),
                    "helix_dense_shard_failed" + labels(shard="c"): steps((None, 10), (1, 10), every=300),
                }
            )
        },
        {
            "HelixCrawlShardFailed": [
                Firing(
                    10,
                    15 + 25 * 60,
                    {**GONE_LABELS, "folder": "/data/$(out)"},
                    (f"2 failed shards in {RUN}: b, c ({PORT})", 'helix-crawl status "/data/\\$(out)"'),
                ),
                Firing(
                    10,
                    15 + 25 * 60,
                    told_of_notes(run_id="box", severity="warning"),
                    (f"2 failed shards in {NOTES}: b, c ({BOX})", WAS_SEEN),
                ),
            ]
        },
        26 * 60 + 10,
        300,
    ),
    "shard failed, pushed, and started again at once": Case(
        "HelixCrawlShardFailed",
        "the start before is shown for five minutes more; what is failed is the newer one's",
        {
            **a_run(10, "failed", scraped=False),
            **a_run(20, after=13, run_id="two", scraped=False),
            shards("failed"): steps((0, 5), (1, 30), scraped=False),
            "helix_dense_shard_failed" + labels(shard="b"): steps((None, 5), (1, 30), scraped=False),
        },
        {"HelixCrawlShardFailed": [Firing(5, 12), Firing(13)]},
        30,
    ),
    "shard failed, and tried again": Case(
        "HelixCrawlShardFailed",
        "the next start begins with none",
        {
            **a_run(20, "failed"),
            **a_run(40, after=60, run_id="two"),
            shards("failed"): steps((0, 10), (1, 11), (None, 39), (0, 40)),
        },
        {"HelixCrawlShardFailed": Firing(10, 59)},
    ),
    "none failed": Case(
        "HelixCrawlShardFailed", "exported as 0 all along", {**a_run(60), shards("failed"): steps((0, 60))}
    ),
    "ended with quarantined genes": Case(
        "HelixCrawlQuarantined",
        "of two shards; not before the end, and for a day and an hour after it",
        {
            **a_run(20, "failed", every=300),
            quarantined("a"): steps((0, 5), (2, 20), every=300),
            quarantined("b"): steps((1, 25), every=300),
            quarantined("c"): steps((0, 25), every=300),
        },
        {
            "HelixCrawlQuarantined": Firing(
                20,
                20 + 25 * 60,
                GONE_LABELS,
                (f"{RUN} has ended with 3 genes quarantined, in a, b ({PORT})", f'helix-crawl verify "{RUN}"'),
            )
        },
        26 * 60 + 10,
        300,
    ),
    "quarantined, and it goes on": Case(
        "HelixCrawlQuarantined",
        "what else is lost is known at its end",
        {**a_run(60, every=300), quarantined("a"): steps((1, 60), every=300)},
        {},
        50,
        300,
    ),
    "quarantined, and paused": Case(
        "HelixCrawlQuarantined",
        "it is to go on",
        {**a_run(20, "paused", every=300), quarantined("a"): steps((1, 25), every=300)},
        {},
        60,
        300,
    ),
    "quarantined, and seen to": Case(
        "HelixCrawlQuarantined",
        "the next start ends well",
        {
            **a_run(20, "failed"),
            **a_run(10, "done", after=60, run_id="two"),
            quarantined("a"): steps((1, 21), (None, 39), (1, 5), (0, 6)),
        },
        {"HelixCrawlQuarantined": Firing(20, 59)},
    ),
    "run failed": Case(
        "HelixCrawlRunFailed",
        "for a reason that no shard and no gene tells, for a day and an hour",
        {
            **both(
                {
                    **a_run(10, "failed", every=300),
                    **work(10, 24000, 300, every=300),
                    shards("failed"): steps((0, 15), every=300),
                    quarantined("a"): steps((0, 15), every=300),
                }
            )
        },
        {
            "HelixCrawlRunFailed": [
                Firing(
                    15,
                    10 + 25 * 60,
                    GONE_LABELS,
                    (f"{RUN} has failed; it was seen last at 1970-01-01 00:10:00 +0000 UTC ({PORT})", STATUS),
                ),
                Firing(
                    15,
                    10 + 25 * 60,
                    told_of_notes(run_id="box", severity="warning"),
                    (f"{NOTES} has failed; it was seen last at 1970-01-01 00:10:00 +0000 UTC ({BOX})", WAS_SEEN),
                ),
            ]
        },
        26 * 60,
        300,
    ),
    "run failed with a shard": Case(
        "HelixCrawlRunFailed",
        "which has an alert of its own; another run ends well",
        {
            **a_run(10, "failed", every=300),
            shards("failed"): steps((1, 15), every=300),
            **a_run(60, "done", every=300, instance=BOX, run="/data/other", run_id="two"),
        },
        {"HelixCrawlShardFailed": Firing(0, 10 + 25 * 60)},
        26 * 60,
        300,
    ),
    "run failed with a gene": Case(
        "HelixCrawlRunFailed",
        "which has an alert of its own",
        {**a_run(10, "failed", every=300), quarantined("a"): steps((1, 15), every=300)},
        {"HelixCrawlQuarantined": Firing(10, 10 + 25 * 60)},
        26 * 60,
        300,
    ),
    "run failed, and started again": Case(
        "HelixCrawlRunFailed",
        "by the next start, which is paused later",
        {**a_run(10, "failed", every=30), **a_run(30, "paused", after=30, run_id="two", every=30)},
        {"HelixCrawlRunFailed": Firing(11, 29.5)},
        every=30,
    ),
}

ACTIONS = {
    "failed, first seen at 1": Case(
        "HelixCrawlActionOverdue",
        "for a quarter of an hour",
        {**a_run(60), outcome("failed", "DEMOTE_CPU"): steps((None, 10), (1, 50))},
        {
            "HelixCrawlActionOverdue": Firing(
                10,
                24,
                told(action="DEMOTE_CPU", severity="warning"),
                (f"DEMOTE_CPU of shard a has failed, {RUN} ({PORT})", STATUS),
            )
        },
    ),
    "failed, counted before": Case(
        "HelixCrawlActionOverdue",
        "0 from the start",
        {**a_run(60), outcome("failed"): steps((0, 20), (1, 40))},
        {"HelixCrawlActionOverdue": Firing(20, 34)},
    ),
    "overdue": Case(
        "HelixCrawlActionOverdue",
        "the supervisor ends the worker instead, and it goes on",
        {**a_run(60), outcome("overdue"): steps((0, 20), (1, 40)), outcome("failed"): steps((0, 60))},
    ),
    "applied in time": Case(
        "HelixCrawlActionOverdue",
        "the usual end of an action",
        {**a_run(60), outcome("applied"): steps((None, 10), (1, 50)), QUEUE: steps((0, 10), (1, 2), (0, 48))},
    ),
    "never asked for, embedded": Case(
        "HelixCrawlActionOverdue",
        "a driver that neither polls nor reaches a boundary",
        both({**a_run(60, command="embedded"), QUEUE: steps((0, 10), (1, 20), (0, 30)), INFLIGHT: steps((1, 60))}),
        {
            "HelixCrawlActionOverdue": [
                Firing(
                    20,
                    29,
                    {"job": JOB, "instance": PORT, "run": RUN, "folder": RUN, "severity": "warning"},
                    (f"An action of {RUN} waits, and nobody asks for it, shard a on cuda:0 ({PORT})", STATUS),
                ),
                Firing(
                    20,
                    29,
                    told_of_notes(severity="warning"),
                    (f"An action of {NOTES} waits, and nobody asks for it, shard a on cuda:0 ({BOX})", CURL),
                ),
            ]
        },
    ),
    "never asked for, under the supervisor": Case(
        "HelixCrawlActionOverdue",
        "batches end, and nobody asks",
        {
            **a_run(60),
            QUEUE: steps((0, 10), (1, 20), (0, 30)),
            DEADLINE: steps((1800, 60)),
            GENES: steps(((0, 30), 60)),
        },
        {"HelixCrawlActionOverdue": Firing(20, 29)},
    ),
    "ended while it waits": Case(
        "HelixCrawlActionOverdue",
        "over with the run",
        {**a_run(25, "done", command="embedded"), QUEUE: steps((1, 26))},
        {"HelixCrawlActionOverdue": Firing(0, 24)},
        40,
    ),
    "kept from its boundary": Case(
        "HelixCrawlActionOverdue",
        "by a batch that the supervisor will end, until no deadline is shown for three minutes; another job works",
        {
            **a_run(60),
            QUEUE: steps((0, 10), (1, 30), (0, 20)),
            DEADLINE: steps((1800, 24), (None, 2), (1800, 4), (None, 30)),
            GENES: steps((64, 60)),
            **a_run(60, instance=BOX, run=NOTES, run_id="box"),
            **work(60, 9000, 64, instance=BOX),
        },
        {"HelixCrawlActionOverdue": Firing(33, 39)},
    ),
}

CASES: Mapping[str, Case] = {
    **CRAWLING,
    **ON_CPU,
    **STUCK,
    **RECYCLE,
    **CRASHES,
    **MEMORY,
    **PROBE,
    **PROGRESS,
    **GONE,
    **ENDS,
    **ACTIONS,
}
