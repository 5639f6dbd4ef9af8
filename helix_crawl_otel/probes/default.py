"""Chooses the probes for a device when the caller names none."""

from __future__ import annotations

from collections.abc import Mapping

from helix_crawl_otel.probes.cgroup import CgroupProbe
from helix_crawl_otel.probes.combined import CombinedProbe
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml import NvmlProbe
from helix_crawl_otel.probes.probe import UnknownProbe
from helix_crawl_otel.probes.torch_cuda import TorchProbe

__all__ = ["default_probe"]


def default_probe(device: str, environ: Mapping[str, str]) -> CombinedProbe:
    """The probes for one device.

    Args:
        device: `cpu`, `cuda` (which means `cuda:0`), `cuda:N`, or another kind of torch's, such as `mps`.
        environ: The environment of the process that encodes.

    Returns:
        NVML and torch for `cuda`; the control group for `cpu`; for any other kind a probe that is always unknown and
        says so. Its `device` is the full name.

    Raises:
        ValueError: `device` is no device name.
    """
    name = parse_device(device)
    if name.kind == "cuda":
        return CombinedProbe([NvmlProbe(str(name), environ), TorchProbe(str(name))])
    if name.kind == "cpu":
        return CombinedProbe([CgroupProbe()])
    return CombinedProbe([UnknownProbe(str(name), name.kind, f"no memory probe for {name.kind} devices")])
