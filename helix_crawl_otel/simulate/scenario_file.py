"""Reads a scenario of the user's own from TOML: is the ladder worth it on my card?

Source: DESIGN.md, section 3.3: "`simulate FILE.toml` runs a card and a shard list of the user's own".
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from helix_crawl_otel.modelled_card import CardModel
from helix_crawl_otel.simulate.scenario import Scenario, Stretch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["EXAMPLE", "ScenarioFileError", "load_scenario"]

EXAMPLE = """\
# A scenario for `helix-crawl simulate FILE.toml`. Every key but `shards`, `name` and `genes` may be left out.
text = "two shards on an 8 GB card with a browser open"
release_every = 256               # the driver's own release of the cache, in batches; 0 = never
order = "files"                   # "tokens": batches longest first over the shard, as `build` makes them
batch_tokens = 16384              # with "tokens": the most padded tokens of a batch
vram_cap = 0.95                   # of the free memory: what the policies with a cap let a worker hold
jitter = 0.05                     # batch times spread by this fraction
seed = 7

[card]                            # left out: the 12 GB card of the incidents, BGE-M3 in fp32
limit_gib = 8.0                   # dedicated memory
withheld_gib = 0.4                # what the driver never hands out
others_gib = 0.5                  # what other programs hold
context_gib = 2.8                 # weights and CUDA context
activation_mib_per_token = 0.1    # activations a padded token
tokens_per_second = 6020          # healthy speed in padded tokens
batch_seconds = 0.1               # cost of a batch whatever is in it
spill_cost = 68.0                 # a batch takes 1 + spill_cost * spilled_gib ** spill_power times as long
spill_power = 1.6
start_seconds = 20                # from the start of a process to its first batch
warmup_seconds = 5                # added to the first batch of a context
memory_return_seconds = 10        # until the memory of an ended process is back
release_seconds = 0.5             # one release of the cache
heals = 0                         # 1: a release brings back what has spilled
layers = 0                        # 24: BGE-M3, whose memory is torch's allocator's instead of the two rules of thumb
hidden = 1024                     # its width, where layers are given
number_bytes = 4                  # 2: half precision, where layers are given
cpu_tokens_per_second = 1344      # speed of the CPU, 3.5 genes/s of 384 tokens
cpu_start_seconds = 15            # loading the model for the CPU

[[shards]]
name = "notes"
genes = 20000
batch_size = 64
tokens = [128, 256]               # shortest and longest padded length of a batch
mixed = false                     # true: of a passage, and a batch is as long as its longest
pad = 32                          # lengths are multiples of this: it sets how many distinct shapes there are
fragment_gib = 0.05               # what each new shape leaves in the cache; without layers
leak_gib = 0.0                    # what each batch keeps for good
others_gib = 0.0                  # what other programs take meanwhile, beyond the card's others_gib
read_seconds = 0.2                # reading and committing a batch
speed = 1.0                       # 0.5 = the card is throttled to a half

[[shards]]                        # the same name again: a further stretch of that shard
name = "notes"
genes = 10000
tokens = [128, 256]
surge_gib = 2.4                   # its first batch needs so much at once
stalls = false                    # true: its first batch never ends, except in a fresh context

[[shards]]
name = "mails"
genes = 5000
"""

_Made = TypeVar("_Made")

_TOP = ("text", "release_every", "order", "batch_tokens", "vram_cap", "jitter", "seed", "card", "shards")


class ScenarioFileError(ValueError):
    """A scenario file that cannot be used; the message is one sentence naming the file."""


def load_scenario(path: Path) -> Scenario:
    """Read a scenario.

    Args:
        path: A TOML file, see `EXAMPLE`.

    Returns:
        The scenario, named after the file.

    Raises:
        ScenarioFileError: The file cannot be read, or says something that cannot be used: file, key, value and what is
            accepted.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ScenarioFileError(f"{path}: is not UTF-8 text (byte {error.start}); accepted: a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ScenarioFileError(f"{path}: is not TOML: {error}") from error
    try:
        return _scenario(path.stem, content)
    except ValueError as error:
        raise ScenarioFileError(f"{path}: {error}") from error


def _scenario(name: str, content: dict[str, Any]) -> Scenario:
    _known(content, _TOP, "")
    text = content.pop("text", "a scenario of the user's own")
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r}; accepted: a string")
    card = content.pop("card", {})
    shards = content.pop("shards", [])
    if not isinstance(card, dict):
        raise ValueError(f"card is {card!r}; accepted: a table, [card]")
    if not isinstance(shards, list) or not all(isinstance(item, dict) for item in shards) or not shards:
        raise ValueError(f"shards is {shards!r}; accepted: one table [[shards]] or more")
    _known(card, tuple(item.name for item in fields(CardModel)), "card.")
    stretches = tuple(_stretch(at, item) for at, item in enumerate(shards, start=1))
    return Scenario(name, text, stretches, card=_made(CardModel, card, "card."), **content)


def _stretch(at: int, content: dict[str, Any]) -> Stretch:
    where = f"shards[{at}]."
    _known(content, tuple(item.name for item in fields(Stretch)), where)
    for key, accepted in (("name", "a name"), ("genes", "a whole number from 1")):
        if key not in content:
            raise ValueError(f"{where}{key} is missing; accepted: {accepted}")
    tokens = content.get("tokens")
    if tokens is not None:
        if not isinstance(tokens, list) or len(tokens) != 2:
            raise ValueError(f"{where}tokens is {tokens!r}; accepted: two whole numbers, [shortest, longest]")
        content = {**content, "tokens": tuple(tokens)}
    return _made(Stretch, content, where)


def _made(kind: type[_Made], content: dict[str, Any], where: str) -> _Made:
    try:
        return kind(**content)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def _known(content: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    for key, value in content.items():
        if key not in names:
            raise ValueError(f"{where}{key} is {value!r}, an unknown key; accepted: {', '.join(names)}")
