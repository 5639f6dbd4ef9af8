"""The commands of the documentation run in their PowerShell form, as far as that goes without a PowerShell: under Wine.

What is started there gets the words that PowerShell would give it; see `tests/docs/powershell_session.py`.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from tests.docs.pages import page
from tests.docs.powershell import Unreadable
from tests.docs.powershell_session import Session
from tests.docs.test_how_to import EXAMPLES, SERVERS, fill_examples, home
from tests.docs.test_powershell import PAGES, by_name, fenced, pairs
from tests.programs import require_module
from tests.rules.tree import ROOT


def environment() -> dict[str, str]:
    """Of the page's reader: no knobs, and Python on PATH."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "HELIX_", "BGEM3_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


def window(folder: Path, work: Path) -> Session:
    """A window in which `helix-crawl` and `python` are found, and a home folder with notes; see `test_how_to`."""
    ours = folder / "helix_crawl.py"
    # A model is named where the page names none: the tests have no weights.
    ours.write_text(
        "import sys\n"
        "from helix_crawl_otel.cli import main\n"
        "words = sys.argv[1:]\n"
        'if words[0] in ("build", "backfill", "query") and "--model" not in words:\n'
        '    words[1:1] = ["--model", "hashing"]\n'
        "sys.exit(main(words))\n",
        encoding="utf-8",
    )
    found = {"helix-crawl": [sys.executable, str(ours)], "python": [sys.executable]}
    return Session(work, home(folder / "home"), environment(), found)


wine = pytest.mark.skipif(sys.platform != "win32", reason="the forms for PowerShell: runs under Wine")


@wine
@pytest.mark.timeout(300)
def test_the_examples_of_the_reference_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of `replay` and `simulate`, in this process: exit code 0, and something is shown."""
    recorded = ROOT / "tests" / "data" / "timelines" / "incident-0611-slack.jsonl"
    shutil.copy(recorded, tmp_path / "timeline.jsonl")
    (tmp_path / "timeline.jsonl.gz").write_bytes(gzip.compress(recorded.read_bytes()))
    monkeypatch.chdir(tmp_path)
    session = Session(tmp_path, tmp_path, environment(), {"helix-crawl": main})
    for block in page("commands").fenced("powershell"):
        session.type(re.sub(r"^.*--plot.*\n", "", block, flags=re.MULTILINE))  # matplotlib is not there
    assert set(session.codes) == {0}, session.said
    assert len(session.codes) >= 8
    assert len(session.said) > 20


@wine
@pytest.mark.timeout(300)
def test_the_readme_runs(tmp_path: Path) -> None:
    """A build, its account, and a question, as PowerShell would start them."""
    *_, block = (block.content for block in fenced(ROOT / "README.md") if block.language == "powershell")
    session = window(tmp_path, tmp_path)
    session.type(block)
    assert session.codes == [0, 0, 0], session.said


def test_what_is_not_there_is_no_success(tmp_path: Path) -> None:
    """A program that nothing stands for ends the block."""
    with pytest.raises(Unreadable, match=r"^py is nothing"):
        Session(tmp_path, tmp_path, {}, {}).type("py -3 -m venv .venv\n")


HOW_TO = [path for path in PAGES if path.parent.name == "how-to" and path.stem not in SERVERS]
NEEDS = {"read-a-report": ("matplotlib", "'.[plot]'"), "choose-a-device": ("torch", "'.[torch]'")}
"""Modules without which a page has a command that cannot do what it shows, and what installs them."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", HOW_TO, ids=by_name)
def test_the_page_runs_in_powershell(path: Path, tmp_path: Path) -> None:
    """All of a page in order, as `test_how_to` types it in a POSIX shell: each block ends with the promised code."""
    if path.stem in NEEDS:
        require_module(*NEEDS[path.stem])
    work = tmp_path / "work"
    shutil.copytree(EXAMPLES, work, ignore=shutil.ignore_patterns("__pycache__"))
    fill_examples(work)
    session = window(tmp_path, work)
    for block in fenced(path):
        if block.file:
            (work / block.file).write_text(block.content, encoding="utf-8")
    for block, other in pairs(path):
        if block.mark.startswith("not run: "):
            continue
        session.type((other or block).content)
        expected = int(block.mark.removeprefix("exit ")) if block.mark.startswith("exit ") else 0
        assert session.code == expected, f"{block.content}\n" + "\n".join(session.said)
