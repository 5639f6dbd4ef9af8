"""A build on a card under WDDM that would spill: its workers are capped, raise, halve, and are replaced.

NVML, torch and its allocator are stand-ins: nobody has seen this on WDDM.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.build.rig import SECONDS, Done, Rig
from tests.standins import torch as torch_standin
from tests.standins.nvml import GIB, WDDM, Answers, Card, build

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="NVML is not looked for on macOS")

OTHERS = 2 * GIB
CAP = int(0.95 * (24 * GIB - OTHERS)) - 6 * GIB // 10


class Capped:
    """A build of 96 genes in batches of 16, each of which takes 8 GiB and leaves 3 GiB behind in its process.

    Args:
        tmp_path: For all of it.
        options: Further ones.
        each: What a batch takes a gene.
        lost: What each call of the model leaves behind.
    """

    def __init__(self, tmp_path: Path, *options: str, each: int = GIB // 2, lost: int = 3 * GIB) -> None:
        self.rig = Rig(tmp_path, options=("--model", "minilm", "--no-metrics", "--batch-size", "16"))
        self.rig.write({f"a/{n:02}.txt": f"Text number {n}." for n in range(96)})
        folder = torch_standin.write_with_allocator(tmp_path / "torch", others=OTHERS, each=each, lost=lost)
        answers = Answers(tmp_path / "answers.txt", [Card(total=24 * GIB, used=OTHERS, reserved=0, model=WDDM)])
        log = tmp_path / "allocator.txt"
        environ = {
            **answers.environ(build(tmp_path)),
            "PYTHONPATH": os.pathsep.join((str(folder), self.rig.environ["PYTHONPATH"])),
            "ALLOCATOR_LOG": str(log),
        }
        command = self.rig.build_command("--device", "cuda:0", *options)
        self.done: Done = self.rig.run(command, SECONDS, **environ)
        assert log.exists(), self.done.errors
        lines = [line.split() for line in log.read_text(encoding="ascii").splitlines()]
        self.used = [int(used) for _, used, *_ in lines]
        self.caps = {cap for _, _, cap, _ in lines}


def test_a_worker_under_a_cap_raises_instead_of_spilling(tmp_path: Path) -> None:
    """Halved down to an eighth, then a fresh process, with a cap of its own from its start on; nothing ever spills."""
    capped = Capped(tmp_path)
    assert capped.done.code == 0, capped.done.errors
    assert capped.done.summary["encoded"] == 96
    assert capped.caps == {str(CAP)}
    assert max(capped.used) <= 24 * GIB
    starts = [(event["device"], event["reason"]) for event in capped.done.of("worker_started")]
    assert starts == [("cuda:0", "first"), ("cuda:0", "recycle")]
    [note] = [event["text"] for event in capped.done.of("note")]
    assert note.startswith("shard a: out of memory with 2 of the 16 genes of a batch: CUDA out of memory.")


def test_the_modelled_card_refuses_under_a_cap(tmp_path: Path) -> None:
    """A real build on `--fault card`: batches are halved by the worker alone, then a fresh one takes over."""
    rig = Rig(tmp_path, options=("--model", "hashing", "--no-metrics", "--batch-size", "16"))
    rig.write({f"a/{n:02}.txt": f"Text number {n}." for n in range(96)})
    card = "card:activation_mib_per_token=80,leak_gib=1,warmup_seconds=1,batch_seconds=0,tokens_per_second=100000"
    done = rig.run(rig.build_command("--vram-cap", "0.95", "--fault", card, "--fault", "clock:rate=100"), SECONDS)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == 96
    assert done.summary["actions"] == {}  # it never crawls
    assert [event["reason"] for event in done.of("worker_started")] == ["first", "recycle"]
    [note] = [event["text"] for event in done.of("note")]
    assert note.startswith("shard a: out of memory with 2 of the 16 genes of a batch: CUDA out of memory.")


@pytest.mark.slow
def test_a_card_that_is_too_small_for_an_eighth_is_not_recycled_for_it(tmp_path: Path) -> None:
    """A fresh process does no better: every batch is halved to what fits, in one process."""
    small = Capped(tmp_path, each=12 * GIB, lost=0)
    assert small.done.code == 0, small.done.errors
    assert [event["reason"] for event in small.done.of("worker_started")] == ["first"]
    assert max(small.used) <= 24 * GIB


@pytest.mark.slow
def test_without_a_cap_it_spills(tmp_path: Path) -> None:
    """The same build: nothing raises, and the card holds more than it has."""
    free = Capped(tmp_path, "--vram-cap", "off")
    assert free.done.code == 0, free.done.errors
    assert free.caps == {"None"}
    assert max(free.used) > 24 * GIB
