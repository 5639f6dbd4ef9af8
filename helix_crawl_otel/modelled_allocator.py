"""Torch's caching allocator, replayed on the allocations of an encoder's forward: how memory grows with shapes.

The rules are those of `c10/cuda/CUDACachingAllocator.cpp` with its default settings. Memory is taken from the driver in
segments: 2 MiB for requests of up to 1 MiB, 20 MiB for those of less than 10 MiB, multiples of 2 MiB above. A request
is rounded up to 512 bytes and gets the smallest free block of its pool that is large enough, or a new segment; what is
left of the block is split off, if it is at least 512 bytes (small pool) or more than 1 MiB (large pool). A freed block
is merged with free neighbours and kept. Only a request that the driver, or a cap, refuses has whole free segments given
back, and is made again.

Between two batches nothing but the weights is held, so what the allocator remembers is the sizes of its segments alone;
a batch makes other ones of them, the same each time.

Source: INCIDENTS.md, "what fills a card, measured without one".
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from helix_crawl_otel.formats import MIB

__all__ = ["EncoderModel", "Forward", "replay_forward"]

_SMALL = MIB
_SEGMENT_SMALL, _SEGMENT_LARGE, _SEGMENT_STEP = 2 * MIB, 20 * MIB, 2 * MIB
_OWN_SEGMENT = 10 * MIB
_STEP = 512


@dataclass(frozen=True)
class EncoderModel:
    """What a forward allocates, of a BERT-like encoder with an attention that keeps no matrix of scores.

    Args:
        layers: How many.
        hidden: Width; the inner layer is four times as wide.
        number_bytes: 4 in full precision, 2 in half.
    """

    layers: int = 24
    hidden: int = 1024
    number_bytes: int = 4


class Forward(NamedTuple):
    """What a forward has done to the allocator.

    Args:
        segments: Sizes in bytes, ascending, as they are left.
        flushed: A request was refused, and cached segments were given back for it.
        fits: False: it was refused all the same.
    """

    segments: tuple[int, ...]
    flushed: bool
    fits: bool


class _Block:
    """A piece of a segment, between its neighbours."""

    __slots__ = ("before", "behind", "is_free", "key", "size")

    def __init__(self, size: int, key: tuple[int, int], before: _Block | None, behind: _Block | None) -> None:
        self.size, self.key, self.before, self.behind = size, key, before, behind
        self.is_free = True


class _Refused(Exception):
    """No memory, after the cache was given back."""


class _Allocator:
    """Both pools. Addresses grow with each segment.

    Args:
        segments: What is cached, in bytes.
        most_bytes: The most that may be held, `None`: no bound.
    """

    def __init__(self, segments: tuple[int, ...], most_bytes: int | None) -> None:
        self.most_bytes = most_bytes
        self.held = 0
        self.flushed = False
        self._next_address = 0
        # The free blocks by (size, address), and the blocks by address.
        self.free_small: list[tuple[int, int]] = []
        self.free_large: list[tuple[int, int]] = []
        self._blocks: dict[int, _Block] = {}
        for size in segments:
            self._put(self._segment(size))

    def take(self, wanted: int) -> _Block:
        """Allocate.

        Raises:
            _Refused: Beyond `most_bytes`, without all that is cached.
        """
        size = max(_STEP, -(-wanted // _STEP) * _STEP)
        is_small = size <= _SMALL
        pool = self.free_small if is_small else self.free_large
        at = bisect_left(pool, (size, -1))
        block = self._blocks[pool.pop(at)[1]] if at < len(pool) else self._grow(size)
        block.is_free = False
        left = block.size - size
        if left >= _STEP if is_small else left > _SMALL:
            rest = _Block(left, (left, block.key[1] + size), block, block.behind)
            if block.behind is not None:
                block.behind.before = rest
            block.behind, block.size, block.key = rest, size, (size, block.key[1])
            self._blocks[rest.key[1]] = rest
            insort(pool, rest.key)
        return block

    def give(self, block: _Block, is_small: bool) -> None:
        """Free, and merge with free neighbours."""
        pool = self.free_small if is_small else self.free_large
        before, behind = block.before, block.behind
        if before is not None and before.is_free:
            del pool[bisect_left(pool, before.key)]
            before.size += block.size
            before.behind = behind
            del self._blocks[block.key[1]]
            block = before
            if behind is not None:
                behind.before = block
        if behind is not None and behind.is_free:
            del pool[bisect_left(pool, behind.key)]
            block.size += behind.size
            block.behind = behind.behind
            del self._blocks[behind.key[1]]
            if block.behind is not None:
                block.behind.before = block
        block.key = (block.size, block.key[1])
        block.is_free = True
        insort(pool, block.key)

    def segments(self) -> tuple[int, ...]:
        """Their sizes, when all is free."""
        return tuple(sorted(size for pool in (self.free_small, self.free_large) for size, _ in pool))

    def _segment(self, size: int) -> _Block:
        block = _Block(size, (size, self._next_address), None, None)
        self._blocks[self._next_address] = block
        self._next_address += size
        self.held += size
        return block

    def _put(self, block: _Block) -> None:
        insort(self.free_small if block.size <= _SEGMENT_SMALL else self.free_large, block.key)

    def _grow(self, size: int) -> _Block:
        if size <= _SMALL:
            segment = _SEGMENT_SMALL
        elif size < _OWN_SEGMENT:
            segment = _SEGMENT_LARGE
        else:
            segment = -(-size // _SEGMENT_STEP) * _SEGMENT_STEP
        if self.most_bytes is not None and self.held + segment > self.most_bytes:
            self._flush()
            if self.held + segment > self.most_bytes:
                raise _Refused
        return self._segment(segment)

    def _flush(self) -> None:
        """Give whole free segments back."""
        self.flushed = True
        for pool in (self.free_small, self.free_large):
            for key in list(pool):
                block = self._blocks[key[1]]
                if block.before is None and block.behind is None:
                    pool.remove(key)
                    del self._blocks[key[1]]
                    self.held -= key[0]


# A step of a forward: +name takes, -name gives; the number is the size, in the order of `_sizes`.
_IDS, _MASK, _HIDDEN, _INNER = range(4)
_BEFORE = (
    *(("+", name, _IDS) for name in ("ids", "mask", "types", "positions")),
    ("+", "words", _HIDDEN),
    ("+", "type", _HIDDEN),
    ("+", "sum", _HIDDEN),
    ("-", "words", _HIDDEN),
    ("-", "type", _HIDDEN),
    ("+", "place", _HIDDEN),
    ("+", "sums", _HIDDEN),
    ("-", "sum", _HIDDEN),
    ("-", "place", _HIDDEN),
    ("+", "x", _HIDDEN),
    ("-", "sums", _HIDDEN),
    ("+", "wide", _MASK),
    ("+", "inverted", _MASK),
    ("-", "wide", _MASK),
    ("+", "bias", _MASK),
    ("-", "inverted", _MASK),
)
_LAYER = (
    ("+", "q", _HIDDEN),
    ("+", "k", _HIDDEN),
    ("+", "v", _HIDDEN),
    ("+", "attended", _HIDDEN),
    ("-", "q", _HIDDEN),
    ("-", "k", _HIDDEN),
    ("-", "v", _HIDDEN),
    ("+", "out", _HIDDEN),
    ("+", "residual", _HIDDEN),
    ("-", "out", _HIDDEN),
    ("+", "y", _HIDDEN),
    ("-", "residual", _HIDDEN),
    ("-", "attended", _HIDDEN),
    ("+", "inner", _INNER),
    ("+", "gelu", _INNER),
    ("-", "inner", _INNER),
    ("+", "out", _HIDDEN),
    ("-", "gelu", _INNER),
    ("+", "residual", _HIDDEN),
    ("-", "out", _HIDDEN),
    ("-", "x", _HIDDEN),
    ("+", "x", _HIDDEN),
    ("-", "residual", _HIDDEN),
    ("-", "y", _HIDDEN),
)


def _steps(allocator: _Allocator, layers: int) -> Iterator[tuple[str, str, int]]:
    """Of a forward. A layer that leaves the free blocks as it found them is what all later ones do."""
    yield from _BEFORE
    for _ in range(layers):
        found = (list(allocator.free_small), list(allocator.free_large))
        yield from _LAYER
        if found == (allocator.free_small, allocator.free_large):
            return


@lru_cache(maxsize=100_000)
def replay_forward(
    segments: tuple[int, ...], encoder: EncoderModel, rows: int, tokens: int, most_bytes: int | None
) -> Forward:
    """Encode one batch.

    Args:
        segments: What the allocator has cached, beside the weights: sizes in bytes, ascending.
        encoder: What encodes.
        rows: Passages, 1 or more.
        tokens: Length of each after padding, 1 or more.
        most_bytes: The most that it may hold beside the weights, `None`: no bound.

    Threads: any.
    """
    hidden = rows * tokens * encoder.hidden * encoder.number_bytes
    sizes = (rows * tokens * 8, rows * tokens * tokens * encoder.number_bytes, hidden, 4 * hidden)
    allocator = _Allocator(segments, most_bytes)
    live: dict[str, tuple[_Block, bool]] = {}
    fits = True
    try:
        for what, name, size in _steps(allocator, encoder.layers):
            if what == "+":
                live[name] = (allocator.take(sizes[size]), sizes[size] <= _SMALL)
            else:
                allocator.give(*live.pop(name))
    except _Refused:
        fits = False
    for block, is_small in live.values():
        allocator.give(block, is_small)
    return Forward(allocator.segments(), allocator.flushed, fits)
