"""What an encoder is, and what can go wrong with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from helix_crawl_otel.exit_codes import NEVER, Refusal
from helix_crawl_otel.policy.model import MemoryReading

__all__ = [
    "LETTERS_A_TOKEN",
    "BadVector",
    "DeviceMismatch",
    "Encoder",
    "EncoderLayer",
    "ModelError",
    "first_line",
    "is_device_error",
    "is_out_of_memory",
]


LETTERS_A_TOKEN = 32
"""A text is counted up to so many letters a token of the limit; what is left out would be cut off anyway."""


class ModelError(Refusal):
    """The model can never be loaded here. The message is one sentence, with the way out."""

    exit_code = NEVER


class DeviceMismatch(Exception):
    """The model's parameters are not where they were asked to be. The message says where they are."""


class BadVector(Exception):
    """Vectors of a batch that are none: not finite, or of length 0.

    Args:
        indices: Of all such genes in their batch, ascending, at least one.
        what: What is wrong with the first of them.
    """

    def __init__(self, indices: Sequence[int], what: str) -> None:
        super().__init__(what)
        self.indices = tuple(indices)


class Encoder(Protocol):
    """Makes vectors.

    Attributes:
        identity: Which vectors these are: `model`, `revision`, `dim`, `normalised`, `max_tokens`, and `prompt` where
            one that is a document's own stands before each text; `dtype` where its vectors do not agree with those of
            the model as it is saved; `max_chars` and `model_dim` where something is cut off, see `truncation`. Plain
            JSON; equal identities mean comparable vectors.
        prompts: That the model's own settings name, its passages' one among them; none twice.
        device: Where the parameters really are.
        dtype: What it computes in, such as `float32`. Vectors are float32 all the same.
        why_dtype: Why so, for people; empty where there was nothing to choose.
        versions: Of the libraries that compute them.
        threads: Of the computation on the CPU.
        limit: Tokens of a text that are read, prompt and special ones among them; `None` for all.
        operations: Floating-point operations that a token costs, about; 0 where that is next to nothing.

    Threads: one at a time.
    """

    identity: Mapping[str, object]
    prompts: Sequence[str]
    device: str
    dtype: str
    why_dtype: str
    versions: Mapping[str, str]
    threads: int
    limit: int | None
    operations: float

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it is encoded, with prompt and special ones, and with those beyond the limit."""

    def lengths(self, texts: Sequence[str]) -> list[float]:
        """What each text costs: its tokens, up to the limit, and at least 1. In the unit of `work`.

        A text may be cut off after `LETTERS_A_TOKEN` letters a token of the limit.
        """

    def work(self, texts: Sequence[str]) -> float:
        """What a batch costs: passages times the longest of their lengths."""

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """One vector a text, in order: little-endian float32, `dim * 4` bytes, of length 1.

        Raises:
            BadVector: Some of them are none.
        """

    def encode_after(self, prompt: str, text: str) -> bytes:
        """The vector of a passage with this prompt before it, in place of the one that the model has for passages.

        Raises:
            BadVector: It is none.
        """

    def encode_query(self, text: str) -> bytes:
        """The vector of a question: of a model that has a prompt or a route for those, by it. Else as of any text.

        Raises:
            BadVector: It is none.
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
        self.prompts = encoder.prompts
        self.device = encoder.device
        self.dtype, self.why_dtype = encoder.dtype, encoder.why_dtype
        self.versions = encoder.versions
        self.threads = encoder.threads
        self.limit = encoder.limit
        self.operations = encoder.operations
        self._encoder = encoder

    def lengths(self, texts: Sequence[str]) -> list[float]:
        """See `Encoder`."""
        return self._encoder.lengths(texts)

    def work(self, texts: Sequence[str]) -> float:
        """See `Encoder`."""
        return self._encoder.work(texts)

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder`."""
        return self._encoder.token_counts(texts)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        return self._encoder.encode(texts)

    def encode_after(self, prompt: str, text: str) -> bytes:
        """See `Encoder`."""
        return self._encoder.encode_after(prompt, text)

    def encode_query(self, text: str) -> bytes:
        """See `Encoder`."""
        return self._encoder.encode_query(text)

    def release(self) -> None:
        """See `Encoder`."""
        self._encoder.release()

    def memory(self) -> MemoryReading:
        """See `Encoder`."""
        return self._encoder.memory()


def first_line(error: Exception) -> str:
    """What an error of a library says, without the page of advice that may follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch, or the same one when others hold less memory, may succeed where this one did not."""
    return any(_lacks_memory(one) for one in _with_causes(error))


def is_device_error(error: BaseException) -> bool:
    """Whether the device's context is gone: after it every call of this process fails, whatever it is given.

    Not so for want of memory, which CUDA reports in the same words: `is_out_of_memory` is asked first.

    Source: CUDA runtime API, cudaError_t: of errors such as cudaErrorLaunchFailure "the process must be terminated and
    relaunched".
    """
    if is_out_of_memory(error):
        return False
    return any(_says(one, _DEVICE_ERRORS) for one in _with_causes(error) if isinstance(one, (RuntimeError, OSError)))


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemory"):
        return True
    # An import fails so where a library's file cannot be mapped; safetensors raises a class of its own.
    is_systems = isinstance(error, (RuntimeError, OSError, ImportError)) or type(error).__name__ == "SafetensorError"
    return is_systems and _says(error, _OUT_OF_MEMORY)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from: libraries wrap."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__


def _says(error: BaseException, words: Sequence[str]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


_OUT_OF_MEMORY = (
    # CUDA, HIP, Metal, torch's allocators
    "out of memory",
    "out_of_memory",
    "erroroutofmemory",
    "errormemoryallocation",
    "nvml_success == r",  # an assert of torch's allocator, which asks NVML for the card's memory when it has none
    "invalid buffer size",
    "can't allocate",
    "failed to allocate",
    # The libraries on top, which allocate a workspace of their own. A handle that cannot be made is a full card.
    # cuDNN gives up on an operation, too, when no algorithm's workspace is to be had.
    "alloc_failed",
    "allocation_failed",
    "statusallocfailed",
    "rocblas_status_memory_error",
    "insufficient resources",
    "insufficient_resources",
    "unable to find an engine",
    "unable to find a valid cudnn algorithm",
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "cusolver_status_not_initialized",
    # C++, Linux, Windows
    "bad_alloc",
    "bad allocation",
    "cannot allocate memory",
    "unable to allocate",
    "not enough memory",
    "insufficient memory",
    "paging file is too small",
    "resource_exhausted",
)

_DEVICE_ERRORS = (
    "cuda error:",
    "cuda driver error",
    "triton error [cuda]",
    "hip error:",
    "status_execution_failed",
    "status_internal_error",
    "status_mapping_error",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "illegal memory access",
    "illegal address",
    "misaligned address",
    "uncorrectable ecc",
    "uncorrectable nvlink",
    "cudaerror",
    "cuda_error_",
    "hiperror",
    "cuda unknown error",
    "gpu is lost",
    "fallen off the bus",
    "device removed",
    "device_removed",
    "device lost",
    "device_lost",
    "devices are busy or unavailable",
)
