"""What importing the package costs, each time in a fresh process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rules.fresh import loaded_by, roots
from tests.rules.tree import PACKAGE, ROOT, python_files

GPU = {"pynvml", "sentence_transformers", "torch"}
METERS = {"opentelemetry", "prometheus_client"}
HEAVY = GPU | METERS | {"asyncio", "concurrent", "matplotlib", "multiprocessing", "numpy", "sqlite3", "subprocess"}

# DESIGN, section 3.4.
PUBLIC = {"Action", "ActionKind", "ActionQueue", "CrawlConfig", "CrawlWatch", "MemoryReading", "PauseRequested"}
PUBLIC |= {"serve_metrics"}

POLICY = ["helix_crawl_otel.policy"] + [
    f"helix_crawl_otel.policy.{path.stem}" for path in python_files(PACKAGE / "policy") if path.stem != "__init__"
]


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """An empty folder for the stand-ins."""
    folder = tmp_path / "decoys"
    folder.mkdir()
    return folder


def test_policy_loads_nothing_heavy(decoys: Path) -> None:
    """The decisions can be tested, replayed and reasoned about without a GPU, a meter or a thread."""
    loaded = loaded_by("; ".join(f"import {name}" for name in POLICY), decoys)
    assert set(POLICY) <= loaded
    assert roots(loaded) & (HEAVY | {"socket", "threading"}) == set()


def test_policy_loads_nothing_else_of_the_package(decoys: Path) -> None:
    """It knows how numbers are written and nothing else; the package's own `__init__` does not bring the rest in."""
    loaded = loaded_by("; ".join(f"import {name}" for name in POLICY), decoys)
    ours = {name for name in loaded if name.startswith("helix_crawl_otel")}
    assert ours == {"helix_crawl_otel", "helix_crawl_otel.formats", *POLICY}


def test_package_gives_its_public_names_lazily(decoys: Path) -> None:
    """`import helix_crawl_otel` runs before every submodule, so it must cost next to nothing (PEP 562)."""
    assert roots(loaded_by("import helix_crawl_otel", decoys)) & HEAVY == set()


@pytest.mark.parametrize("name", ["CrawlConfig", "ActionQueue", "MemoryReading"])
def test_plain_public_names_need_no_meter(decoys: Path, name: str) -> None:
    """Reading the knobs or the queue's types loads no opentelemetry."""
    assert roots(loaded_by(f"from helix_crawl_otel import {name}", decoys)) & (GPU | METERS) == set()


def test_watch_loads_no_torch(decoys: Path) -> None:
    """A job on the CPU, or a supervisor, gets no CUDA context from watching: probes load late."""
    assert roots(loaded_by("from helix_crawl_otel import CrawlWatch", decoys)) & GPU == set()


def test_command_line_loads_no_torch(decoys: Path) -> None:
    """`helix-crawl --help` is quick, and the parent of a worker never holds a CUDA context."""
    statement = "from helix_crawl_otel import cli; cli._parser()"
    assert roots(loaded_by(statement, decoys)) & (GPU | {"matplotlib", "numpy"}) == set()


SLOW = {"asyncio", "concurrent", "email", "filelock", "http", "rich", "ssl"}
"""Of what is not needed to begin, what is slow to import."""


@pytest.mark.parametrize(
    ("arguments", "more", "of_ours"),
    [
        (
            ["--version"],
            {"logging", "pathlib", "sqlite3", "subprocess"},
            {"_version", "cli", "exit_codes", "import_path"},
        ),
        (["verify", "nowhere"], {"subprocess"}, {"commands", "shards"}),
        (["verify", "--help"], {"subprocess"}, {"commands", "shards"}),
        (["query", "nowhere", "x"], {"subprocess"}, {"commands", "shards", "encoders"}),
        (["simulate", "--list"], {"sqlite3"}, {"commands", "simulate"}),
    ],
    ids=["version", "verify", "help", "query", "simulate"],
)
def test_a_command_loads_what_it_needs_itself(
    decoys: Path, arguments: list[str], more: set[str], of_ours: set[str]
) -> None:
    """The other commands, and what they need, are not imported: a script calls these in a loop."""
    statement = (
        "from contextlib import redirect_stderr, redirect_stdout, suppress; from io import StringIO\n"
        "from helix_crawl_otel import cli\n"
        "with suppress(SystemExit), redirect_stdout(StringIO()), redirect_stderr(StringIO()):\n"
        f"    cli.main({arguments})"
    )
    loaded = loaded_by(statement, decoys)
    assert roots(loaded) & (HEAVY - {"sqlite3", "subprocess"} | SLOW | more) == set()
    parts = {name.split(".")[1] for name in loaded if name.count(".") and name.startswith("helix_crawl_otel.")}
    assert parts >= of_ours
    assert parts & {"build", "console", "doctor", "otel", "replay", "report", "supervise", "watch"} == set()
    assert len([name for name in loaded if name.startswith("helix_crawl_otel.commands.")]) <= 2


def test_a_worker_loads_no_meter(decoys: Path) -> None:
    """Each of them starts as quickly as it can: what is measured is measured by the supervisor."""
    loaded = loaded_by("import helix_crawl_otel.build.worker", decoys)
    assert roots(loaded) & (GPU | METERS | SLOW | {"matplotlib", "numpy", "psutil"}) == set()
    parts = {name.split(".")[1] for name in loaded if name.startswith("helix_crawl_otel.")}
    assert parts & {"commands", "console", "otel", "replay", "report", "simulate", "supervise", "timeline"} == set()


def test_a_supervisor_loads_no_terminal_no_server_and_no_tls(decoys: Path) -> None:
    """They are imported by the run that shows bars, serves metrics or tells somebody of its end."""
    loaded = loaded_by("import helix_crawl_otel.build.run", decoys)
    assert (
        roots(loaded) & (GPU | {"http", "matplotlib", "numpy", "prometheus_client", "rich", "ssl", "wsgiref"}) == set()
    )


def test_nothing_is_imported_before_the_current_folder_has_left_the_path(decoys: Path) -> None:
    """What the command imports first is its own, or what Python has loaded by itself, `os` and `io` for two."""
    loaded = loaded_by("import helix_crawl_otel.cli", decoys)
    own = {"_version", "cli", "exit_codes", "import_path"}
    assert loaded == {"helix_crawl_otel", *(f"helix_crawl_otel.{name}" for name in own)}


def test_every_public_name_can_be_had() -> None:
    """What `__all__` and `dir()` promise exists: a lazy table can name what is not there."""
    import helix_crawl_otel

    names = helix_crawl_otel.__all__
    assert set(names) >= PUBLIC
    assert set(names) <= set(dir(helix_crawl_otel))
    assert [name for name in names if getattr(helix_crawl_otel, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(helix_crawl_otel, "no_such_" + "name")


@pytest.mark.parametrize(
    "body",
    ["import torch", "def f():\n    import torch\nf()", "try:\n    import torch\nexcept ImportError:\n    pass"],
    ids=["plain", "late-but-called", "tolerant"],
)
def test_a_heavy_import_is_found(decoys: Path, tmp_path: Path, body: str) -> None:
    """The probe of these tests sees an import, however it is written, with torch installed or not."""
    sample = tmp_path / "sample_package"
    sample.mkdir()
    (sample / "__init__.py").write_text(body + "\n")
    (sample / "core.py").write_text("")
    assert "torch" in roots(loaded_by("import sample_package.core", decoys, path=(tmp_path, ROOT)))
