"""What a build's worker is told: the settings of the run once, then one shard after the other. Plain JSON both ways.

Source: DESIGN.md, section 7: an inherited pipe carrying JSON, never pickle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Assignment", "WorkerSettings"]


@dataclass(frozen=True)
class WorkerSettings:
    """What holds for a worker's whole life.

    Args:
        model: As given to `--model`.
        device: Where its parameters have to be.
        batch_size: Genes a batch, 1 or more.
        threads: Of the encoder on the CPU; `None` leaves it to the framework.
        release_every: Batches between two releases of the CUDA cache, 0 for never.
        faults: `--fault`, as given.
        number: 1 for the first worker of the run, and so on.
        label: The device that it is reported under: `device`, unless a modelled card is laid over the CPU.
        lock_seconds: How long to wait for a shard that another program holds.
    """

    model: str
    device: str
    batch_size: int
    threads: int | None
    release_every: int
    faults: tuple[str, ...]
    number: int
    label: str
    lock_seconds: float = 30.0

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> WorkerSettings:
        """Read what `to_json` wrote."""
        return cls(**{**content, "faults": tuple(content["faults"])})

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Assignment:
    """One shard to work on.

    Args:
        shard: Its name.
        path: Its file.
        epoch: The lease under which the worker writes; higher than any before it. Until it is given out, the highest
            that was taken.
        source: The tree that it is cut from, `None` for a shard that is only encoded.
        output: The folder of the shards, left out of the tree.
        reencode: Take the encoder in place of another one, and encode everything again.
        prune: Remove genes of sources that are gone.
        retry_quarantined: Try those genes again.
        limits: Batches that killed a worker: most genes of a piece, by the batch's first gene.
        quarantine: Genes that killed a worker alone, with the reason: left out, and quarantined once another gene of
            the shard has been encoded.
        shortages: How many workers in a row had to leave this shard on this device for want of memory.
    """

    shard: str
    path: str
    epoch: int = 0
    source: str | None = None
    output: str | None = None
    reencode: bool = False
    prune: bool = False
    retry_quarantined: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, str] = field(default_factory=dict)
    shortages: int = 0

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Assignment:
        """Read what `to_json` wrote."""
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return dataclasses.asdict(self)
