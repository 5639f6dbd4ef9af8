"""Fixtures: the NVML stand-in, and a process in which the real `pynvml` reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.probes.cgroup import CgroupProbe
from tests.probes.groups import Clock, Machine
from tests.probes.process import Reader
from tests.standins.nvml import Answers, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of a present driver."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def old_nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in of a driver without version 2 of any call."""
    return build(tmp_path_factory.mktemp("nvml"), ["-DNO_V2"])


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    """The answer file: one card of 12 GiB, of which 1 GiB is used and 256 MiB are reserved."""
    return Answers(tmp_path / "answers.txt")


@pytest.fixture
def start_reader(answers: Answers) -> Iterator[Callable[..., Reader]]:
    """Start a reader on a library: `start_reader(library, "cuda:1", CUDA_VISIBLE_DEVICES="1")`."""
    readers: list[Reader] = []

    def start(library: Path, device: str = "cuda:0", **variables: str) -> Reader:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        readers.append(Reader({**inherited, **answers.environ(library), **variables}, device))
        return readers[-1]

    yield start
    for reader in readers:
        reader.end()


@pytest.fixture
def reader(start_reader: Callable[..., Reader], nvml_library: Path) -> Reader:
    """A reader of cuda:0 on the present driver."""
    return start_reader(nvml_library)


@pytest.fixture
def nvml_environ(answers: Answers, nvml_library: Path) -> dict[str, str]:
    """Environment of a process that sees one card of 12 GiB."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    return {**inherited, **answers.environ(nvml_library)}


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A process in the group /app of a machine of either version."""
    machine = Machine(tmp_path, request.param)
    machine.place("/app")
    return machine


@pytest.fixture
def clock() -> Clock:
    """The clock of the probe."""
    return Clock()


@pytest.fixture
def probe(machine: Machine, clock: Clock) -> CgroupProbe:
    """A probe of that machine."""
    return CgroupProbe(machine.root, clock=clock, platform="linux")
