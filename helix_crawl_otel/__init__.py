"""Keeps dense-embedding jobs on small GPUs from crawling. See README.md.

The public names are given lazily (PEP 562), so that importing the pure policy loads neither torch nor opentelemetry.
Nothing at all is imported here: this runs before the command has taken the current folder out of its path.
"""

TYPE_CHECKING = False
"""As in `typing`, which would be an import."""

if TYPE_CHECKING:
    from helix_crawl_otel._version import __version__
    from helix_crawl_otel.actions import ActionQueue, PauseRequested
    from helix_crawl_otel.config import CrawlConfig
    from helix_crawl_otel.encoders.base import ModelError
    from helix_crawl_otel.instrument.shard_names import shard
    from helix_crawl_otel.instrument.wrap import HelixCrawlCallback
    from helix_crawl_otel.otel.endpoint import MetricsEndpoint, serve_metrics
    from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading, Outcome, ShardStatus, Verdict
    from helix_crawl_otel.probes.vram_cap import cap_vram
    from helix_crawl_otel.search.index import Index, Match, query
    from helix_crawl_otel.search.place import SourceState
    from helix_crawl_otel.shards.errors import StoreError
    from helix_crawl_otel.watch.crawl_watch import CrawlWatch

_HOMES = {
    "Action": "policy.model",
    "ActionKind": "policy.model",
    "ActionQueue": "actions",
    "CrawlConfig": "config",
    "CrawlWatch": "watch.crawl_watch",
    "HelixCrawlCallback": "instrument.wrap",
    "Index": "search.index",
    "Match": "search.index",
    "MemoryReading": "policy.model",
    "MetricsEndpoint": "otel.endpoint",
    "ModelError": "encoders.base",
    "Outcome": "policy.model",
    "PauseRequested": "actions",
    "ShardStatus": "policy.model",
    "SourceState": "search.place",
    "StoreError": "shards.errors",
    "Verdict": "policy.model",
    "__version__": "_version",
    "cap_vram": "probes.vram_cap",
    "query": "search.index",
    "serve_metrics": "otel.endpoint",
    "shard": "instrument.shard_names",
}

__all__ = [
    "Action",
    "ActionKind",
    "ActionQueue",
    "CrawlConfig",
    "CrawlWatch",
    "HelixCrawlCallback",
    "Index",
    "Match",
    "MemoryReading",
    "MetricsEndpoint",
    "ModelError",
    "Outcome",
    "PauseRequested",
    "ShardStatus",
    "SourceState",
    "StoreError",
    "Verdict",
    "__version__",
    "cap_vram",
    "query",
    "serve_metrics",
    "shard",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
