"""A card, a model, and rigs that build on it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.build.devices import torch_build, worker_cards
from tests.build.conftest import rig
from tests.build.rig import Rig, kill, left_running
from tests.gpu.card import python

__all__ = ["rig"]


@pytest.fixture(scope="session", autouse=True)
def card() -> None:
    """Leave everything out where there is no card, or no torch that can use it."""
    if sys.platform != "linux":
        pytest.skip("processes are looked at through /proc, which is Linux's")
    if not worker_cards(os.environ).usable:
        pytest.skip("NVML sees no card")
    if not torch_build():
        pytest.skip("no torch with CUDA is installed")
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("sentence-transformers is not installed (extra models)")
    seen = python("-c", "import torch; print(torch.cuda.is_available())").strip()
    if seen != "True":
        pytest.skip("torch cannot use the card that NVML sees")


@pytest.fixture(scope="session")
def model(card: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT of six layers."""
    folder = tmp_path_factory.mktemp("model") / "six-layers"
    python("-m", "tests.gpu.model", str(folder))
    return folder


@pytest.fixture(scope="module")
def make_rig(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Rig]]:
    """Make rigs that live as long as the module: `make_rig("--device", "cuda")`. Afterwards no process may run."""
    made: list[Rig] = []

    def make(*options: str) -> Rig:
        folder = tmp_path_factory.mktemp("rig")
        made.append(Rig(folder, options=("--model", str(model), "--no-metrics", *options)))
        return made[-1]

    yield make
    left = [pid for rig in made for pid in left_running(rig.mark)]
    for pid in left:
        kill(pid)
    assert left == [], "processes were left behind"
