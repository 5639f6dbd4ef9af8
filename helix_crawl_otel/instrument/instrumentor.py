"""What `opentelemetry-instrument` and `helix-crawl run --instrument` load: a job is watched with no line changed."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # it is there

from helix_crawl_otel.config import job_resumes
from helix_crawl_otel.instrument.calls import CallWatcher
from helix_crawl_otel.instrument.moves import device_of
from helix_crawl_otel.instrument.patches import install_all, remove_all
from helix_crawl_otel.watch.crawl_watch import CrawlWatch

__all__ = ["HelixCrawlInstrumentor"]


class HelixCrawlInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # opentelemetry-instrumentation is untyped
    """Watches sentence-transformers, FlagEmbedding and transformers, and what encodes through them.

    `instrument(watch=None)`: `watch` is a `CrawlWatch` of the caller's, `None` for one that is made when the first
    call begins and closed at the end of the process. `uninstrument()` gives each attribute back as it was.

    Threads: any.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing has to be there: what is not imported is not watched."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        given = kwargs.get("watch")
        if given is not None and not isinstance(given, CrawlWatch):
            raise ValueError(f"watch is {given!r}; accepted: a CrawlWatch, or None")
        where: Callable[[Any], str] = kwargs.get("device_of", device_of)
        self._own: list[CrawlWatch] = []
        self._watcher = CallWatcher(lambda: given or self._make(), job_resumes(), where)
        install_all(self._watcher)
        atexit.register(self._close)

    def _uninstrument(self, **kwargs: Any) -> None:
        atexit.unregister(self._close)
        remove_all(self._watcher)
        self._close()

    def _make(self) -> CrawlWatch:
        watch = CrawlWatch()
        self._own.append(watch)
        return watch

    def _close(self) -> None:
        self._watcher.close("paused" if self._watcher.has_left else "done")
        for watch in self._own:
            watch.close()
