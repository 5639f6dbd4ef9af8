"""What an application cuts off before and after its model: letters of a text behind a cap, numbers of a vector.

Both make other vectors, so both are part of the encoder's identity where they hold: `max_chars`, and `dim` with
`model_dim` beside it, the number that the model itself makes. A vector that was cut is normalised again.

Source: Kusupati et al. 2022, "Matryoshka Representation Learning", for the cut of a vector; the Helix/Cymatix app's
`backfill_bgem3_v2.py` for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from helix_crawl_otel.encoders.base import BadVector, Encoder, EncoderLayer, ModelError
from helix_crawl_otel.shards.vectors import pack, unpack

__all__ = ["MAX_CHARS", "MODEL_DIM", "TruncatedEncoder", "Truncation", "TruncationWish", "more_numbers", "untruncated"]

MAX_CHARS, MODEL_DIM = "max_chars", "model_dim"
"""Keys of an identity."""


@dataclass(frozen=True)
class Truncation:
    """What is cut off.

    Args:
        max_chars: Letters of a text that the encoder gets, 1 or more; `None` for all.
        dim: Numbers of a vector that are kept, 1 or more; `None` for all.
    """

    max_chars: int | None = None
    dim: int | None = None

    @classmethod
    def of(cls, identity: Mapping[str, object]) -> Truncation:
        """As an encoder's identity has it."""
        cap, dim = identity.get(MAX_CHARS), identity["dim"] if MODEL_DIM in identity else None
        return cls(None if cap is None else int(str(cap)), None if dim is None else int(str(dim)))

    @property
    def options(self) -> str:
        """As options of `backfill`; empty for nothing."""
        named = {"--max-chars": self.max_chars, "--dim": self.dim}
        return " ".join(f"{option} {value}" for option, value in named.items() if value is not None)


@dataclass(frozen=True)
class TruncationWish:
    """What an operator asks for.

    Args:
        max_chars: Letters; 0 for all of them, `None` for what the shard or its application says.
        dim: Numbers of a vector; `None` likewise.
    """

    max_chars: int | None = None
    dim: int | None = None

    def settled(self, known: Truncation) -> Truncation:
        """With what is known for where nothing is asked."""
        cap = known.max_chars if self.max_chars is None else self.max_chars
        return Truncation(cap or None, known.dim if self.dim is None else self.dim)

    def is_of(self, identity: Mapping[str, object]) -> bool:
        """Whether vectors of this identity are what is asked for."""
        is_cap = self.max_chars is None or (self.max_chars or None) == Truncation.of(identity).max_chars
        return is_cap and self.dim in (None, identity.get("dim"))


def more_numbers(model: str, dim: int, own: int) -> str:
    """What is said of a dimension that is larger than the model's own."""
    return f"--dim is {dim}, and {model} makes vectors of {own} numbers; accepted: 1 to {own}"


def untruncated(identity: Mapping[str, object]) -> dict[str, object]:
    """The identity of the encoder below, which cuts nothing off."""
    own = {key: value for key, value in identity.items() if key not in (MAX_CHARS, MODEL_DIM)}
    return own | ({"dim": identity[MODEL_DIM]} if MODEL_DIM in identity else {})


class TruncatedEncoder(EncoderLayer):
    """See `Encoder`. It cuts nothing off until it is told to.

    Args:
        encoder: The one below.

    Threads: the encoder's.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._truncation = Truncation()

    @property
    def truncation(self) -> Truncation:
        """What is cut off."""
        return self._truncation

    @property
    def own_dim(self) -> int:
        """Numbers of a vector that the model itself makes."""
        return int(str(self._encoder.identity["dim"]))

    def truncate(self, truncation: Truncation) -> None:
        """From now on this is cut off. A dimension that the model has anyway is none.

        Raises:
            ModelError: The model makes fewer numbers.
        """
        below = dict(self._encoder.identity)
        own, dim = self.own_dim, truncation.dim
        if dim is not None and dim > own:
            raise ModelError(more_numbers(str(below["model"]), dim, own))
        dim = None if dim == own else dim
        self._truncation = Truncation(truncation.max_chars, dim)
        cap = {} if truncation.max_chars is None else {MAX_CHARS: truncation.max_chars}
        self.identity = below | cap | ({} if dim is None else {"dim": dim, MODEL_DIM: own})

    def _cut(self, texts: Sequence[str]) -> Sequence[str]:
        return [text[: self._truncation.max_chars] for text in texts]

    def lengths(self, texts: Sequence[str]) -> list[float]:
        """See `Encoder`."""
        return super().lengths(self._cut(texts))

    def work(self, texts: Sequence[str]) -> float:
        """See `Encoder`."""
        return super().work(self._cut(texts))

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder`: of what is left of each text."""
        return super().token_counts(self._cut(texts))

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        return self._shortened(super().encode(self._cut(texts)))

    def encode_after(self, prompt: str, text: str) -> bytes:
        """See `Encoder`."""
        return self._shortened([super().encode_after(prompt, text[: self._truncation.max_chars])])[0]

    def encode_query(self, text: str) -> bytes:
        """See `Encoder`."""
        return self._shortened([super().encode_query(text[: self._truncation.max_chars])])[0]

    def _shortened(self, vectors: list[bytes]) -> list[bytes]:
        """The first numbers of each vector, of length 1 again.

        Raises:
            BadVector: There is nothing in the first numbers of some.
        """
        if self._truncation.dim is None:
            return vectors
        kept = [unpack(vector)[: self._truncation.dim] for vector in vectors]
        lengths = [math.hypot(*values) for values in kept]
        # NaN compares false with everything.
        bad = [index for index, length in enumerate(lengths) if not 0 < length < math.inf]
        if bad:
            what = f"the first {self._truncation.dim} numbers of the encoder's vector have length {lengths[bad[0]]:.4g}"
            raise BadVector(bad, what)
        return [pack(value / length for value in values) for values, length in zip(kept, lengths, strict=True)]
