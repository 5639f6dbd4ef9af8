"""Checks that stored vectors and this encoder agree, by encoding a few of them again.

Two cases: vectors without an identity, written by the Helix/Cymatix app, are adopted or refused; and at the start of a
worker on another device than the one that wrote them, or one that computes in another precision, the two must agree.

Source: DESIGN.md, section 8: a cosine of at least 0.9999, or the shard stops with a clear error.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_crawl_otel.encoders.base import BadVector, Encoder
from helix_crawl_otel.encoders.load import is_of, other_prompt
from helix_crawl_otel.encoders.precision import AUTO, FULL, LEAST_COSINE, DtypeWish, but_dtype
from helix_crawl_otel.link.messages import WorkerSettings
from helix_crawl_otel.shards.errors import EncoderRefused
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.shards.vectors import cosine

__all__ = ["adopt_or_refuse", "claim_as_made", "dtype_wish", "refuse_another"]

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


def dtype_wish(store: ShardStore, settings: WorkerSettings, *, is_anew: bool) -> DtypeWish:
    """What a worker's encoder is to compute in: with `auto` what the shard was begun in, on a device of this kind.

    Args:
        store: Of the shard.
        settings: Of the worker.
        is_anew: All of it is encoded again: what is there does not count.
    """
    identity = None if is_anew else store.identity()
    if identity is None:
        return DtypeWish(settings.dtype, must_agree=settings.must_agree)
    kind, apart = settings.device.partition(":")[0], identity.get("dtype")
    if settings.dtype == AUTO and kind == "cpu" and not apart:
        return DtypeWish()  # full precision, whatever a card has made
    last = next((dtype for on, dtype in reversed(store.made_with()) if on == kind), None)
    return DtypeWish(settings.dtype, str(apart) if apart else last, bool(apart), settings.must_agree)


def claim_as_made(store: ShardStore, encoder: Encoder, *, reencode: bool) -> None:
    """Write down whose vectors these are, and make sure that what was made on another kind of device, or in another
    precision, agrees.

    Args:
        store: Of the shard. Vectors that nobody has written down are adopted by now.
        encoder: That goes on.
        reencode: What does not agree is encoded again. Its vectors go here.

    Raises:
        EncoderRefused: It does not; or the vectors are of another encoder altogether.
    """
    stored, own = store.identity(), dict(encoder.identity)
    is_same = stored is not None and (stored == own or (not reencode and but_dtype(stored) == but_dtype(own)))
    store.claim(stored if stored is not None and is_same else own, reencode=reencode)
    way = encoder.device.partition(":")[0], encoder.dtype
    others = {(on, dtype or FULL) for on, dtype in store.made_with()} - {way}
    if not is_same or (stored == own and not others):
        return
    worst = _worst(store.sample(SAMPLED), encoder)
    if worst is None:
        if stored != own and not store.sample(1):
            store.clear(own)  # nothing is there yet: the shard is of the first encoder that makes something
    elif worst < LEAST_COSINE and reencode:
        store.clear(own)
    elif worst < LEAST_COSINE:
        made = " and ".join(sorted(f"on {on} in {dtype}" for on, dtype in others))
        raise EncoderRefused(
            f"{own['model']} on {encoder.device} in {encoder.dtype} makes other vectors than those stored in this "
            f"shard, made {made} (cosine {worst:.4f}, accepted: {LEAST_COSINE} or more); give --dtype as before, check "
            "the libraries' versions, or encode everything again with --reencode"
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
