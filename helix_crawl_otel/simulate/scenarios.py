"""The scenarios that `simulate` knows: both incidents, and what must and must not be taken for a crawl.

All are on the card of the incidents (`CardModel`), most with 25,000 genes in batches of 64 at 15.3 genes/s.
With padded lengths of 256 to 512 in steps of 32 there are nine shapes; most are met within some 30 batches.

Source: INCIDENTS.md; DESIGN.md, section 4 ("what must not trip") and section 10.
"""

from __future__ import annotations

from helix_crawl_otel.simulate.scenario import Scenario, Stretch

__all__ = ["SCENARIOS", "by_name"]

# Nine shapes of 0.53 GiB fill 4.77 of the 4.98 GiB that weights and activations leave: 97 % full, healthy.
_FULL_GIB = 0.53


def _incident_06_10() -> Scenario:
    return Scenario(
        name="incident-06-10",
        text="shard confluence: one shape needs 0.43 GiB more at once, 0.21 GiB spill and stay: 15.3 to 2.3 genes/s",
        stretches=(
            Stretch("confluence", 9_600, fragment_gib=_FULL_GIB),
            Stretch("confluence", 15_400, fragment_gib=_FULL_GIB, surge_gib=0.431),
        ),
        kind="one-crawl",
    )


def _incident_06_11() -> Scenario:
    return Scenario(
        name="incident-06-11",
        text="shard slack__eng-oncall: one shape needs 4.4 GiB at once beside a full cache, 4.2 GiB spill: 64 genes in "
        "47 minutes from then on, although the cache is released every 64 batches; 66 hours to go",
        stretches=(
            Stretch("slack__eng-oncall", 19_648, fragment_gib=_FULL_GIB),
            Stretch("slack__eng-oncall", 5_352, fragment_gib=_FULL_GIB, surge_gib=4.4),
        ),
        kind="one-crawl",
        release_every=64,
    )


def _gradual_decay() -> Scenario:
    return Scenario(
        name="gradual-decay",
        text="each new shape leaves a little: from 22 genes/s to about 1.2 within some 60 batches of the first spill",
        stretches=(
            Stretch("folder", 9_600, tokens=(144, 376), pad=8, fragment_gib=0.1935),
            Stretch("folder", 15_400, tokens=(137, 376), pad=1, fragment_gib=0.008),
        ),
        kind="one-crawl",
    )


def _endless_batch() -> Scenario:
    return Scenario(
        name="endless-batch",
        text="with 4.2 s healthy batches, one batch never ends in the context that meets it; a fresh one encodes it",
        stretches=(
            Stretch("wiki", 12_800, fragment_gib=_FULL_GIB),
            Stretch("wiki", 12_200, fragment_gib=_FULL_GIB, stalls=True),
        ),
        kind="one-crawl",
    )


def _recurring() -> Scenario:
    return Scenario(
        name="recurring-crawl",
        text="65 shapes: every fresh context is full after some 150 batches and spills again, sooner than the release",
        stretches=(Stretch("mixed", 25_000, pad=4, fragment_gib=0.086),),
        kind="recurring",
    )


def _born_crawling() -> Scenario:
    return Scenario(
        name="born-crawling",
        text="three healthy shards fill the cache; the fourth spills 4.2 GiB with its first batch and never shows a "
        "healthy one: only the card's earlier shards tell that it is slow",
        stretches=(
            *(Stretch(name, 6_400, fragment_gib=_FULL_GIB) for name in ("one", "two", "three")),
            Stretch("four", 5_800, fragment_gib=_FULL_GIB, surge_gib=4.4),
        ),
        kind="one-crawl",
    )


def _release_is_enough() -> Scenario:
    return Scenario(
        name="release-is-enough",
        text="129 shapes fill a context within some 320 batches; a release every 256 is in time, without one it spills",
        stretches=(Stretch("repository", 40_000, pad=2, fragment_gib=0.042),),
        kind="one-crawl",
    )


def _long_documents() -> Scenario:
    return Scenario(
        name="long-documents",
        text="passages of up to 128 tokens, then of up to 1,024 with the card 96 % full: an eighth of the genes/s, "
        "as it should be",
        stretches=(
            Stretch("manuals", 12_800, tokens=(96, 128), fragment_gib=0.2),
            Stretch("manuals", 12_200, tokens=(896, 1024), fragment_gib=0.2),
        ),
        kind="healthy",
    )


def _slow_disk() -> Scenario:
    return Scenario(
        name="slow-disk",
        text="an 18 GB shard file outgrows the file cache: reading a batch takes 60 s instead of 0.2, and the card is "
        "97 % full",
        stretches=(
            Stretch("archive", 12_800, fragment_gib=_FULL_GIB),
            Stretch("archive", 12_200, fragment_gib=_FULL_GIB, read_seconds=60.0),
        ),
        kind="healthy",
    )


def _throttling() -> Scenario:
    return Scenario(
        name="throttling",
        text="the card gets hot and runs at half its speed for 200 batches, 97 % full",
        stretches=(
            Stretch("notes", 6_400, fragment_gib=_FULL_GIB),
            Stretch("notes", 12_800, fragment_gib=_FULL_GIB, speed=0.5),
            Stretch("notes", 5_800, fragment_gib=_FULL_GIB),
        ),
        kind="healthy",
    )


SCENARIOS = (
    _incident_06_10(),
    _incident_06_11(),
    _gradual_decay(),
    _endless_batch(),
    _born_crawling(),
    _recurring(),
    _release_is_enough(),
    _long_documents(),
    _slow_disk(),
    _throttling(),
)


def by_name(name: str) -> Scenario | None:
    """The scenario of that name, `None` when there is none."""
    return next((scenario for scenario in SCENARIOS if scenario.name == name), None)
