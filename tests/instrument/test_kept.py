"""What is kept of a watch that is over."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.instrument.models import sentence_model, texts


def test_a_model_that_is_wrapped_for_watch_after_watch_keeps_none_of_them() -> None:
    """But for the newest: a service may make a watch a job, and has one model."""
    model = sentence_model()

    def watched() -> weakref.ref[CrawlWatch]:
        with CrawlWatch(tick_seconds=None) as watch:
            watch.wrap(model).encode(texts(2))
            return weakref.ref(watch)

    made = [watched() for _ in range(4)]
    gc.collect()
    kept: list[Any] = [each() for each in made]
    assert kept[:-1] == [None, None, None]
