"""What is watched of each library: the methods that are called, and those that each forward pass goes through.

LangChain, LlamaIndex and Haystack encode by these very methods.

Source: sentence-transformers 5 to 6, transformers 4.49 to 5, FlagEmbedding 1.3 to 1.4, as installed.
"""

from __future__ import annotations

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
        passes_until: Of older versions: the first later one, and the methods.
        pass_class: Whose; empty is the class itself.
        model: The `torch.nn.Module` of an instance.
        may_move: The model can be moved to the CPU in the middle of a call.
        places_inputs: The pass itself puts its inputs where `device` of the instance says.
        alone: A pass outside of a call is a call of its own, as where results are fetched one by one.
    """

    module: str
    name: str
    calls: tuple[str, ...]
    passes: tuple[str, ...]
    passes_until: tuple[int, tuple[str, ...]] = (0, ())
    pass_class: str = ""
    model: Callable[[Any], Any] = _itself
    may_move: bool = True
    places_inputs: bool = False
    alone: bool = False

    def passes_of(self, version: str) -> tuple[str, ...]:
        """The methods of a version of the library."""
        changed, passes = self.passes_until
        number = version.partition(".")[0]
        return passes if number.isdecimal() and int(number) < changed else self.passes

    @staticmethod
    def given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the model is given in a pass, by name."""
        return next((value for value in (*args, *kwargs.values()) if hasattr(value, "keys")), kwargs)


_ENCODES = ("encode", "encode_query", "encode_document", "_inference")
"""The last one is what a worker of `start_multi_process_pool` calls."""

_PASSES, _OLD_PASSES = ("__call__",), (6, ("forward",))
"""From version 6 on `encode` calls the model itself, which may be compiled."""

TARGETS = (
    *(
        Target("sentence_transformers", name, _ENCODES, _PASSES, _OLD_PASSES)
        for name in ("SentenceTransformer", "SparseEncoder", "MultiVectorEncoder")
    ),
    Target("sentence_transformers", "CrossEncoder", ("predict", "rank", "_inference"), _PASSES, _OLD_PASSES),
    Target(
        "FlagEmbedding.inference.embedder.encoder_only.m3",
        "M3Embedder",
        ("encode", "encode_queries", "encode_corpus", "encode_single_device"),
        ("__call__",),
        pass_class="EncoderOnlyEmbedderM3ModelForInference",
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
