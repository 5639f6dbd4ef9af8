"""What an encoder is, and what can go wrong with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from helix_crawl_otel.core.model import MemoryReading

__all__ = ["BadVector", "DeviceMismatch", "Encoder", "EncoderLayer", "ModelError", "is_out_of_memory"]


class ModelError(Exception):
    """The model can never be loaded here. The message is one sentence, with the way out."""


class DeviceMismatch(Exception):
    """The model's parameters are not where they were asked to be. The message says where they are."""


class BadVector(Exception):
    """A vector that is none: not finite, or of length 0.

    Args:
        index: Of the gene in its batch.
        what: What is wrong with it.
    """

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


class Encoder(Protocol):
    """Makes vectors.

    Attributes:
        identity: Which vectors these are: `model`, `revision`, `dim`, `normalised`, `max_tokens`. Plain JSON; equal
            identities mean comparable vectors.
        device: Where the parameters really are.
        versions: Of the libraries that compute them.
        threads: Of the computation on the CPU.

    Threads: one at a time.
    """

    identity: Mapping[str, object]
    device: str
    versions: Mapping[str, str]
    threads: int

    def work(self, texts: Sequence[str]) -> float:
        """What a batch costs: passages times the longest token count after truncation."""

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """One vector a text, in order: little-endian float32, `dim * 4` bytes, of length 1.

        Raises:
            BadVector: One of them is none.
        """

    def release(self) -> None:
        """The framework's cache has been released; whoever models one does the same."""

    def memory(self) -> MemoryReading:
        """What a modelled card shows; unknown for a real encoder, whose card the probes read."""


class EncoderLayer:
    """Lies over another encoder, and is like it in all that it does not change. See `Encoder`.

    Args:
        encoder: The one below, which really encodes.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.identity = encoder.identity
        self.device = encoder.device
        self.versions = encoder.versions
        self.threads = encoder.threads
        self._encoder = encoder

    def work(self, texts: Sequence[str]) -> float:
        """See `Encoder`."""
        return self._encoder.work(texts)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        return self._encoder.encode(texts)

    def release(self) -> None:
        """See `Encoder`."""
        self._encoder.release()

    def memory(self) -> MemoryReading:
        """See `Encoder`."""
        return self._encoder.memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed where this one did not."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):
        return True
    text = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and any(words in text for words in _OUT_OF_MEMORY)


# What CUDA, cuBLAS, cuDNN, torch's allocator for the CPU, Linux and Windows say; not all of it comes as
# torch.OutOfMemoryError.
_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "status_alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "paging file is too small",
)
