"""What it costs to watch a job without a line of its own: `SentenceTransformer.encode` of MiniLM, by pairs."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time

import pytest

from helix_crawl_otel import CrawlWatch
from helix_crawl_otel.encoders.models import minilm_folder

pytestmark = [
    pytest.mark.benchmark,
    # Looked for, not imported: these are collected in every run, and take eight seconds of the processor to import.
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("wrapt", "sentence_transformers"))),
        reason="the extras `instrument` and `minilm` are not installed",
    ),
]

PAIRS = 15
MOST = 1.01


def test_encode_with_and_without() -> None:
    """Processor seconds with over without, the median of the pairs, each of which begins with the other."""
    from sentence_transformers import SentenceTransformer

    from helix_crawl_otel.instrument.instrumentor import HelixCrawlInstrumentor

    logging.getLogger("helix_crawl_otel").setLevel(logging.ERROR)
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = [f"word {'of a passage ' * (2 + n % 10)}" for n in range(96)]
    instrumentor, ratios = HelixCrawlInstrumentor(), []

    def seconds() -> float:
        began = time.process_time()
        model.encode(texts, batch_size=32)
        return time.process_time() - began

    seconds()
    with CrawlWatch() as watch:
        for pair in range(PAIRS):
            took: dict[bool, float] = {}
            for is_watched in (pair % 2 == 0, pair % 2 == 1):
                if is_watched:
                    instrumentor.instrument(watch=watch)
                took[is_watched] = seconds()
                if is_watched:
                    instrumentor.uninstrument()
            ratios.append(took[True] / took[False])
    print(f"with over without: median {statistics.median(ratios):.4f}, {sorted(round(each, 3) for each in ratios)}")
    assert statistics.median(ratios) <= MOST
