"""Cuts a batch that killed its worker into pieces, and leaves the grid of batches as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helix_crawl_otel.shards.genes import PendingGene

__all__ = ["pieces"]


def pieces(batch: Sequence[PendingGene], limits: Mapping[str, int]) -> list[list[PendingGene]]:
    """The batch in order, whole unless one of its genes begins a piece that has to be smaller.

    Args:
        batch: In the shard's order.
        limits: Most genes of a piece, by its first gene's id as text. What is left of the batch after it is a piece
            again, at most as large: the poisonous gene may be in either half.
    """
    found: list[list[PendingGene]] = []
    start, most = 0, len(batch)
    while start < len(batch):
        most = min(most, limits.get(str(batch[start].gene_id), most))
        found.append(list(batch[start : start + most]))
        start += most
    return found
