"""The how-to pages run as written: files are saved, commands typed in order, in a folder of the page's own.

A mark before a block says what is special about it: `<!-- exit N -->` an exit code other than 0,
`<!-- not run: WHY -->` that it cannot run here, `<!-- from NAME -->` that it is a part of that example, which stands
in the reader's folder. Blocks `python file=NAME` are saved, also when no command follows.

`~/notes` is a small tree, `~/genomes/app.db` a shard without vectors that has a column of the app's own,
`~/helix/genomes` the app's layout with a half-done backfill of its own. A `build`,
`backfill` or `query` that names no model gets the `hashing` encoder, since the tests have no weights.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands.genome import write_genome, write_routing
from tests.docs.blocks import subcommands
from tests.docs.pages import Page
from tests.programs import require_program
from tests.rules.tree import ROOT

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
SERVERS = {"see-it-in-grafana"}
"""Pages whose commands serve until somebody ends them: not for this test."""
OF_THE_APP = DOCS / "operations-for-helix.md"
PAGES = [*sorted(path for path in (DOCS / "how-to").glob("*.md") if path.stem not in SERVERS), OF_THE_APP]
NOT_RUN = {
    "build-your-files": 3,
    "choose-a-device": 4,
    "export-metrics": 3,
    "operations-for-helix": 3,
    "resume-and-verify": 1,
    "several-machines": 8,
    "supervise-your-own-job": 1,
    "watch-a-job-without-code": 2,
}
"""How many blocks of a page cannot run here; a page that is not named has none."""

WORDS = ("sh", "powershell", "python", "text", "mermaid")

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]+?) -->\n)?^```(?P<language>\w+)(?: file=(?P<file>\S+))?\n(?P<content>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

INSTRUMENT = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"

COMMAND = """\
#!/bin/sh
# A model is named where the page names none.
case "$1" in
build | backfill | query)
    case " $* " in *" --model "*) ;; *) name=$1; shift; set -- "$name" --model hashing "$@" ;; esac ;;
esac
exec "{python}" -m helix_crawl_otel "$@"
"""


class Block(NamedTuple):
    """A fenced block of a page, with the mark before it and the file that it is saved as."""

    mark: str
    language: str
    file: str
    content: str


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = BLOCK.finditer(path.read_text(encoding="utf-8"))
    return [Block(*(each[name] or "" for name in ("mark", "language", "file", "content"))) for each in found]


def by_name(path: Path) -> str:
    """A page's name as the tests show it."""
    return path.stem


def home(folder: Path) -> Path:
    """A home folder with `notes`, `genomes/app.db` and `helix/genomes`."""
    for name, text in {
        "notes/readme.md": "Read me first.\n",
        "notes/recipes/pasta.md": "Boil the water.\n\nAdd the pasta.\n",
        "notes/travel/basel.md": "The train to Basel leaves at nine.\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "notes/travel/photo.jpg").write_bytes(b"\0\1\2")
    (folder / "genomes").mkdir()
    with closing(sqlite3.connect(folder / "genomes/app.db")) as shard, shard:
        shard.execute("CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, promoter TEXT)")
        rows = [(f"g{n}", f"passage number {n}", "of the app") for n in range(100)]
        shard.executemany("INSERT INTO genes VALUES (?, ?, ?)", rows)
    (folder / "helix/genomes/main").mkdir(parents=True)
    write_genome(folder / "helix/genomes/main/genome.db", encoded=20)
    write_routing(folder / "helix/genomes/main.genome.db")
    return folder


def fill_examples(work: Path) -> None:
    """What the recipes encode: a queue, and a folder of shards."""
    (work / "shards").mkdir()
    (work / "notes").mkdir()
    (work / "notes/one.md").write_text("A paragraph.\n\nAnother one.\n", encoding="utf-8")
    for name in ("ingest.db", "shards/one.db", "shards/two.db"):
        with closing(sqlite3.connect(work / name)) as store, store:
            table = "queue (id INTEGER PRIMARY KEY AUTOINCREMENT," if name == "ingest.db" else "genes ("
            store.execute(f"CREATE TABLE {table} gene_id TEXT NOT NULL, content TEXT NOT NULL)")
            into = table.partition(" ")[0]
            rows = [(f"g{n}", f"passage number {n}") for n in range(100)]
            store.executemany(f"INSERT INTO {into} (gene_id, content) VALUES (?, ?)", rows)


def environment(folder: Path) -> dict[str, str]:
    """Of the page's reader: no knobs, `helix-crawl`, `python` and another program on PATH, a home of its own."""
    programs = folder / "programs"
    programs.mkdir()
    for name, text in {
        "helix-crawl": COMMAND.format(python=sys.executable),
        "opentelemetry-instrument": f'#!/bin/sh\nexec "{sys.executable}" -c "{INSTRUMENT}" "$@"\n',
        "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
    }.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "HELIX_", "BGEM3_"))}
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    nobody_listens = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}  # no collector is there, and none is waited for
    return {**kept, **nobody_listens, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(home(folder / "home"))}


def typed(content: str, folder: Path, environ: dict[str, str]) -> tuple[int, str]:
    """Type a block. Returns its exit code and what it printed; what hangs is ended with all that it started."""
    process = subprocess.Popen(
        [require_program("bash"), "-e", "-o", "pipefail", "-c", content],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        return -signal.SIGKILL, output
    return process.returncode, output


def test_there_are_pages() -> None:
    """An empty list would pass the tests below."""
    assert {path.stem for path in PAGES} >= {"build-your-files", "supervise-your-own-job", *NOT_RUN}


@pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for a POSIX shell")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_the_page_runs_as_written(path: Path, tmp_path: Path) -> None:
    """Each `sh` block ends with the exit code that the page promises."""
    environ = environment(tmp_path)
    work = tmp_path / "work"
    shutil.copytree(EXAMPLES, work, ignore=shutil.ignore_patterns("__pycache__"))
    fill_examples(work)
    for block in blocks(path):
        if block.file:
            (work / block.file).write_text(block.content, encoding="utf-8")
        if block.language != "sh" or block.mark.startswith("not run: "):
            continue
        expected = int(block.mark.removeprefix("exit ")) if block.mark.startswith("exit ") else 0
        code, output = typed(block.content, work, environ)
        assert code == expected, f"{block.content}\n{output}"


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_marks_are_known_and_counted(path: Path) -> None:
    """A block is left out only with a reason, and no more of them than is written down here."""
    found = blocks(path)
    assert {block.language for block in found} <= set(WORDS)
    for block in found:
        assert block.mark == "" or re.fullmatch(r"exit \d+|not run: .{10,}|from \w+\.py", block.mark), block.mark
    left_out = [block for block in found if block.mark.startswith("not run: ")]
    assert len(left_out) == NOT_RUN.get(path.stem, 0)


def is_part(content: str, text: str) -> bool:
    """Whether lines of a text are these, but for how far all of them are indented."""
    lines, count = text.splitlines(keepends=True), content.count("\n")
    return any(textwrap.dedent("".join(lines[n : n + count])) == content for n in range(len(lines) - count + 1))


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_parts_of_examples_are_as_the_examples_have_them(path: Path) -> None:
    """What a page shows of a driver is what runs."""
    for block in blocks(path):
        if block.mark.startswith("from "):
            name = block.mark.removeprefix("from ")
            assert is_part(block.content, (EXAMPLES / name).read_text(encoding="utf-8")), f"{name}\n{block.content}"


def test_each_recipe_shows_its_driver() -> None:
    """The check above has something to check, and can fail."""
    marks = [block.mark for block in blocks(DOCS / "how-to/supervise-your-own-job.md")]
    assert {f"from {path.name}" for path in EXAMPLES.glob("*.py") if path.stem != "minimal"} <= set(marks)
    assert is_part("if a:\n    b\n", "x\n    if a:\n        b\n")
    assert not is_part("if a:\n    c\n", "x\n    if a:\n        b\n")


def options_named(block: Block) -> set[tuple[str, str]]:
    """Command and option of each `helix-crawl` line: what stands after ` -- ` is somebody else's."""
    lines = re.sub(r"\\\n|`\n", " ", block.content).splitlines()
    calls = [re.search(r"helix-crawl (\w+)(.*)", line) for line in lines if "helix-crawl" in line]
    return {
        (call[1], option)
        for call in calls
        if call
        for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", re.split(r" -- |[|#]", call[2])[0])
    }


@pytest.mark.parametrize("path", PAGES, ids=by_name)
def test_options_exist(path: Path) -> None:
    """Also in blocks that are not run, and in those for PowerShell."""
    for block in blocks(path):
        for command, option in options_named(block) if block.language in ("sh", "powershell") else ():
            assert option in subcommands()[command]._option_string_actions, f"{command} {option}"


def test_a_wrong_option_would_be_found() -> None:
    """The check above can fail."""
    block = Block("", "sh", "", "helix-crawl build a --out b --colour red\nhelix-crawl run --state s -- job --own x\n")
    assert options_named(block) == {("build", "--out"), ("build", "--colour"), ("run", "--state")}


PROSE = [*PAGES, *sorted((DOCS / "explanation").glob("*.md")), DOCS / "index.md", DOCS / "tutorial.md"]


@pytest.mark.parametrize("path", PROSE, ids=by_name)
def test_links_lead_somewhere(path: Path) -> None:
    """File and heading."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        assert not anchor or anchor in Page(there).anchors(), f"{target}#{anchor}"


def test_the_index_names_every_page() -> None:
    """A new page is in the index before it lands."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [OF_THE_APP, *DOCS.glob("how-to/*.md"), *DOCS.glob("explanation/*.md"), *DOCS.glob("reference/*.md")]
    assert [page.name for page in pages if f"({page.relative_to(DOCS).as_posix()})" not in index] == []
