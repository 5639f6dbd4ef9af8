"""What it costs to watch a job without a line of its own: `SentenceTransformer.encode` of MiniLM, by pairs."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

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

PAIRS = 24
PASSES = 400
MOST = 0.01
"""Of a pass: what is said of it."""

ROWS, TOKENS = 32, 32


def test_encode_with_and_without(benchmark: Any) -> None:
    """Processor seconds with over without, by pairs, each of which begins with the other; and what a pass costs more,
    on a model that does nothing, over what one of MiniLM takes. The second is what is asserted: the first has the noise
    of the machine in it."""
    import torch
    from sentence_transformers import SentenceTransformer

    from helix_crawl_otel.instrument import calls
    from helix_crawl_otel.instrument.instrumentor import HelixCrawlInstrumentor

    base: Any = SentenceTransformer

    class Idle(base):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def forward(self, given: Any) -> Any:
            return given

    logging.getLogger("helix_crawl_otel").setLevel(logging.ERROR)
    model, idle, instrumentor = (
        SentenceTransformer(str(minilm_folder()), device="cpu"),
        Idle(),
        HelixCrawlInstrumentor(),
    )
    texts = [f"word {'of a passage ' * (2 + n % 10)}" for n in range(ROWS * (1 if benchmark.disabled else 8))]
    given = {"input_ids": torch.ones(ROWS, TOKENS, dtype=torch.int64)}

    def encode() -> None:
        model.encode(texts, batch_size=ROWS)

    def seconds(step: Callable[[], object], times: int = 1) -> float:
        began = time.process_time()
        for _ in range(times):
            step()
        return time.process_time() - began

    encode()
    ratios: list[float] = []
    bare: list[float] = []
    idles: dict[bool, list[float]] = {False: [], True: []}
    with CrawlWatch() as watch:
        for pair in range(2 if benchmark.disabled else PAIRS):
            took: dict[bool, float] = {}
            for is_watched in (pair % 2 == 0, pair % 2 == 1):
                if is_watched:
                    instrumentor.instrument(watch=watch)
                took[is_watched] = seconds(encode)
                call = calls.begin_call(instrumentor._watcher, lambda: idle) if is_watched else None
                idles[is_watched].append(seconds(lambda: idle(given), PASSES) / PASSES)
                if call is not None:
                    calls.end_call(call, None)
                    instrumentor.uninstrument()
            ratios.append(took[True] / took[False])
            bare.append(took[False] / (len(texts) / ROWS))
    low, middle, high = statistics.quantiles(ratios, n=4)
    more = statistics.median(idles[True]) - statistics.median(idles[False])
    a_pass = statistics.median(bare)
    print(
        f"with over without: median {middle:.4f}, quartiles {low:.3f} and {high:.3f}, "
        f"{min(ratios):.3f} to {max(ratios):.3f}"
    )
    print(f"a pass of MiniLM {a_pass * 1e3:.1f} ms, watched {more * 1e6:.0f} us more: {more / a_pass:.3%}")
    assert more / a_pass <= MOST
    benchmark.pedantic(encode, rounds=1)
