"""Encodes a batch, and when that fails finds out which genes are to blame.

Out of memory halves the batch, down to one gene; so does an exception that a batch raises every time. A single gene
that cannot be encoded is quarantined with its reason, and the others of its batch get their vectors.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from helix_crawl_otel.backfill.encoders.base import BadVector, is_out_of_memory
from helix_crawl_otel.backfill.genes import PendingGene

__all__ = ["EncodingFailed", "encode_carefully"]

logger = logging.getLogger("helix_crawl_otel")

MOST_IN_A_ROW = 3
"""Genes quarantined one after the other before the encoder is to blame, not they."""


class EncodingFailed(Exception):
    """Gene after gene fails: it is not the genes. The message is one sentence."""


class Encode(Protocol):
    """One call of the encoder, watched."""

    def __call__(self, genes: Sequence[PendingGene]) -> list[bytes]:
        """Vectors of the genes, in order."""


def encode_carefully(
    genes: Sequence[PendingGene],
    encode: Encode,
    commit: Callable[[Sequence[tuple[PendingGene, bytes]]], None],
    quarantine: Callable[[PendingGene, str], None],
    release: Callable[[], None],
) -> None:
    """Encode and commit a batch.

    Args:
        genes: In order, at least one.
        encode: Raises what the encoder raises.
        commit: Called once for each piece that was encoded, in order.
        quarantine: Called with a gene that cannot be encoded, and why.
        release: Gives cached memory back, before a smaller piece is tried.

    Raises:
        EncodingFailed: Three genes in a row could not be encoded.
    """
    waiting = [list(genes)]
    in_a_row = 0
    while waiting:
        piece = waiting.pop(0)
        try:
            vectors = encode(piece)
        except BadVector as error:
            reason, blamed = str(error), [piece[error.index]]
        except Exception as error:  # noqa: BLE001 - the encoder's own, whatever it is: the genes must be told apart
            out_of_memory = is_out_of_memory(error)
            if out_of_memory:
                release()
            if len(piece) > 1:
                half = (len(piece) + 1) // 2
                level = logging.WARNING if out_of_memory else logging.INFO
                text = "[crawl-watchdog] a batch of %d genes is halved: %s: %s"
                logger.log(level, text, len(piece), type(error).__name__, _line(error))
                waiting[:0] = [piece[:half], piece[half:]]
                continue
            what = "out of memory with a batch of one" if out_of_memory else f"{type(error).__name__}: {_line(error)}"
            reason, blamed = what, piece
        else:
            in_a_row = 0
            commit(list(zip(piece, vectors, strict=True)))
            continue
        in_a_row += len(blamed)
        if in_a_row >= MOST_IN_A_ROW:
            raise EncodingFailed(f"{in_a_row} genes in a row could not be encoded, the last one: {reason}")
        for gene in blamed:
            quarantine(gene, reason)
        rest = [gene for gene in piece if gene not in blamed]
        if rest:
            waiting.insert(0, rest)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
