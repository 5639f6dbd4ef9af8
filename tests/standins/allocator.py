"""A `torch.cuda` whose caching allocator is a model of the documented one, on a card that others use as well.

It looks at its cap before each new segment, gives its cached blocks back and tries again, and raises. What it cannot
have under WDDM it gets all the same: the card holds more than it has, which is the spill.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.probe import Probe, ProbeFailure

__all__ = ["CONTEXT", "GIB", "Card", "CardProbe", "Cuda", "OutOfMemoryError"]

GIB = 1024**3
CONTEXT = GIB // 2
"""What a process takes beside its allocator, once it uses the card."""


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


class Card:
    """Memory that several processes share.

    Args:
        total: Of the card, in bytes, as torch has it.
        others: What others hold.
        reserved_by_driver: What NVML has beyond that: its total is larger than torch's.
    """

    def __init__(self, total: int = 12 * GIB, others: int = GIB, reserved_by_driver: int = 0) -> None:
        self.total = total
        self.others = others
        self.reserved_by_driver = reserved_by_driver
        self.processes: list[Cuda] = []

    @property
    def used(self) -> int:
        """By everybody; more than there is has spilled."""
        return self.others + sum(one.held for one in self.processes)


class Cuda:
    """What may be asked of `torch.cuda` for a cap or a release. Any other is missing: asking for it is an error.

    Args:
        card: Cards of the process, in order.
        fraction: What `PYTORCH_CUDA_ALLOC_CONF` has set.
    """

    def __init__(self, *cards: Card, fraction: float = 1.0) -> None:
        self.cards = cards
        self.fractions = dict.fromkeys(range(len(cards)), fraction)
        self.free_blocks: dict[int, int] = dict.fromkeys(range(len(cards)), 0)
        self.allocated: dict[int, int] = dict.fromkeys(range(len(cards)), 0)
        self.initialized = False
        self.flushes = 0
        for card in cards:
            card.processes.append(self)

    # -- as torch has it ----------------------------------------------------------------------------------------------

    def is_available(self) -> bool:
        return bool(self.cards)

    def device_count(self) -> int:
        return len(self.cards)

    def is_initialized(self) -> bool:
        return self.initialized

    def get_device_properties(self, device: int | str) -> SimpleNamespace:
        self.initialized = True
        card = self.cards[device if isinstance(device, int) else int(device.partition(":")[2])]
        return SimpleNamespace(total_memory=card.total, name="stand-in", major=5, minor=2)

    def memory_reserved(self, index: int = 0) -> int:
        return self.allocated[index] + self.free_blocks[index]

    def memory_allocated(self, index: int = 0) -> int:
        return self.allocated[index]

    def memory_stats(self, index: int) -> dict[str, int]:
        return dict.fromkeys(("reserved_bytes.all.current", "reserved_bytes.all.peak"), self.memory_reserved(index))

    def set_per_process_memory_fraction(self, fraction: float, index: int) -> None:
        assert isinstance(fraction, float)
        assert 0 <= fraction <= 1
        self.initialized = True
        self.fractions[index] = fraction

    def get_per_process_memory_fraction(self, index: int) -> float:
        allowed = self.allowed(index)
        return 1.0 if allowed is None else allowed / self.cards[index].total

    def empty_cache(self) -> None:
        self.flushes += 1
        self.free_blocks = dict.fromkeys(self.free_blocks, 0)

    # -- what a job does ----------------------------------------------------------------------------------------------

    def allowed(self, index: int) -> int | None:
        """The cap in bytes, cut down as C++ does."""
        fraction = self.fractions[index]
        return None if fraction >= 1.0 else int(fraction * self.cards[index].total)

    def allocate(self, size: int, index: int = 0) -> None:
        """A tensor: from the cache, else from a new segment of its own.

        Raises:
            OutOfMemoryError: Not even without what is cached.
        """
        self.initialized = True
        if self.free_blocks[index] >= size:
            self.free_blocks[index] -= size
        elif not self._fits(size, index):
            self.empty_cache()
            if not self._fits(size, index):
                raise OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self.allocated[index] += size

    def free(self, size: int, index: int = 0) -> None:
        """It goes to the cache, which keeps it."""
        self.allocated[index] -= size
        self.free_blocks[index] += size

    @property
    def held(self) -> int:
        """On all of its cards, contexts included."""
        held = [self.memory_reserved(index) for index in range(len(self.cards))]
        return sum(held) + CONTEXT * sum(1 for one in held if one)

    def _fits(self, size: int, index: int) -> bool:
        allowed = self.allowed(index)
        return allowed is None or self.memory_reserved(index) + size <= allowed


class CardProbe(Probe):
    """NVML, on such a card."""

    source = "nvml"

    def __init__(self, card: Card, device: str = "cuda:0") -> None:
        super().__init__(device)
        self.card = card
        self.reads = 0
        self.broken: str | None = None

    def _read(self) -> MemoryReading:
        self.reads += 1
        if self.broken is not None:
            raise ProbeFailure(self.broken)
        total = self.card.total + self.card.reserved_by_driver
        return MemoryReading(min(total, self.card.used + self.card.reserved_by_driver), total)


def torch_of(cuda: Cuda) -> Any:
    """The module around it."""
    return SimpleNamespace(cuda=cuda, OutOfMemoryError=OutOfMemoryError)
