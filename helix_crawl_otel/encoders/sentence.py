"""Any model of sentence-transformers: BGE-M3 on a card, MiniLM on a CPU.

The device is passed on, and then looked for on the model's parameters: a library that ignores it would turn a
demotion to the CPU into nothing (INCIDENTS.md).

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from helix_crawl_otel.encoders.base import (
    LETTERS_A_TOKEN,
    BadVector,
    DeviceMismatch,
    ModelError,
    first_line,
    is_device_error,
    is_out_of_memory,
)
from helix_crawl_otel.encoders.models import (
    HubModel,
    Prompts,
    check_folder,
    downloaded_prompts,
    folder_digest,
    imported,
    prompts_of_folder,
    resolve,
)
from helix_crawl_otel.encoders.precision import DtypeWish, load_in
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.device import parse_device

__all__ = ["SentenceEncoder", "checked_device", "checked_lengths"]

NO_LIMIT = 1_000_000
"""From here on a model's longest input is a number that stands for none."""

_PERMANENT = ("no kernel image", "invalid device ordinal", "driver version is insufficient", "no cuda-capable device")
"""CUDA errors that no later start heals: this torch, this driver and this card do not go together."""


_CHATTERING = ("filelock", "httpx", "huggingface_hub", "sentence_transformers", "transformers", "urllib3")


class SentenceEncoder:
    """See `Encoder`.

    Args:
        source: A folder, or the id of a model on the hub.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: On the CPU; `None` leaves it to torch.
        wish: What it is to compute in.
        identity: What is known of the model already; `None` looks at it.

    Raises:
        ModelError: It cannot be loaded, or not so.
        DeviceMismatch: It is loaded elsewhere than it was asked to be.
    """

    def __init__(
        self,
        source: str,
        device: str,
        *,
        threads: int | None,
        wish: DtypeWish,
        identity: Mapping[str, object] | None = None,
    ) -> None:
        is_folder = Path(source).is_dir()
        if is_folder:
            check_folder(Path(source))
        found = None if is_folder else resolve(source)
        torch = imported("torch", "torch")
        if threads is not None:
            torch.set_num_threads(threads)
        prompts = downloaded_prompts(found.name, found.commit) if found else prompts_of_folder(Path(source))
        self._prompts = prompts or Prompts()
        self.prompts: Sequence[str] = tuple(dict.fromkeys(vars(self._prompts).values()))

        def load(place: str) -> Any:
            return _loaded(found or source, place)

        def encode(model: Any, text: str) -> bytes:
            return self._encoded(model.encode_document, [text], self._prompts.document)[0]

        with _load_errors(found.name if found else source, device):
            self._model, precision = load_in(wish, str(parse_device(device)), torch, load, encode)
        self.dtype, self.why_dtype = precision.dtype, precision.why
        self.device = checked_device(device, (str(parameter.device) for parameter in self._model.parameters()))
        self.threads = int(torch.get_num_threads())
        self.operations = _operations_of(self._model, torch)
        self.versions: Mapping[str, str] = {
            name: metadata.version(name) for name in ("torch", "transformers", "sentence-transformers", "tokenizers")
        }
        self._input = _input_of(self._model, source)
        self._max_tokens = _limit_of(self._input)
        self.limit = self._max_tokens or _cut_off(getattr(self._input, "tokenizer", None))
        apart = {"dtype": self.dtype} if precision.is_apart else {}
        self.identity: Mapping[str, object] = {**(identity or self._identity(source, found)), **apart}

    def _identity(self, source: str, found: HubModel | None) -> dict[str, object]:
        return {
            "model": found.name if found else Path(source).resolve().name,
            "revision": found.commit if found else folder_digest(Path(source).resolve()),
            "dim": self._dim(),
            "normalised": True,
            "max_tokens": self._max_tokens,
            **self._prompts.identity(),
        }

    def _dim(self) -> int:
        # Renamed in sentence-transformers 6; some modules do not say it at all.
        ask = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        return int(ask() or len(self.encode(["dimension"])[0]) // 4)

    def lengths(self, texts: Sequence[str]) -> list[float]:
        """See `Encoder`."""
        if self.limit is None:
            return [float(max(1, count)) for count in self.token_counts(texts)]
        counts = self.token_counts([text[: self.limit * LETTERS_A_TOKEN] for text in texts])
        return [float(max(1, min(count, self.limit))) for count in counts]

    def work(self, texts: Sequence[str]) -> float:
        """See `Encoder`."""
        return len(texts) * max(self.lengths(texts))

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder`."""
        if "message" in getattr(self._input, "modality_config", ()):
            # A chat template stands around each text, which the library alone puts there.
            whole = {"text": {"truncation": False}}
            found = self._input.preprocess(list(texts), prompt=self._prompts.document, processing_kwargs=whole)
            return [int(row.sum()) for row in found["attention_mask"]]
        read = [self._prompts.document + text for text in texts]
        if getattr(self._input, "do_lower_case", False):
            read = [text.lower() for text in read]
        return _counts(self._input.tokenizer, read)

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        return self._encoded(self._model.encode_document, texts, self._prompts.document)

    def encode_after(self, prompt: str, text: str) -> bytes:
        """See `Encoder`."""
        return self._encoded(self._model.encode_document, [text], prompt)[0]

    def encode_query(self, text: str) -> bytes:
        """See `Encoder`.

        Raises:
            ModelError: The model's vectors of questions cannot be compared with those of passages.
        """
        (vector,) = self._encoded(self._model.encode_query, [text], self._prompts.query)
        if len(vector) != 4 * int(str(self.identity["dim"])):
            raise ModelError(
                f"{self.identity['model']} makes vectors of {len(vector) // 4} numbers of questions and of "
                f"{self.identity['dim']} of passages; accepted: a model that makes as many of both"
            )
        return vector

    def _encoded(self, encode: Callable[..., Any], texts: Sequence[str], prompt: str) -> list[bytes]:
        import numpy

        found = encode(
            list(texts),
            prompt=prompt,
            batch_size=max(1, len(texts)),  # one call is one forward pass
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        vectors = numpy.asarray(found, dtype="<f4")
        checked_lengths(numpy.linalg.norm(vectors, axis=1))
        return [vector.tobytes() for vector in vectors]

    def release(self) -> None:
        """The caller has released torch's cache."""

    def memory(self) -> MemoryReading:
        """The probes read the card."""
        return MemoryReading(None, None)


def _input_of(model: Any, source: str) -> Any:
    """The module that reads passages: of a router, the first on their route.

    Raises:
        ModelError: There is none for them.
    """
    module = model[0]
    while routes := getattr(module, "sub_modules", None):
        # As the library looks for it: by task and kind of input, then by either's name.
        mapped = getattr(module, "route_mappings", None) or {}
        first = None
        for task in ("query", "document"):
            keys = [(task, "text"), (task, None), (None, "text"), (None, None)]
            names = [*(mapped[key] for key in keys if key in mapped), task, "text"]
            route = next((name for name in names if name in routes), None)
            if route is None:
                raise ModelError(
                    f"{source} is a router that has no route for a {task} (its routes: {', '.join(map(str, routes))}); "
                    "accepted: one with the routes query and document"
                )
            first = routes[route][0]
        module = first
    return module


def _operations_of(model: Any, torch: Any) -> float:
    """Floating-point operations a token: a multiplication and an addition for each weight that is not looked up."""
    looked_up = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    tables = {
        id(weight) for module in model.modules() if isinstance(module, looked_up) for weight in module.parameters()
    }
    return 2.0 * int(sum(weight.numel() for weight in model.parameters() if id(weight) not in tables))


def _limit_of(module: Any) -> int | None:
    """Most tokens of a passage that a module reads, `None` for all that there are."""
    limits = [getattr(module, name, None) for name in ("max_seq_length", "document_length")]
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < NO_LIMIT]
    return min(known, default=None)


def _cut_off(tokenizer: Any) -> int | None:
    """Where a tokenizer that stands alone, such as a static embedding's, cuts texts off; `None` where it does not."""
    truncation = getattr(tokenizer, "truncation", None)
    return int(truncation["max_length"]) if isinstance(truncation, dict) else None


def _counts(tokenizer: Any, texts: list[str]) -> list[int]:
    """Tokens of each text, none cut off."""
    if hasattr(tokenizer, "encode_batch"):  # it stands alone, and is used without special tokens
        return _counts_fast(tokenizer, texts, with_special=False)
    if hasattr(tokenizer, "backend_tokenizer"):
        return _counts_fast(tokenizer.backend_tokenizer, texts, with_special=True)
    if callable(tokenizer):
        return [len(ids) for ids in tokenizer(texts, truncation=False)["input_ids"]]
    return [len(tokenizer.tokenize(text)) for text in texts]  # the library's own, of words


def _counts_fast(tokenizer: Any, texts: list[str], *, with_special: bool) -> list[int]:
    """Threads: the encoder's. What the tokenizer does to the texts of a batch is put back as it was."""
    truncation, padding = tokenizer.truncation, tokenizer.padding
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
        return [len(found) for found in encode(texts, add_special_tokens=with_special)]
    finally:
        if truncation is not None:
            tokenizer.enable_truncation(**truncation)
        if padding is not None:
            tokenizer.enable_padding(**padding)


def checked_device(asked: str, devices: Iterable[str]) -> str:
    """Where all parameters are.

    Args:
        asked: Where they should be, `cuda` for the first card.
        devices: Of each parameter, as torch writes them.

    Raises:
        DeviceMismatch: One is elsewhere.
    """
    wanted = str(parse_device(asked))
    found = set(devices)
    if found - {wanted}:
        places = " and ".join(sorted(found))
        raise DeviceMismatch(f"the model was asked to be on {wanted}, but its parameters are on {places}")
    return wanted


def checked_lengths(lengths: Iterable[float]) -> None:
    """Make sure that vectors are of length 1.

    Raises:
        BadVector: Some are not.
    """
    # NaN compares false with everything.
    bad = [(index, length) for index, length in enumerate(lengths) if not 0.99 < length < 1.01]
    if bad:
        _, length = bad[0]
        raise BadVector(
            [index for index, _ in bad], f"the encoder's vector has length {float(length):.4g} instead of 1"
        )


def _loaded(source: HubModel | str, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that we cannot mend, in a worker's log
        library = imported("sentence_transformers", "models")
        _quiet()
        if not hasattr(library.SentenceTransformer, "encode_document"):
            found = metadata.version("sentence-transformers")
            raise ModelError(f"sentence-transformers is version {found}; accepted: 5 or newer")
        if isinstance(source, HubModel):
            # Safetensors where the model has them. BGE-M3 has none: then the library reads its pickle with torch's
            # restricted loader, for which it wants torch 2.6.
            return library.SentenceTransformer(
                source.name,
                device=device,
                trust_remote_code=False,
                revision=source.commit,
                cache_folder=source.cache,
            )
        return library.SentenceTransformer(
            source,
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )


@contextmanager
def _load_errors(name: str, device: str) -> Iterator[None]:
    """Say in one sentence what a library raises while a model is loaded and put on its device."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        first = first_line(error)
        is_permanent = any(words in first.lower() for words in _PERMANENT)
        if is_out_of_memory(error) or (is_device_error(error) and not is_permanent):
            raise  # another program may hold the memory, or have broken the card: a later start can succeed
        way_out = "save or download it again"
        if device != "cpu" and any(word in first.lower() for word in ("cuda", "nvidia", "driver")):
            way_out = "use --device cpu, or install the torch build for your CUDA"
        raise ModelError(f"the model {name} cannot be loaded on {device}: {first}; {way_out}") from error


def _quiet() -> None:
    """No bars and no advice in a worker's log."""
    for name in _CHATTERING:
        logging.getLogger(name).setLevel(logging.ERROR)
    chatter = imported("transformers.utils.logging", "models")
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()
