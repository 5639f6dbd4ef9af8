"""How large a batch may be, and where genes that stand in a row are cut into batches.

The rule of the build, and of the batches of `simulate`.

Source: ADAPTIVE.md, "The order".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

__all__ = ["BATCH_TOKENS", "LARGE_BATCH_TOKENS", "BatchLimits", "cut", "cut_by_length"]

BATCH_TOKENS, LARGE_BATCH_TOKENS = 16_384, 32_768
"""Of a batch, with padding, at most, unless it is told; and on cards of 16 GiB and more. What BGE-M3 needs for these in
full precision, weights and all: 4.9 and 5.9 GiB."""

TOKENS_OF_A_BATCH = 256
"""A batch costs as much beside its tokens: its genes are read and committed, a card's kernels are started. Between the
twenty tokens of a small model on a CPU and the thousand or two of one on a card; at 64 or 1,024 the same genes cost 4 %
less or 5 % more tokens."""

CPU_SECONDS = 60.0
"""On the CPU there is a boundary at least so often, where a text alone does not take longer."""

CPU_OPERATIONS = 20e9
"""Floating-point operations a second of one slow core. Half a minute's worth of measuring would say more, and
something else on each start: the batches of a shard have to be the same whoever goes on with it."""


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may be.

    Args:
        genes: At most, 1 or more.
        tokens: At most, with padding: genes times the longest. One text may have more: it goes alone.
    """

    genes: int
    tokens: float

    def on_cpu(self, operations: float) -> BatchLimits:
        """So that one core needs no more than `CPU_SECONDS` for it.

        Args:
            operations: That a token costs, see `Encoder`.
        """
        if not operations:
            return self
        return replace(self, tokens=min(self.tokens, max(1.0, CPU_SECONDS * CPU_OPERATIONS // operations)))


def cut(lengths: Sequence[float], limits: BatchLimits) -> list[int]:
    """How many genes each batch has, of genes of these lengths, in order."""
    sizes: list[int] = []
    longest, size = 0.0, 0
    for length in lengths:
        longest = max(longest, length)
        if size and (size == limits.genes or (size + 1) * longest > limits.tokens):
            sizes.append(size)
            longest, size = length, 0
        size += 1
    return [*sizes, size] if size else sizes


def cut_by_length(lengths: Sequence[float], limits: BatchLimits) -> list[int]:
    """How many genes each batch has, of genes of these lengths, the longest first: so that their tokens, with padding,
    and the batches themselves cost least. A batch that is cut so is whole when it is cut so again."""
    cheapest = [0.0] + [math.inf] * len(lengths)  # of the first so many genes
    sizes = [0] * (len(lengths) + 1)  # of the last batch of them
    for begin, longest in enumerate(lengths):
        before = cheapest[begin] + TOKENS_OF_A_BATCH
        fits = limits.tokens // longest if longest else math.inf
        most = int(min(limits.genes, max(1.0, fits), len(lengths) - begin))
        for size in range(1, most + 1):
            cost = before + size * longest
            if cost <= cheapest[begin + size]:
                cheapest[begin + size], sizes[begin + size] = cost, size
    found = []
    end = len(lengths)
    while end:
        found.append(sizes[end])
        end -= sizes[end]
    return found[::-1]
