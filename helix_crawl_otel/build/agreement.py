"""Checks that stored vectors and this encoder agree, by encoding a few of them again.

Two cases: vectors without an identity, written by the Helix/Cymatix app, are adopted or refused; and at the start of a
worker on another device than the one that wrote them, or one that computes in another precision, the two must agree.
Where the former do not agree, what the app may have cut off or put before its texts is tried.

Source: DESIGN.md, section 8: a cosine of at least 0.9999, or the shard stops with a clear error.
"""

from __future__ import annotations

from dataclasses import replace

from helix_crawl_otel.build.begun_shards import LOOKED_AT, BegunShards, as_said, others_shown
from helix_crawl_otel.build.begun_shards import truncation_shown as _shown
from helix_crawl_otel.build.cap_search import (
    BYTES,
    MOST_LETTERS,
    TOKENS,
    Explanation,
    Sample,
    explained,
    least_cosine,
    prompts_to_try,
)
from helix_crawl_otel.encoders.base import Encoder
from helix_crawl_otel.encoders.load import is_of, other_prompt
from helix_crawl_otel.encoders.precision import AUTO, FULL, LEAST_COSINE, DtypeWish, but_dtype
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation, TruncationWish
from helix_crawl_otel.link.messages import WorkerSettings
from helix_crawl_otel.shards.errors import EncoderRefused, shown_identity
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["adopt_or_refuse", "claim_as_made", "dtype_wish", "known_truncation", "refuse_another", "told_of_truncation"]

SAMPLED = 4


def refuse_another(store: ShardStore, model: str, cut: TruncationWish) -> None:
    """Make sure that the shard names this model's encoder, or none, as far as that can be said without loading it.

    Args:
        store: Of the shard.
        model: As given to `--model`.
        cut: What is asked to be cut off.

    Raises:
        EncoderRefused: It names another one, or was cut off elsewhere.
    """
    stored = store.identity()
    if stored is None:
        return
    if not is_of(stored, model):
        prompt = other_prompt(stored, model)
        asked = model if prompt is None else f"{model} with its prompt {prompt!r} before each passage"
        raise EncoderRefused.of(store.path, stored, asked)
    if not cut.is_of(stored):
        given = {"--max-chars": cut.max_chars, "--dim": cut.dim}
        asked = " and ".join(f"{option} is {value or 'off'}" for option, value in given.items() if value is not None)
        as_before = Truncation.of(stored).options
        raise EncoderRefused(
            f"{store.path} was encoded by {shown_identity(stored)}, and {asked}; accepted: "
            f"{f'{as_before}, or ' if as_before else ''}neither, which goes on as before; or --reencode, which encodes "
            "everything again"
        )


def known_truncation(
    store: ShardStore, cut: TruncationWish, encoder: TruncatedEncoder, others: BegunShards, *, is_anew: bool = False
) -> Truncation:
    """What is cut off in this shard, before its vectors are looked at: as it was, else as its application says, else
    as in the other shards.

    Args:
        store: Of the shard.
        cut: What the operator has asked for.
        encoder: Of the run. It cuts off as before when this returns.
        others: Shards of the run that say something.
        is_anew: Vectors of unknown origin are encoded again: they say nothing.

    Raises:
        EncoderRefused: Nothing in this shard says it, and the others differ.
    """
    stored = store.identity()
    if stored is not None:
        return cut.settled(Truncation.of(stored))
    if cut.max_chars is not None and cut.dim is not None:
        return cut.settled(Truncation())
    said = as_said(store.app_provenance(), encoder)
    if said.max_chars is not None:
        return cut.settled(said)
    made = {} if others.is_alone(store.path) else others.made(encoder)
    ways = {cut.settled(one) for one in made}
    if len(ways) > 1 and (is_anew or not store.has_foreign_vectors()):
        raise EncoderRefused(
            f"nothing in {store.path} says how much of a text to encode, and the other shards differ: "
            f"{others_shown(made)}; accepted: --max-chars N (or off), and --dim N where vectors are shortened"
        )
    return ways.pop() if len(ways) == 1 else cut.settled(Truncation())


def told_of_truncation(
    store: ShardStore, encoder: TruncatedEncoder, cut: TruncationWish, others: BegunShards
) -> list[str]:
    """What is to be told of what is cut off in a shard that names no encoder yet, where nobody has asked for it."""
    now, said = encoder.truncation, store.app_provenance()
    if store.identity() is not None:
        return []
    if now == cut.settled(Truncation()):
        if not said.unread or cut.max_chars is not None:
            return []
        return [
            f"{store.path}: the application's table of provenance says {said.unread!r} where the number of letters "
            "stands; all letters are encoded (--max-chars N for the first N)"
        ]
    if now.max_chars is not None and now.max_chars == said.cap:
        why = ", as the application's table of provenance says"
    else:
        why = f", as in {others.of(now)}" if others.of(now) else ""
    how = _shown(now, "encoded", "kept")
    return [f"{store.path}: {how}{why} ({now.options}; --max-chars off for all letters)"]


def adopt_or_refuse(
    store: ShardStore, encoder: TruncatedEncoder, cut: TruncationWish, others: BegunShards
) -> list[str]:
    """Make sure that vectors of unknown origin are this encoder's. What is cut off is found out where nobody has said
    it: then the encoder cuts it off from now on.

    Args:
        store: Of the shard.
        encoder: That is to go on.
        cut: What the operator has asked for: in its place nothing else is taken.
        others: Shards of the run that say something.

    Returns:
        What is to be told of it.

    Raises:
        EncoderRefused: They are not; with what would explain them.
    """
    sample = store.sample_with_longest(SAMPLED, MOST_LETTERS)
    size, asked = len(sample[0][2]) // 4 if sample else 0, int(str(encoder.identity["dim"]))
    if size != asked and size:
        encoder.truncate(replace(encoder.truncation, dim=size if size < encoder.own_dim else None))
    is_dim = cut.dim in (None, size)
    worst = (least_cosine(sample, encoder) or 0.0) if is_dim else 0.0
    if worst >= LEAST_COSINE:
        return _goes_on(store, encoder, cut, others) + _may_be_capped(store, encoder, cut, sample)
    found = explained(sample, store.sample(LOOKED_AT), encoder)
    if found is not None and found.explains and found.is_truncation and is_dim and cut.max_chars is None:
        encoder.truncate(found.truncation)
        return _goes_on(store, encoder, cut, others)
    said = (
        f"the vectors in this shard say nothing of their encoder, and {encoder.identity['model']} makes others (cosine "
        f"{worst:.4f}, accepted: {LEAST_COSINE} or more)"
    )
    if not is_dim:
        said += f"; they have {size} numbers, and --dim is {cut.dim}"
    elif size != int(str(encoder.identity["dim"])):
        said += f"; they have {size} numbers, and its own have {encoder.identity['dim']}"
    if found is not None and found.explains:
        ways = _ways(found, cut, size)
        raise EncoderRefused(
            f"{said}; {found} explains them (cosine {found.cosine:.4f}); accepted: "
            f"{f'{ways}, or ' if ways else ''}--reencode"
        )
    if size == int(str(encoder.identity["dim"])):
        prompts = len(prompts_to_try(encoder)) - 1
        said += f"; every cap of letters and {prompts} other prompts were looked for, and none explains them"
        if found is not None and (found.truncation.max_chars or found.prompt is not None):
            said += f" ({found} comes nearest, cosine {found.cosine:.4f})"
    raise EncoderRefused(f"{said}; name their model with --model, or encode everything again with --reencode")


def _ways(found: Explanation, cut: TruncationWish, dim: int) -> str:
    """What makes vectors so, of so many numbers; empty where nothing does."""
    ways = []
    if len(found.caps) > 1 or found.unit == BYTES:
        return ""
    if found.unit == TOKENS:
        config = f"a copy of the model whose sentence_bert_config.json has max_seq_length {found.caps[0]}"
        ways.append(f"{config}, with --max-chars off")
    elif cut.max_chars is None or (cut.max_chars or None) != found.truncation.max_chars:
        ways.append(f"--max-chars {found.truncation.max_chars or 'off'}")
    if cut.dim not in (None, dim):
        ways.append(f"--dim {dim}")
    if found.prompt is not None:
        config = "a copy of the model whose config_sentence_transformers.json names it as its `document` prompt"
        ways.append(f"{config} (the prompt is {found.prompt!r})")
    return " and ".join(ways)


def _goes_on(store: ShardStore, encoder: TruncatedEncoder, cut: TruncationWish, others: BegunShards) -> list[str]:
    """What is to be told of a shard whose vectors agree: where its truncation was found, or is not that of others."""
    now = encoder.truncation
    different = {one: paths for one, paths in others.known.items() if one != now}
    if now == cut.settled(Truncation()) and not different:
        return []
    said = store.app_provenance().cap
    though = f", though the application's table says {said:,}" if said and said != now.max_chars else ""
    besides = f"; other shards differ: {others_shown(different)}" if different else ""
    return [
        f"{store.path}: the vectors that are there agree with {encoder.identity['model']} by {_shown(now)}{though}; it "
        f"goes on so ({now.options or '--max-chars off'}){besides}"
    ]


def _may_be_capped(store: ShardStore, encoder: TruncatedEncoder, cut: TruncationWish, sample: Sample) -> list[str]:
    """What is to be told where texts that are yet to be encoded are longer than any that has a vector: those would
    not show a cap."""
    longest = max((text for _, text, _ in sample), key=len, default="")
    if encoder.truncation.max_chars or cut.max_chars is not None or not store.is_any_longer(len(longest)):
        return []
    if encoder.limit is not None and encoder.token_counts([longest])[0] >= encoder.limit:
        return []  # what the model reads of any text is less than a cap would leave
    return [
        f"{store.path}: no text that has a vector is longer than {len(longest):,} letters, so a cap above that does "
        "not show, and longer texts are encoded whole; --max-chars 2000 encodes as the app does unless it is set "
        "otherwise"
    ]


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
    worst = least_cosine(store.sample(SAMPLED), encoder)
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
