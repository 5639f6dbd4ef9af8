"""Nothing of the folder that a command stands in, or that a build reads, is imported by the command or by a worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, SECONDS, Rig
from tests.rules.tree import PACKAGE, ROOT

NAMES = [
    "argparse",
    "csv",
    "dataclasses",
    "email",
    "filelock",
    "hashlib",
    "http",
    "importlib_metadata",
    "inspect",
    "json",
    "logging",
    "matplotlib",
    "multiprocessing",
    "numbers",
    "numpy",
    "opentelemetry",
    "pathlib",
    "platform",
    "prometheus_client",
    "pynvml",
    "queue",
    "random",
    "re",
    "rich",
    "sentence_transformers",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "tomli",
    "tomllib",
    "torch",
    "typing",
    "urllib",
    "wakepy",
    "zipfile",
]
"""Of Python and of others. What Python itself imports with `-m` before anything of a package runs is not among them."""

SITE = ("sitecustomize", "usercustomize")

SCRIPT = "import sys\nfrom helix_crawl_otel.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
"""What pip installs as `helix-crawl`."""

POISON = "import sys\nopen({ran!r}, 'a').write(__file__ + chr(10))\nraise SystemExit(3)\n"
BY_SCRIPT = [*NAMES, "collections", "functools", "importlib", "runpy", "threading", "types", "warnings"]
"""Those as well where no `-m` is: it imports them itself, on one Python or another."""

IN_WORKER = """
import os, sys
if "helix_crawl_otel.build.worker" in sys.orig_argv:
    open({ran!r}, "a").write(__file__ + chr(10))
    os._exit(3)
"""
"""A `sitecustomize` in a PYTHONPATH that names the current folder is run by every Python before its first line; what a
supervisor starts must not have such a PYTHONPATH any more."""

VARIANTS = {
    "none": "",
    "empty": os.pathsep,
    "dot": f".{os.pathsep}",
    "relative": os.pathsep.join(("lib", f"..{os.sep}source")),
    "trailing": f"{ROOT}{os.pathsep}",
    "absolute": "{source}",
}


QUICK = {("script", "empty"), ("script", "relative"), ("module", "none"), ("module", "absolute")}
STARTS = [
    pytest.param(start, variant, marks=[] if (start, variant) in QUICK else [pytest.mark.slow])
    for start in ("script", "module")
    for variant in VARIANTS
]
"""How the command is started, and what PYTHONPATH holds besides the place of the package."""


def plant(rig: Rig, *names: str, text: str = POISON) -> None:
    """Poison in the source, in a folder of it, and in the output."""
    for folder in (rig.source, rig.source / "lib", rig.out):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / f"{name}.py").write_text(text.format(ran=str(rig.folder / "ran")), encoding="utf-8")


def script(rig: Rig) -> list[str]:
    """The installed command."""
    programs = rig.folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "helix-crawl").write_text(SCRIPT, encoding="utf-8")
    return [sys.executable, str(programs / "helix-crawl")]


def ran(rig: Rig) -> str:
    """Which of the planted files were run."""
    path = rig.folder / "ran"
    return path.read_text() if path.exists() else ""


def variable(rig: Rig, variant: str) -> str:
    """A PYTHONPATH; what finds the package comes last, as the current folder would have to hide it."""
    text = VARIANTS[variant].format(source=rig.source)
    return text if str(ROOT) in text else f"{text}{os.pathsep * bool(text)}{ROOT}"


def run(rig: Rig, command: list[str], **environ: str) -> tuple[int, str]:
    """A command that stands in the source: its exit code, and what it said of errors."""
    variables = {**rig.environ, **environ}
    done = subprocess.run(command, cwd=rig.source, env=variables, capture_output=True, timeout=SECONDS, check=False)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(("start", "variant"), STARTS)
def test_a_build_runs_no_file_of_the_folder_that_it_stands_in(rig: Rig, start: str, variant: str) -> None:
    """Whatever it is called, and whatever PYTHONPATH says of that folder; all shards are made."""
    rig.write_shards(2, 1, 4)
    plant(rig, *(BY_SCRIPT if start == "script" and variant == "none" else NAMES))
    plant(rig, *SITE, text=IN_WORKER)
    command = [*(script(rig) if start == "script" else COMMAND), "build", ".", "--out", str(rig.out), *rig.options]
    code, errors = run(rig, [*command, "--json"], PYTHONPATH=variable(rig, variant))
    assert ran(rig) == ""
    assert code == 0, errors
    told = rig.verify()
    assert (told["code"], told["missing"]) == (0, 0)
    assert told["vectors"] == told["genes"] > 0


def test_a_folder_with_the_name_of_the_package_is_text(rig: Rig) -> None:
    """The worker is of the package that its supervisor is of. (`python -m` itself would take the folder.)"""
    rig.write({"helix_crawl_otel/__init__.py": POISON.format(ran=str(rig.folder / "ran")), "sub/a.txt": "A passage."})
    plant(rig, *SITE)
    command = [*script(rig), "build", ".", "--out", str(rig.out), *rig.options, "--json"]
    code, errors = run(rig, command)
    assert (code, ran(rig)) == (0, ""), errors


@pytest.mark.parametrize("start", ["script", "module"])
def test_the_other_commands_run_no_file_of_the_folder_either(rig: Rig, start: str) -> None:
    """Their late imports too: each is started where the poison lies, with a PYTHONPATH that names that folder."""
    shard = rig.write_shards(2, 3, 40).built().out / "shard-0.db"
    plant(rig, *NAMES)
    helix = script(rig) if start == "script" else COMMAND
    for arguments in (
        ["verify", str(rig.out)],
        ["query", str(rig.out), "gene", "--model", "hashing"],
        ["backfill", str(shard), *rig.options],
        ["doctor", "--json"],
        ["demo", "--help"],
        ["simulate", "--help"],
    ):
        code, errors = run(rig, [*helix, *arguments], PYTHONPATH=variable(rig, "empty"))
        assert ran(rig) == "", arguments
        assert "Traceback" not in errors, arguments
        assert code == 0 or arguments[0] == "doctor", (arguments, errors)


def test_a_checkout_runs_where_it_lies(rig: Rig) -> None:
    """Of the current folder the package alone is taken, by the command and by its worker: not what lies beside it."""
    rig.write_shards(1, 1, 2)
    shutil.copytree(PACKAGE, rig.source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    told = rig.folder / "told"
    worker = rig.source / PACKAGE.name / "build" / "worker.py"
    text = worker.read_text(encoding="utf-8")
    mark = 'if __name__ == "__main__":'
    worker.write_text(text.replace(mark, f"open({str(told)!r}, 'w').write(__file__)\n\n{mark}"), encoding="utf-8")
    plant(rig, *NAMES)
    command = [*COMMAND, "build", str(rig.source / "shard-0"), "--out", str(rig.out), *rig.options, "--json"]
    code, errors = run(rig, command, PYTHONPATH="")
    assert (code, ran(rig)) == (0, ""), errors
    assert Path(told.read_text()).samefile(worker)


DRIVER = """
import json, os, signal, sys
ignored = [str(number) for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN]
print(json.dumps([dict(os.environ), sys.path, os.getcwd(), sys.argv, sys.flags, ignored]), file=open(sys.argv[1], "w"))
"""


@pytest.mark.skipif(not FINDS_PROCESSES, reason="what is left running is looked for")
@pytest.mark.parametrize(
    ("how", "variant"),
    [
        ("module", "empty"),
        ("script", "relative"),
        *(pytest.param("module", variant, marks=pytest.mark.slow) for variant in ("none", "relative")),
        *(pytest.param("script", variant, marks=pytest.mark.slow) for variant in ("none", "empty")),
    ],
)
def test_a_driver_gets_what_it_would_have_got_without_us(rig: Rig, how: str, variant: str) -> None:
    """Its environment but for the channel, its path, folder and arguments; it finds its own modules in its folder."""
    rig.write({"my_job.py": DRIVER})
    told = rig.folder / "told"
    environ = {"PYTHONPATH": variable(rig, variant)}
    driver = [sys.executable, *(["-m", "my_job"] if how == "module" else ["my_job.py"]), str(told)]
    assert run(rig, driver, **environ)[0] == 0
    direct = without_channel(told.read_text())
    told.unlink()
    supervised = [*COMMAND, "run", "--no-metrics", "--state", str(rig.folder / "state"), "--"]
    code, errors = run(rig, [*supervised, *driver], **environ)
    assert code == 0, errors
    assert without_channel(told.read_text()) == direct


def without_channel(text: str) -> list[object]:
    """What a driver has told, without the one variable that is ours."""
    told: list[object] = json.loads(text)
    environ = told[0]
    assert isinstance(environ, dict)
    environ.pop("HELIX_CRAWL_CHANNEL", None)
    return told


@pytest.mark.skipif(sys.platform == "win32", reason="signals that a shell leaves alone are of POSIX")
def test_a_program_of_another_language_gets_the_signals_of_a_shell(rig: Rig) -> None:
    """Python ignores SIGPIPE and SIGXFSZ for itself, and what the launcher becomes would inherit that."""
    command = [*COMMAND, "run", "--no-metrics", "--state", str(rig.folder / "state"), "--json", "--"]
    job = f"yes | head -n 1 > {rig.folder / 'first'}; kill -s PIPE $$; touch {rig.folder / 'survived'}"
    rig.run([*command, "sh", "-c", job, "sh"])
    assert (rig.folder / "first").read_text() == "y\n"
    assert not (rig.folder / "survived").exists()
