"""The path that the command leaves behind it, and what of it a worker gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.import_path import folders_for_worker, leave_current_folder, variable_for_worker
from helix_crawl_otel.supervise.process import worker_command

STANDARD = os.path.dirname(os.__file__)  # noqa: PTH120 - as it stands on the path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: one with `lib` in it, and a path of ours to change."""
    folder = tmp_path / "here"
    (folder / "lib").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


def test_what_is_relative_or_the_current_folder_goes(here: Path) -> None:
    """However it came there: by `-m`, by an empty entry, by a relative one that Python has made absolute."""
    elsewhere, packages = str(here.parent / "elsewhere"), str(here.parent / "site-packages")
    sys.path[:] = ["", str(here), "lib", str(here / "lib"), elsewhere, STANDARD, packages]
    assert folders_for_worker(f"{os.pathsep}lib{os.pathsep}{elsewhere}") == [elsewhere, STANDARD, packages]
    assert sys.path[0] == "", "our own path is left alone"


def test_an_absolute_entry_stays(here: Path) -> None:
    """Also below the current folder: whoever writes it in full means it."""
    sys.path[:] = [str(here / "lib"), STANDARD]
    assert folders_for_worker(str(here / "lib")) == [str(here / "lib"), STANDARD]


def test_the_installation_stays_where_one_stands_in_it(here: Path) -> None:
    """Behind the standard library nothing is left out: it may be an environment's own folder that is built."""
    sys.path[:] = [str(here), STANDARD, str(here)]
    assert folders_for_worker("") == [STANDARD, str(here)]


def test_the_command_changes_its_own_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For good: its late imports are safe as well."""
    monkeypatch.setenv("PYTHONPATH", f"lib{os.pathsep}{here.parent / 'elsewhere'}")
    sys.path[:] = [str(here), str(here / "lib"), str(here.parent / "elsewhere"), STANDARD]
    leave_current_folder()
    assert sys.path == [str(here.parent / "elsewhere"), STANDARD]


def test_a_program_that_calls_the_command_keeps_its_path(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Called with arguments it is a function of somebody's process, as `CrawlWatch` is."""
    sys.path.insert(0, "")
    before = list(sys.path)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert sys.path == before


def test_a_worker_gets_a_clean_variable(here: Path) -> None:
    """`site` reads it before any program's first line runs."""
    elsewhere = str(here.parent / "elsewhere")
    assert variable_for_worker(os.pathsep.join(("", ".", "lib", str(here), elsewhere, ""))) == elsewhere
    assert variable_for_worker("") == ""


def test_a_worker_is_told_all(here: Path) -> None:
    """The module as a word of its own, our process id, our folders; of our environment nothing else is changed."""
    environ = {"PYTHONPATH": os.pathsep, "A": "1"}
    command, changed = worker_command("helix_crawl_otel.build.worker", environ)
    module = command.index("helix_crawl_otel.build.worker")
    assert command[module + 1 :] == [str(os.getpid()), *folders_for_worker(os.pathsep)]
    assert {name: text for name, text in changed.items() if name != "__PYVENV_LAUNCHER__"} == {
        "A": "1",
        "PYTHONSAFEPATH": "1",
    }
    assert environ == {"PYTHONPATH": os.pathsep, "A": "1"}


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Nothing can be imported from it, and nothing is said of it."""
    if sys.platform == "win32":
        pytest.skip("a current folder cannot be removed there")
    program = "import os; os.mkdir('x'); os.chdir('x'); os.rmdir('../x'); from helix_crawl_otel.cli import main; main()"
    command = [sys.executable, "-c", program, "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
