"""What is watched of each library: the methods that are called, and those that each forward pass goes through.

LangChain, LlamaIndex and Haystack encode by these very methods.

Source: sentence-transformers 3.4 to 6.2, transformers 4.49 to 5.24, FlagEmbedding 1.4, as installed; the versions that
were tried stand in docs/how-to/watch-a-job-without-code.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

__all__ = ["TARGETS", "Target"]


def _itself(instance: Any) -> Any:
    return instance


@dataclass(frozen=True)
class Target:
    """One class of a library.

    Args:
        module: Once it is imported, the class is watched.
        name: The class, by its name in the module.
        calls: Methods that people call. One inside of another is part of it.
        passes: Methods that a forward pass goes through, one inside of another at most.
        of_model: They are methods of its model's class, whichever that is; else of its own.
        since: The first version of the library where it is so.
        until: The first one where it no longer is.
        model: The `torch.nn.Module` of an instance.
        may_move: The model can be moved to the CPU in the middle of a call.
        places_inputs: The pass itself puts its inputs where `device` of the instance says.
        alone: A pass outside of a call is a call of its own, as where results are fetched one by one.
    """

    module: str
    name: str
    calls: tuple[str, ...]
    passes: tuple[str, ...]
    of_model: bool = False
    since: tuple[int, ...] = ()
    until: tuple[int, ...] = ()
    model: Callable[[Any], Any] = _itself
    may_move: bool = True
    places_inputs: bool = False
    alone: bool = False

    def is_in(self, version: str) -> bool:
        """Whether a version of the library has it so. One that does not say which it is, is taken for the newest."""
        numbers = tuple(int(part) for part in re.split(r"[^0-9.]", version)[0].split(".") if part)
        return (self.since <= numbers or not numbers) and (not self.until or () < numbers < self.until)

    @staticmethod
    def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the model is given in a pass, by name."""
        return next((value for value in (*args, *kwargs.values()) if hasattr(value, "keys")), kwargs)


_ENCODES = ("encode", "encode_query", "encode_document", "_inference")
"""The last one is what a worker of `start_multi_process_pool` calls."""

_PREDICTS = ("predict", "rank", "_inference")

_ENCODERS = ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder")

_CALLED, _ONE_MODEL = (5, 7), (5, 4)
"""From these versions on the methods call the instance itself, which may be compiled; a `CrossEncoder` is a model like
the others, where it had one before."""

TARGETS = (
    *(Target("sentence_transformers", name, _ENCODES, ("__call__",), since=_CALLED) for name in _ENCODERS),
    *(Target("sentence_transformers", name, _ENCODES, ("forward",), until=_CALLED) for name in _ENCODERS),
    Target("sentence_transformers", "CrossEncoder", _PREDICTS, ("__call__",), since=_CALLED),
    Target("sentence_transformers", "CrossEncoder", _PREDICTS, ("forward",), since=_ONE_MODEL, until=_CALLED),
    Target(
        "sentence_transformers",
        "CrossEncoder",
        _PREDICTS,
        ("__call__",),
        of_model=True,
        until=_ONE_MODEL,
        model=attrgetter("model"),
    ),
    Target(
        "FlagEmbedding.inference.embedder.encoder_only.m3",
        "M3Embedder",
        ("encode", "encode_queries", "encode_corpus", "encode_single_device"),
        ("__call__",),
        of_model=True,
        model=attrgetter("model"),
    ),
    Target(
        "transformers.pipelines.base",
        "Pipeline",
        ("__call__",),
        ("forward",),
        model=attrgetter("model"),
        places_inputs=True,
        alone=True,
    ),
    Target(
        "transformers.trainer",
        "Trainer",
        ("train", "evaluate", "predict"),
        ("training_step", "prediction_step"),
        model=attrgetter("model"),
        may_move=False,
    ),
)
