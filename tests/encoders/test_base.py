"""What counts as out of memory: only then may a smaller batch be tried."""

from __future__ import annotations

import pytest

from helix_crawl_otel.backfill.encoders.base import BadVector, is_out_of_memory
from tests.programs import require_module


class OutOfMemoryError(RuntimeError):
    """Stands for `torch.cuda.OutOfMemoryError`, which is known by its name: torch is not imported for it."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OutOfMemoryError("anything"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 12.00 GiB total capacity)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "1099511627776 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory"),
        OSError(12, "Cannot allocate memory"),
        OSError(1455, "The paging file is too small for this operation to complete. (os error 1455)"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_out_of_memory(error: Exception) -> None:
    """As CUDA, cuBLAS, torch's allocator, Python and the systems say it."""
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("The size of tensor a (514) must match the size of tensor b (512)"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
        BadVector(3, "the encoder's vector has length nan"),
        KeyError("memory"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_everything_else(error: Exception) -> None:
    """A smaller batch would not help."""
    assert not is_out_of_memory(error)


def test_torch_itself_is_recognised() -> None:
    """Its class for CUDA, and what its allocator for the CPU raises."""
    torch = require_module("torch", "helix-crawl-otel[torch]")
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_a_bad_vector_names_its_gene() -> None:
    """So that this one alone is quarantined."""
    error = BadVector(3, "it has length nan")
    assert (error.index, str(error)) == (3, "it has length nan")
