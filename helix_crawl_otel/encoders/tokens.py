"""What an encoder reads of a text: how many of its tokens fit, and how much of the text is beyond them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from helix_crawl_otel.encoders.base import Encoder, ModelError, is_out_of_memory
from helix_crawl_otel.encoders.truncation import Truncation

__all__ = ["TokenRoom"]

MOST_TOKENS_A_LETTER = 4
"""Of ASCII text no tokenizer makes more: text that is short enough fits without being counted."""


class TokenRoom:
    """The room that an encoder has for a text: its limit less special tokens and the prompt's.

    Args:
        encoder: Gives the encoder, and may load it for that.

    Threads: the encoder's.
    """

    def __init__(self, encoder: Callable[[], Encoder]) -> None:
        self._load = encoder
        self._encoder: Encoder | None = None
        self._taken = 0  # by what stands around each text

    def prepare(self) -> None:
        """Load the encoder, if that has not been done.

        Raises:
            ModelError: The prompt leaves no room for any text.
        """
        if self._encoder is None:
            encoder = self._load()
            if encoder.limit is not None:
                (self._taken,) = encoder.token_counts([""])
                if self._taken >= encoder.limit:
                    raise ModelError(
                        f"{encoder.identity['model']} reads {encoder.limit} tokens of a text, and what it puts around "
                        f"each takes {self._taken} of them; give the model a shorter prompt or a larger max_seq_length"
                    )
            self._encoder = encoder

    def fills(self, texts: Sequence[str]) -> list[float]:
        """How much of the room each text takes, 0 where it is known to be less than all; beyond 1 it is not read.

        What an application cuts off is not read either. A text whose tokens cannot be counted is taken to fit: if it
        cannot be encoded either, that is said then.
        """
        self.prepare()
        assert self._encoder is not None
        cap = Truncation.of(self._encoder.identity).max_chars
        found = [0.0] * len(texts)
        if self._encoder.limit is not None:
            room = self._encoder.limit - self._taken
            asked = [index for index, text in enumerate(texts) if not _is_short(text[:cap], room)]
            for index, count in zip(asked, self._counts([texts[index][:cap] for index in asked]), strict=True):
                found[index] = max(0, count - self._taken) / room
        if cap is None:
            return found
        # Of a text that is cut off, what is behind the cap comes on top of what does not fit before it.
        return [
            max(1.0, fill) * len(text) / cap if len(text) > cap else fill
            for text, fill in zip(texts, found, strict=True)
        ]

    def _counts(self, texts: Sequence[str]) -> list[int]:
        assert self._encoder is not None
        if not texts:
            return []
        try:
            return self._encoder.token_counts(texts)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return [0] if len(texts) == 1 else [count for text in texts for count in self._counts([text])]


def _is_short(text: str, room: int) -> bool:
    return text.isascii() and MOST_TOKENS_A_LETTER * len(text) <= room
