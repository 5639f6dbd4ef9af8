"""A modelled card laid over a real encoder: it slows the real encode and answers for the card's memory, per process.

So a fresh worker process really is fast again, and one whose card has spilled stays slow whatever it releases. The
encode itself is real, on the CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from helix_crawl_otel.backfill.encoders.base import Encoder
from helix_crawl_otel.core.model import MemoryReading
from helix_crawl_otel.modelled_card import BatchLoad, CardModel, Context

__all__ = ["CardFault"]


class CardFault:
    """See `Encoder`.

    Args:
        encoder: What really encodes.
        values: Parameters of the card, and `fragment_gib`: what each batch leaves in the cache for good.
        clock: Seconds.
        sleep: Seconds of that clock.

    Threads: `memory` from any, the rest from the worker's.
    """

    def __init__(
        self,
        encoder: Encoder,
        values: Mapping[str, float | int | str],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.identity = encoder.identity
        self.device = encoder.device
        self.versions = encoder.versions
        self.threads = encoder.threads
        self._encoder = encoder
        self._fragment_gib = float(values.get("fragment_gib", 0.0))
        self._context = Context(self.model_of(values))
        self._clock = clock
        self._sleep = sleep

    @staticmethod
    def model_of(values: Mapping[str, float | int | str]) -> CardModel:
        """The card that the parameters describe. Raises `ValueError` naming one that is out of range."""
        given = {key: float(value) for key, value in values.items() if key != "fragment_gib"}
        return dataclasses.replace(CardModel(), **given)

    def work(self, texts: Sequence[str]) -> float:
        """See `Encoder`."""
        return self._encoder.work(texts)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Encode, and take as long as the card would, if that is longer."""
        started = self._clock()
        vectors = self._encoder.encode(texts)
        card, context = self._context.card, self._context
        tokens = max(1, round(self._encoder.work(texts) / len(texts)))
        context.shapes.discard(tokens)  # every batch leaves a fragment here, also one of a length that was seen
        warmup = card.warmup_seconds if context.batches == 0 else 0.0
        load = BatchLoad(context.batches, "", len(texts), tokens, fragment_gib=self._fragment_gib)
        self._sleep(max(0.0, warmup + context.encode(load) - (self._clock() - started)))
        return vectors

    def release(self) -> None:
        """The cache is released, on the modelled card too."""
        self._context.release()

    def memory(self) -> MemoryReading:
        """What a probe would read."""
        return self._context.reading()
