"""Checks that stored vectors and this encoder agree, by encoding a few of them again.

Two cases: vectors without an identity, written by the Helix/Cymatix app, are adopted or refused; and at the start of a
worker on another device than the one that wrote them, CPU and GPU must agree.

Source: DESIGN.md, section 8: a cosine of at least 0.9999, or the shard stops with a clear error.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_crawl_otel.encoders.base import BadVector, Encoder
from helix_crawl_otel.encoders.load import is_of, other_prompt
from helix_crawl_otel.shards.errors import EncoderRefused
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.shards.vectors import cosine

__all__ = ["LEAST_COSINE", "adopt_or_refuse", "check_other_device", "refuse_another"]

LEAST_COSINE = 0.9999
SAMPLED = 4


def refuse_another(store: ShardStore, model: str) -> None:
    """Make sure that the shard names this model's encoder, or none, as far as that can be said without loading it.

    Raises:
        EncoderRefused: It names another one.
    """
    stored = store.identity()
    if stored is not None and not is_of(stored, model):
        prompt = other_prompt(stored, model)
        asked = model if prompt is None else f"{model} with its prompt {prompt!r} before each passage"
        raise EncoderRefused.of(store.path, stored, asked)


def adopt_or_refuse(store: ShardStore, encoder: Encoder) -> None:
    """Make sure that vectors of unknown origin are this encoder's.

    Raises:
        EncoderRefused: They are not.
    """
    worst = _worst(store.sample(SAMPLED), encoder) or 0.0
    if worst < LEAST_COSINE:
        raise EncoderRefused(
            f"the vectors in this shard say nothing of their encoder, and {encoder.identity['model']} makes others "
            f"(cosine {worst:.4f}, accepted: {LEAST_COSINE} or more); name their model with --model, or encode "
            "everything again with --reencode"
        )


def check_other_device(store: ShardStore, encoder: Encoder) -> None:
    """Make sure that this device makes the vectors that another one has made.

    Raises:
        EncoderRefused: It does not.
    """
    worst = _worst(store.sample(SAMPLED, not_of_device=encoder.device), encoder)
    if worst is not None and worst < LEAST_COSINE:
        raise EncoderRefused(
            f"{encoder.identity['model']} on {encoder.device} makes other vectors than those stored in this shard "
            f"(cosine {worst:.4f}, accepted: {LEAST_COSINE} or more); check the libraries' versions, or encode "
            "everything again with --reencode"
        )


def _worst(sample: Sequence[tuple[str, str, bytes]], encoder: Encoder) -> float | None:
    """The least cosine; `None` where this encoder makes no vector of any of them."""
    size = 4 * int(str(encoder.identity["dim"]))
    if any(len(stored) != size for _, _, stored in sample):
        return 0.0
    found = []
    for _, content, stored in sample:  # one by one: there may be memory for no more
        try:
            (vector,) = encoder.encode([content])
        except BadVector:
            continue
        found.append(cosine(stored, vector))
    return min(found, default=None)
