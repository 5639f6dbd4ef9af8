"""`Index`: a folder of shards that is asked for the genes nearest to a text; and `query`, which asks once.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from helix_crawl_otel.config import environment, knob
from helix_crawl_otel.encoders.base import Encoder, ModelError, first_line
from helix_crawl_otel.encoders.load import HASHING, check_model, is_of, load_encoder, model_of
from helix_crawl_otel.encoders.precision import AUTO, FULL, HALVES, DtypeWish
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation
from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.formats import count as counted
from helix_crawl_otel.formats import genes
from helix_crawl_otel.paths import looked_at
from helix_crawl_otel.probes.device import TorchDevice, device_name
from helix_crawl_otel.search.place import SourceState, place_of
from helix_crawl_otel.shards.answers import count_without_vector, stored_gene
from helix_crawl_otel.shards.errors import EmptyFile, EncoderRefused, NoShards, StoreError, shown_identity
from helix_crawl_otel.shards.find import find_shards
from helix_crawl_otel.shards.inspect import has_vectors, stored_identity, vector_pages
from helix_crawl_otel.shards.standing import BEGUN, FolderStanding, shortfall, state_of
from helix_crawl_otel.shards.vectors import nearest

__all__ = ["Index", "Match", "query"]

Value = TypeVar("Value")

MOST = 9999
MANY = 50_000
"""Vectors; of fewer the answer is there at once, and nothing is said of how far it is."""

MORE = 16
"""Genes that are looked at beside those that are asked for, at least: some may be one file under several names."""


@dataclass(frozen=True)
class Match:
    """A gene that is near to a text.

    Args:
        gene_id: Its id: a string, or a number in a shard that an application has made.
        source_id: Its file: the path from the root of the tree, with `/`. `None` where nobody has named one.
        score: Cosine of the angle between the two vectors, -1 to 1; 1 is the same direction.
        content: The passage.
        line: Where it begins in its file, from 1. `None` where it is not found in it, or nobody knows the file.
        state: What has become of the file since it was ingested: `there`; `changed`, and the passage is not in it any
            more; `gone`; or `unknown`, where its tree is not there, or was never known.
    """

    gene_id: object
    source_id: str | None
    score: float
    content: str
    line: int | None
    state: SourceState


class Index:
    """A folder of shards, with its model loaded: for many questions.

    Args:
        folder: A folder of shards, or one shard.
        model: The model that made the vectors, as for `build`. `None` for the one that the shards name; needed for one
            that is a folder, and where shards are of several.
        dtype: What questions are computed in: `float32`, `float16` or `bfloat16`. `None` is full precision, with which
            vectors of a half agree, and for vectors that do not, what they were made in.
        device: Where questions are encoded: `cpu`, `cuda:0` and so on, a `torch.device`, or `auto`, which takes a card
            of more than 12 GiB and else the CPU.
        telling: Called with what is done next, empty at its end; `None` for nobody.

    Raises:
        StoreError: There are no shards, no vectors, or they are of another encoder.
        ModelError: The model cannot be loaded.
        ValueError: An argument is of the wrong kind. Each message says what is accepted.

    Attributes:
        notes: What should be known of the answers, a sentence each: a build that is not finished, shards that cannot be
            read and are left out.

    A build may go on meanwhile: each question is asked of what is there then. Nothing is printed.

    Threads: any may ask; one at a time encodes.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        model: str | None = None,
        device: str | int | TorchDevice = "cpu",
        dtype: str | None = None,
        telling: Callable[[str], object] | None = None,
    ) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise ValueError(f"folder is {folder!r}; accepted: the path of a folder of shards, or of one")
        if model is not None and not isinstance(model, str):
            raise ValueError(f"model is {model!r}; accepted: what build takes as --model, or None")
        if dtype is not None and dtype not in (FULL, *HALVES):
            raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join((FULL, *HALVES))}, or None")
        where = device if device == "auto" else str(device_name(device))
        self._telling = telling or (lambda text: None)
        self._encoding = threading.Lock()
        self._path = Path(folder)
        self.notes: list[str] = []
        self._find(model)
        self._model, self._encoder = self._load(model, where, dtype)

    def _find(self, model: str | None) -> None:
        """Look which shards there are, and what is in them."""
        try:
            found = self._look()
            self._identity = _wanted(self._path, [identity for identity in found.values() if identity], model)
        except StoreError as error:
            is_lack = type(error) in (StoreError, NoShards, EmptyFile)  # the others say what is wrong with a file
            if not is_lack or (lack := shortfall(self._path)) is None:
                raise
            raise type(error)(lack) from None  # that is why there is nothing, and how there will be something
        self._shards = [shard for shard, identity in found.items() if identity == self._identity]
        if not any(map(has_vectors, self._shards)):
            raise StoreError(f"{self._path} holds no vectors of {shown_identity(self._identity)} yet; build it first")
        self.notes += [
            f"{shard} says nothing of the encoder of its vectors; it is left out: `helix-crawl backfill` adopts them"
            for shard, identity in found.items()
            if identity is None and has_vectors(shard)
        ]
        self._note_open(list(found))

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the model back. A question after that raises `RuntimeError`; a second call does nothing."""
        self._encoder = None

    def query(self, text: str, count: int = 5) -> list[Match]:
        """The genes nearest to a text, best first; of equals the one that stands first in its shard.

        What is no vector is left out, and a file that has several names is answered once.

        Args:
            text: What to look for, at least one word. What is beyond the model's limit is not looked at, see `over`.
            count: At most so many, 1 to 9999.

        Raises:
            StoreError: A shard cannot be read.
            ModelError: The text cannot be encoded.
            ValueError: An argument is none that is accepted.
            RuntimeError: The index is closed.
        """
        text = self._checked(text)
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
            raise ValueError(f"count is {count!r}; accepted: an integer from 1 to {MOST}")
        with self._encoding:
            vector = _guarded(lambda: self._open_encoder().encode_query(text), f"{self._model} cannot encode the text")
        wanted = count + max(MORE, count)
        while True:
            best = nearest(vector, self._pages(len(vector)), wanted)
            self._telling("")
            matches = _matches(best, count)
            if len(matches) == count or len(best) < wanted:
                return matches
            wanted *= 4  # one file under very many names

    def over(self, text: str) -> int | None:
        """The model's limit in tokens, where a text is longer: what is beyond is not looked at. Else `None`."""
        text, encoder = self._checked(text), self._open_encoder()
        with self._encoding:
            (tokens,) = _guarded(lambda: encoder.token_counts([text]), f"{self._model} cannot read the text")
        return encoder.limit if encoder.limit is not None and tokens > encoder.limit else None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _look(self) -> dict[Path, dict[str, object] | None]:
        """The shards that can be read, with the encoder of each."""
        shards, notes = find_shards([self._path])
        self.notes += notes
        found: dict[Path, dict[str, object] | None] = {}
        failed: StoreError | None = None
        for shard in shards:
            self._telling(f"looks at {shard.name}")
            try:
                found[shard] = stored_identity(shard)
            except StoreError as error:
                failed = error
                self.notes.append(f"{error}; it is left out")
        self._telling("")
        if failed is not None and not found:
            raise failed
        return found

    def _note_open(self, shards: Sequence[Path]) -> None:
        """Say what is not there yet, by the record of the build where there is one, else by the shards themselves."""
        open_genes = {shard: count_without_vector(shard) for shard in shards}
        standing = FolderStanding.of(self._path) if self._path.is_dir() else FolderStanding(self._path)
        if standing.trouble:
            self.notes.append(standing.trouble)
        if standing.record is not None:
            for name, file in standing.record.shards.items():
                path = self._path / file
                if standing.states[name] == BEGUN:
                    standing.states[name] = state_of(path, name, is_encoded=open_genes.get(path) == 0)
            if not standing.is_complete:
                self.notes.append(standing.lack())
        elif lacking := sum(open_genes.values()):
            lack = f"{genes(lacking)} {'lacks' if lacking == 1 else 'lack'} a vector"
            open_shards = sum(number > 0 for number in open_genes.values())
            of = counted(len(shards), "shard")
            self.notes.append(f"{self._path} is not complete: {lack}, in {open_shards} of {of}")

    def _load(self, model: str | None, device: str, dtype: str | None) -> tuple[str, Encoder | None]:
        name = model if model is not None else model_of(self._identity)
        if name is None:
            folder = str(self._identity.get("model"))
            raise ModelError(f"the vectors are of the model folder {folder!r}; say where it is with --model")
        place = device if device != "auto" else _chosen(name)
        looked_at.place = ""  # a model takes its time, and not for a server
        self._telling(f"loads {name} on {place}")
        apart = self._identity.get("dtype")
        wish = DtypeWish(dtype or AUTO, str(apart) if apart else "", is_apart=bool(apart))
        loaded = _guarded(lambda: load_encoder(name, place, wish=wish), f"{name} cannot be loaded on {place}")
        encoder = TruncatedEncoder(loaded)
        encoder.truncate(Truncation.of(self._identity))
        self._telling("")
        if dict(encoder.identity) != self._identity:
            given = f"--model {name}" + (f" with --dtype {dtype}" if dtype is not None else "")
            raise EncoderRefused(
                f"{self._path} was encoded by {shown_identity(self._identity)}, and {given} is "
                f"{shown_identity(encoder.identity)} here; accepted: the model that made the vectors"
            )
        return name, encoder

    def _open_encoder(self) -> Encoder:
        encoder = self._encoder
        if encoder is None:
            raise RuntimeError("this Index is closed; make another one")
        return encoder

    def _checked(self, text: str) -> str:
        self._open_encoder()
        if not isinstance(text, str) or not text.strip():
            what = "the text is empty" if isinstance(text, str) else f"the text is {text!r}"
            raise ValueError(f"{what}; accepted: at least one word")
        return text.encode("utf-8", "replace").decode("utf-8")  # halves of letters are no text

    def _pages(self, length: int) -> Iterator[list[tuple[tuple[Path, object], bytes]]]:
        compared = 0
        for number, shard in enumerate(self._shards, 1):
            for page in vector_pages(shard, length):
                yield [((shard, gene_id), vector) for gene_id, vector in page]
                compared += len(page)
                looked_at.answers += 1
                if compared >= MANY:
                    self._telling(f"{compared:,} vectors, shard {number} of {len(self._shards)}")


def query(
    folder: str | os.PathLike[str],
    text: str,
    count: int = 5,
    *,
    model: str | None = None,
    device: str | int | TorchDevice = "cpu",
    dtype: str | None = None,
) -> list[Match]:
    """The genes of a folder that are nearest to a text, best first. For more than one question see `Index`.

    Args:
        folder: A folder of shards, or one shard.
        text: What to look for, at least one word.
        count: At most so many, 1 to 9999.
        model: As for `Index`.
        device: As for `Index`.
        dtype: As for `Index`.

    Raises:
        StoreError: There are no shards, no vectors, or they are of another encoder.
        ModelError: The model cannot be loaded.
        ValueError: An argument is none that is accepted.
    """
    with Index(folder, model=model, device=device, dtype=dtype) as index:
        return index.query(text, count)


def _wanted(path: Path, found: Sequence[dict[str, object]], model: str | None) -> dict[str, object]:
    """The encoder whose vectors are searched: the only one, or the one that the caller names."""
    if not found:
        raise StoreError(
            f"nothing in {path} says whose vectors these are; build it first, or let `helix-crawl backfill` look at "
            "vectors that another program made"
        )
    several = [identity for number, identity in enumerate(found) if identity not in found[:number]]
    names = " and by ".join(map(shown_identity, several))
    if model is None:
        if len(several) > 1:
            raise EncoderRefused(f"{path} was encoded by {names}; say which of them is meant with --model")
        return several[0]
    check_model(model)
    wanted = next((identity for identity in several if is_of(identity, model)), None)
    if wanted is None:
        raise EncoderRefused(
            f"{path} was encoded by {names}, not by {model}; accepted: the model that made the vectors"
        )
    return wanted


def _chosen(model: str) -> str:
    """What `auto` takes for one question: the first card that `build` would take, else the CPU."""
    from helix_crawl_otel.build import devices  # with all that a build needs

    environ = environment()
    plan = devices.choose_devices(
        "auto",
        1,
        float(knob("HELIX_DENSE_CPU_BELOW_GIB").default),
        devices.worker_cards(environ),
        devices.cores(),
        devices.torch_build(),
        needs_no_card=model == HASHING,
        count_torch=lambda: devices.count_torch_devices(environ),
    )
    return plan.slots[0][1]


def _guarded(step: Callable[[], Value], what: str) -> Value:
    """Whatever a library raises is the package's error, with one line of what it says."""
    try:
        return step()
    except Refusal:
        raise
    except Exception as error:
        raise ModelError(f"{what}: {first_line(error)}") from error


def _matches(best: Sequence[tuple[float, tuple[Path, object]]], count: int) -> list[Match]:
    """The first so many of them; one that a build has just taken away is none, nor is a second name of a file."""
    found: list[Match] = []
    names: dict[tuple[object, str], str | None] = {}  # by file and passage: the name that it was answered by
    for score, (shard, gene_id) in best:
        if len(found) == count:
            break
        gene = stored_gene(shard, gene_id)
        if gene is None:
            continue
        place = place_of(gene)
        if place.file is not None and names.setdefault((place.file, gene.content), gene.source_id) != gene.source_id:
            continue
        found.append(Match(gene_id, gene.source_id, round(score, 6), gene.content, place.line, place.state))
    return found
