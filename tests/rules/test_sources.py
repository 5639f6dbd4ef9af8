"""Rules about the source text. Each is shown by a bad sample to be able to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rules.checks import (
    dangerous_calls,
    environment_readers,
    forbidden_imports,
    hand_made_units,
    html_makers,
    imports_at_collection,
    log_prefixes,
    machine_traces,
    print_calls,
    unreasoned_skips,
    unreasoned_suppressions,
    unsafe_starts,
)
from tests.rules.tree import PACKAGE, ROOT, kept_files, name_of, python_files

IMPURE = {"asyncio", "concurrent", "datetime", "multiprocessing", "os", "pathlib", "random", "secrets", "socket"} | {
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "uuid",
}
HEAVY = {"numpy", "opentelemetry", "prometheus_client", "pynvml", "torch"}
SLOW_TO_IMPORT = {
    "FlagEmbedding",
    "accelerate",
    "boto3",
    "datasets",
    "matplotlib",
    "moto",
    "playwright",
    "ray",
    "scipy",
} | {
    "sentence_transformers",
    "sklearn",
    "torch",
    "transformers",
}

# What writes to stdout or stderr: what all commands print with, and programs that the supervisor starts.
PRINTS = {
    "build/worker.py",
    "commands/common.py",
    "link/launch.py",
}

Check = Callable[[str], list[str]]


def policy_imports(source: str) -> list[str]:
    """The imports that the policy may not have."""
    return forbidden_imports(source, IMPURE | HEAVY)


def findings(check: Check, paths: list[Path]) -> list[str]:
    """Apply a check to files and name the file in each finding."""
    assert paths, "a rule that looks at no file holds for no reason"
    return [f"{name_of(path)}: {found}" for path in paths for found in check(path.read_text(encoding="utf-8"))]


def test_policy_imports_neither_clock_nor_environment_nor_thread() -> None:
    """Decisions are pure: numbers in, values out (DESIGN, section 9)."""
    assert findings(policy_imports, python_files(PACKAGE / "policy")) == []


def test_only_config_reads_the_environment() -> None:
    """The environment is one seam: everybody else takes a mapping or a value."""
    others = [path for path in python_files(PACKAGE) if path != PACKAGE / "config.py"]
    assert findings(environment_readers, others) == []


def test_package_neither_unpickles_nor_starts_a_shell_nor_forks() -> None:
    """State files are data, commands are lists, and a fork after CUDA has started is broken."""
    found = findings(dangerous_calls, python_files(PACKAGE))
    # The launcher is a process by itself, with nothing loaded and no other thread, and forks on POSIX only.
    assert [one for one in found if not ("link/launch.py" in one and one.endswith("calls os.fork"))] == []


def test_no_python_is_started_that_looks_into_the_current_folder() -> None:
    """A file in it would be imported in the place of a library; `link/start.py` is the way for a worker."""
    assert findings(unsafe_starts, python_files(PACKAGE)) == []


def test_one_place_prints() -> None:
    """A library inside somebody's job logs; and what a command shows goes through one function before it is shown."""
    programs = {PACKAGE / name for name in PRINTS}
    assert findings(print_calls, [path for path in python_files(PACKAGE) if path not in programs]) == []


def test_one_place_writes_for_a_page() -> None:
    """A timeline may be anybody's."""
    assert findings(html_makers, [path for path in python_files(PACKAGE) if path != PACKAGE / "formats.py"]) == []


def test_only_logs_knows_the_prefix() -> None:
    """People grep for it: one place says what it is, and which lines have it."""
    assert findings(log_prefixes, [path for path in python_files(PACKAGE) if path != PACKAGE / "logs.py"]) == []


def test_only_formats_writes_units() -> None:
    """A time or a size looks the same wherever it is shown."""
    assert findings(hand_made_units, [path for path in python_files(PACKAGE) if path != PACKAGE / "formats.py"]) == []


def test_every_suppression_names_its_rule_and_its_reason() -> None:
    """A silenced check is a decision that the next reader can judge."""
    paths = [*python_files(PACKAGE), *python_files(ROOT / "dashboards"), *python_files(ROOT / "tests")]
    assert findings(unreasoned_suppressions, paths) == []


def test_every_skip_has_a_reason() -> None:
    """Whoever reads the summary knows what was left out and why."""
    assert findings(unreasoned_skips, python_files(ROOT / "tests")) == []


def heavy_at_collection(source: str) -> list[str]:
    """What no file of the tests may import as it is read."""
    return imports_at_collection(source, SLOW_TO_IMPORT)


def test_what_is_slow_to_import_is_imported_by_the_tests_that_need_it() -> None:
    """`find_spec` and `require_installed` look without importing. One import of sentence-transformers cost every
    process of every run eight seconds of the processor."""
    assert findings(heavy_at_collection, python_files(ROOT / "tests")) == []


def test_no_file_names_a_machine_or_a_registry() -> None:
    """The tree works anywhere: no path of one machine, no host of a package registry."""
    found = []
    for path in kept_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture
            continue
        # The bad samples of this file break the rule on purpose.
        if path != Path(__file__).resolve():
            found += [f"{name_of(path)}: {trace}" for trace in machine_traces(text)]
    assert found == []


BAD = [
    (policy_imports, "import time"),
    (policy_imports, "import os.path as p"),
    (policy_imports, "from datetime import timedelta"),
    (policy_imports, "def f():\n    import torch"),
    (policy_imports, "import importlib\nimportlib.import_module('opentelemetry.metrics')"),
    (environment_readers, "import os\nx = os.environ['A']"),
    (environment_readers, "import os as system\nx = system.getenv('A')"),
    (environment_readers, "from os import environ"),
    (dangerous_calls, "import pickle"),
    (dangerous_calls, "from shelve import open"),
    (dangerous_calls, "import subprocess\nsubprocess.run('ls', shell=True)"),
    (dangerous_calls, "import subprocess\nsubprocess.run('ls', shell=flag)"),
    (dangerous_calls, "import os\nos.fork()"),
    (dangerous_calls, "from os import fork"),
    (unsafe_starts, "argv = [python, '-m', 'helix_crawl_otel.build.worker']"),
    (unsafe_starts, "subprocess.run([sys.executable, '-c', 'pass'])"),
    (log_prefixes, "logger.info('[crawl-watchdog] x')"),
    (log_prefixes, "x = f'[crawl-watchdog] {y}'"),
    (hand_made_units, "x = f'{a / GIB:.1f} GiB free'"),
    (hand_made_units, "x = f'{a:.2f}GiB'"),
    (hand_made_units, "x = f'for {t - since:.0f} s, and'"),
    (html_makers, "from html import escape"),
    (html_makers, "import html"),
    (print_calls, "def f():\n    print('x')"),
    (heavy_at_collection, "import pytest\nx = pytest.importorskip('torch', reason='x')"),
    (heavy_at_collection, "for name in names:\n    import sklearn.base"),
    (heavy_at_collection, "require_module('moto', 'moto[server]')"),
    (heavy_at_collection, "class A:\n    from ray import train"),
    (unreasoned_skips, "import pytest\npytest.skip()"),
    (unreasoned_skips, "import pytest\npytest.skip('  ')"),
    (unreasoned_skips, "import pytest\n@pytest.mark.skip\ndef test_a(): ..."),
    (unreasoned_skips, "import pytest\n@pytest.mark.skip()\ndef test_a(): ..."),
    (unreasoned_skips, "import pytest\n@pytest.mark.skipif(True)\ndef test_a(): ..."),
    (unreasoned_skips, "import pytest\n@pytest.mark.xfail(raises=OSError)\ndef test_a(): ..."),
    (unreasoned_skips, "import pytest\npytest.importorskip('torch')"),
    (unreasoned_suppressions, "x = 1  # noqa"),
    (unreasoned_suppressions, "x = 1  # noqa: E501"),
    (unreasoned_suppressions, "x = 1  # type: ignore"),
    (unreasoned_suppressions, "x = 1  # type: ignore[attr-defined]"),
    (unreasoned_suppressions, "x = 1  # type: ignore  # it is fine"),
    (machine_traces, "python /opt/venv/bin/thing"),
    (machine_traces, "see /work/main/README.md"),
    (machine_traces, "cd /home/ada/src"),
    (machine_traces, r"C:\Users\ada"),
    (machine_traces, "pip install -i https://pypi.org/simple thing"),
]

GOOD = [
    (policy_imports, "import math\nfrom dataclasses import dataclass\nfrom helix_crawl_otel.policy import model"),
    (environment_readers, "def f(environ):\n    return environ['A'], self.environ"),
    (dangerous_calls, "import os, subprocess\nsubprocess.run(['ls'], shell=False)\nos.register_at_fork(before=f)"),
    (unsafe_starts, "argv = [python, '-I', '-S', str(path)]\nhelp = 'start it with -m'"),
    (log_prefixes, 'def f():\n    """Says `[crawl-watchdog]`."""\n    watchdog.info(\'x\')'),
    (hand_made_units, "x = f'{a:.1f} genes/s, {gib(b)} free, {count:,} shards, {x:.0f} B/s, {y:.1f}'"),
    (html_makers, "from html.parser import HTMLParser"),
    (print_calls, "log.info('print(x)')\nself.print(x)"),
    (
        heavy_at_collection,
        "def f():\n    import torch\nif TYPE_CHECKING:\n    import torch\nrequire_installed('torch', 'x')",
    ),
    (unreasoned_skips, "import pytest\npytest.skip('no card')\npytest.skip(reason=f'{x}')\nselector.skip()"),
    (unreasoned_skips, "import pytest\n@pytest.mark.skipif(a, reason='no cgroup v2 here')\ndef test_a(): ..."),
    (unreasoned_skips, "import pytest\npytest.importorskip('torch', reason='needs the real allocator')"),
    (unreasoned_suppressions, "x = 1  # noqa: BLE001, E501 - the driver goes on"),
    (unreasoned_suppressions, "x = 1  # type: ignore[attr-defined]  # pynvml is untyped"),
    (machine_traces, "/sys/fs/cgroup/memory.max and /proc/self/cgroup and ./work/x and /home/you/job.py"),
]


@pytest.mark.parametrize(("check", "source"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_bad_sample_is_found(check: Check, source: str) -> None:
    """Each rule can fail."""
    assert check(source)


@pytest.mark.parametrize(("check", "source"), GOOD, ids=lambda value: getattr(value, "__name__", None))
def test_good_sample_passes(check: Check, source: str) -> None:
    """No rule cries wolf at its neighbours."""
    assert check(source) == []
