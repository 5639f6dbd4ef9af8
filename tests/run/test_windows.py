"""`helix-crawl run` of what Windows starts in its own ways: a script, a batch file, a program by its short name."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from tests.build.rig import COMMAND, SECONDS, Done, Rig
from tests.run.test_run import missing, supervise, write_passages

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="programs of Windows: runs under Wine")

SAYS_ARGUMENTS = """\
import sys
print("said", ascii([sys.executable, *sys.argv[1:]]), file=sys.stderr)
"""


def batch(rig: Rig, *lines: str, name: str = "job ü 1.bat") -> str:
    """A batch file in the rig's folder."""
    path = rig.folder / name
    path.write_bytes("".join(line.format(python=sys.executable) + "\r\n" for line in lines).encode("ascii"))
    return str(path)


def script(rig: Rig, name: str) -> str:
    """A script that says what it was given, in the rig's folder."""
    path = rig.folder / name
    path.write_text(SAYS_ARGUMENTS, encoding="ascii")
    return str(path)


def said(done: Done) -> list[str]:
    """What a driver has told of itself."""
    return [line for line in done.errors.splitlines() if line.startswith("said ")]


def test_the_whole_ladder_of_a_batch_file(rig: Rig) -> None:
    """Its Python has the channel: it is released, recycled (75), demoted (79); no vector is missing."""
    path, log = rig.folder / "passages.db", rig.folder / "log"
    write_passages(path, first=60, second=3)
    job = batch(rig, '@"{python}" -m tests.run.driver card minimal %*', "@exit /b %ERRORLEVEL%")
    done = supervise(rig, job, str(log), str(path))
    assert done.code == 0, done.errors
    assert missing(path) == 0
    assert [event["code"] for event in done.of("worker_ended")] == [75, 79, 79, 0]
    assert [event["reason"] for event in done.of("worker_started")] == ["first", "recycle", "demote", "resume"]


def test_a_script_is_started_with_our_python(rig: Rig) -> None:
    """Whatever its arguments are."""
    odd = ["two words", 'a "quoted" one', "100%", "%PATH%", "a&b", "^", "日本", "", "ends in \\"]
    done = supervise(rig, script(rig, "job ü 1.py"), *odd, options=())
    assert done.code == 0, done.errors
    assert said(done) == [f"said {[sys.executable, *odd]!a}"]


def test_arguments_of_a_batch_file(rig: Rig) -> None:
    """Blanks, letters of all the world and options with a value are handed on; it is found without its suffix."""
    script(rig, "says.py")
    batch(rig, '@"{python}" "%~dp0says.py" %*', name="job.bat")
    fine = ["two words", "--factor=5", "a,b;c", "(x)", "日本", "it's", "/?"]
    done = supervise(rig, "job", *fine, options=())
    assert done.code == 0, done.errors
    assert said(done) == [f"said {[sys.executable, *fine]!a}"]


@pytest.mark.parametrize("argument", ['a"b', "%PATH%", "a&b", "a|b", "<x", ">x", "^", "!x!", "a\nb"])
def test_what_a_batch_file_would_read_as_its_own(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before anything is started, also where the suffix is written in another way."""
    for name in ("job.bat", "job.CMD"):
        job = tmp_path / name
        job.write_text("@echo must not run", encoding="ascii")
        state = ["--state", str(tmp_path / "state")]
        assert main(["run", "--no-metrics", *state, "--", str(job), "fine", argument]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"helix-crawl: error: {argument!r} cannot be passed to a batch file safely; accepted: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a&b/job.bat", "cannot be started safely; accepted: a batch file in whose path is none of"),
        ("job.ps1", "is nothing that this system can start; accepted: a program, or one and the script"),
        ("missing.py", "command not found"),
    ],
)
def test_what_cannot_be_started(name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, before anything is started."""
    job = tmp_path / name
    job.parent.mkdir(exist_ok=True)
    if "missing" not in name:
        job.write_text("", encoding="ascii")
    assert main(["run", "--no-metrics", "--state", str(tmp_path / "state"), "--", str(job)]) == 2
    assert text in capsys.readouterr().err


def test_a_batch_file_ends_with_its_killed_supervisor(rig: Rig) -> None:
    """With all it has started: the job of the system takes them along."""
    job = batch(
        rig,
        '@start /b "" "{python}" -m tests.run.plain unwatched "%~dp0lines"',
        '@"{python}" -m tests.run.plain watched "%~dp0lines"',
    )
    with rig.started([*COMMAND, "run", "--no-metrics", "--json", "--", job]) as process:
        until_writers(rig, process, 2)
        process.kill()
        process.communicate(timeout=SECONDS)
    rig.until_gone()


def test_a_batch_file_that_ends_leaves_nothing_behind(rig: Rig) -> None:
    """What it has started in the background ends with it."""
    job = batch(
        rig,
        '@start /b "" "{python}" -m tests.run.plain unwatched "%~dp0lines"',
        '@"{python}" -m tests.run.plain until "%~dp0lines"',
    )
    done = supervise(rig, job, options=())
    assert done.code == 0, done.errors
    rig.until_gone()


def until_writers(rig: Rig, process: subprocess.Popen[bytes], count: int) -> None:
    """Wait until so many processes write."""
    path = rig.folder / "lines"
    deadline = time.monotonic() + SECONDS
    while not path.exists() or len({line.split()[0] for line in path.read_text().splitlines() if line}) < count:
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "the children do nothing"
        time.sleep(0.02)
