"""Checks that stored vectors and this encoder agree, by encoding a few of them again.

Two cases: vectors without an identity, written by the Helix/Cymatix app, are adopted or refused; and at the start of a
worker on another device than the one that wrote them, or one that computes in another precision, the two must agree.
Where the former do not agree, what the app may have cut off or put before its texts is tried.

Source: DESIGN.md, section 8: a cosine of at least 0.9999, or the shard stops with a clear error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from helix_crawl_otel.encoders.base import BadVector, Encoder
from helix_crawl_otel.encoders.load import is_of, other_prompt
from helix_crawl_otel.encoders.precision import AUTO, FULL, LEAST_COSINE, DtypeWish, but_dtype
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation, TruncationWish
from helix_crawl_otel.link.messages import WorkerSettings
from helix_crawl_otel.shards.errors import EncoderRefused, shown_identity
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.shards.vectors import cosine

__all__ = ["adopt_or_refuse", "claim_as_made", "dtype_wish", "known_truncation", "refuse_another", "told_by_app"]

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


def known_truncation(store: ShardStore, cut: TruncationWish) -> Truncation:
    """What is cut off in this shard, before its vectors are looked at: as it was, else as its application says."""
    stored = store.identity()
    return cut.settled(Truncation(store.app_provenance().cap) if stored is None else Truncation.of(stored))


def told_by_app(store: ShardStore, encoder: TruncatedEncoder, cut: TruncationWish) -> list[str]:
    """What is to be told of a cap that was taken from the application's table, in a shard that names no encoder yet."""
    cap = encoder.truncation.max_chars
    if cap is None or cut.max_chars is not None or store.identity() is not None:
        return []
    told = f"the first {cap:,} letters of each text are encoded, as the application's table of provenance says"
    return [f"{store.path}: {told} (--max-chars {cap}; --max-chars off for all of them)"]


def adopt_or_refuse(store: ShardStore, encoder: TruncatedEncoder, cut: TruncationWish) -> list[str]:
    """Make sure that vectors of unknown origin are this encoder's. What is cut off is found out where nobody has said
    it: then the encoder cuts it off from now on.

    Args:
        store: Of the shard.
        encoder: That is to go on.
        cut: What the operator has asked for: in its place nothing else is taken.

    Returns:
        What is to be told of it.

    Raises:
        EncoderRefused: They are not; with what would explain them.
    """
    sample = store.sample_with_longest(SAMPLED, MOST_LETTERS)
    size, dim = len(sample[0][2]) // 4 if sample else 0, int(str(encoder.identity["dim"]))
    if size < dim and cut.dim is None and size:
        encoder.truncate(replace(encoder.truncation, dim=size))
    worst = _worst(sample, encoder) or 0.0
    if worst >= LEAST_COSINE:
        return [_goes_on(store, encoder)] if encoder.truncation.dim not in (None, cut.dim) else []
    found = _explained(sample, encoder)
    is_it = found is not None and found.cosine >= LEAST_COSINE
    if found is not None and is_it and found.prompt is None and cut.max_chars is None:
        encoder.truncate(found.truncation)
        return [_goes_on(store, encoder)]
    said = (
        f"the vectors in this shard say nothing of their encoder, and {encoder.identity['model']} makes others (cosine "
        f"{worst:.4f}, accepted: {LEAST_COSINE} or more)"
    )
    if found is not None and is_it:
        ways = [f"--max-chars {found.truncation.max_chars or 'off'}"] if found.is_other_cap(cut) else []
        if found.prompt is not None:
            config = "a copy of the model whose config_sentence_transformers.json names it as its `document` prompt"
            ways.append(f"{config} (the prompt is {found.prompt!r})")
        why = f"{found} explains them (cosine {found.cosine:.4f})"
        raise EncoderRefused(f"{said}; {why}; accepted: {' and '.join(ways)}, or --reencode")
    if size != int(str(encoder.identity["dim"])):
        said += f"; they have {size} numbers, and its own have {encoder.identity['dim']}"
    else:
        caps, prompts = f"{len(CAPS)} caps from {min(CAPS)} to {max(CAPS):,} letters", len(_prompts(encoder)) - 1
        said += f"; {caps} and {prompts} other prompts were tried, and none explains them"
        if found is not None and found.truncation.max_chars:
            said += f" ({found} comes nearest, cosine {found.cosine:.4f}; another one is tried by --max-chars)"
    raise EncoderRefused(f"{said}; name their model with --model, or encode everything again with --reencode")


def _goes_on(store: ShardStore, encoder: TruncatedEncoder) -> str:
    cut = encoder.truncation
    what = [f"the first {cut.max_chars:,} letters of each text" if cut.max_chars else "all letters of each text"]
    what += [f"the first {cut.dim} numbers of each vector"] if cut.dim else []
    return (
        f"{store.path}: the vectors that are there agree with {encoder.identity['model']} by {' and '.join(what)}; it "
        f"goes on so ({cut.options or '--max-chars off'})"
    )


CAPS = (
    *(2000, 1000, 4000, 500, 1500, 3000, 2500, 3500, 8000, 512, 1024, 2048, 4096, 8192, 256, 250, 300, 400, 600, 700),
    *(750, 800, 900, 1200, 1250, 1600, 1750, 1800, 2200, 2250, 2400, 2750, 3200, 3600, 5000, 6000, 7000, 10000, 12000),
)
"""Caps of letters that are tried, the app's own first."""

PROMPTS = (
    "Represent this sentence for searching relevant passages: ",
    "passage: ",
    "query: ",
    "search_document: ",
    "search_query: ",
    "title: none | text: ",
    "Represent this document for retrieval: ",
)
"""Prompts that are tried beside the model's own: that of the app's questions, and those that the cards of much used
models name (E5, BGE, Nomic, EmbeddingGemma, Instructor)."""

MOST_LETTERS = 16_000
"""Of a text that is encoded to find out: a longer one may need more memory than any batch."""

NEAREST = 3
"""Caps that are tried with each prompt: those whose vectors come nearest without it."""

SURE = 0.99999
"""A cosine that nothing but the right cap reaches: the next one is not looked for."""


@dataclass(frozen=True)
class _Explanation:
    """What vectors agree with.

    Args:
        truncation: What is cut off.
        prompt: Before each text; `None` for the encoder's own.
        cosine: The least.
    """

    truncation: Truncation
    prompt: str | None
    cosine: float

    def is_other_cap(self, cut: TruncationWish) -> bool:
        return cut.max_chars is None or (cut.max_chars or None) != self.truncation.max_chars

    def __str__(self) -> str:
        cap = self.truncation.max_chars
        parts = [] if cap is None else [f"a cap of {cap:,} letters"]
        parts += [] if self.prompt is None else [f"the prompt {self.prompt!r} before each text"]
        return " with ".join(parts) or "no cap of letters"


def _prompts(encoder: TruncatedEncoder) -> list[str | None]:
    """The encoder's own, as `None`, and the others."""
    own = str(encoder.identity.get("prompt", ""))
    return [None, *(prompt for prompt in dict.fromkeys(("", *encoder.prompts, *PROMPTS)) if prompt != own)]


def _explained(sample: Sequence[tuple[str, str, bytes]], encoder: TruncatedEncoder) -> _Explanation | None:
    """The cap and the prompt with which the vectors agree; where none of those that are known explains them, what comes
    nearest with the encoder's own prompt.

    The encoder cuts off as before.
    """
    by_length = sorted(sample, key=lambda row: len(row[1]))
    before = encoder.truncation
    if not by_length or len(by_length[0][2]) != 4 * int(str(encoder.identity["dim"])):
        return None
    caps: list[int | None] = [None, *(cap for cap in CAPS if cap < len(by_length[-1][1]))]
    nearest = None
    try:
        for prompt in _prompts(encoder):
            tried = _tried(by_length, encoder, prompt, caps)
            best = max(tried, key=lambda one: one.cosine, default=None)
            if best is not None and best.cosine >= LEAST_COSINE:
                return best
            if prompt is None:
                nearest = best
                # Whatever stands before a text, most of what it says is the same.
                caps = [one.truncation.max_chars for one in sorted(tried, key=lambda one: -one.cosine)[:NEAREST]]
    finally:
        encoder.truncate(before)
    return nearest


def _tried(
    by_length: Sequence[tuple[str, str, bytes]],
    encoder: TruncatedEncoder,
    prompt: str | None,
    caps: Sequence[int | None],
) -> list[_Explanation]:
    """How well each cap explains vectors with this prompt, up to the first that does it without any doubt."""
    shortest, longest = by_length[0], by_length[-1]
    dim, found = encoder.truncation.dim, []
    encoder.truncate(Truncation(None, dim))
    is_short = len(shortest[1]) <= min(CAPS)
    if prompt is not None and is_short and (_worst([shortest], encoder, prompt) or 0.0) < LEAST_COSINE:
        return []  # no cap matters to it
    for cap in caps:
        encoder.truncate(Truncation(cap, dim))
        worst = _worst([longest], encoder, prompt) or 0.0
        if worst >= LEAST_COSINE:
            worst = _worst(by_length, encoder, prompt) or 0.0
        found.append(_Explanation(encoder.truncation, prompt, worst))
        if worst >= SURE:
            break
    return found


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


def _worst(sample: Sequence[tuple[str, str, bytes]], encoder: Encoder, prompt: str | None = None) -> float | None:
    """The least cosine; `None` where this encoder makes no vector of any of them.

    Args:
        sample: Ids, texts and vectors.
        encoder: That is compared.
        prompt: Before each text, `None` for the encoder's own.
    """
    size = 4 * int(str(encoder.identity["dim"]))
    if any(len(stored) != size for _, _, stored in sample):
        return 0.0
    found = []
    for _, content, stored in sample:  # one by one: there may be memory for no more
        try:
            vector = encoder.encode([content])[0] if prompt is None else encoder.encode_after(prompt, content)
        except BadVector:
            continue
        found.append(cosine(stored, vector))
    return min(found, default=None)
