"""`helix-crawl replay`: what the policy would have done on a recorded timeline, with the knobs given.

Source: DESIGN.md, sections 3.3 and 3.6.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from helix_crawl_otel.commands.common import (
    Commands,
    add_command,
    add_timeline,
    heard,
    say,
    say_json,
    timeline_path,
    timeline_reader,
)
from helix_crawl_otel.config import CrawlConfig, add_options, config_from_options, option_values
from helix_crawl_otel.replay.engine import ReplayResult, replay
from helix_crawl_otel.replay.text import replay_lines, skipped_lines
from helix_crawl_otel.timeline import TimelineReader

__all__ = ["ReplayResult", "json_lines", "register", "replay", "run"]

_DESCRIPTION = """\
Play a recorded timeline through the detector and the ladder, and show every crawl they would have seen and every
action they would have asked for, with the knobs given. Nothing is encoded and nothing is changed."""

_EPILOG = """\
examples:
  helix-crawl replay ~/shards                                  the timeline that build left there
  helix-crawl replay timeline.jsonl --factor 3 --window 6      what if the rule were stricter?
  helix-crawl replay timeline.jsonl --action adaptive          and what if it chose by cost?
  helix-crawl replay timeline.jsonl.gz --json | tail -n 1      the summary, for a script
  ssh rig cat timeline.jsonl | helix-crawl replay -

A timeline is JSON lines. Of a job of your own, this is enough (t: end of the batch, both in seconds):
  {"event":"batch","t":12.31,"shard":"a","device":"cuda:0","genes":64,"work":81234,"seconds":4.18}
  {"event":"memory","t":12.31,"device":"cuda:0","used_bytes":11850000000,"limit_bytes":12000000000}

An action counts as applied at the end of the shard's next batch, and changes nothing on the timeline. One that a stuck
batch keeps waiting too long ends the worker there: the rest of that batch is not judged. A supervised job also records
a batch whose worker ended in it, as "unfinished" with the same keys: it is judged while it ran, and is no sample.

exit codes: 0 done; 2 wrong option, wrong variable, or no timeline; 130 interrupted."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands, "replay", run, "what the policy would have done on a recorded timeline", _DESCRIPTION, _EPILOG
    )
    add_timeline(parser)
    parser.add_argument(
        "--json", action="store_true", help="one object a line for each trip and action, then a summary"
    )
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out. Returns its exit code.

    Raises:
        ConfigError: A knob has a value that is not accepted.
        TimelineError: There is no timeline to read.
    """
    config = config_from_options(option_values(args))
    reader, result = heard(lambda: _replayed(args, config))
    if args.json:
        for line in json_lines(result, reader):
            say_json(line)
        say(*skipped_lines(reader), to_stderr=True)
    else:
        say(*replay_lines(result, reader))
    return 0


def _replayed(args: argparse.Namespace, config: CrawlConfig) -> tuple[TimelineReader, ReplayResult]:
    reader = timeline_reader(timeline_path(args))
    return reader, replay(reader, config)


def json_lines(result: ReplayResult, reader: TimelineReader | None = None) -> Iterator[dict[str, Any]]:
    """What `--json` prints: an object for each DETECT and each action issued, then the summary."""
    for decision in result.issued():
        assert decision.kind is not None
        yield {
            "t": round(decision.t, 6),
            "shard": decision.shard,
            "kind": decision.kind.value,
            "rung": decision.rung,
            "evidence": dict(decision.evidence),
        }
    yield {
        "event": "summary",
        "shards": len(result.shards),
        "batches": result.batches,
        "trips": result.trips,
        "actions": result.actions,
        "runs": max(len(result.runs), 1),
        "seconds": round(result.seconds, 3),
        "ignored_samples": result.ignored_samples,
        "cut_batches": result.cut_batches,
        "unfinished_batches": result.unfinished_batches,
        "skipped_lines": reader.skipped_lines if reader else 0,
        "torn_line": reader.torn_line if reader else None,
    }
