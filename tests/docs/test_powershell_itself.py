"""A real PowerShell reads the blocks that are meant for it, and under Windows carries the how-to pages out.

Skipped where there is none: then `test_powershell.py` alone holds the blocks to their twins, which are run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.docs.test_how_to import EXAMPLES, SERVERS, fill_examples, home
from tests.docs.test_powershell import PAGES, by_name, fenced, pairs
from tests.programs import require_module
from tests.rules.tree import ROOT

PWSH = shutil.which("pwsh") or shutil.which("powershell")
pytestmark = pytest.mark.skipif(PWSH is None, reason="there is no PowerShell here, neither pwsh nor powershell")

READ = """\
$errors = $null
[void][System.Management.Automation.Language.Parser]::ParseFile($args[0], [ref]$null, [ref]$errors)
$errors | ForEach-Object { Write-Output $_.ToString() }
exit $errors.Count
"""

HOW_TO = [path for path in PAGES if path.parent.name == "how-to" and path.stem not in SERVERS]
NEEDS = {"read-a-report": ("matplotlib", "'.[plot]'"), "choose-a-device": ("torch", "'.[torch]'")}
"""Modules without which a page has a command that cannot do what it shows, and what installs them."""


def outcome(script: Path, *arguments: str, folder: Path, environ: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit code of a script in PowerShell, and what it said. It is read as UTF-8 by 5.1 only where it has a mark."""
    assert PWSH is not None
    argv = [PWSH, "-NoProfile", "-NonInteractive", "-ExecutionPolicy", "Bypass", "-File", str(script), *arguments]
    done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("utf-8", "replace")


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_powershell_reads_every_block(path: Path, tmp_path: Path) -> None:
    """Without an error of its grammar."""
    reader, typed = tmp_path / "read.ps1", tmp_path / "block.ps1"
    reader.write_text(READ, encoding="utf-8-sig")
    for block in fenced(path):
        if block.language == "powershell":
            typed.write_text(block.content, encoding="utf-8-sig")
            code, said = outcome(reader, str(typed), folder=tmp_path)
            assert code == 0, f"{block.content}\n{said}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "win32", reason="the commands are those of Windows: paths, programs, cmdlets")
@pytest.mark.parametrize("path", HOW_TO, ids=by_name)
def test_the_page_runs_in_powershell(path: Path, tmp_path: Path) -> None:
    """All of a page in order, as `test_how_to` types it in a POSIX shell: each block ends with the promised code."""
    if path.stem in NEEDS:
        require_module(*NEEDS[path.stem])
    work = tmp_path / "work"
    shutil.copytree(EXAMPLES, work, ignore=shutil.ignore_patterns("__pycache__"))
    fill_examples(work)
    # A model is named where the page names none: the tests have no weights.
    (tmp_path / "ours.py").write_text(
        "import sys\n"
        "from helix_crawl_otel.cli import main\n"
        "words = sys.argv[1:]\n"
        'if words[0] in ("build", "backfill", "query") and "--model" not in words:\n'
        '    words[1:1] = ["--model", "hashing"]\n'
        "sys.exit(main(words))\n",
        encoding="utf-8",
    )
    folder = home(tmp_path / "home")
    lines = [
        f"Set-Variable HOME '{folder}' -Force",
        f"function python {{ & '{sys.executable}' @args }}",
        f"function helix-crawl {{ & '{sys.executable}' '{tmp_path / 'ours.py'}' @args }}",
    ]
    for block in fenced(path):
        if block.file:
            (work / block.file).write_text(block.content, encoding="utf-8")
    for block, other in pairs(path):
        if block.mark.startswith("not run: "):
            continue
        code = int(block.mark.removeprefix("exit ")) if block.mark.startswith("exit ") else 0
        typed = (other or block).content.replace("exit $LASTEXITCODE", "")
        lines += [typed, f"if ($LASTEXITCODE -ne {code}) {{ Write-Output 'not {code}'; exit 99 }}"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "HELIX_", "BGEM3_"))}
    whole = tmp_path / "page.ps1"
    whole.write_text("\n".join([*lines, "exit 0"]), encoding="utf-8-sig")
    ended, said = outcome(
        whole, folder=work, environ={**kept, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "HOME": str(folder)}
    )
    assert ended == 0, said
