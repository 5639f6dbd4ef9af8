"""A memory group of 160 MB, and the NVML stand-in that shows it as a card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.conftest import rig
from tests.memory_group import memory_group
from tests.standins.nvml import build

__all__ = ["rig"]

LIMIT = 160 * 1000**2


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def group() -> Iterator[Path]:
    """A memory group of its own."""
    with memory_group("spill", LIMIT) as folder:
        yield folder
