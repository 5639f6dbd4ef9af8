"""A modelled card laid over a real encoder: it slows the real encode and answers for the card's memory, per process.

So a fresh worker process really is fast again, and one whose card has spilled stays slow whatever it releases. The
encode itself is real, on the CPU.

Source: DESIGN.md, section 1; `modelled_card` says where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from helix_crawl_otel.config import Value
from helix_crawl_otel.encoders.base import Encoder, EncoderLayer
from helix_crawl_otel.formats import GIB, gib
from helix_crawl_otel.modelled_card import WHOLE_FIELDS, BatchLoad, CardModel, Context, check_number
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.vram_cap import OFF, fraction_of

__all__ = ["CARD_KEYS", "CardFault", "CardsCpu", "card_of"]

FRAGMENT = "fragment_gib"

LEAK = "leak_gib"

CARD_KEYS = (FRAGMENT, LEAK, *(row.name for row in fields(CardModel) if row.name != "memory_return_seconds"))
"""Parameters: those of the card, what each batch leaves in the cache, and what it takes that only the end of a process
gives back. When the memory of one that has ended is back is up to the real process."""

Values = Mapping[str, float | int | str]


def card_of(values: Values) -> CardModel:
    """The card that the parameters describe.

    Raises:
        ValueError: One is out of range; the message names it and says what is accepted.
    """
    for name in (FRAGMENT, LEAK):
        check_number(name, float(values.get(name, 0.0)), 0.0, 1e6)
    given: dict[str, Any] = {key: float(value) for key, value in values.items() if key not in (FRAGMENT, LEAK)}
    whole = {key: int(value) for key, value in given.items() if key in WHOLE_FIELDS and value.is_integer()}
    return CardModel(**given | whole)


class CardFault(EncoderLayer):
    """An encoder on the modelled card. See `Encoder`.

    A batch takes as long as on the card, or as long as the real encode where that is longer. `start_seconds` is waited
    for only if given: a real process has a start of its own. Under a cap a batch that would need more is refused, after
    the allocator has given its cache back, as torch does it; halving it is up to the worker.

    Args:
        encoder: What really encodes.
        values: Parameters, see `CARD_KEYS`.
        clock: Seconds.
        sleep: Seconds of that clock.
        vram_cap: `HELIX_DENSE_VRAM_CAP`; `auto` is no cap, as on every card whose driver model is not known.

    Threads: `memory` from any, the rest from the worker's.
    """

    def __init__(
        self,
        encoder: Encoder,
        values: Values,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        vram_cap: Value = OFF,
    ) -> None:
        super().__init__(encoder)
        self._fragment_gib, self._leak_gib = float(values.get(FRAGMENT, 0.0)), float(values.get(LEAK, 0.0))
        self._card = card_of(values)
        fraction = fraction_of(vram_cap, None)
        self._context = Context(self._card, None if fraction is None else fraction * self._card.budget_gib)
        self._clock = clock
        self._sleep = sleep
        sleep(float(values.get("start_seconds", 0.0)))

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Encode, and take as long as the card would. Its memory is taken before: a probe sees it during the batch.

        Raises:
            RuntimeError: Out of memory, beyond the cap.
        """
        started = self._clock()
        context = self._context
        warmup_seconds = self._card.warmup_seconds if context.batches == 0 else 0.0
        tokens = max(1, round(self._encoder.work(texts) / len(texts)))
        context.shapes.discard(tokens)  # every batch leaves its fragment, also one of a length that was seen
        load = BatchLoad(
            context.batches, "", len(texts), tokens, fragment_gib=self._fragment_gib, leak_gib=self._leak_gib
        )
        ends = started + warmup_seconds + context.encode(load, halves=False)
        if context.lacks_memory:
            self._sleep(max(0.0, ends - self._clock()))
            needed = gib(round(load.needed_gib(self._card) * GIB))
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {needed} (injected by --fault card)")
        vectors = self._encoder.encode(texts)
        self._sleep(max(0.0, ends - self._clock()))
        return vectors

    def release(self) -> None:
        """The cache is released, on the modelled card too; that takes `release_seconds`."""
        self._encoder.release()
        self._context.release()
        self._sleep(self._card.release_seconds)

    def memory(self) -> MemoryReading:
        """What a probe would read."""
        return self._context.reading()


class CardsCpu(EncoderLayer):
    """The same encoder in a process that a demotion has sent to the CPU: the card slows it no more. See `Encoder`.

    Args:
        encoder: What really encodes.
        values: Parameters of the card; `cpu_tokens_per_second` and `cpu_start_seconds` slow it only if given.
        clock: Seconds.
        sleep: Seconds of that clock.

    Threads: the worker's.
    """

    def __init__(
        self, encoder: Encoder, values: Values, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        super().__init__(encoder)
        self._tokens_per_second = float(values.get("cpu_tokens_per_second", 0.0))
        self._clock = clock
        self._sleep = sleep
        sleep(float(values.get("cpu_start_seconds", 0.0)))

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Encode, at the speed that was asked for where the real one is higher."""
        started = self._clock()
        vectors = self._encoder.encode(texts)
        if self._tokens_per_second:
            ends = started + self._encoder.work(texts) / self._tokens_per_second
            self._sleep(max(0.0, ends - self._clock()))
        return vectors
