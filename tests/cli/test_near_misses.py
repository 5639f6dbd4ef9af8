"""Promises of what is typed nearly right: the word that was meant is said, whatever kind of word it is."""

from __future__ import annotations

import pytest

from helix_crawl_otel.cli import main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error of a command line that is refused with exit code 2."""
    code: object
    try:
        code = main(list(words))
    except SystemExit as stop:  # argparse's own way
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    return err.splitlines()[-1]


def test_the_command_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    """It is what `--help` prints, and nothing has gone wrong."""
    assert main([]) == 0
    alone = capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == alone
    assert "examples:" in alone


@pytest.mark.parametrize(
    ("typed", "meant"), [("bild", "build"), ("ver-ify", "verify"), ("quer", "query"), ("Simulate", "simulate")]
)
def test_a_near_miss_of_a_command_says_which_was_meant(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that is near none says where they are listed."""
    assert f"no command {typed!r}; did you mean {meant}?" in said(capsys, typed, "x")
    far = said(capsys, "xyzzy")
    assert "no command 'xyzzy'; `helix-crawl --help` lists them" in far


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("build", "a", "--modle", "x"), "unrecognized arguments: --modle x; did you mean --model?"),
        (("build", "a", "--exlude=*.log"), "did you mean --exclude?"),
        (("backfill", "a", "--batchsize", "8"), "did you mean --batch-size?"),
        (("simulate", "--lst"), "did you mean --list?"),
        (("verify", "a", "--prune"), "--prune is an option of demo, build"),
        (("verify", "a", "--frobnicate"), "`helix-crawl verify --help` lists the options"),
        (("--model", "x", "build", "a"), "--model stands before a command; accepted: helix-crawl COMMAND, and its"),
        (("build", "a", "--device", "cpuu"), "did you mean cpu?"),
        (("build", "a", "--action", "laddr"), "did you mean ladder?"),
        (("simulate", "slow-dsk"), "did you mean slow-disk?"),
    ],
)
def test_a_near_miss_of_an_option_or_a_value_says_which_was_meant(
    words: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another command's option, whose it is."""
    assert hint in said(capsys, *words)
