"""`helix-crawl query DIR "text"`: the nearest genes, to see that a build is good."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from helix_crawl_otel.backfill.encoders.base import Encoder, ModelError
from helix_crawl_otel.backfill.encoders.load import HASHING, MINILM, load_encoder
from helix_crawl_otel.backfill.encoders.minilm import minilm_identity
from helix_crawl_otel.backfill.errors import EncoderRefused, StoreError
from helix_crawl_otel.backfill.salvage import find_shards, reading, stored_identity
from helix_crawl_otel.backfill.schema import VECTOR
from helix_crawl_otel.backfill.vectors import nearest
from helix_crawl_otel.config import ConfigError

__all__ = ["query", "register", "show"]

PAGE = 2000

_DESCRIPTION = """\
Encodes a text with the encoder that the shards were built with, and prints the genes whose vectors are nearest to
it."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "query",
        help="the genes nearest to a text",
        description=_DESCRIPTION,
        epilog='example: helix-crawl query ~/notes.shards "how do I rotate the backup key"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("path", metavar="DIR", help="a folder of shards, or one shard (.db)")
    parser.add_argument("text", metavar="TEXT", help="what to look for")
    parser.add_argument("-k", "--count", default="5", metavar="N", help="how many genes (default 5)")
    parser.add_argument("--model", metavar="MODEL", help="as for build; needed only for a model that is a folder")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="where the text is encoded (default cpu)")
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    parser.set_defaults(func=_command)


def _command(args: argparse.Namespace) -> int:
    if not args.text.strip():
        raise ConfigError("the text is empty; accepted: at least one word")
    if not re.fullmatch("[0-9]{1,4}", args.count) or not int(args.count):
        raise ConfigError(f"--count is {args.count!r}; accepted: an integer from 1 to 9999")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    found = query(Path(args.path).expanduser(), args.text, int(args.count), args.model, args.device)
    if args.json:
        print(json.dumps(found, ensure_ascii=False))
        return 0
    show(found)
    return 0


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Print genes for people: score, source, and the first lines of each."""
    for rank, gene in enumerate(found, 1):
        print(f"{rank}. {gene['score']:.3f}  {gene['source_id']}")
        for line in [line for line in str(gene["content"]).splitlines() if line.strip()][:4]:
            print(f"      {line[:100]}")


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
    shards = find_shards([path])
    identities = {shard: stored_identity(shard) for shard in shards}
    known = [identity for identity in identities.values() if identity]
    if not known:
        raise StoreError(f"{path} holds no vectors yet; build it first")
    encoder = load_encoder(model or _model_of(known[0]), device, batch_size=1)
    if encoder.identity != known[0]:
        raise EncoderRefused(
            f"{path} was encoded by {known[0]['model']}, not by {encoder.identity['model']}; see --model"
        )
    return _search([shard for shard in shards if identities[shard] == known[0]], encoder, text, count)


def _search(shards: Sequence[Path], encoder: Encoder, text: str, count: int) -> list[dict[str, Any]]:
    [vector] = encoder.encode([text])
    best = nearest(vector, _pages(shards, len(vector)), count)
    found = []
    for score, (shard, gene_id) in best:
        found.append({**_gene(shard, gene_id), "score": round(score, 6)})
    return found


def _pages(shards: Sequence[Path], length: int) -> Iterator[list[tuple[tuple[Path, object], bytes]]]:
    for shard in shards:
        with reading(shard) as (connection, _):
            cursor = connection.execute(f"SELECT gene_id, {VECTOR} FROM genes WHERE length({VECTOR}) = ?", (length,))
            while rows := cursor.fetchmany(PAGE):
                yield [((shard, gene_id), vector) for gene_id, vector in rows]


def _gene(shard: Path, gene_id: object) -> dict[str, Any]:
    with reading(shard) as (connection, _):
        sql = "SELECT gene_id, source_id, content FROM genes WHERE gene_id = ?"
        row = connection.execute(sql, (gene_id,)).fetchone()
    return dict(zip(("gene_id", "source_id", "content"), row, strict=True))


def _model_of(identity: Mapping[str, object]) -> str:
    """What to give to `--model` for an identity."""
    name = str(identity["model"])
    if name == HASHING:
        return HASHING
    if identity == minilm_identity():
        return MINILM
    if "/" not in name:
        raise ModelError(f"these vectors are of the model folder {name!r}; say where it is with --model")
    return name
