"""The operator's signals are counted while a run lasts, and are the program's own again after it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.corpus.tree import plan_shards
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY
from helix_crawl_otel.interrupts import TOGETHER_SECONDS, Interrupts, PausedEarly, hearing
from helix_crawl_otel.paths import looked_at, on_disk
from tests.shards.shards import encode_all, made, opened
from tests.watch.rig import Clock

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def before() -> Iterator[dict[int, Any]]:
    """The usual handlers, also under nohup. Those of this process are put back whatever a test does."""
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    yield dict.fromkeys(NUMBERS, signal.SIG_DFL)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_each_wish_counts_and_the_handlers_come_back(before: dict[int, Any]) -> None:
    """Ctrl-C, then SIGTERM, then the closed terminal, a second after the other: 1, 2, 3."""
    heard: list[int] = []
    clock = Clock()
    with Interrupts(heard.append, clock):
        for number in NUMBERS:
            signal.raise_signal(number)
            clock.now += TOGETHER_SECONDS
    assert heard == list(range(1, len(NUMBERS) + 1))
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


def test_signals_within_a_second_are_one() -> None:
    """Of one kind or of several. The second runs from the one that has counted: who holds the key down insists."""
    heard: list[int] = []
    clock = Clock()
    with Interrupts(heard.append, clock):
        for _ in range(25):
            for number in NUMBERS:
                signal.raise_signal(number)
            clock.now += 0.1
    assert heard == [1, 2, 3]


def test_the_rest_of_an_interrupt_does_not_end_the_program_after_the_run() -> None:
    """The run was over before it came. A second later the next one is the program's own again."""
    heard: list[int] = []
    clock = Clock()
    own: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: own.append(number))
    with Interrupts(heard.append, clock):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    clock.now += TOGETHER_SECONDS
    assert own == []
    signal.raise_signal(signal.SIGINT)
    assert (own, heard) == ([signal.SIGINT], [1])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_was_ignored_stays_ignored() -> None:
    """Under nohup a closed terminal is no reason to stop; a background job of a shell ignores Ctrl-C."""
    heard: list[int] = []
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    with Interrupts(heard.append):
        assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}
        for number in NUMBERS:
            if sys.platform != "win32":
                signal.raise_signal(number)
    assert heard == []
    assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}


def test_the_handlers_come_back_when_the_run_raises(before: dict[int, Any]) -> None:
    """The next Ctrl-C ends the program."""

    def fail() -> None:
        with Interrupts(lambda times: None):
            raise LookupError("the run's")

    with pytest.raises(LookupError):
        fail()
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


# -- while folders are looked through ----------------------------------------------------------------------------------


class DeadMount:
    """A folder on a server that has gone: whoever lists it waits. The clock is looked at by who waits for that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dead: Path) -> None:
        self.answers = threading.Event()
        self.asked = threading.Event()
        self.now = 0.0
        self.at: dict[float, Callable[[], object]] = {}
        real = os.scandir

        def scandir(path: str) -> Any:
            if Path(path) == on_disk(dead):
                self.asked.set()
                assert self.answers.wait(50)
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)

    def clock(self) -> float:
        """A second later at each look, once somebody waits for the server."""
        self.now += self.asked.is_set()
        self.at.pop(self.now, lambda: None)()
        return self.now


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadMount]:
    """One of two folders of a tree is dead."""
    for name in ("dead", "well"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a")
    mount = DeadMount(monkeypatch, tmp_path / "dead")
    yield mount
    mount.answers.set()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_heard_while_a_folder_does_not_answer(mount: DeadMount, tmp_path: Path, number: int) -> None:
    """Nothing was begun, so that there is nothing to wait for: 75, and the sentence names the folder."""
    mount.at[3.0] = lambda: signal.raise_signal(number)
    with pytest.raises(PausedEarly, match=r"interrupted while .*dead was looked at; nothing was begun") as raised:
        hearing(lambda: plan_shards(tmp_path, None), mount.clock)
    assert raised.value.exit_code == 75


def test_a_folder_that_does_not_answer_is_named_and_waited_for(
    mount: DeadMount, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After 10, 20 and 40 s; a slow server may still answer."""
    mount.at[45.0] = mount.answers.set
    with caplog.at_level(logging.WARNING):
        found = hearing(lambda: plan_shards(tmp_path, None), mount.clock)
    assert [plan.name for plan in found] == ["dead", "well"]
    told = [message for message in caplog.messages if "still looking at" in message]
    assert len(told) == 3
    assert all(str(tmp_path / "dead") in message for message in told)


def test_what_answers_again_and_again_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """A large shard takes minutes to be counted."""
    now, done = 0.0, threading.Event()

    def clock() -> float:
        nonlocal now
        now += 8.0
        looked_at.answers += 1
        if now > 40.0:
            done.set()
        return now

    def step() -> bool:
        looked_at.place = "large.db"
        return done.wait(50)

    with caplog.at_level(logging.WARNING):
        assert hearing(step, clock)
    assert caplog.messages == []


def test_what_the_step_raises_is_raised(tmp_path: Path) -> None:
    """As if it had been called."""
    assert hearing(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        hearing(lambda: 1 // 0)


_DEAD_MOUNT = """
import contextlib, os, sys, time
def answering(call):
    def asked(path=".", *more, **named):
        if str(path).endswith("dead"):
            os.write(2, b"asked\\n")
            while True:  # whoever has asked hears no signal
                with contextlib.suppress(BaseException):
                    time.sleep(3600)
        return call(path, *more, **named)
    return asked
def dies():
    os.scandir, os.stat = answering(os.scandir), answering(os.stat)
if "a.dead" in sys.argv:  # a shard of a mount that dies once the encoder has read the question
    from helix_crawl_otel.encoders.hashing import HashingEncoder
    encode = HashingEncoder.encode_query
    HashingEncoder.encode_query = lambda encoder, text: dies() or encode(encoder, text)
else:
    dies()
from helix_crawl_otel.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a signal of another process ends one at once there")
@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("build src --out out --model hashing --no-metrics", 75, "dead was looked at; nothing was begun"),
        ("verify src/dead", 130, "src/dead was looked at\n"),
        ("query src/dead word", 130, "src/dead was looked at\n"),
        ("query a.dead word", 130, "a.dead was looked at\n"),
        ("status src/dead", 130, "src/dead was looked at\n"),
        ("status src/dead --watch", 130, "src/dead was looked at\n"),
        ("report src/dead -o out.html", 130, "src/dead was looked at\n"),
        ("report made.jsonl -o src/dead/out.html", 130, "src/dead/out.html was looked at\n"),
        ("replay src/dead", 130, "src/dead was looked at\n"),
        ("doctor --out src/dead", 130, "src/dead was looked at\n"),
    ],
)
def test_a_command_on_a_dead_mount_ends_for_an_interrupt(tmp_path: Path, command: str, code: int, told: str) -> None:
    """A whole process: it hung until it was killed."""
    (tmp_path / "src" / "dead").mkdir(parents=True)
    with opened(made(tmp_path / "a.dead", "ab")) as store:
        store.claim(HASHING_IDENTITY)
        encode_all(store, b"\0\0\x80?" + bytes(255 * 4))
    typed = [sys.executable, "-c", _DEAD_MOUNT, *command.split()]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        typed, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "asked\n"
        process.send_signal(signal.SIGINT if command.startswith("verify") else signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("\n")) == (code, 1)
    assert told in errors
    assert not (tmp_path / "out/.helix-crawl/lock.json").exists()
