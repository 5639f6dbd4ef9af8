"""A missing program or module is a skip on a laptop and a failure in the gate."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.programs import REQUIRE, require_installed, require_module, require_program


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one program in it."""
    program = tmp_path / "promtool-of-the-test"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


def test_a_program_on_path_is_returned_with_its_path(folder: Path) -> None:
    """The answer can be run as it is."""
    assert require_program("promtool-of-the-test", {"PATH": str(folder)}) == str(folder / "promtool-of-the-test")


@pytest.mark.parametrize("extra", [{}, {REQUIRE: ""}, {REQUIRE: "0"}], ids=["unset", "empty", "zero"])
def test_a_missing_program_skips_and_names_it(folder: Path, extra: dict[str, str]) -> None:
    """Without the gate's promise the test is left out, and the reason names the program."""
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not on PATH"):
        require_program("no-such-program", {"PATH": str(folder), **extra})


def test_a_missing_program_fails_where_it_is_promised(folder: Path) -> None:
    """In the gate a missing program is red, so that a skipped test cannot pass for a green one."""
    with pytest.raises(pytest.fail.Exception, match=f"no-such-program is not on PATH, and {REQUIRE}=1"):
        require_program("no-such-program", {"PATH": str(folder), REQUIRE: "1"})


def test_a_module_that_is_there_is_returned() -> None:
    """Imported, ready for use."""
    assert require_module("tests.programs", "nothing").REQUIRE == REQUIRE


def test_a_missing_module_skips_and_says_what_installs_it() -> None:
    """The reader of the summary learns what to do."""
    with pytest.raises(pytest.skip.Exception, match=r"no_such_module is not installed \(pip install such\)"):
        require_module("no_such_module", "such", {})


def test_a_missing_module_fails_where_it_is_promised() -> None:
    """As a missing program does."""
    with pytest.raises(pytest.fail.Exception, match=f"no_such_module.part is not installed, and {REQUIRE}=1"):
        require_module("no_such_module.part", "such", {REQUIRE: "1"})


def test_what_another_process_needs_is_looked_for_without_an_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped or failed like the others."""
    monkeypatch.delitem(sys.modules, "xdist", raising=False)
    require_installed("xdist", "such", {})
    assert "xdist" not in sys.modules
    with pytest.raises(pytest.skip.Exception, match=r"no_such_module is not installed \(pip install such\)"):
        require_installed("no_such_module", "such", {})
    with pytest.raises(pytest.fail.Exception, match=f"no_such_module is not installed, and {REQUIRE}=1"):
        require_installed("no_such_module", "such", {REQUIRE: "1"})


def test_a_module_that_cannot_load_is_no_missing_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken must not look as if it were only not installed."""
    (tmp_path / "needs_another.py").write_text('"""Of a test."""\nimport no_such_module\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        require_module("needs_another", "such", {})
