"""Trees to ingest, and what came of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.ingest import IngestReport, ingest
from helix_crawl_otel.corpus.tree import Source, SourceProblem, plan_named, plan_shards, sources_of
from tests.shards.shards import encode_all, epoch_of, opened, rows

RULE = ChunkRule(100)


def shards(root: Path, output: Path | None = None) -> list[str]:
    """Names of a tree's shards."""
    return [plan.name for plan in plan_shards(root, output)]


def sources(root: Path, shard: str, output: Path | None = None) -> list[str]:
    """Ids of a shard's sources that can be read, in order."""
    return [item.source_id for item in sources_of(plan_named(root, output, shard)) if isinstance(item, Source)]


def problems(root: Path, shard: str) -> dict[str, str]:
    """What of a shard cannot be read, and why."""
    found = sources_of(plan_named(root, None, shard))
    return {item.source_id: item.reason for item in found if isinstance(item, SourceProblem)}


def taken_in(
    path: Path, root: Path, *, prune: bool = False, rule: ChunkRule = RULE, stop: Callable[[], bool] = lambda: False
) -> IngestReport:
    """Ingest the shard `a` of a tree, as the next worker would."""
    with opened(path, epoch_of(path) + 1, create=True) as store:
        plan = plan_named(root, None, "a")
        return ingest(store, plan, rule, prune=prune, progress=lambda sources, genes: None, should_stop=stop)


def encoded(path: Path) -> int:
    """Give every gene that lacks one a vector. Returns how many lacked one."""
    with opened(path, epoch_of(path) + 1) as store:
        return encode_all(store)


def contents(path: Path) -> list[tuple[object, ...]]:
    """The genes, in the order of the table."""
    return rows(path, "SELECT gene_id, content, source_id, content_hash FROM genes ORDER BY rowid")
