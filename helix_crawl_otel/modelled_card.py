"""The modelled card: what a batch costs on it, and what its memory does to the batches after.

A model, not a measurement. Each number below says where it comes from; what the incident log does not say (how much
had spilled) is solved from what it does say (how slow it was). Nothing here is random: the same batches on the same
card take the same time.

Source: INCIDENTS.md; DESIGN.md, section 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

from helix_crawl_otel.formats import GIB
from helix_crawl_otel.modelled_allocator import EncoderModel, replay_forward
from helix_crawl_otel.policy.model import MemoryReading

__all__ = [
    "WHOLE_FIELDS",
    "BatchLoad",
    "CardModel",
    "Context",
    "IdealContext",
    "check_number",
    "check_whole",
    "slowdown",
]

_FITS_GIB = 1e-9

_CUDA_GIB = 0.6
"""Of what a worker holds, what is CUDA's own and not the allocator's."""

_LEAST_PART = 8
"""A worker on a card whose memory does for no eighth of a batch is ended: a fresh one may have more."""

WHOLE_FIELDS = {"heals": (0, 1), "layers": (0, 200), "hidden": (1, 65_536), "number_bytes": (1, 8)}
"""Fields of `CardModel` that are whole numbers, with the least and the most."""


def check_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise `ValueError` naming the field unless the value is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {value!r}; accepted: a whole number from {least} to {most}")


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
        release_seconds: One release of the cache, with the allocations made again after it; the same where a request
            beyond the cap is refused, and the allocator or the worker gives its cache back.
        heals: 1: a release brings back what has spilled, as on Linux with unified memory; 0: it does not, as under
            WDDM in the incidents.
        layers: Of the encoder; memory is then that of torch's allocator (`modelled_allocator`), replayed on each batch,
            instead of `activation_mib_per_token` and fragments. 0: not replayed. BGE-M3 has 24.
        hidden: Width of the encoder, where it is replayed.
        number_bytes: 4 in full precision, 2 in half, where it is replayed.
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
    heals: int = 0
    layers: int = 0
    hidden: int = 1024
    number_bytes: int = 4
    cpu_tokens_per_second: float = 1344.0
    cpu_start_seconds: float = 15.0

    def __post_init__(self) -> None:
        least = {"limit_gib": 0.1, "tokens_per_second": 0.001, "cpu_tokens_per_second": 0.001, "spill_power": 0.1}
        most = {"spill_power": 10.0}
        for item in fields(self):
            if item.name not in WHOLE_FIELDS:
                check_number(item.name, getattr(self, item.name), least.get(item.name, 0.0), most.get(item.name, 1e6))
        for name, (lowest, highest) in WHOLE_FIELDS.items():
            check_whole(name, getattr(self, name), lowest, highest)
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

    @property
    def encoder(self) -> EncoderModel | None:
        """Whose forward is replayed, `None`: none is."""
        return EncoderModel(self.layers, self.hidden, self.number_bytes) if self.layers else None


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
        leak_gib: Taken by this batch and given back by nothing but the end of the process.
        others_gib: What other programs hold while it is encoded, beyond `CardModel.others_gib`.
        stalls: Never ends in a context that has encoded anything before it.
        speed: Speed of the card, 1 = not throttled.
        read_seconds: Reading the passages and committing the vectors: not part of the encode stage.
        own_tokens: Of its passages without padding to the longest; `None`: all are as long.
    """

    index: int
    shard: str
    genes: int
    tokens: int
    noise: float = 1.0
    fragment_gib: float = 0.0
    surge_gib: float = 0.0
    leak_gib: float = 0.0
    others_gib: float = 0.0
    stalls: bool = False
    speed: float = 1.0
    read_seconds: float = 0.0
    own_tokens: float | None = None

    @property
    def work(self) -> int:
        """Padded tokens."""
        return self.genes * self.tokens

    def activations_gib(self, card: CardModel) -> float:
        """What its activations take, where no encoder is replayed."""
        return self.genes * self.tokens * card.activation_mib_per_token / 1024

    def needed_gib(self, card: CardModel) -> float:
        """What it takes of an empty cache, where no encoder is replayed."""
        return self.activations_gib(card) + self.fragment_gib + self.surge_gib

    def healthy_seconds(self, card: CardModel) -> float:
        """Encode time on the card with nothing spilled."""
        return (card.batch_seconds + self.work / card.tokens_per_second) * self.noise / self.speed

    def cpu_seconds(self, card: CardModel) -> float:
        """Encode time on the CPU, which has memory enough."""
        return self.work / card.cpu_tokens_per_second * self.noise

    def cut(self, genes: int) -> list[BatchLoad]:
        """The batch in parts of at most so many passages; what stalls is in the first."""
        sizes = [min(genes, self.genes - done) for done in range(0, self.genes, genes)]
        return [replace(self.part(size), stalls=self.stalls and at == 0) for at, size in enumerate(sizes)]

    def part(self, genes: int) -> BatchLoad:
        """Some of its passages, as long as the batch is; they need so much less at once."""
        share = genes / self.genes
        own_tokens = None if self.own_tokens is None else self.own_tokens * share
        fragment_gib, surge_gib = self.fragment_gib * share, self.surge_gib * share
        return replace(
            self, genes=genes, fragment_gib=fragment_gib, surge_gib=surge_gib, leak_gib=0.0, own_tokens=own_tokens
        )


@dataclass
class Context:
    """One CUDA context and the caching allocator in it. A fresh one holds the weights only.

    - A padded length seen for the first time lays down a fragment that no other length can use; where the card names an
      encoder, what torch's allocator does with the batch is replayed instead.
    - A surge needs its workspace beside the fragments in one piece; the hole it leaves takes later fragments.
      WDDM refuses nothing, so the allocator is never told to flush and simply takes more.
    - Under a cap the allocator refuses instead: its cache is given back and the request made again; after that the
      batch is halved, down to an eighth, in a fresh context down to one passage.
    - What does not fit the budget spills, and what has spilled stays spilled as long as the context lives.
    - A release empties the cache. While nothing has spilled the context is as good as fresh afterwards, but for what
      has leaked. Later it lowers the reading until the next batch takes everything back: "saws there for hours".

    So without a cap a younger context never holds or spills more than an older one that meets the same batches.

    Args:
        card: The card.
        cap_gib: The most that the worker may hold, weights included; `None`: no cap.
        others_gib: What other programs hold beyond `CardModel.others_gib`, as the newest batch met it.
    """

    card: CardModel
    cap_gib: float | None = None
    others_gib: float = 0.0
    batches: int = 0
    widest_gib: float = 0.0
    fragments_gib: float = 0.0
    laid_gib: float = 0.0
    leaked_gib: float = 0.0
    spilled_gib: float = 0.0
    just_released: bool = False
    lacks_memory: bool = False
    """The newest batch was given up: no eighth of it fits, or no single passage."""
    shapes: set[int] = field(default_factory=set)
    segments: tuple[int, ...] = ()

    @property
    def reserved_gib(self) -> float:
        """What the worker holds: weights, the widest activations so far or the allocator's segments, fragments and
        holes, and what has leaked."""
        return self.live_gib + self.widest_gib + self.laid_gib

    @property
    def budget_gib(self) -> float:
        """What it can hold on the card at the moment."""
        return max(0.0, self.card.budget_gib - self.others_gib)

    @property
    def live_gib(self) -> float:
        """What it needs between two batches."""
        return self.card.context_gib + self.leaked_gib

    @property
    def held_gib(self) -> float:
        """What the worker holds at the moment."""
        return self.live_gib if self.just_released else self.reserved_gib

    @property
    def used_gib(self) -> float:
        """What a probe reads: everybody's memory on the card."""
        return self.card.others_gib + self.others_gib + min(self.held_gib, self.budget_gib)

    def reading(self) -> MemoryReading:
        """The same as a probe gives it, with what has spilled as shared memory; the others hold theirs on the card."""
        return MemoryReading(
            used_bytes=round(self.used_gib * GIB),
            limit_bytes=round(self.card.limit_gib * GIB),
            shared_bytes=round(self.spilled_gib * GIB),
            other_shared_bytes=0,
            reserved_bytes=max(0, round((self.held_gib - _CUDA_GIB) * GIB)),
            cap_bytes=None if self.cap_gib is None else max(1, round((self.cap_gib - _CUDA_GIB) * GIB)),
        )

    def encode(self, load: BatchLoad, *, halves: bool = True) -> float:
        """Take what the batch needs and say how long its encode takes, in seconds; infinite when it stalls.

        `warmup_seconds` is not in it: it belongs to the start of the process. With `lacks_memory` set afterwards it is
        the time until the batch was given up.

        Args:
            load: The batch.
            halves: Try a batch that a cap refuses in halves. Without it the caller does, if anybody.
        """
        self.just_released = False
        self.others_gib = load.others_gib
        self.leaked_gib += load.leak_gib
        stalls = load.stalls and self.batches > 0
        seconds = self._seconds(load, halves=halves)
        self.batches += 1
        over_gib = self.reserved_gib - self.budget_gib
        if over_gib > _FITS_GIB:
            self.spilled_gib = max(self.spilled_gib, over_gib)
        return math.inf if stalls else seconds * slowdown(self.card, self.spilled_gib)

    def _seconds(self, load: BatchLoad, *, halves: bool) -> float:
        """With nothing spilled: the batch, or under a cap its parts and what each refusal costs."""
        self.lacks_memory = False
        if self.cap_gib is None:
            self._take(load)
            return load.healthy_seconds(self.card)
        least = load.genes if not halves else 1 if self.batches == 0 else -(-load.genes // _LEAST_PART)
        seconds, waiting = 0.0, [load.genes]
        while waiting:
            genes = waiting.pop()
            part = load if genes == load.genes else load.part(genes)
            fits, flushed = self._take(part)
            seconds += self.card.release_seconds if flushed else 0.0
            if fits:
                seconds += part.healthy_seconds(self.card)
            elif genes <= least:
                self.lacks_memory = True
                return seconds
            else:
                waiting += [genes // 2, genes - genes // 2]
        return seconds

    def _take(self, load: BatchLoad) -> tuple[bool, bool]:
        """Take the memory of a batch, or of a part of one: whether it fits the cap, and whether the cache was given
        back on the way."""
        fits, flushed = self._grow(load)
        if not fits and self.card.encoder is None:
            self._empty()
            fits, flushed = self._grow(load)[0], True
        if not fits:
            self._empty()
        return fits, flushed

    def _grow(self, load: BatchLoad) -> tuple[bool, bool]:
        """Take more where the batch needs more: whether it fits the cap, and whether the allocator has given its cache
        back. Without an encoder it takes what the cap forbids, for the caller to see."""
        encoder = self.card.encoder
        if encoder is not None:
            self.laid_gib = max(self.laid_gib, load.surge_gib)
            room_gib = None if self.cap_gib is None else self.cap_gib - self.reserved_gib + self.widest_gib
            room_bytes = None if room_gib is None else math.floor(room_gib * GIB)
            done = replay_forward(self.segments, encoder, load.genes, load.tokens, room_bytes)
            self.segments, self.widest_gib = done.segments, sum(done.segments) / GIB
            return done.fits, done.flushed
        self.widest_gib = max(self.widest_gib, load.activations_gib(self.card))
        if load.tokens not in self.shapes:
            self.shapes.add(load.tokens)
            self.fragments_gib += load.fragment_gib
        self.laid_gib = max(self.laid_gib, self.fragments_gib + load.surge_gib)
        return self.cap_gib is None or self.reserved_gib <= self.cap_gib + _FITS_GIB, False

    def limit(self, cap_gib: float) -> bool:
        """Set the cap anew, at a boundary; whether the cache was given back for it."""
        self.cap_gib = cap_gib
        if self.held_gib <= cap_gib + _FITS_GIB:
            return False
        self.release()
        return True

    def release(self) -> None:
        """`torch.cuda.empty_cache()`."""
        self.just_released = True
        if self.card.heals:
            self.spilled_gib = 0.0
        if self.spilled_gib == 0:
            self._empty()

    def _empty(self) -> None:
        self.widest_gib = self.fragments_gib = self.laid_gib = 0.0
        self.shapes, self.segments = set(), ()


class IdealContext(Context):
    """What no policy beats: nothing is cached, what has spilled is back as soon as there is room, and a batch is cut
    into parts without a try that fails, where that is faster than to spill. What has leaked stays.

    Each context, with a cap or without, takes at least as long for the same batches.
    """

    def encode(self, load: BatchLoad, *, halves: bool = True) -> float:
        """See `Context`; a batch is cut in any case."""
        self.others_gib = load.others_gib
        self.leaked_gib += load.leak_gib
        stalls = load.stalls and self.batches > 0
        self.batches += 1
        return math.inf if stalls else min(self._ways(load))

    def _ways(self, load: BatchLoad) -> Iterator[float]:
        """Seconds of the batch in ever smaller parts, until they fit."""
        whole = load.healthy_seconds(self.card)
        more = self.card.batch_seconds * load.noise / load.speed
        sizes = {load.genes}
        while sizes:
            for genes in sorted(sizes, reverse=True):
                seconds = whole + (-(-load.genes // genes) - 1) * more
                if self._fits(load if genes == load.genes else load.part(genes)):
                    yield seconds
                    return
                yield seconds * slowdown(self.card, self.spilled_gib)
            sizes = {half for genes in sizes for half in (genes // 2, genes - genes // 2) if 0 < half < genes}

    def _fits(self, load: BatchLoad) -> bool:
        """Whether there is room for a part in an empty cache; without it, `spilled_gib` is what has none."""
        if self.card.encoder is None:
            needed_gib = self.card.context_gib + self.leaked_gib + load.needed_gib(self.card)
            self.spilled_gib = max(0.0, needed_gib - self.budget_gib)
            return self.spilled_gib <= _FITS_GIB
        self._empty()
        self.cap_gib, self.spilled_gib = self.budget_gib, 0.0
        if self._grow(load)[0]:
            return True
        self._empty()
        self.cap_gib = None
        self._grow(load)
        self.spilled_gib = max(0.0, self.reserved_gib - self.budget_gib)
        return False
