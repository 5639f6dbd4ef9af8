"""Files of a build that another program has open, as Windows has it: they cannot be renamed, or not even opened.

A virus scanner, a backup, a viewer: it costs one sentence and that shard, and the same command goes on later.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.build.rig import Rig

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: here an open file can be renamed")

DIGEST = "2d5342ac10da95fc2058662d346615467a76c8c6b7624949599657b521b9ee00"
"""Of three shards of two files of six paragraphs; recorded on Linux."""

OPEN_EXISTING = 3


@contextmanager
def held_alone(path: Path) -> Iterator[None]:
    """A file that nobody else may open."""
    winapi: Any = importlib.import_module("_winapi")
    handle = winapi.CreateFile(str(path), winapi.GENERIC_READ, 0, winapi.NULL, OPEN_EXISTING, 0, winapi.NULL)
    try:
        yield
    finally:
        winapi.CloseHandle(handle)


def test_shards_that_another_program_has_open(rig: Rig) -> None:
    """A damaged one cannot be set aside, one cannot be opened, one is only being read: two sentences, and one done."""
    rig.write_shards(3, 2, 6)
    assert rig.build().code == 0
    state = rig.out / ".helix-crawl"
    damaged, alone, read = (rig.out / f"shard-{n}.db" for n in range(3))
    content = bytearray(damaged.read_bytes())
    content[4096:12288] = bytes(8192)
    damaged.write_bytes(content)
    os.utime(rig.source / "shard-0/file-000.txt")
    for path in (alone, read, state / "ladder.json"):
        path.write_bytes(b"")
    with damaged.open("rb"), held_alone(alone), read.open("rb"), (state / "ladder.json").open("rb"):
        done = rig.build()
    assert done.code == 1, done.errors
    assert sorted(done.summary["failed"]) == ["shard-0", "shard-1"]
    sentence = done.summary["failed"]["shard-0"]
    assert f"{damaged} is damaged" in sentence
    assert "it cannot be set aside (" in sentence
    assert sentence.endswith("): close what has it open and start again")
    assert done.summary["failed"]["shard-1"].startswith(f"{alone} cannot be written (")
    assert done.summary["failed"]["shard-1"].endswith("who has it open")
    assert "Traceback" not in done.errors
    assert damaged.read_bytes() == content
    done = rig.build()
    assert done.code == 0, done.errors
    assert done.summary["shards"]["complete before"] == 1
    assert (rig.out / "shard-0.db.corrupt-1").read_bytes() == content
    assert rig.verify()["digest"] == DIGEST
