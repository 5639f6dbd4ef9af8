"""Options of the commands that can have a cluster do their work. Nothing of Ray is imported before it is asked for."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helix_crawl_otel.config import ConfigError

if TYPE_CHECKING:
    from helix_crawl_otel.fleet.run import FleetOptions

__all__ = ["RAY", "JobPlaces", "add_job_options", "add_ray_options", "read_job_options", "read_ray_options"]

CHECKPOINT_SECONDS, LEASE_SECONDS = "300", "60"

RAY = ("--ray", "--stage", "--checkpoint", "--lease")
"""Words of a command that say where it is done, not what."""

MOST_SLOTS = 256

_COUNT = re.compile(r"[0-9]{1,9}")
_SECONDS = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")

_ONLY_WITH_RAY = ("stage", "checkpoint", "lease")


@dataclass(frozen=True)
class JobPlaces:
    """Where the copies of a driver run.

    Args:
        address: Of the cluster.
        slots: On a node without cards; `None` for one.
        lease_seconds: Without a word after which a copy is taken for lost.
    """

    address: str
    slots: int | None
    lease_seconds: float


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """Offer them."""
    group = parser.add_argument_group(
        "several machines", "placed by Ray (extra `ray`); see docs/how-to/several-machines.md"
    )
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="have a cluster do it: auto (the one that this machine has joined), HOST:PORT of its head, or local (one "
        "is started here, and ended)",
    )
    group.add_argument(
        "--stage",
        metavar="DIR",
        help="with --ray: where each node keeps its copies of the shards that it works on, on a disk of its own "
        "(default: its folder of temporary files)",
    )
    group.add_argument(
        "--checkpoint",
        metavar="S",
        help=f"with --ray: put back what is done of a shard every so many seconds (default {CHECKPOINT_SECONDS}): a "
        "node that is lost costs that much",
    )
    group.add_argument(
        "--lease",
        metavar="S",
        help="with --ray: a slot that has said nothing for so many seconds is taken for lost (default "
        f"{LEASE_SECONDS})",
    )


def read_ray_options(args: argparse.Namespace, device: str = "auto") -> FleetOptions | None:
    """What was asked for, `None` where it is one machine.

    Args:
        args: As they were parsed.
        device: That was asked for.

    Raises:
        ConfigError: A value is not accepted, or options make no sense together.
        ClusterError: There is no such cluster, or Ray is not installed.
    """
    if args.ray is None:
        given = [f"--{name}" for name in _ONLY_WITH_RAY if getattr(args, name) is not None]
        if given:
            raise ConfigError(f"{given[0]} is given without --ray; accepted: with --ray ADDRESS, for several machines")
        return None
    if getattr(args, "dry_run", False):
        raise ConfigError("--dry-run and --ray are given; accepted: one of them, for a look places nothing")
    if device.startswith("cuda:"):
        raise ConfigError(
            f"--device is {device!r} with --ray; accepted: auto, cpu or cuda, for Ray gives slots their cards"
        )
    from helix_crawl_otel.fleet.cluster import check_cluster
    from helix_crawl_otel.fleet.run import FleetOptions

    checkpoint = _seconds("--checkpoint", args.checkpoint, CHECKPOINT_SECONDS, 1.0)
    lease = _seconds("--lease", args.lease, LEASE_SECONDS, 5.0)
    if args.stage == "":
        raise ConfigError("--stage is ''; accepted: a folder of the nodes, on a disk of their own")
    check_cluster(args.ray)
    return FleetOptions(args.ray, args.stage, checkpoint, lease)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Offer those of a driver of the user's own."""
    group = parser.add_argument_group("several machines", "placed by Ray (extra `ray`)")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="start one copy of the job on each slot of a cluster: auto, HOST:PORT or local; a copy finds its number "
        "in HELIX_CRAWL_SLOT, from 0, and how many there are in HELIX_CRAWL_SLOTS",
    )
    group.add_argument(
        "--slots", metavar="N", help="with --ray: copies on each node, where no node has a card (default 1)"
    )
    group.add_argument(
        "--lease",
        metavar="S",
        help="with --ray: a copy that has said nothing for so many seconds is taken for lost (default "
        f"{LEASE_SECONDS})",
    )


def read_job_options(args: argparse.Namespace) -> JobPlaces | None:
    """What was asked for, `None` where it is one machine. Raises as `read_ray_options`."""
    if args.ray is None:
        given = [f"--{name}" for name in ("slots", "lease") if getattr(args, name) is not None]
        if given:
            raise ConfigError(f"{given[0]} is given without --ray; accepted: with --ray ADDRESS, for several machines")
        return None
    from helix_crawl_otel.fleet.cluster import check_cluster

    if args.slots is not None and not (_COUNT.fullmatch(args.slots) and 1 <= int(args.slots) <= MOST_SLOTS):
        raise ConfigError(f"--slots is {args.slots!r}; accepted: an integer from 1 to {MOST_SLOTS}")
    lease = _seconds("--lease", args.lease, LEASE_SECONDS, 5.0)
    check_cluster(args.ray)
    return JobPlaces(args.ray, None if args.slots is None else int(args.slots), lease)


def _seconds(option: str, given: str | None, default: str, least: float) -> float:
    text = default if given is None else given
    if not _SECONDS.fullmatch(text) or float(text) < least:
        raise ConfigError(f"{option} is {text!r}; accepted: seconds, a number from {least:g} to 99999")
    return float(text)
