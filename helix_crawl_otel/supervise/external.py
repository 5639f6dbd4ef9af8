"""The work of `helix-crawl run`: one driver of the user's own, started again when the ladder or a crash asks for it.

What was typed is made into a command that the system can start. Windows itself starts `.exe` files. A `.py` needs a
Python, which is ours; a `.bat` or `.cmd` needs cmd.exe, which reads the arguments once more, as a line of its own
language: what it would not hand on as it is, is refused.

Source: DESIGN.md, section 3.3: under `run`, a demoted job exits 79 again when it enters its next shard and is started
on the card. CVE-2024-1874 and its like ("BatBadBut"); Microsoft, `CreateProcessW`. Tried under Wine only.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from helix_crawl_otel.config import PROGRESS_VARIABLE, ConfigError
from helix_crawl_otel.link.messages import Message
from helix_crawl_otel.paths import typed_path
from helix_crawl_otel.probes.cuda_order import without_cards
from helix_crawl_otel.supervise.job import JobWorker, Launch, WorkerStart
from helix_crawl_otel.supervise.process import python_command, worker_command

__all__ = ["JobCommand", "RunJob", "job_command", "watched_by_bar"]

PROGRESS_DRIVER = "helix_crawl_otel.instrument.progress_driver"

SCRIPTS, BATCHES, PROGRAMS = (".py", ".pyw"), (".bat", ".cmd"), (".exe", ".com", "")

READ_BY_CMD = '"%&|<>^!\r\n'
SPLITS_A_NAME = ",;="


class RunJob:
    """See `Job`.

    Args:
        argv: The command.
        environ: Its environment.
        resumes: Started again it goes on where it was.

    Threads: see `Job`; nothing here changes.
    """

    keeps_account = False

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], *, resumes: bool = True) -> None:
        self.resumes = resumes
        self._argv = list(argv)
        self._environ = environ

    def next_start(self, slot: str, device: str, is_first: bool) -> WorkerStart | None:
        """See `Job`: a command that has ended well is done."""
        return WorkerStart("first", device) if is_first else None

    def has_work(self, slot: str) -> bool:
        """See `Job`. Asked after an end with code 0."""
        return False

    def next_shard(self, slot: str) -> str | None:
        """See `Job`: the driver knows."""
        return None

    def has_finished(self, slot: str, code: int | None) -> bool:
        """See `Job`: its code is all that a driver of the user's own says of it."""
        return code == 0

    def launch(self, slot: str, start: WorkerStart, number: int) -> Launch:
        """See `Job`: the CPU is asked for by the variable that drivers read, and the cards are hidden."""
        environ = dict(self._environ)
        if start.demoted_shard is not None:
            environ.update(without_cards(environ), BGEM3_DEVICE="cpu")
        return Launch(self._argv, environ)

    def said(self, slot: str, worker: JobWorker, message: Message) -> bool:
        """See `Job`: a driver of the user's own has nothing to say to us beside what its watch says."""
        return False

    def crashed(self, slot: str, why: str) -> bool:
        """See `Job`: nothing is known of the driver's batches."""
        return False

    def gave_up_card(self, slot: str, why: str) -> str | None:
        """See `Job`: nothing is known of the driver's shards."""
        return None

    def hands_over(self, slot: str) -> bool:
        """See `Job`."""
        return False

    def gave_up(self, slot: str, why: str) -> bool:
        """See `Job`: that is the end."""
        return False


@dataclass(frozen=True)
class JobCommand:
    """What is started.

    Args:
        name: For people.
        argv: Program and arguments.
        added: Variables that it needs beside its environment.
    """

    name: str
    argv: list[str]
    added: dict[str, str] = field(default_factory=dict)


def job_command(given: Sequence[str]) -> JobCommand:
    """The job's command.

    Args:
        given: What stands behind the options, with the two dashes or without.

    Raises:
        ConfigError: There is none, there is no such program, or it cannot be started safely.
    """
    words = list(given[1:] if given[:1] == ["--"] else given)
    if not words:
        raise ConfigError("no command was given; accepted: helix-crawl run [options] -- CMD [ARG ...]")
    name = Path(words[0]).name
    program = shutil.which(words[0])
    if sys.platform != "win32":
        if program is None:
            raise _not_found(words[0])
        return JobCommand(name, words)
    kind = _kind(program or words[0])
    if kind in SCRIPTS and (program or Path(words[0]).is_file()):
        python, added = python_command()
        return JobCommand(name, [*python, program or words[0], *words[1:]], added)
    if program is None or kind not in (*BATCHES, *PROGRAMS):
        raise _not_found(words[0])
    if kind in BATCHES:
        return JobCommand(name, _through_cmd(str(typed_path(program, "CMD")), words[1:]))
    if typed_path(program, "CMD") == Path(sys.executable):
        python, added = python_command()
        return JobCommand(name, [*python, *words[1:]], added)
    return JobCommand(name, [program, *words[1:]])


def watched_by_bar(
    name: str, argv: Sequence[str], environ: Mapping[str, str], *, resumes: bool
) -> tuple[list[str], dict[str, str]]:
    """The command that watches another one by its progress bar, and its environment.

    Args:
        name: Of the other one.
        argv: Its program and arguments.
        environ: Its environment, which it gets as it is.
        resumes: It goes on where it was when it is started again.
    """
    command, ours = worker_command(PROGRESS_DRIVER, environ)
    changed = {key: environ.get(key) for key in {*ours, *environ} if ours.get(key) != environ.get(key)}
    job = {"name": name, "argv": list(argv), "environ": changed, "resumes": resumes}
    return command, {**ours, PROGRESS_VARIABLE: json.dumps(job)}


def _kind(program: str) -> str:
    """The suffix, as Windows sees it: dots and blanks at the end of a name are nothing to it."""
    return Path(program.rstrip(". ")).suffix.lower()


def _not_found(program: str) -> ConfigError:
    if Path(program).is_file():
        return ConfigError(
            f"{program} is nothing that this system can start; accepted: a program, or one and the script that it is "
            "to read, as in `python my_job.py`"
        )
    return ConfigError(f"{program}: command not found; accepted: a program on PATH, or the path of one")


def _through_cmd(batch: str, arguments: Sequence[str]) -> list[str]:
    """A batch file with its arguments: the system puts cmd.exe before them."""
    if any(letter in batch for letter in READ_BY_CMD + SPLITS_A_NAME):
        raise ConfigError(
            f"{batch!r} cannot be started safely; accepted: a batch file in whose path is none of "
            f"{READ_BY_CMD.strip()}{SPLITS_A_NAME}, or the program that it starts"
        )
    for argument in arguments:
        if any(letter in argument for letter in READ_BY_CMD):
            raise ConfigError(
                f"{argument!r} cannot be passed to a batch file safely; accepted: arguments without any of "
                f"{READ_BY_CMD.strip()}, or the program that the batch file starts"
            )
    return [batch, *arguments]
