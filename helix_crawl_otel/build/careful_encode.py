"""Encodes a batch, and when that fails finds out which genes it is that fail, each of them alone.

Out of memory halves the batch, down to one gene; so does an exception that a batch raises every time. Where an eighth
of a batch has no memory, a fresh process may have to take over. Of a batch with bad vectors the good genes are encoded
again together, and each bad one alone: padding beside a long text is enough to spoil the vector of a short one. What a
gene is blamed for it has done alone; what becomes of it is the caller's to say.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from helix_crawl_otel.encoders.base import (
    BadVector,
    Encoder,
    first_line,
    is_device_error,
    is_out_of_memory,
)
from helix_crawl_otel.encoders.truncation import TruncatedEncoder
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.shards.genes import PendingGene

__all__ = [
    "CheckedEncoder",
    "EncoderBroken",
    "EncodingFailed",
    "LacksMemory",
    "LeaveShard",
    "NeedsCpu",
    "encode_carefully",
]

TIGHT = 8
"""A part of a batch that should fit: when so small a one does not, memory is in pieces, or somebody else has it."""

CONTROL = "The quick brown fox jumps over the lazy dog."
"""What a sound encoder encodes."""


class EncodingFailed(Exception):
    """The encoder fails, whatever it is given, and has never done better. The message is one sentence."""


class LeaveShard(BaseException):
    """This process has to leave the shard to another one. The message is one sentence.

    No `Exception`: for the watch the shard goes on, it has not failed.
    """


class LacksMemory(LeaveShard):
    """There is not enough memory for one gene alone, after all that is cached was released."""


class NeedsCpu(LeaveShard):
    """All is encoded but genes that the card cannot encode alone."""


class EncoderBroken(LeaveShard):
    """Nothing can be encoded in this process any more: the device's context is gone, or the encoder is.

    Args:
        what: One sentence.
        is_device: It is the device's fault.
    """

    def __init__(self, what: str, *, is_device: bool) -> None:
        super().__init__(what)
        self.is_device = is_device


class CheckedEncoder(TruncatedEncoder):
    """An encoder whose vectors are counted, and that can be asked whether it is still sound. See `Encoder`.

    Args:
        encoder: What really encodes.

    Attributes:
        is_tight: An eighth of a batch has not fitted although the process was fresh: another would do no better.

    Threads: the worker's.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        self._encoded: str | None = None  # a text that this process has encoded
        self.is_tight = False

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`.

        Raises:
            ValueError: It has made more or fewer vectors than there are texts, or of another length than it says.
        """
        vectors = self._counted(texts)
        self._encoded = min(texts, key=len)
        return vectors

    @property
    def is_fresh(self) -> bool:
        """Nothing has been encoded in this process."""
        return self._encoded is None

    def check(self, reason: str, known: Callable[[], Iterable[str]] = tuple) -> None:
        """Make sure that it is the gene that fails and not the encoder: one text that is known to be good is enough.

        Args:
            reason: Why the gene fails, for the message.
            known: Looks up texts that have a vector; called where what this process has encoded does not do.

        Raises:
            EncoderBroken: None can be encoded, and something could be before; or the device's context is gone.
            EncodingFailed: None can be encoded, and in this process none ever was.
            LacksMemory: There is no memory for any of these.
        """
        was_sound = self._encoded is not None
        last: Exception | None = None
        for texts in (lambda: filter(None, [self._encoded]), known, lambda: [CONTROL]):
            for text in texts():
                last = self._error_of(text)
                if last is None:
                    return
                if is_device_error(last):
                    raise EncoderBroken(f"the device fails: {first_line(last)}", is_device=True) from last
        assert last is not None
        if is_out_of_memory(last):
            raise LacksMemory(f"out of memory for a text of {len(CONTROL)} characters: {first_line(last)}") from last
        if was_sound:
            raise EncoderBroken(f"the encoder fails, also for what it has encoded before: {reason}", is_device=False)
        raise EncodingFailed(f"the encoder fails for every text: {reason}") from last

    def _error_of(self, text: str) -> Exception | None:
        try:
            self._counted([text])
        except Exception as error:  # noqa: BLE001 - the encoder's own, whatever it is; the caller judges it
            return error
        return None

    def _counted(self, texts: Sequence[str]) -> list[bytes]:
        vectors = super().encode(texts)
        size = 4 * int(str(self.identity["dim"]))
        if len(vectors) != len(texts) or any(len(vector) != size for vector in vectors):
            sizes = sorted({len(vector) for vector in vectors})
            raise ValueError(
                f"the encoder made {len(vectors)} vectors of {sizes} bytes for {len(texts)} texts; "
                f"accepted: one of {size} bytes a text"
            )
        return vectors


class Blame(Protocol):
    """What becomes of a gene that cannot be encoded alone."""

    def __call__(self, gene: PendingGene, reason: str, *, lacks_memory: bool) -> None:
        """Note it, or raise what ends the work on the shard."""


def encode_carefully(
    genes: Sequence[PendingGene],
    encode: Callable[[Sequence[PendingGene]], list[bytes]],
    commit: Callable[[Sequence[tuple[PendingGene, bytes]]], None],
    blame: Blame,
    release: Callable[[], None],
    lack: Callable[[str], None] = lambda reason: None,
) -> None:
    """Encode and commit a batch.

    Args:
        genes: In order, at least one.
        encode: Makes their vectors, in order. Raises what the encoder raises.
        commit: Called once for each piece that was encoded, in order.
        blame: Called with a gene that failed alone, and why; for want of memory after a release and another try.
        release: Gives cached memory back, before a smaller piece is tried.
        lack: Called with the reason when there is no memory for an eighth of the batch, before that is halved; may
            raise what ends the work on the shard.

    Raises:
        EncoderBroken: The device's context is gone. What was committed before is kept.
    """
    waiting = [list(genes)]
    has_released = False  # for the gene that is alone in the piece tried last
    while waiting:
        piece = waiting.pop(0)
        is_second_try, has_released = has_released, False
        try:
            vectors = encode(piece)
        except BadVector as error:
            if len(piece) > 1:
                bad = [piece[index] for index in error.indices]
                watchdog.info("%d of %d genes have bad vectors: each is tried alone", len(bad), len(piece))
                good = [gene for index, gene in enumerate(piece) if index not in error.indices]
                waiting[:0] = [part for part in (good, *([gene] for gene in bad)) if part]
            else:
                blame(piece[0], str(error), lacks_memory=False)
        except Exception as error:
            if is_device_error(error):
                raise EncoderBroken(f"the device fails: {first_line(error)}", is_device=True) from error
            lacks_memory = is_out_of_memory(error)
            if lacks_memory:
                release()
            if len(piece) > 1:
                if lacks_memory and len(piece) * TIGHT <= len(genes):
                    lack(f"out of memory with {len(piece)} of the {len(genes)} genes of a batch: {first_line(error)}")
                half = (len(piece) + 1) // 2
                level = logging.WARNING if lacks_memory else logging.INFO
                text = "a batch of %d genes is halved: %s: %s"
                watchdog.log(level, text, len(piece), type(error).__name__, first_line(error))
                waiting[:0] = [piece[:half], piece[half:]]
            elif lacks_memory and not is_second_try:
                has_released = True
                waiting.insert(0, piece)
            elif lacks_memory:
                blame(piece[0], f"out of memory with a batch of one: {first_line(error)}", lacks_memory=True)
            else:
                blame(piece[0], f"{type(error).__name__}: {first_line(error)}", lacks_memory=False)
        else:
            commit(list(zip(piece, vectors, strict=True)))
