"""A tree to build, the command that builds it, and what can be asked of both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = ["COMMAND", "Done", "Rig", "left_running", "write_tree"]

COMMAND = [sys.executable, "-m", "helix_crawl_otel"]
MARK = "HELIX_TEST_RIG"


def write_tree(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files by their path from the root."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def prose(seed: int, paragraphs: int) -> str:
    """Text that is the same each time: about 300 characters a paragraph, so that three or four make a gene."""
    words = ["gene", "shard", "batch", "vector", "ladder", "worker", "memory", "signal", "driver", "policy", "record"]
    lines = []
    for n in range(paragraphs):
        picked = [words[(seed * 7 + n * 3 + k * k) % len(words)] for k in range(45)]
        lines.append(f"Paragraph {n} of {seed}. " + " ".join(picked) + ".")
    return "\n\n".join(lines)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    events: list[dict[str, Any]]
    errors: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    @property
    def summary(self) -> dict[str, Any]:
        """The last word."""
        return self.of("summary")[-1]


@dataclass
class Rig:
    """One tree and its output.

    Args:
        folder: Of the test.
        options: Given to every build.
    """

    folder: Path
    options: tuple[str, ...] = ("--model", "hashing", "--no-metrics")
    mark: str = field(default_factory=lambda: uuid4().hex)

    @property
    def source(self) -> Path:
        """The tree."""
        return self.folder / "source"

    @property
    def out(self) -> Path:
        """The shards."""
        return self.folder / "out"

    @property
    def environ(self) -> dict[str, str]:
        """Of every process, so that what is left running can be found."""
        return {**os.environ, MARK: self.mark, "PYTHONPATH": str(Path(__file__).parents[2])}

    def write(self, files: Mapping[str, str | bytes]) -> Rig:
        """Write sources."""
        write_tree(self.source, files)
        return self

    def write_shards(self, shards: int, files: int, paragraphs: int) -> Rig:
        """Write as many folders with as many files of prose."""
        for shard in range(shards):
            for number in range(files):
                self.write({f"shard-{shard}/file-{number:03}.txt": prose(shard * 100 + number, paragraphs)})
        return self

    def build_command(self, *more: str) -> list[str]:
        """The command that builds the tree."""
        return [*COMMAND, "build", str(self.source), "--out", str(self.out), *self.options, "--json", *more]

    def build(self, *more: str, seconds: float = 60.0) -> Done:
        """Build, and wait for the end."""
        return self.run(self.build_command(*more), seconds)

    def run(self, command: list[str], seconds: float = 60.0, **environ: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=seconds,
            env={**self.environ, **environ},
            cwd=self.folder,
            check=False,
        )
        return Done(done.returncode, _events(done.stdout), done.stderr.decode())

    @contextmanager
    def started(self, command: list[str], **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """A running command; ended with the block if it has not ended by itself."""
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**self.environ, **environ},
            cwd=self.folder,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=20)

    @staticmethod
    def ended(process: subprocess.Popen[bytes], seconds: float = 60.0) -> Done:
        """Wait for a started command."""
        stdout, stderr = process.communicate(timeout=seconds)
        return Done(process.returncode, _events(stdout), stderr.decode())

    def verify(self, *paths: Path) -> dict[str, Any]:
        """What `verify --json` says, with its exit code."""
        command = [*COMMAND, "verify", *map(str, paths or (self.out,)), "--json"]
        done = subprocess.run(command, capture_output=True, timeout=60, env=self.environ, check=False)
        assert done.stdout, done.stderr.decode()
        return {**json.loads(done.stdout), "code": done.returncode}

    def worker_pid(self, process: subprocess.Popen[bytes], seconds: float = 20.0) -> int:
        """The pid of a worker of a started build, once there is one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = left_running(self.mark, "helix_crawl_otel.backfill.worker")
            if found:
                return found[0]
            if process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError("no worker was started")


def wait_for(process: subprocess.Popen[bytes], kind: str) -> dict[str, Any]:
    """Read a started command's events until one of this kind."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    raise AssertionError(f"the command ended without {kind!r}")


def _events(stdout: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.decode().splitlines() if line.startswith("{")]


def left_running(mark: str, argument: str = "") -> list[int]:
    """Processes that carry the mark of a rig, and the argument on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes()
            state = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            continue
        is_ours = f"{MARK}={mark}".encode() in environ.split(b"\0") and state != "Z"
        if is_ours and argument.encode() in command:
            found.append(int(folder.name))
    return sorted(found)


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
