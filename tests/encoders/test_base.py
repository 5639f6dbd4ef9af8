"""What counts as out of memory, where a smaller batch may be tried, and what as the end of a device's context."""

from __future__ import annotations

import pytest

from helix_crawl_otel.encoders.base import BadVector, is_device_error, is_out_of_memory
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
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError(
            'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":838, please report'
        ),
        RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
        RuntimeError("Invalid buffer size: 12.40 GiB"),
        RuntimeError("std::bad_alloc"),
        MemoryError("a std::bad_alloc"),
        RuntimeError("bad allocation"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("CURAND_STATUS_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: insufficient resources when calling `cusparseSpMM(...)`"),
        RuntimeError("rocBLAS error: rocblas_status_memory_error"),
        RuntimeError("MIOpen Error: miopenStatusAllocFailed"),
        ImportError("DLL load failed while importing _C: The paging file is too small for this operation to complete."),
        OSError(12, "Cannot allocate memory"),
        OSError(1455, "The paging file is too small for this operation to complete. (os error 1455)"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_out_of_memory(error: Exception) -> None:
    """As CUDA, cuBLAS, torch's allocator, Python and the systems say it."""
    assert is_out_of_memory(error)


def test_the_cause_counts() -> None:
    """A library may wrap what torch has raised."""
    wrapped = ValueError("the batch could not be encoded")
    wrapped.__cause__ = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert is_out_of_memory(wrapped)
    wrapped.__cause__ = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert is_device_error(wrapped)
    wrapped.__cause__ = wrapped
    assert not is_device_error(wrapped)


class AcceleratorError(RuntimeError):
    """Stands for torch's class of that name, since 2.8."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported asynchronously"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: unknown error"),
        RuntimeError("CUDA error: misaligned address"),
        RuntimeError("CUDA error: the launch timed out and was terminated"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
        RuntimeError("CUDA driver error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("HIP error: the operation cannot be performed in the present state"),
        RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_the_end_of_a_context(error: Exception) -> None:
    """No call of this process succeeds after it; it is no lack of memory."""
    assert is_device_error(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("The size of tensor a (514) must match the size of tensor b (512)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
        ValueError("CUDA error: in a text that somebody wrote"),
        IndexError("index out of range in self"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_leaves_the_device_sound(error: Exception) -> None:
    """Another batch may succeed in the same process."""
    assert not is_device_error(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("The size of tensor a (514) must match the size of tensor b (512)"),
        ValueError("out of memory"),
        OSError(28, "No space left on device"),
        BadVector([3], "the encoder's vector has length nan"),
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
    """So that it is tried alone."""
    error = BadVector([3], "it has length nan")
    assert (error.indices, str(error)) == ((3,), "it has length nan")
