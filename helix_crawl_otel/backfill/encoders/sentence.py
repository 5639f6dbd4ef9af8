"""Any model of sentence-transformers: BGE-M3 on a card, MiniLM on a CPU.

The device is passed on, and then looked for on the model's parameters: a library that ignores it would turn a
demotion to the CPU into nothing (INCIDENTS.md).

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from helix_crawl_otel.backfill.encoders.base import BadVector, DeviceMismatch, ModelError
from helix_crawl_otel.backfill.encoders.model_folder import check_folder, weights_digest
from helix_crawl_otel.core.model import MemoryReading

__all__ = ["SentenceEncoder"]

LONGEST_LOOKED_AT = 4
"""Texts of a batch whose tokens are counted: those with the most characters."""


class SentenceEncoder:
    """See `Encoder`.

    Args:
        source: A folder, or the id of a model on the hub.
        device: `cpu`, `cuda` or `cuda:N`.
        batch_size: Genes a batch: one call is one forward pass.
        threads: On the CPU; `None` leaves it to torch.
        identity: What is known of the model already; `None` looks at it.

    Raises:
        ModelError: It cannot be loaded.
        DeviceMismatch: It is loaded elsewhere than it was asked to be.
    """

    def __init__(
        self,
        source: str,
        device: str,
        *,
        batch_size: int,
        threads: int | None,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        torch = _imported("torch", "torch")
        if threads is not None:
            torch.set_num_threads(threads)
        self._batch_size = batch_size
        self._model: Any = _loaded(source, device)
        self.device = str(next(self._model.parameters()).device)
        if self.device.partition(":")[0] != device.partition(":")[0]:
            raise DeviceMismatch(f"the model was asked to be on {device}, but its parameters are on {self.device}")
        self.threads = int(torch.get_num_threads())
        self.versions: Mapping[str, str] = {
            name: metadata.version(name) for name in ("torch", "transformers", "sentence-transformers", "tokenizers")
        }
        self._max_tokens = int(self._model.max_seq_length or 512)
        self.identity: Mapping[str, object] = identity or self._identity(source)

    def _identity(self, source: str) -> dict[str, object]:
        folder = Path(source)
        is_folder = folder.is_dir()
        config = getattr(self._model[0], "auto_model", None)
        commit = getattr(getattr(config, "config", None), "_commit_hash", None)
        return {
            "model": folder.resolve().name if is_folder else source,
            "revision": weights_digest(folder) if is_folder else str(commit or "unknown"),
            "dim": int(self._model.get_sentence_embedding_dimension()),
            "normalised": True,
            "max_tokens": self._max_tokens,
        }

    def work(self, texts: Sequence[str]) -> float:
        """See `Encoder`. The few texts with the most characters hold the longest in tokens, near enough."""
        longest = sorted(texts, key=len, reverse=True)[:LONGEST_LOOKED_AT]
        counts = [
            len(ids)
            for ids in self._model.tokenizer(longest, truncation=True, max_length=self._max_tokens)["input_ids"]
        ]
        return float(len(texts) * max(counts))

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        import numpy

        found = self._model.encode(
            list(texts),
            batch_size=max(self._batch_size, len(texts)),
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        vectors = numpy.asarray(found, dtype="<f4")
        lengths = numpy.linalg.norm(vectors, axis=1)
        # NaN compares false with everything, so this finds it too.
        for index in numpy.flatnonzero(~((lengths > 0.99) & (lengths < 1.01))):
            raise BadVector(int(index), f"the encoder's vector has length {lengths[index]}")
        return [vector.tobytes() for vector in vectors]

    def release(self) -> None:
        """The caller has released torch's cache."""

    def memory(self) -> MemoryReading:
        """The probes read the card."""
        return MemoryReading(None, None)


def _imported(module: str, extra: str) -> Any:
    try:
        return __import__(module)
    except ImportError as error:
        raise ModelError(
            f"{module} cannot be imported ({error}); `pip install 'helix-crawl-otel[{extra}]'` brings it"
        ) from None


def _loaded(source: str, device: str) -> Any:
    is_folder = Path(source).is_dir()
    if is_folder:
        check_folder(Path(source))
    elif os.sep in source and source.count("/") != 1:
        raise ModelError(
            f"{source} is no folder; accepted: minilm, hashing, a model folder, or an id such as BAAI/bge-m3"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that we cannot mend, in a worker's log
        library = _imported("sentence_transformers", "models")
        _quiet()
        try:
            return library.SentenceTransformer(
                source,
                device=device,
                trust_remote_code=False,
                local_files_only=is_folder,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"the model {source!r} cannot be loaded on {device}: {first[:300]}; accepted: minilm, hashing, a model "
                "folder, or an id such as BAAI/bge-m3 that is downloaded already or can be"
            ) from error


def _quiet() -> None:
    """No bars and no advice in a worker's log."""
    try:
        from transformers.utils import logging as chatter

        chatter.set_verbosity_error()
        chatter.disable_progress_bar()
    except ImportError:
        pass
