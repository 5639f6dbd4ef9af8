"""Carries out the PowerShell blocks of the documentation, as far as that goes without a PowerShell.

Programs are started as PowerShell starts them: by their words, without a shell between. The cmdlets that the blocks use
do here what they do there, for files of plain text; a cmdlet that is not among them ends the block.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.docs.powershell import VARIABLE, Loop, Statement, Unreadable, plain, read

__all__ = ["Session"]

Program = Callable[[Sequence[str]], int]

SECONDS = 180
"""What a program gets before it counts as hung."""


class Session:
    """A window of PowerShell in which blocks are typed.

    Args:
        folder: Where it is.
        home: `$HOME`.
        environ: Of what is started.
        found: By the name that is typed: the command that stands for it, or what takes its arguments, prints, and
            returns its exit code, for what need not be a process of its own.

    Threads: one.
    """

    def __init__(
        self, folder: Path, home: Path, environ: Mapping[str, str], found: Mapping[str, Sequence[str] | Program]
    ) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._found = found
        self._variables: dict[str, object] = {"HOME": str(home)}
        self.code = 0
        """`$LASTEXITCODE`."""
        self.codes: list[int] = []
        """Of every program that was started."""
        self.said: list[str] = []
        """What was shown, line by line, and what programs wrote to standard error."""

    def type(self, block: str) -> None:
        """Carry a block out.

        Raises:
            Unreadable: It cannot be carried out; what stands before that has been.
            AssertionError: A comparison does not hold.
        """
        for statement in read(block):
            if isinstance(statement, Loop):
                while True:
                    for one in statement.body:
                        self._do(one)
                    if self.code != statement.code:
                        break
            else:
                self._do(statement)

    def _do(self, statement: Statement) -> None:
        first, *_ = statement.pipeline
        if statement.into.startswith("$env:"):
            self._environ[statement.into.removeprefix("$env:")] = self._text(first[0])
            return
        if len(first) == 3 and first[1] == "-eq":
            left, right = (self._value(word) for word in (first[0], first[2]))
            assert str(left) == str(right), f"{first[0]} is {left!r}, {first[2]} is {right!r}"
            return
        if first == ("exit", "$LASTEXITCODE"):
            return
        given: list[object] = []
        for words in statement.pipeline:
            given = self._command(words, given)
        if statement.into:
            self._variables[statement.into.removeprefix("$")] = given[0] if len(given) == 1 else given
        else:
            self.said += map(str, given)

    def _command(self, words: Sequence[str], given: list[object]) -> list[object]:
        name, *arguments = (self._text(word) for word in words)
        if name in self._found:
            # PowerShell 5.1 loses a quotation mark within an argument on the way to a program.
            assert not any('"' in argument for argument in arguments), words
            program = self._found[name]
            return self._call(program, arguments) if callable(program) else self._start([*program, *arguments])
        cmdlet = _CMDLETS.get(name)
        if cmdlet is None:
            raise Unreadable(f"{name} is nothing that can be carried out here")
        return cmdlet(self, arguments, given)

    def _start(self, argv: list[str]) -> list[object]:
        done = subprocess.run(
            argv,
            cwd=self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        return self._ended(
            done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        )

    def _call(self, program: Program, arguments: list[str]) -> list[object]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = program(arguments)
        return self._ended(code, out.getvalue(), err.getvalue())

    def _ended(self, code: int, out: str, err: str) -> list[object]:
        self.code = code
        self.codes.append(code)
        self.said += err.splitlines()
        return list(out.splitlines())

    def _text(self, word: str) -> str:
        return plain(word, {name: str(value) for name, value in self._variables.items()})

    def _value(self, word: str) -> object:
        found = VARIABLE.fullmatch(word)
        if found is None:
            return self._text(word)
        value = self._variables[found[1]]
        if found[2] is None or found[2] == "Line":  # of what Select-String has found
            return value
        assert isinstance(value, dict), f"{word}: {value!r}"
        return value[found[2]]

    def _path(self, text: str) -> Path:
        return self._folder / text

    # -- cmdlets ------------------------------------------------------------------------------------------------------

    def _set_content(self, arguments: list[str], given: list[object]) -> list[object]:
        path, *values = arguments
        self._path(path).write_text("".join(f"{line}\n" for line in values or given), encoding="utf-8")
        return []

    def _add_content(self, arguments: list[str], given: list[object]) -> list[object]:
        with self._path(arguments[0]).open("a", encoding="utf-8") as out:
            out.write(f"{arguments[1]}\n")
        return []

    def _new_item(self, arguments: list[str], given: list[object]) -> list[object]:
        kind, path = arguments[:2], arguments[2]
        assert kind == ["-ItemType", "Directory"], arguments
        self._path(path).mkdir(parents=True)
        return []

    def _get_item(self, arguments: list[str], given: list[object]) -> list[object]:
        return list(self._found_at(arguments[0]))

    def _copy_item(self, arguments: list[str], given: list[object]) -> list[object]:
        for path in self._found_at(arguments[0]):
            shutil.copy(path, self._path(arguments[1]))
        return []

    def _remove_item(self, arguments: list[str], given: list[object]) -> list[object]:
        if arguments[0].startswith("Env:"):
            del self._environ[arguments[0].removeprefix("Env:")]
            return []
        for path in self._found_at(arguments[0]):
            path.unlink()
        return []

    def _found_at(self, text: str) -> list[Path]:
        path = self._path(text)
        found = sorted(path.parent.glob(path.name))
        assert found, f"{path} is not there"
        return found

    def _select_string(self, arguments: list[str], given: list[object]) -> list[object]:
        pattern, *paths = arguments
        lines = [line for path in paths for line in self._path(path).read_text(encoding="utf-8").splitlines()]
        found: list[object] = [line for line in (lines if paths else given) if re.search(pattern, str(line), re.I)]
        assert found, f"nothing has {pattern}"
        return found

    def _select_object(self, arguments: list[str], given: list[object]) -> list[object]:
        which, count = arguments
        assert which in ("-First", "-Last"), arguments
        return given[: int(count)] if which == "-First" else given[-int(count) :]

    def _convert_from_json(self, arguments: list[str], given: list[object]) -> list[object]:
        return [json.loads("\n".join(map(str, given)))]


_CMDLETS = {
    "Set-Content": Session._set_content,
    "Add-Content": Session._add_content,
    "New-Item": Session._new_item,
    "Get-Item": Session._get_item,
    "Copy-Item": Session._copy_item,
    "Remove-Item": Session._remove_item,
    "Select-String": Session._select_string,
    "Select-Object": Session._select_object,
    "ConvertFrom-Json": Session._convert_from_json,
}
