"""The reference says what the code does: nothing is left out, nothing is invented, the generated parts are current."""

from __future__ import annotations

import inspect
import re
import shlex
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest

import helix_crawl_otel
from helix_crawl_otel import exit_codes
from helix_crawl_otel.config import KNOBS, OTHER_VARIABLES
from helix_crawl_otel.policy.instruments import INSTRUMENTS, Kind
from helix_crawl_otel.simulate.compare import Row
from helix_crawl_otel.watch.shard import ShardWatch
from tests.docs import blocks
from tests.docs.generate import BLOCKS, REFERENCE, rewritten
from tests.docs.pages import Page, page
from tests.rules.tree import ROOT

PAGES = ("commands", "faults", "files", "instruments", "knobs", "python", "timeline")
EVERY_PAGE = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


OF_THE_APP = {"CYMATIX_DEVICE", "CYMATIX_DENSE_MATRIX_DTYPE", "CYMATIX_ENCODER_URL"}
OF_THE_APP |= {"CYMATIX_BFM_DENSE_BACKFILL", "CYMATIX_SHARE_DENSE_CODEC", "CYMATIX_MEM_PROFILE"}
OF_THE_APP |= {"CYMATIX_SQLITE_CACHE_SIZE"}
"""Variables that the application reads, and that pages for its operators speak of."""


def by_name(path: Path) -> str:
    """Id of a test."""
    return path.relative_to(ROOT).as_posix()


# -- the generated parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_generated_parts_are_current(name: str) -> None:
    """Committed text and code agree; `python -m tests.docs.generate` makes them."""
    found = page(name).text
    assert found == rewritten(found), f"docs/reference/{name}.md: run python -m tests.docs.generate"


def test_every_generated_part_stands_on_one_page() -> None:
    """A mark that was deleted by mistake would take its table with it."""
    marks = [mark for name in PAGES for mark in re.findall(r"<!-- begin (.+?) -->", page(name).text)]
    assert sorted(marks) == sorted(BLOCKS)


def test_an_altered_part_is_noticed() -> None:
    """The comparison can fail."""
    found = page("knobs").text
    assert rewritten(found.replace("| `5` |", "| `6` |")) != found.replace("| `5` |", "| `6` |")


def test_the_reference_has_no_other_pages() -> None:
    """A page that no test looks at would go stale."""
    assert {path.stem for path in REFERENCE.glob("*.md")} == set(PAGES)


# -- knobs, instruments: the same names on every page -----------------------------------------------------------------


@pytest.mark.parametrize("path", EVERY_PAGE, ids=by_name)
def test_variables_in_the_docs_exist(path: Path) -> None:
    """No page names a variable that nothing reads."""
    known = {name for row in KNOBS for name in (row.variable, *row.aliases)} | OF_THE_APP
    assert Page(path).words(r"\b(?:HELIX_BFM|HELIX_DENSE|CYMATIX|BGEM3)_[A-Z_]+[A-Z]\b") <= known


def test_every_knob_is_documented() -> None:
    """Variable, option and alias; and what is a variable of ours and no knob."""
    text = page("knobs").text
    assert [name for name in OTHER_VARIABLES if f"`{name}`" not in text] == []
    assert [name for row in KNOBS for name in (row.variable, row.option, *row.aliases) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("path", EVERY_PAGE, ids=by_name)
def test_metrics_in_the_docs_exist(path: Path) -> None:
    """No page names an instrument that nothing records, under either of its names."""
    known = {name for row in INSTRUMENTS for name in (row.name, row.prometheus_name)}
    for row in INSTRUMENTS:
        if row.kind is Kind.HISTOGRAM:
            known |= {f"{row.prometheus_name}_{part}" for part in ("bucket", "sum", "count")}
    assert Page(path).words(r"\bhelix_dense_[a-z_]*[a-z]\b") <= known


# -- Python -----------------------------------------------------------------------------------------------------------


def test_every_exported_name_has_a_section() -> None:
    """And no section is about something else; `ShardWatch` is what `watch.shard` returns."""
    sections = {name for name in page("python").headings(2) if " " not in name}
    assert sections == {*helix_crawl_otel.__all__, "ShardWatch"} - {"__version__"}


@pytest.mark.parametrize(
    ("under", "first", "documented"),
    [
        ("CrawlWatch", "argument", [helix_crawl_otel.CrawlWatch, helix_crawl_otel.CrawlWatch.shard]),
        ("query", "argument", [helix_crawl_otel.query]),
        ("Index", "argument", [helix_crawl_otel.Index]),
    ],
)
def test_arguments_are_documented(under: str, first: str, documented: list[object]) -> None:
    """Each argument of the watch and of a shard, in the order of the signature."""
    tables = [table for table in page("python").tables() if table.under == under and table.headings[0] == first]
    for table, thing in zip(tables, documented, strict=True):
        names = [name for name in inspect.signature(thing).parameters if name != "self"]  # type: ignore[arg-type]  # both are callable
        assert table.column(first) == names


@pytest.mark.parametrize(
    "kind", [ShardWatch, helix_crawl_otel.ActionQueue, helix_crawl_otel.Index], ids=lambda kind: str(kind.__name__)
)
def test_methods_are_documented(kind: type) -> None:
    """Each method a driver may call."""
    shown = [name for name in blocks.members(kind) if name not in blocks.INTERNAL.get(kind.__name__, ())]
    assert page("python").table(kind.__name__, "method").column("method") == shown


@pytest.mark.parametrize(
    "kind",
    [helix_crawl_otel.Outcome, helix_crawl_otel.Verdict, helix_crawl_otel.SourceState],
    ids=lambda kind: kind.__name__,
)
def test_values_are_documented(kind: type[Enum]) -> None:
    """Each member of an enumeration, in its order."""
    assert page("python").table(kind.__name__, "value").column("value") == [member.value for member in kind]


def test_actions_are_documented() -> None:
    """What each does at the boundary."""
    kinds = [kind.value for kind in helix_crawl_otel.ActionKind]
    assert page("python").table("ActionKind", "action").column("action") == kinds


def test_evidence_is_documented() -> None:
    """Each number that an action carries is named in its section."""
    from helix_crawl_otel.replay.engine import replay
    from tests.docs.test_timeline_page import crawling_job

    evidence = replay(crawling_job(), helix_crawl_otel.CrawlConfig()).issued()[0].evidence
    section = page("python").text.partition("\n## Action\n")[2].partition("\n## ")[0]
    assert [key for key in evidence if f"`{key}`" not in section] == []


def test_exit_codes_of_a_worker_are_documented() -> None:
    """75 and 79, and nothing else."""
    codes = {str(exit_codes.PAUSED), str(exit_codes.DEMOTED)}
    assert set(page("python").table("PauseRequested", "exit code").column("exit code")) == codes


# -- commands ---------------------------------------------------------------------------------------------------------


def test_every_command_has_a_section_and_options() -> None:
    """A new command is documented before it lands."""
    assert page("commands").headings(2)[1:] == list(blocks.subcommands())
    assert list(blocks.OPTIONS) == list(blocks.subcommands())


def test_options_in_the_reference_exist() -> None:
    """No page of the reference names an option that no command has."""
    known = {row.option for row in KNOBS} | {"--version", "--help"}
    known |= {name for parser in blocks.subcommands().values() for name in parser._option_string_actions}
    for name in PAGES:
        assert page(name).words(r"(?<![\w<!-])--[a-z][a-z-]*[a-z]\b") <= known


def test_exit_codes_of_the_commands_are_documented() -> None:
    """Those that the command line knows."""
    known = {name: getattr(exit_codes, name) for name in exit_codes.__all__ if name not in ("DEMOTED", "Refusal")}
    codes = {str(code) for code in known.values()}
    assert set(page("commands").table("Exit codes", "code").column("code")) == codes
    assert (
        set(re.findall(r"^  (\d+) ", (blocks.parser().epilog or "").partition("exit codes:")[2], re.MULTILINE)) == codes
    )


@pytest.mark.parametrize("name", list(blocks.subcommands()))
def test_help_of_a_command_names_exit_codes_that_are_documented(name: str) -> None:
    """A command's own list is a part of the page's."""
    known = set(page("commands").table("Exit codes", "code").column("code"))
    epilog = blocks.subcommands()[name].epilog or ""
    listed = epilog.partition("exit codes:")[2]
    assert set(re.findall(r"(?:^|[;,]) ?(\d+) ", listed.replace("\n", " "))) <= known


def test_keys_of_a_query_are_documented() -> None:
    """In any order: an object has none."""
    keys = page("commands").table("query", "key of `query`").column("key of `query`")
    assert set(keys) == {"gene_id", "source_id", "content", "score", "line", "state"}


@pytest.mark.parametrize("name", ["commands", "faults"])
def test_examples_with_a_prompt_are_accepted(name: str) -> None:
    """They need a model or a folder that only the reader has: the parser takes them, and they are of every command."""
    examples = [line for block in page(name).fenced("console") for line in block.splitlines()]
    for example in examples:
        prompt, program, *words = shlex.split(example)
        assert (prompt, program) == ("$", "helix-crawl")
        blocks.parser().parse_args(words)
    if name == "commands":
        assert {line.split()[2] for line in examples} == set(blocks.subcommands()) - {"replay", "simulate"}


def test_the_rows_of_simulate_are_documented() -> None:
    """Each key of `--json`."""
    drawn = Row("scenario", "policy", None, None, None, 0, 0, 7, "files", 0.0)
    row = replace(drawn, draws=(drawn,))
    assert page("commands").table("simulate", "key").column("key") == list(row.as_json())


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [*(REFERENCE / f"{name}.md" for name in PAGES), ROOT / "docs" / "benchmarks.md"], ids=by_name
)
def test_links_lead_somewhere(path: Path) -> None:
    """File and heading."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", path.read_text(encoding="utf-8")):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        assert not anchor or anchor in Page(there).anchors(), f"{target}#{anchor}"
