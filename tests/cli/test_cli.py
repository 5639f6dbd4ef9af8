"""Promises of the command: exit codes, messages, and never a traceback for what a user can get wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import helix_crawl_otel
from helix_crawl_otel import cli
from helix_crawl_otel.cli import main
from helix_crawl_otel.commands import replay as replay_module
from tests.data.timelines import make
from tests.programs import require_module
from tests.rules.tree import ROOT

TIMELINE = Path(make.__file__).parent / "incident-0611-slack.jsonl"
Output = pytest.CaptureFixture[str]

no_bash = pytest.mark.skipif(sys.platform == "win32", reason="redirects as bash does")


def command(
    *args: str, environ: Mapping[str, str] | None = None, stdin: bytes = b"", shell: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own; `shell` follows it, as a redirection or a pipe."""
    argv = [sys.executable, "-m", "helix_crawl_otel", *args]
    if shell:
        argv = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *argv]
    return subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "", **(environ or {})},
        input=stdin,
        capture_output=True,
        timeout=50,
        check=False,
    )


def refused(argv: list[str], capsys: Output) -> str:
    """The message of a command that ends with exit code 2 and prints nothing else."""
    code: object
    try:
        code = main(argv)
    except SystemExit as end:  # argparse's own way
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    return err


# -- what it says -----------------------------------------------------------------------------------------------------


def test_version(capsys: Output) -> None:
    """The package's own."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"helix-crawl {helix_crawl_otel.__version__}\n"


def test_help_teaches(capsys: Output) -> None:
    """What it is for, the commands, an example, the exit codes, where the knobs are."""
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for part in ("crawling", "replay", "examples:", "exit codes:", "130", "HELIX_BFM_CRAWL_FACTOR"):
        assert part in text


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """Of every command. What is to be copied is never cut: it stands alone in its line, without its explanation."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ([], *([name] for name in cli._COMMANDS)):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        shown = capsys.readouterr().out.partition("\n\n")[2]  # argparse's usage does not fit into 40
        assert "\noptions:\n" in shown
        for line in shown.splitlines():
            is_to_copy = line.startswith(("  helix-crawl ", "  {", "  ssh ")) and "   " not in line.strip()
            assert len(line) <= columns or is_to_copy, (command, line)


def test_help_of_replay_teaches(capsys: Output) -> None:
    """Its knobs with variables and defaults, examples, the two lines that another job has to write."""
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    text = capsys.readouterr().out
    for part in (
        "--factor",
        "HELIX_BFM_CRAWL_FACTOR",
        "examples:",
        "exit codes:",
        '{"event":"batch"',
        '{"event":"memory"',
    ):
        assert part in text


def test_replay_for_people(capsys: Output) -> None:
    """A table and a sentence, exit code 0."""
    assert main(["replay", str(TIMELINE)]) == 0
    out, err = capsys.readouterr()
    assert "1 crawl in 1 of 1 shard; actions: 1 EMPTY_CACHE, 1 RECYCLE." in out
    assert err == ""


def test_replay_for_scripts(capsys: Output) -> None:
    """Every line an object, the summary last; a crawl is a finding, not a failure."""
    assert main(["replay", str(TIMELINE), "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line.get("kind") for line in lines] == ["DETECT", "EMPTY_CACHE", "RECYCLE", None]
    assert lines[-1]["event"] == "summary"
    assert err == ""


def test_replay_for_scripts_names_bad_lines_beside(tmp_path: Path, capsys: Output) -> None:
    """On stderr, where they do not disturb the objects."""
    path = tmp_path / "x.jsonl"
    path.write_text(TIMELINE.read_text() + "junk\n{")
    assert main(["replay", str(path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert all(json.loads(line) for line in out.splitlines())
    number = len(TIMELINE.read_text().splitlines()) + 1
    assert err.splitlines() == [
        f"line {number} skipped: not JSON (expecting value, column 1)",
        f"line {number + 1}, the last, is cut short, as a killed job leaves it; not used",
    ]


def test_knobs_come_from_options_then_the_environment(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option wins; the output says what was used."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_ACTION", "off")
    monkeypatch.setenv("CYMATIX_BFM_CRAWL_WINDOW", "6")
    assert main(["replay", str(TIMELINE), "--factor", "4"]) == 0
    out = capsys.readouterr().out
    assert "factor 4, window 6, action off," in out
    assert "actions: none; 1 hang." in out
    assert main(["replay", str(TIMELINE), "--action", "CPU"]) == 0
    assert "1 DEMOTE_CPU" in capsys.readouterr().out


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv", [["no-such-command"], ["replay"], ["replay", "x", "--no-such"], ["replay", "x", "--fact=3"]]
)
def test_wrong_usage(argv: list[str], capsys: Output) -> None:
    """Exit code 2 with the usage; options are never guessed from their first letters."""
    assert "usage: helix-crawl" in refused(argv, capsys)


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--factor", "1", "a number > 1"),
        ("--factor", "-5", "a number > 1"),
        ("--window", "8.5", "an integer >= 1"),
        ("--action", "nothing", "ladder, cpu, adaptive, off"),
        ("--vram", "92", "a number in (0, 1]"),
        ("--ema-alpha", "nan", "a number in (0, 1]"),
        ("--warmup", "-1", "an integer >= 0"),
        ("--inflight", "maybe", "on, off, true, false, yes, no, 1, 0"),
        ("--shared", "512", "on, off, true, false, yes, no, 1, 0"),
    ],
)
def test_a_wrong_option(option: str, value: str, accepted: str, capsys: Output) -> None:
    """Before anything is read; the message names option, value and what is accepted."""
    message = refused(["replay", "no-such-file", option, value], capsys)
    assert message == f"helix-crawl: error: {option} is {value!r}; accepted: {accepted}\n"


def test_a_wrong_variable(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line is strict: it does not go on with a default."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_WINDOW", "1e3")
    message = refused(["replay", str(TIMELINE)], capsys)
    assert message == "helix-crawl: error: HELIX_BFM_CRAWL_WINDOW is '1e3'; accepted: an integer >= 1\n"


def test_what_is_no_timeline(tmp_path: Path, capsys: Output) -> None:
    """A missing file, a folder, an empty one, a picture: one line each."""
    empty, picture = tmp_path / "empty.jsonl", tmp_path / "picture.png"
    empty.touch()
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    for path, why in [
        (tmp_path / "missing", "cannot be read: No such file or directory"),
        (tmp_path, "is a folder"),
        (empty, "is empty"),
        (picture, "is not a timeline"),
    ]:
        message = refused(["replay", str(path)], capsys)
        assert message.startswith(f"helix-crawl: error: {path} {why}")
        assert message.count("\n") == 1


@given(data=st.binary(max_size=400), rest=st.booleans(), as_json=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_no_bytes_give_a_traceback(tmp_path: Path, capsys: Output, data: bytes, rest: bool, as_json: bool) -> None:
    """0 and an answer, or 2 and a message."""
    path = tmp_path / "x.jsonl"
    path.write_bytes((TIMELINE.read_bytes()[:6000] if rest else b"") + data)
    code = main(["replay", str(path), *(["--json"] if as_json else [])])
    out, err = capsys.readouterr()
    assert code in ((0,) if rest and b"version" not in data else (0, 2))
    assert bool(out) is (code == 0)
    assert "Traceback" not in out + err


# -- where its output goes --------------------------------------------------------------------------------------------


def test_the_module_is_the_command() -> None:
    """`python -m helix_crawl_otel` exits with the command's code."""
    assert command("replay", str(TIMELINE)).returncode == 0
    done = command("replay", "missing")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr


def test_standard_input() -> None:
    """`-` reads what another machine sends."""
    done = command("replay", "-", "--json", stdin=TIMELINE.read_bytes())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["trips"] == 1
    assert command("replay", "-", stdin=b"").returncode == 2


def test_a_reader_that_has_seen_enough() -> None:
    """`| head` is no failure and no traceback."""
    argv = [sys.executable, "-m", "helix_crawl_otel", "replay", str(TIMELINE), "--json"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(50), said) == (0, b"")


@no_bash
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk() -> None:
    """What could not be written is a failure with a message."""
    done = command("replay", str(TIMELINE), shell="> /dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "helix-crawl: error: No space left on device; free some space and start the same command again"
    ]


@no_bash
def test_no_output_at_all() -> None:
    """A service without standard output goes on."""
    done = command("replay", str(TIMELINE), shell=">&-")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "utf-8"])
@pytest.mark.parametrize("as_json", [True, False])
def test_a_console_that_cannot_show_a_letter(tmp_path: Path, encoding: str, as_json: bool) -> None:
    """It shows ? instead, in messages as well."""
    path = tmp_path / "日本語.jsonl"
    path.write_text(TIMELINE.read_text().replace("slack__eng-oncall", "日本語 \\ud800"), encoding="utf-8")
    done = command("replay", str(path), *(["--json"] if as_json else []), environ={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) >= 4
    missing = command("replay", f"{path}x", environ={"PYTHONIOENCODING": encoding})
    assert missing.returncode == 2
    assert b"Traceback" not in missing.stderr


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    """Ctrl-C ends with 130, without a traceback."""

    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_module, "replay", interrupted)
    monkeypatch.setattr(cli, "_silence_stdout", lambda: None)  # the test runner's stdout is not ours to close
    assert main(["replay", str(TIMELINE)]) == 130
    assert capsys.readouterr().err == ""


def test_output_of_an_odd_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside another program stdout may be any object that is written to."""
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["replay", str(TIMELINE)]) == 0
    assert "1 crawl" in shown.getvalue()


@pytest.mark.parametrize("argv", [["replay"], ["report", "--png", "~/report.png"]], ids=lambda argv: str(argv[0]))
def test_the_user_folder_is_read_by_the_command_itself(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """PowerShell hands `~` on as it is: a timeline there is found, and what is written lies there."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "job.jsonl").write_bytes(TIMELINE.read_bytes())
    if argv[0] == "report":
        require_module("matplotlib", "'helix-crawl-otel[plot]'")
    assert main([argv[0], "~/job.jsonl", *argv[1:]]) == 0, capsys.readouterr().err
    assert argv[0] == "replay" or (tmp_path / "report.png").exists()
