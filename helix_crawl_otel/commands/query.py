"""`helix-crawl query DIR "text"`: the nearest genes, to see that a build is good.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import argparse
import os.path
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from helix_crawl_otel.commands.common import Commands, add_command, say, say_json
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.encoders.base import BadVector, DeviceMismatch, ModelError
from helix_crawl_otel.encoders.load import check_model, is_of, load_encoder, model_of
from helix_crawl_otel.paths import typed_folder
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.shards.errors import EncoderRefused, StoreError, shown_identity
from helix_crawl_otel.shards.inspect import (
    find_shards,
    has_vectors,
    source_and_content,
    stored_identity,
    vector_pages,
)
from helix_crawl_otel.shards.standing import shortfall
from helix_crawl_otel.shards.vectors import nearest

__all__ = ["query", "register", "show"]

LINES_SHOWN, LINE_LETTERS = 4, 100

_DESCRIPTION = """\
Encodes a text with the encoder that the shards were built with, and prints the genes whose vectors are nearest to
it."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "query",
        _command,
        "the genes nearest to a text",
        _DESCRIPTION,
        'example: helix-crawl query ~/notes.shards "how do I rotate the backup key"',
    )
    parser.add_argument("path", metavar="DIR", help="a folder of shards, or one shard (.db)")
    parser.add_argument("text", metavar="TEXT", help="what to look for")
    parser.add_argument("-k", "--count", default="5", metavar="N", help="how many genes (default 5)")
    parser.add_argument(
        "--model",
        type=os.path.expanduser,
        metavar="MODEL",
        help="as for build; needed for a model that is a folder, and where shards are of several models",
    )
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="where the text is encoded (default cpu)")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")


def _command(args: argparse.Namespace) -> int:
    text = args.text.encode("utf-8", "replace").decode("utf-8")  # bytes of the command line that are no text
    if not text.strip():
        raise ConfigError("the text is empty; accepted: at least one word")
    if not re.fullmatch("[0-9]{1,4}", args.count) or not int(args.count):
        raise ConfigError(f"--count is {args.count!r}; accepted: an integer from 1 to 9999")
    try:
        device = str(parse_device(args.device))
    except ValueError:
        raise ConfigError(f"--device is {args.device!r}; accepted: cpu, cuda or cuda:N") from None
    path = typed_folder(args.path, "DIR")
    if (lack := shortfall(path)) is not None:
        say(f"helix-crawl: {lack}", to_stderr=True)
    found = query(path, text, int(args.count), args.model, device)
    if args.json:
        say_json(found, default=str)
        return 0
    show(found)
    return 0


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print genes for people: score, source, and the first lines of each."""
    for rank, gene in enumerate(found, 1):
        source = gene["source_id"] or f"gene {gene['gene_id']}"  # the app's own genes name no source
        say(f"{rank}. {gene['score']:.3f}  {source}")
        for line in [line for line in str(gene["content"]).splitlines() if line.strip()][:LINES_SHOWN]:
            say(f"      {line.expandtabs(4)[:LINE_LETTERS]}")


def query(path: Path, text: str, count: int, model: str | None = None, device: str = "cpu") -> list[dict[str, Any]]:
    """The nearest genes, best first: `gene_id`, `source_id`, `score` (a cosine), `content`.

    Args:
        path: A folder of shards, or one.
        text: What to look for.
        count: At most so many.
        model: `None` for the one that the shards name.
        device: Where the text is encoded.

    Raises:
        StoreError: There are no shards, no vectors, or they are of another encoder.
        ModelError: The model cannot be loaded.
    """
    identities = {shard: stored_identity(shard) for shard in find_shards([path])[0]}
    identity = _wanted(path, [found for found in identities.values() if found is not None], model)
    shards = [shard for shard, found in identities.items() if found == identity]
    if not any(map(has_vectors, shards)):
        raise StoreError(f"{path} holds no vectors of {shown_identity(identity)} yet; build it first")
    if model is None and (model := model_of(identity)) is None:
        raise ModelError(
            f"the vectors are of the model folder {str(identity.get('model'))!r}; say where it is with --model"
        )
    try:
        encoder = load_encoder(model, device, batch_size=1)
        if dict(encoder.identity) != identity:
            raise EncoderRefused(
                f"{path} was encoded by {shown_identity(identity)}, and --model {model} is "
                f"{shown_identity(encoder.identity)} here; accepted: the model that made the vectors"
            )
        vector = encoder.encode_query(text)
    except (BadVector, DeviceMismatch) as error:
        raise ModelError(f"{model} cannot encode the text: {error}") from None
    best = nearest(vector, _pages(shards, len(vector)), count)
    return [_gene(shard, gene_id, round(score, 6)) for score, (shard, gene_id) in best]


def _wanted(path: Path, found: Sequence[dict[str, object]], model: str | None) -> dict[str, object]:
    """The encoder whose vectors are searched: the only one, or the one that `--model` names."""
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


def _pages(shards: Sequence[Path], length: int) -> Iterator[list[tuple[tuple[Path, object], bytes]]]:
    for shard in shards:
        for page in vector_pages(shard, length):
            yield [((shard, gene_id), vector) for gene_id, vector in page]


def _gene(shard: Path, gene_id: object, score: float) -> dict[str, Any]:
    """A gene as it is printed; one that a build has just taken away is empty."""
    source_id, content = source_and_content(shard, gene_id)
    return {"gene_id": gene_id, "source_id": source_id, "score": score, "content": content}
