"""The modelled card: what a batch costs on it, and what its memory does to the batches after.

A model, not a measurement. Each number below says where it comes from; what the incident log does not say (how much
had spilled) is solved from what it does say (how slow it was). Nothing here is random: the same batches on the same
card take the same time.

Source: INCIDENTS.md; DESIGN.md, section 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

from helix_crawl_otel.formats import GIB
from helix_crawl_otel.policy.model import MemoryReading

__all__ = ["BatchLoad", "CardModel", "Context", "check_number", "slowdown"]

_FITS_GIB = 1e-9


def check_number(name: str, value: object, least: float, most: float) -> None:
    """Raise `ValueError` naming the field unless the value is a number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}; accepted: a number from {least:g} to {most:g}")


@dataclass(frozen=True)
class CardModel:
    """A card, the CPU beside it, and an encoder. The defaults are the 12 GB card of the incidents with BGE-M3 in fp32.

    Args:
        limit_gib: Dedicated memory of the card.
        withheld_gib: What the driver never hands out. The reading of the incident of 06-10 stood at 11.85 of 12.
        others_gib: What other programs hold. 884 MiB were left when the worker of 06-11 was killed.
        context_gib: Weights (568 million parameters in fp32 are 2.1 GiB) and the CUDA context. With the activations of
            64 passages of 512 tokens this makes 6.0 GiB: "BGE-M3 needs 5 to 6 GB a worker in fp32".
        activation_mib_per_token: Activations a padded token.
        tokens_per_second: Healthy speed, in padded tokens; 64 passages of 384 tokens take 4.18 s, 15.3 genes/s.
        batch_seconds: Cost of a batch whatever is in it.
        spill_cost: See `slowdown`. Solved from 06-11: 64 genes in 47 minutes with 4.2 GiB spilled, the most that a
            worker can spill by one step and still hold in a fresh context (a fresh process did rescue that shard).
        spill_power: See `slowdown`. From the RTX 3070 series of INCIDENTS.md (8.2, 10.2, 12.0, 13.6 GiB reserved: 26,
            98, 179, 309 s a step), which 20 s + 16 s * spilled_gib ** 1.6 meets within 8 % for a budget of 7.6 GiB.
        start_seconds: From the start of a process to its first batch: imports, model load, 10 to 30 s.
        warmup_seconds: Added to the first batch of a context: kernels, autotuning.
        memory_return_seconds: From the end of a process on the card to its memory being back (DESIGN.md, section 5).
        release_seconds: One release of the cache, with the allocations made again after it.
        cpu_tokens_per_second: Speed of the CPU; 3.5 genes/s of 384 tokens: "about 3.5 genes/s on a good desktop".
        cpu_start_seconds: Loading the model for the CPU.

    Raises:
        ValueError: A number is out of range, naming the field.
    """

    limit_gib: float = 12.0
    withheld_gib: float = 0.15
    others_gib: float = 0.86
    context_gib: float = 2.8
    activation_mib_per_token: float = 0.1
    tokens_per_second: float = 6020.0
    batch_seconds: float = 0.1
    spill_cost: float = 68.0
    spill_power: float = 1.6
    start_seconds: float = 20.0
    warmup_seconds: float = 5.0
    memory_return_seconds: float = 10.0
    release_seconds: float = 0.5
    cpu_tokens_per_second: float = 1344.0
    cpu_start_seconds: float = 15.0

    def __post_init__(self) -> None:
        least = {"limit_gib": 0.1, "tokens_per_second": 0.001, "cpu_tokens_per_second": 0.001, "spill_power": 0.1}
        most = {"spill_power": 10.0}
        for item in fields(self):
            check_number(item.name, getattr(self, item.name), least.get(item.name, 0.0), most.get(item.name, 1e6))
        if self.budget_gib <= 0:
            raise ValueError(
                f"others_gib and withheld_gib are {self.others_gib!r} and {self.withheld_gib!r}; "
                f"accepted: together less than limit_gib ({self.limit_gib!r})"
            )
        if self.release_seconds > self.start_seconds + self.warmup_seconds:
            raise ValueError(
                f"release_seconds is {self.release_seconds!r}; accepted: at most what a fresh context costs, "
                f"start_seconds + warmup_seconds ({self.start_seconds + self.warmup_seconds:g})"
            )

    @property
    def budget_gib(self) -> float:
        """What the worker can hold on the card. Beyond it the driver places memory in the system's."""
        return self.limit_gib - self.withheld_gib - self.others_gib


def slowdown(card: CardModel, spilled_gib: float) -> float:
    """How many times longer a batch takes with so much of the worker's memory in the system's, 1 or more.

    `1 + spill_cost * spilled_gib ** spill_power`: each spilled block crosses the bus every time a kernel touches it,
    and what comes in throws something else out, so it costs more than in proportion.

    Args:
        card: The card.
        spilled_gib: Memory in the system's, 0 or more.
    """
    return 1.0 + card.spill_cost * math.pow(spilled_gib, card.spill_power)


@dataclass(frozen=True)
class BatchLoad:
    """One batch of a scenario, the same for every policy and however often it is encoded.

    Args:
        index: Position in the run, from 0.
        shard: Its shard.
        genes: Passages.
        tokens: Longest passage after padding; `genes * tokens` is the batch's work.
        noise: Factor on its time, about 1.
        fragment_gib: What the first batch of this padded length leaves in the cache for good.
        surge_gib: Workspace that this batch needs at once, in one piece.
        stalls: Never ends in a context that has encoded anything before it.
        speed: Speed of the card, 1 = not throttled.
        read_seconds: Reading the passages and committing the vectors: not part of the encode stage.
    """

    index: int
    shard: str
    genes: int
    tokens: int
    noise: float = 1.0
    fragment_gib: float = 0.0
    surge_gib: float = 0.0
    stalls: bool = False
    speed: float = 1.0
    read_seconds: float = 0.0

    @property
    def work(self) -> int:
        """Padded tokens."""
        return self.genes * self.tokens

    def healthy_seconds(self, card: CardModel) -> float:
        """Encode time on the card with nothing spilled."""
        return (card.batch_seconds + self.work / card.tokens_per_second) * self.noise / self.speed

    def cpu_seconds(self, card: CardModel) -> float:
        """Encode time on the CPU, which has memory enough."""
        return self.work / card.cpu_tokens_per_second * self.noise


@dataclass
class Context:
    """One CUDA context and the caching allocator in it. A fresh one holds the weights only.

    - A padded length seen for the first time lays down a fragment that no other length can use.
    - A surge needs its workspace beside the fragments in one piece; the hole it leaves takes later fragments.
      WDDM refuses nothing, so the allocator is never told to flush and simply takes more.
    - What does not fit the budget spills, and what has spilled stays spilled as long as the context lives.
    - A release empties the cache. While nothing has spilled the context is as good as fresh afterwards. Later it lowers
      the reading until the next batch takes everything back: "saws there for hours".

    So a younger context never holds or spills more than an older one that meets the same batches.
    """

    card: CardModel
    batches: int = 0
    widest_gib: float = 0.0
    fragments_gib: float = 0.0
    laid_gib: float = 0.0
    spilled_gib: float = 0.0
    just_released: bool = False
    shapes: set[int] = field(default_factory=set)

    @property
    def reserved_gib(self) -> float:
        """What the allocator holds: weights, the widest activations so far, fragments and holes."""
        return self.card.context_gib + self.widest_gib + self.laid_gib

    @property
    def used_gib(self) -> float:
        """What a probe reads: everybody's memory on the card."""
        held = self.card.context_gib if self.just_released else self.reserved_gib
        return self.card.others_gib + min(held, self.card.budget_gib)

    def reading(self) -> MemoryReading:
        """The same as a probe gives it, with what has spilled as shared memory; the others hold theirs on the card."""
        return MemoryReading(
            round(self.used_gib * GIB), round(self.card.limit_gib * GIB), round(self.spilled_gib * GIB), 0
        )

    def encode(self, load: BatchLoad) -> float:
        """Take what the batch needs and say how long its encode takes, in seconds; infinite when it stalls.

        `warmup_seconds` is not in it: it belongs to the start of the process.
        """
        self.just_released = False
        self.widest_gib = max(self.widest_gib, load.work * self.card.activation_mib_per_token / 1024)
        if load.tokens not in self.shapes:
            self.shapes.add(load.tokens)
            self.fragments_gib += load.fragment_gib
        self.laid_gib = max(self.laid_gib, self.fragments_gib + load.surge_gib)
        over_gib = self.reserved_gib - self.card.budget_gib
        if over_gib > _FITS_GIB:
            self.spilled_gib = max(self.spilled_gib, over_gib)
        stalls = load.stalls and self.batches > 0
        self.batches += 1
        return math.inf if stalls else load.healthy_seconds(self.card) * slowdown(self.card, self.spilled_gib)

    def release(self) -> None:
        """`torch.cuda.empty_cache()`."""
        self.just_released = True
        if self.spilled_gib == 0:
            self.widest_gib = self.fragments_gib = self.laid_gib = 0.0
            self.shapes = set()
