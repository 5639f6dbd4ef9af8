"""Says what happened, in sentences: of the whole run, and of each shard that crawled.

Plain text: who shows it sees to it that it does no harm there.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from operator import attrgetter

from helix_crawl_otel.dates import local_time
from helix_crawl_otel.formats import clock, count, duration, gib, gib_number, number, shard_name
from helix_crawl_otel.report.effect import Effect, Speed, effect_of, lost_seconds, saved_seconds
from helix_crawl_otel.report.panels import LABELS
from helix_crawl_otel.report.story import DETECT, HANG, REMEDIES, ReportAction, ReportBatch, RunReport, ShardReport
from helix_crawl_otel.timeline import STORAGE_ADVICE

__all__ = [
    "evidence_text",
    "headline",
    "name_of",
    "origin",
    "sentences",
    "speed_text",
    "step_text",
    "tale_text",
    "unfinished_text",
]

MOST_TOLD = 60
"""Crawls and remedies of a shard that are told in words; of more, the first."""

MOST_SLOW = 3
"""Shards of which it is told that reading or committing is slow."""

_OUTCOMES = {
    "applied": "",
    "overdue": ", by force: a stuck batch kept it from its boundary",
    "vetoed": ", vetoed by the job",
    "passed_over": ", passed over: the job could not do it",
    "superseded": ", superseded by a later one",
    "failed": ", failed",
}


def name_of(tale: ShardReport, story: RunReport) -> str:
    """The shard, and the run where there are several."""
    name = shard_name(tale.shard)
    return name if story.runs < 2 else f"{name}, run {tale.run + 1}"


def headline(story: RunReport) -> str:
    """The whole in one line."""
    hangs = sum(step.kind == HANG for tale in story.tales for step in tale.steps)
    stuck = f" {count(hangs, 'batch', 'batches')} hung." if hangs else ""
    if not story.crawls:
        return f"No crawl in {_shards(story)}.{stuck}"
    crawled = {(tale.run, tale.shard) for tale in story.tales if tale.episodes}
    return f"{count(story.crawls, 'crawl')} in {len(crawled)} of {_shards(story)}.{stuck}"


def origin(story: RunReport) -> str:
    """Where, of which folder, with which model and when: what the runs recorded of themselves; empty where nothing."""
    runs = [run for run in story.origins if run is not None]
    named = [("on", [run.host for run in runs]), ("of", [run.folder for run in runs])]
    named.append(("model", [run.encoder for run in runs]))
    parts = [
        f"{word} {', '.join(names)}" for word, given in named if (names := list(dict.fromkeys(filter(None, given))))
    ]
    if began := [run.started for run in runs if run.started is not None]:
        parts.append(f"begun {local_time(began[0])}")
        if len(began) > 1:
            parts.append(f"the last of {len(story.origins)} runs {local_time(began[-1])}")
    return f"Recorded {', '.join(parts)}." if parts else ""


def _shards(story: RunReport) -> str:
    return count(len({tale.shard for tale in story.tales}), "shard")


def sentences(story: RunReport) -> Iterator[str]:
    """What was recorded, what was done about the crawls, what it cost."""
    batches = sum(len(tale.batches) for tale in story.tales)
    genes = round(sum(tale.genes for tale in story.tales))
    runs = "" if story.runs < 2 else f" in {story.runs} runs"
    yield f"{count(genes, 'gene')} in {count(batches, 'batch', 'batches')} over {duration(story.seconds)}{runs}."
    if lost_batches := sum(len(tale.unfinished) for tale in story.tales):
        verb = "its worker ended first" if lost_batches == 1 else "their workers ended first"
        yield f"{count(lost_batches, 'batch', 'batches')} did not end: {verb}."
    yield from _slow_stages(story)
    lost = sum(map(lost_seconds, story.tales))
    if story.crawls:
        yield f"The crawl took {duration(lost)} beyond what the same batches take at the baseline."
    if not story.is_recorded:
        asked = sum(step.kind in REMEDIES for tale in story.tales for step in tale.steps)
        what = "asked for nothing" if not asked else "asked for what the table shows"
        yield (
            "The timeline has no actions of the job itself, so nothing here was done by the ladder: with these knobs "
            f"the policy would have {what}."
        )
        return
    saved = [seconds for tale in story.tales if (seconds := saved_seconds(tale)) is not None]
    if saved and sum(saved) >= 0:
        yield f"The ladder saved about {duration(sum(saved))}, an estimate."
    elif saved:
        yield f"The remedies cost about {duration(-sum(saved))} more than they saved, an estimate."


def _slow_stages(story: RunReport) -> Iterator[str]:
    """What makes shards slow though they do not crawl, and what to set."""
    for shard, stages in story.slow_stages[:MOST_SLOW]:
        yield f"Of {shard_name(shard)} {stages.slow_stage} is what is slow: {stages}."
    if (more := len(story.slow_stages) - MOST_SLOW) > 0:
        yield f"So it is in {count(more, 'more shard')}."
    if story.slow_stages:
        yield f"{STORAGE_ADVICE[0].upper()}{STORAGE_ADVICE[1:]}."


def tale_text(tale: ShardReport, story: RunReport) -> str:
    """A shard in a few sentences."""
    if not tale.episodes:
        what = "No crawl."
        if any(step.kind == HANG for step in tale.steps):
            what = "A batch hung; no crawl."
        return " ".join([what, *(text for _, text in _unfinished(tale))])
    detections = [step for step in tale.steps if step.kind == DETECT]
    told: list[tuple[float, str]] = []
    for episode in tale.episodes[:MOST_TOLD]:
        at = bisect_left(detections, episode.detected - 1e-3, key=attrgetter("t"))
        text = f"It crawled from {clock(episode.began)} to {clock(episode.end)}, detected at "
        told.append((episode.detected, f"{text}{clock(episode.detected)}{_fall(detections[at : at + 1])}."))
    remedies = [step for step in tale.steps if _is_remedy(step)] if story.is_recorded else []
    told += [(step.t, _done(step, effect_of(step, tale, story.settings.window))) for step in remedies[:MOST_TOLD]]
    told = sorted(told, key=lambda item: item[0])[:MOST_TOLD]
    if left_out := len(tale.episodes) + len(remedies) - len(told):
        told.append((math.inf, f"So it went on: {left_out:,} more crawls and remedies are left out here."))
    if story.is_recorded and not remedies:
        told.append((math.inf, "Nothing was done about it."))
    told += _unfinished(tale)
    return " ".join(text for _, text in sorted(told, key=lambda item: item[0]))


def _unfinished(tale: ShardReport) -> list[tuple[float, str]]:
    """When and what; several in one sentence."""
    if len(tale.unfinished) > 1:
        longest = duration(max(batch.seconds for batch in tale.unfinished))
        text = f"{len(tale.unfinished)} batches did not end, one of them in {longest}: their workers ended first."
        return [(math.inf, text)]
    return [(batch.ended, f"{unfinished_text(batch)} at {clock(batch.ended)}.") for batch in tale.unfinished]


def unfinished_text(batch: ReportBatch) -> str:
    """A batch that did not end."""
    return f"A batch of {count(round(batch.genes), 'gene')} did not end in {duration(batch.seconds)}: its worker ended"


def _is_remedy(step: ReportAction) -> bool:
    return step.kind in REMEDIES and step.is_taken


def _fall(detections: Sequence[ReportAction]) -> str:
    if not detections:
        return ""
    (step,) = detections
    baseline, ema, memory = (step.evidence.get(key) for key in ("baseline", "ema", "memory_fraction"))
    text = ""
    if isinstance(baseline, (int, float)) and isinstance(ema, (int, float)):
        text = f": down from {number(baseline)} to {number(ema)} genes/s"
    if isinstance(memory, (int, float)):
        text += f" with {100 * memory:.1f} % of the memory in use"
    return text


def _done(step: ReportAction, effect: Effect) -> str:
    what = LABELS[step.kind][0].upper() + LABELS[step.kind][1:]
    by_force = " by force" if step.outcome == "overdue" else ""
    if effect.after is None:
        return f"{what}{by_force} at {clock(step.t)}: no batch tells of its effect."
    return f"{what}{by_force} at {clock(step.t)}: {speed_text(effect.after)} after it."


def step_text(step: ReportAction, is_recorded: bool) -> str:
    """An action and what became of it."""
    what = LABELS.get(step.kind, step.kind)
    if not is_recorded:
        return f"would be asked for: {what}" if step.kind in REMEDIES else what
    return what + _OUTCOMES.get(step.outcome, f", {step.outcome}")


def speed_text(speed: Speed | None) -> str:
    """Such as `2.3 genes/s (15 % of the baseline)`; `-` while nothing tells."""
    if speed is None:
        return "-"
    share = "" if speed.ratio is None else f" ({100 * speed.ratio:.3g} % of the baseline)"
    return f"{number(speed.rate)} genes/s{share}"


def evidence_text(step: ReportAction) -> str:
    """The numbers behind an action, as a sentence; its reason where it has no numbers."""
    found = {key: value for key, value in step.evidence.items() if isinstance(value, (int, float))}
    parts = []
    if "streak" in found:
        parts.append(f"{found['streak']:g} observations in a row like a crawl")
    if "ratio" in found:
        limit = f", the limit is {100 * found['limit_ratio']:.3g} %" if "limit_ratio" in found else ""
        whose = "the card's" if step.evidence.get("baseline_source") == "card" else "the shard's"
        base = f" of {number(found['baseline'])} genes/s" if "baseline" in found else ""
        parts.append(f"average speed {100 * found['ratio']:.3g} % of {whose} baseline{base}{limit}")
    if "memory_fraction" in found:
        parts.append(f"memory {100 * found['memory_fraction']:.1f} % full")
    if "shared_bytes" in found:
        rise = found.get("shared_rise_bytes")
        since = "" if rise is None else f" ({gib_number(rise, 2, '+')} since its first batches)"
        parts.append(f"shared memory of the worker {gib(found['shared_bytes'], 2)}{since}")
    if "other_shared_bytes" in found:
        parts.append(f"of others {gib(found['other_shared_bytes'], 2)}")
    if "inflight_seconds" in found:
        parts.append(f"a batch running for {duration(found['inflight_seconds'])}")
    return "; ".join(parts) or step.reason or "none recorded"
