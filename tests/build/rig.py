"""A tree to build, the command that builds it, and what can be asked of both."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch
from uuid import uuid4

from filelock import FileLock

from helix_crawl_otel.cli import main
from helix_crawl_otel.interrupts import TOGETHER_SECONDS
from helix_crawl_otel.shards.schema import TREE_NOTE
from tests.build.processes import MARK, kill, left_running, mark_process

__all__ = [
    "COMMAND",
    "EACH_BATCH",
    "SECONDS",
    "Done",
    "Rig",
    "another_wish",
    "kill",
    "left_running",
    "prose",
    "run_here",
    "wait_for",
    "write_tree",
]

SECONDS = 150.0
"""What a command gets that takes one or two, on a machine that is busy with something else."""

NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
"""On Windows: a console of its own, which nobody sees; Ctrl-C there is of no other test."""

COMMAND = [sys.executable, "-m", "helix_crawl_otel"]
RUNS = ("backfill", "build", "demo", "run")

VERIFIED = "verified.json"
"""In the folder of a build that tests share: what `verify` has said of it. What has none was not built to its end."""


EACH_BATCH = """
import os, sys, threading, time
slept, turns = time.sleep, []
def sleep(seconds):
    slept(seconds)
    if threading.current_thread() is threading.main_thread():
        turns.append(seconds)
        in_batch(len(turns))
if "helix_crawl_otel.build.worker" in sys.orig_argv:
    time.sleep = sleep
"""
"""For `with_site`: a worker calls `in_batch`, which is to be added, in each batch with its number, counted from 1. The
encoder of `--fault slow` sleeps once a batch, in the main thread."""

HELD = (
    EACH_BATCH
    + """
def in_batch(number):
    if number == {batch}:
        open({held!r}, "w").close()
        while not os.path.exists({go!r}):
            slept(0.01)
"""
)


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
        shared: A folder of all tests of the run, in whichever process; `None` for the test's own.
    """

    folder: Path
    options: tuple[str, ...] = ("--model", "hashing", "--no-metrics")
    shared: Path | None = None
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

    def with_site(self, code: str) -> dict[str, str]:
        """Variables with which every Python of the rig runs this code first."""
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(textwrap.dedent(code), encoding="utf-8")
        return {"PYTHONPATH": os.pathsep.join((str(site), self.environ["PYTHONPATH"]))}

    def held(self, batch: int = 1) -> dict[str, str]:
        """Variables with which a worker stays in this batch until `go`, if it is a `--fault slow` one.

        So a build is not over before a test has done what it does meanwhile, however slowly.
        """
        return self.with_site(HELD.format(batch=batch, held=str(self.folder / "held"), go=str(self.folder / "go")))

    def until_held(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a worker is there. It has told of the batch; all that it had committed is in its file."""
        self.until((self.folder / "held").exists, process)

    def go(self) -> None:
        """Let those that are `held` go on."""
        (self.folder / "go").touch()

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

    def build(self, *more: str, seconds: float = SECONDS) -> Done:
        """Build, and wait for the end."""
        return self.run(self.build_command(*more), seconds)

    def undisturbed(self) -> dict[str, Any]:
        """What `verify` says of a build of this tree that nothing disturbs."""
        found: dict[str, Any] = json.loads((self._built_once() / VERIFIED).read_text(encoding="utf-8"))
        return found

    def built(self) -> Rig:
        """Put a build of this tree into `out`, a copy: for a test that needs one, and does not look at how it is made.

        The copy says of itself where it lies, and where its sources do. What it says of its run is that of the other.
        """
        made = replace(self, folder=self._built_once())
        for theirs, ours in ((made.source, self.source), (made.out, self.out)):  # times too, by which a change is seen
            shutil.copytree(theirs, ours, dirs_exist_ok=True)
        before, after = (json.dumps(str(rig.folder))[1:-1] for rig in (made, self))
        for path in (self.out / ".helix-crawl").glob("*.json*"):
            path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))
        for path in self.out.glob("*.db"):
            with closing(sqlite3.connect(path)) as shard, shard:
                note = "UPDATE helix_crawl_meta SET value = replace(value, ?, ?) WHERE key = ?"
                shard.execute(note, (before, after, TREE_NOTE))
        return self

    def _built_once(self) -> Path:
        """The folder of a rig of this tree, built by whoever asks first in a run of the tests; nobody changes it."""
        digest = hashlib.sha256(repr(self.options).encode())
        for path in sorted(path for path in self.source.rglob("*") if path.is_file()):
            digest.update(repr((path.relative_to(self.source).as_posix(), path.read_bytes())).encode())
        plain = replace(self, folder=(self.shared or self.folder) / f"built-{digest.hexdigest()[:16]}")
        plain.folder.mkdir(exist_ok=True)
        with FileLock(plain.folder / "lock"):
            if not (plain.folder / VERIFIED).exists():
                shutil.copytree(self.source, plain.source, dirs_exist_ok=True)
                done = plain.build()
                assert done.code == 0, done.errors
                (plain.folder / VERIFIED).write_text(json.dumps(plain.verify()), encoding="utf-8")
        return plain.folder

    def run(self, command: list[str], seconds: float = SECONDS, **environ: str) -> Done:
        """Run a command to its end: one of ours in this process, where nothing but its arguments is asked for.

        A Python that starts and imports the package costs more than all that such a command does. Its workers are
        processes of their own either way. Apart stays what chooses the process's provider of meters. Under Windows what
        such a command leaves running is found at the end of the suite alone.
        """
        is_ours = command[: len(COMMAND)] == COMMAND
        chooses_meters = is_ours and command[len(COMMAND)] in RUNS and "--no-metrics" not in command
        if is_ours and not environ and not chooses_meters:
            with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
                with self._here(), captured((stdout, stderr)):
                    code = code_of(command[len(COMMAND) :])
                stdout.seek(0)
                stderr.seek(0)
                return Done(code, _events(stdout.read()), stderr.read().decode())
        with self.started(command, **environ) as process:
            return self.ended(process, seconds)

    @contextmanager
    def _here(self) -> Iterator[None]:
        """This process has the rig's folder and variables, which a worker inherits, and nothing of pytest's logging."""
        folder, before = Path.cwd(), dict(os.environ)
        os.environ.update(self.environ)
        os.chdir(self.folder)
        try:
            with patch.object(logging.root, "handlers", []):
                yield
        finally:
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(before)

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
            creationflags=NO_WINDOW,
        )
        mark_process(self.mark, process)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=SECONDS)

    @staticmethod
    def ended(process: subprocess.Popen[bytes], seconds: float = SECONDS) -> Done:
        """Wait for a started command."""
        stdout, stderr = process.communicate(timeout=seconds)
        return Done(process.returncode, _events(stdout), stderr.decode())

    def verify(self, *paths: Path) -> dict[str, Any]:
        """What `verify --json` says, with its exit code. In this process: to start another takes longer than that."""
        code, stdout, stderr = run_here("verify", *map(str, paths or (self.out,)), "--json")
        assert stdout, stderr
        return {**json.loads(stdout), "code": code}

    @staticmethod
    def until(is_so: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = SECONDS) -> None:
        """Wait for something while a command runs."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it does not happen"
            time.sleep(0.002)

    def until_gone(self, argument: str = "", seconds: float = 60.0) -> None:
        """Wait until no process of this rig is left that has the argument on its command line.

        Those that are killed, and a guard whose supervisor has ended, need a moment for that.
        """
        deadline = time.monotonic() + seconds
        while (left := left_running(self.mark, argument)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == [], "processes were left behind"

    def worker_pid(self, process: subprocess.Popen[bytes], seconds: float = SECONDS) -> int:
        """The pid of a worker of a started build, once there is one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = left_running(self.mark, "helix_crawl_otel.build.worker")
            if found:
                return found[0]
            if process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError("no worker was started")


def wait_for(process: subprocess.Popen[bytes], kind: str) -> dict[str, Any]:
    """Read a started command's events until one of this kind."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    raise AssertionError(f"the command ended without {kind!r}")


def another_wish() -> None:
    """Wait until the next signal is no part of the interrupt before."""
    time.sleep(TOGETHER_SECONDS)


def run_here(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process. Returns its exit code, and what it has written."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = code_of(arguments)
    return code, stdout.getvalue(), stderr.getvalue()


def code_of(arguments: Sequence[str]) -> int:
    """The exit code of a command that runs in this process."""
    with patch.object(sys, "argv", ["helix-crawl", *arguments]):  # it names the command that goes on
        try:
            return main(arguments)
        except SystemExit as wrong_usage:
            return int(wrong_usage.code or 0)


@contextmanager
def captured(files: Sequence[IO[bytes]]) -> Iterator[None]:
    """What this process, and those that it starts, write to its output and its errors goes into two files."""
    with ExitStack() as stack:
        for number, file, redirect in zip((1, 2), files, (redirect_stdout, redirect_stderr), strict=True):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
            stream = stack.enter_context(open(number, "w", encoding="utf-8", closefd=False))
            stack.enter_context(redirect(stream))
        yield


def _events(stdout: bytes) -> list[dict[str, Any]]:
    """All whole lines: a command that is killed may leave half of one."""
    stdout = stdout[: stdout.rfind(b"\n") + 1]
    return [json.loads(line) for line in stdout.decode().splitlines() if line.startswith("{")]
