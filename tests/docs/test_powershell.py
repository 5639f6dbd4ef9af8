"""Commands stand in their PowerShell form beside the others, and say the same in both.

Nothing is carried out here: `tests/docs/powershell.py` takes the blocks apart, which is why they are simple.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from helix_crawl_otel.supervise.external import READ_BY_CMD, SPLITS_A_NAME
from tests.docs.blocks import parser
from tests.docs.powershell import Unreadable, commands, programs
from tests.rules.tree import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])

DIFFERS = {
    "a path of a virtual environment": r"\.venv/bin/",
    "a name that Windows' Python does not have": r"\bpython3\b",
    "the user's folder": r"(?<![\w'])~/",
    "a chain that PowerShell 5.1 does not know": r"&&|\|\|",
    "a line that goes on": r"\\$",
    "a variable for one command": r"^\s*(export |[A-Z_0-9]+=\S* )",
    "an output that PowerShell 5.1 would write as UTF-16": r" >>? ?\S",
    "names that PowerShell leaves as they are": r"(?<= )[^\s'\"]*\*[^\s'\"]*",
    "a program that Windows does not have": r"(^|[|;] *)(cmp|curl|cp|cut|grep|head|kill|printf|sed|tail|tee|touch)\b",
    "a substitution or a loop of the shell": r"\$\(|^(while|for|if) ",
    "a script of the shell": r"(?<![\w.])\./\S+\.sh",
}
"""What makes a line another one in PowerShell."""

OF_A_SHELL = re.compile(
    r"&&|\|\||^\s*export |\.venv/bin/|(?<!`)\\$|(?<![\w$])~[/\\]|\bpython3\b|\bcurl(?!\.exe)|^[A-Z_0-9]+=\S"
    r"|\b(grep|sed|tail|head|cmp|printf)\b|/dev/null|\$\(|(?<!2)>",
    re.MULTILINE,
)
"""What has no place in a block for PowerShell, 5.1 included."""

_LINUX = "clusters of several machines are of Linux, and the page says so"
WITHOUT = {
    ("resume-and-verify", "kill -TERM"): "Windows has no such signal, and the page says so",
    ("several-machines", "pip install"): _LINUX,
    ("several-machines", "export RAY_"): _LINUX,
    ("several-machines", "kubectl create"): "typed where kubectl is; the commands are those of the pods",
    ("several-machines", "sbatch"): _LINUX,
}
"""Blocks that have no other form, by page and beginning, with the reason."""

OTHER_PROGRAM = ("--notify",)
"""Options whose value names a program, which has another name there."""


class Fenced(NamedTuple):
    """A fenced block, with what stands between the one before and it, and the mark that is the last of that."""

    before: str
    mark: str
    language: str
    file: str
    content: str


FENCED = re.compile(r"^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)


def by_name(path: Path) -> str:
    """Id of a test."""
    return path.relative_to(ROOT).as_posix()


def fenced(path: Path) -> list[Fenced]:
    """The fenced blocks of a page, in order."""
    text, at, found = path.read_text(encoding="utf-8"), 0, []
    for each in FENCED.finditer(text):
        before = text[at : each.start()]
        mark = re.search(r"<!-- ([^>]+?) -->\n$", before)
        found.append(Fenced(before, mark[1] if mark else "", each["language"], each["file"] or "", each["content"]))
        at = each.end()
    return found


def pairs(path: Path) -> Iterator[tuple[Fenced, Fenced | None]]:
    """Each block for a POSIX shell, with the one for PowerShell that stands beside it."""
    blocks = fenced(path)
    for block, after in zip(blocks, [*blocks[1:], None], strict=False):
        if block.language == "sh":
            is_beside = after is not None and after.language == "powershell" and "PowerShell" in after.before
            yield block, after if is_beside and after is not None and after.before.count("\n\n") <= 2 else None


def differences(block: str) -> list[str]:
    """Why a block for a POSIX shell is not the same in PowerShell; empty when it is."""
    return [why for why, pattern in DIFFERS.items() if re.search(pattern, block, re.MULTILINE)]


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_a_block_that_differs_has_its_other_form_beside_it(path: Path) -> None:
    """Right after it, in words that name PowerShell; and one that does not differ stands once."""
    for block, other in pairs(path):
        if any(path.stem == name and block.content.startswith(begin) for name, begin in WITHOUT):
            continue
        assert bool(differences(block.content)) == (other is not None), f"{block.content}{differences(block.content)}"


def test_what_differs_is_seen() -> None:
    """The check above can fail: each difference is one, and a plain line is none."""
    for line in (
        ".venv/bin/pip install x",
        "python3 job.py",
        "helix-crawl verify ~/notes",
        "a && b",
        "a \\",
        "export A=b",
        "A=b helix-crawl build a --out b",
        "a > b",
        "a b/*.db",
        "a | tail -n 1",
        "./embed.sh",
    ):
        assert differences(f"{line}\n"), line
    assert not differences('helix-crawl run --state s -- python -c "raise SystemExit(0)"\n')


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_a_block_for_powershell_has_nothing_of_another_shell(path: Path) -> None:
    """It is read by the reader of the tests, and holds in PowerShell 5.1 as well."""
    for block in fenced(path):
        if block.language == "powershell":
            assert OF_A_SHELL.search(block.content) is None, block.content
            assert list(commands(block.content))


@pytest.mark.parametrize("line", ["a && b", "a \\", "export A=b", ".venv/bin/x", "a ~/b", "a > b", "curl -s x"])
def test_what_is_of_another_shell_is_seen(line: str) -> None:
    """The check above can fail."""
    assert OF_A_SHELL.search(line)


def typed_in_sh(block: str) -> list[tuple[str, ...]]:
    """The commands of a block that are ours or Python's, with their words, as `programs` has them for PowerShell."""
    found: list[tuple[str, ...]] = []
    for line in block.splitlines():
        tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
        tokens.wordchars += ":,@%+$[]"
        words: list[str] = []
        for token in [*tokens, ";"]:
            if token.strip("&|;<>()"):
                words.append(token)
            else:
                found.append(tuple(words))
                words = []
    return [words for words in map(without_assignments, found) if words]


def without_assignments(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a command without the variables before it."""
    while words and re.match(r"[A-Z_0-9]+=", words[0]):
        words = words[1:]
    return tuple(words)


def alike(commands: Iterator[tuple[str, ...]] | list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Commands of either shell in one form: ours, pip's and Python's only, without what has to differ."""
    found = []
    for words in commands:
        name = re.sub(r"^\.venv/(bin|Scripts)/", "", words[0].replace("\\", "/"))
        if name not in ("helix-crawl", "pip", "python", "python3", "py"):
            continue
        plain = [word.replace("\\", "/") for word in words[1:] if (name, word) != ("py", "-3")]
        for option in OTHER_PROGRAM:
            if option in plain:
                plain[plain.index(option) + 1] = ""
        found.append(("python" if name.startswith("py") else name, *plain))
    return found


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_both_forms_say_the_same(path: Path) -> None:
    """The same commands with the same words, in the same order, and the same variables."""
    for block, other in pairs(path):
        if other is not None:
            assert alike(typed_in_sh(block.content)) == alike(programs(other.content)), other.content
            ours = set(re.findall(r"^(?:export )?((?:HELIX|CUDA|BGEM3|OTEL)\w*)=(\S+)", block.content, re.MULTILINE))
            theirs = set(re.findall(r'^\$env:(\w+) = "([^"]*)"$', other.content, re.MULTILINE))
            assert ours == theirs


def test_forms_that_differ_are_seen() -> None:
    """The check above can fail: another option, another order, another program."""
    shell = "A=b helix-crawl build ~/a --out b --json > c && .venv/bin/python -m pytest\n"
    same = "helix-crawl build $HOME\\a --out b --json | Set-Content c\n.venv\\Scripts\\python -m pytest\n"
    assert alike(typed_in_sh(shell)) == alike(programs(same)) != []
    for one, another in (("--json", "--plain"), ("$HOME\\a", "$HOME\\c"), ("pytest", "pip")):
        assert alike(typed_in_sh(shell)) != alike(programs(same.replace(one, another)))


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_the_parser_takes_the_commands(path: Path) -> None:
    """Also those that need a card or a model, and those on pages for which there is no other form."""
    for block in fenced(path):
        for words in programs(block.content) if block.language == "powershell" else ():
            if words[0] == "helix-crawl":
                parser().parse_args(words[1:])


def test_the_page_windows_names_what_a_batch_file_refuses() -> None:
    """The letters that the code refuses, and no others: in arguments, and beyond them in its path."""
    text = (ROOT / "docs" / "how-to" / "windows.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| a `.bat` or `.cmd` |")]
    _, refused = line.split("arguments with one of ")
    assert re.findall("`([^`]+)`", refused.replace(r"\|", "|")) == [READ_BY_CMD.strip(), SPLITS_A_NAME]


@pytest.mark.parametrize("block", ["a { b }", "do {\n a\n} until (b)\n", "a |\n", 'a "b', "a && b", "$( a )"])
def test_what_the_reader_does_not_know_is_refused(block: str) -> None:
    """A block that it cannot read is none that works."""
    with pytest.raises(Unreadable):
        list(commands(block))


def test_the_reader_reads_as_powershell_does() -> None:
    """Quotes, the backtick, a variable within a path, a comment, a pipeline, a loop."""
    block = 'a \'b "c\' "d $HOME" $HOME\\e`\n  f # g\nh | Select-Object -Last 1; i\n'
    loop = "do {\n j\n} while ($LASTEXITCODE -eq 75)\n"
    assert list(programs(block + loop)) == [("a", 'b "c', "d ~", f"~{os.sep}e", "f"), ("h",), ("i",), ("j",)]
