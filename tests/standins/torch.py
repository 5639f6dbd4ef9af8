"""A `torch` and a `sentence_transformers` that see cards which are not there, and encode on none.

For what happens to a worker of a build whose framework sees a card: `write` them to a folder, and name it first in
`PYTHONPATH`. What the cards hold is as small as what the tests ask for.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write", "write_with_allocator"]

_FILES = {
    "torch/__init__.py": """
import types
from torch import cuda, version
nn = types.SimpleNamespace(Embedding=type(None), EmbeddingBag=type(None))
class OutOfMemoryError(RuntimeError):
    pass
def get_num_threads():
    return 1
def set_num_threads(number):
    pass
""",
    "torch/version.py": "cuda = {cuda!r}\nhip = {hip!r}\n",
    "torch/cuda.py": """
class _Properties:
    total_memory = 24 << 30
    name, major, minor = "stand-in", 5, 2
def device_count():
    return {count}
def is_available():
    return {count} > 0
def is_initialized():
    return True
def get_device_properties(index):
    return _Properties()
def memory_stats(index):
    return dict.fromkeys(("reserved_bytes.all.current", "reserved_bytes.all.peak"), 3 << 30)
def memory_reserved(index=0):
    return 3 << 30
memory_allocated = memory_reserved
def empty_cache():
    pass
""",
    "sentence_transformers/__init__.py": """
import types
import numpy
class SentenceTransformer:
    max_seq_length = 128
    def __init__(self, source, device, **options):
        self._parameters = [types.SimpleNamespace(device=device, dtype="torch.float32", numel=lambda: 1000)]
    def parameters(self):
        return self._parameters
    def to(self, device):
        for parameter in self._parameters:
            parameter.device = device
        return self
    def modules(self):
        return []
    def __getitem__(self, index):
        return self
    def tokenizer(self, texts, truncation):
        return {{"input_ids": [[1] * len(text) for text in texts]}}
    def get_embedding_dimension(self):
        return 384
    def encode_document(self, texts, **options):
        return numpy.asarray([[1.0] + [0.0] * 383] * len(texts), dtype="<f4")
""",
    "transformers/__init__.py": "",
    "transformers/utils/__init__.py": "",
    "transformers/utils/logging.py": "def set_verbosity_error():\n    pass\ndef disable_progress_bar():\n    pass\n",
}


def write(folder: Path, count: int, *, cuda: str | None = None, hip: str | None = None) -> Path:
    """Write both.

    Args:
        folder: Made if need be.
        count: Devices that torch sees.
        cuda: Version of CUDA that it is built for.
        hip: Likewise of HIP.

    Returns:
        The folder.
    """
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(count=count, cuda=cuda, hip=hip), encoding="utf-8")
    return folder


def write_with_allocator(folder: Path, *, others: int, each: int, lost: int) -> Path:
    """The same, with one card of 24 GiB whose allocator is a model of the real one.

    Args:
        folder: Made if need be.
        others: What others hold of the card, in bytes.
        each: What a batch takes a gene.
        lost: What each call leaves behind for good, as a cache in pieces does.
    """
    write(folder, 1, cuda="12.8")
    (folder / "torch" / "cuda.py").write_text(_ALLOCATING.format(others=others), encoding="utf-8")
    library = folder / "sentence_transformers" / "__init__.py"
    encode = "    def encode_document(self, texts, **options):\n"
    takes = f"        _take(len(texts) * {each}, {lost})\n"
    text = "from torch.cuda import _take\n" + library.read_text(encoding="utf-8").replace(encode, encode + takes)
    library.write_text(text, encoding="utf-8")
    return folder


_ALLOCATING = """
import os
from tests.standins.allocator import Card, Cuda
_cuda = Cuda(Card(24 << 30, {others}))
for _name in dir(_cuda):
    if not _name.startswith("_"):
        globals()[_name] = getattr(_cuda, _name)
def _take(size, lost):
    most = os.environ.get("ALLOCATOR_LOG")
    try:
        _cuda.allocate(size)
        _cuda.free(size)
        _cuda.allocate(lost)
    finally:
        with open(most, "a", encoding="ascii") as file:
            file.write(f"{{os.getpid()}} {{_cuda.cards[0].used}} {{_cuda.allowed(0)}} {{size}}\\n")
"""
