"""Somebody who has never seen the code finds any file in ten seconds: no folder is crowded, no part is torn off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rules.house import House
from tests.rules.tree import PACKAGE

MOST_MODULES = 20
"""In one folder."""

SMALL_LINES = 60

TORN_OFF_FOR_A_REASON: dict[str, str] = {
    "helix_crawl_otel.instrument.instrumentor": "an entry point: opentelemetry-instrument loads it by its name",
}
"""Small modules that one other imports, and why they stand alone."""


@pytest.fixture(scope="module")
def house() -> House:
    """The package as it is."""
    return House(PACKAGE)


def test_no_folder_is_crowded(house: House) -> None:
    """Whoever opens one sees all of it. The counts are printed (`pytest -s`)."""
    rooms = house.rooms()
    for folder, count in sorted(rooms.items()):
        print(f"{folder}: {count} modules")
    print(f"all: {sum(rooms.values())} modules, {len(house.modules)} with the folders' own, {house.lines()} lines")
    assert {folder: count for folder, count in rooms.items() if count > MOST_MODULES} == {}


def test_no_modules_import_each_other(house: House) -> None:
    """Not for the type checker either: who reads one need not read the other first."""
    assert house.circles() == []


def test_a_class_has_its_name_alone(house: House) -> None:
    """So that a name in a log, an issue or a docstring means one thing."""
    assert house.classes_twice() == {}


def test_no_part_is_torn_off(house: House) -> None:
    """A small module that one other imports belongs there, unless it is listed with a reason."""
    found = house.torn_off(SMALL_LINES)
    assert {name: user for name, user in found.items() if name not in TORN_OFF_FOR_A_REASON} == {}
    assert [name for name in TORN_OFF_FOR_A_REASON if name not in found] == [], "no longer needed in the list"


def test_no_run_of_lines_stands_twice(house: House) -> None:
    """More than ten in a row are a function that is not yet one."""
    assert house.runs_twice() == []


# -- the rules can fail -----------------------------------------------------------------------------------------------


def make(folder: Path, **files: str) -> House:
    """A package of these modules; `a__b` is module b of folder a."""
    package = folder / "helix_crawl_otel"
    for name, source in {"__init__": "", **files}.items():
        path = package.joinpath(*name.split("__")) if "__init__" not in name else package / "__init__"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(source, encoding="utf-8")
    return House(package)


def test_a_crowded_folder_is_found(tmp_path: Path) -> None:
    """By its count."""
    found = make(tmp_path, **{f"a__m{n}": "" for n in range(21)}, b="").rooms()
    assert found[str(Path("helix_crawl_otel", "a"))] == 21


def test_a_circle_is_found(tmp_path: Path) -> None:
    """By way of a third one, late, and for types only."""
    found = make(
        tmp_path,
        one="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from helix_crawl_otel.two import f",
        two="def f():\n    from helix_crawl_otel import three",
        three="import helix_crawl_otel.one",
        four="import helix_crawl_otel.one",
    ).circles()
    assert found == [["helix_crawl_otel.one", "helix_crawl_otel.three", "helix_crawl_otel.two"]]


def test_a_name_used_twice_is_found(tmp_path: Path) -> None:
    """Private ones may be."""
    found = make(tmp_path, one="class A: ...\nclass _B: ...", two="class A: ...\nclass _B: ...").classes_twice()
    assert found == {"A": ["helix_crawl_otel.one", "helix_crawl_otel.two"]}


def test_a_part_torn_off_is_found(tmp_path: Path) -> None:
    """Imported by one, and small; not so one that two import, or a long one."""
    users = "from helix_crawl_otel.part import f\nfrom helix_crawl_otel import both, long"
    found = make(
        tmp_path, part="", both="", long="x = 1\n" * 60, one=users, two="import helix_crawl_otel.both"
    ).torn_off(60)
    assert found == {"helix_crawl_otel.part": "helix_crawl_otel.one"}


def test_lines_that_stand_twice_are_found(tmp_path: Path) -> None:
    """Eleven of code; ten are none, nor are texts and imports."""
    code = "\n".join(f"x{n} = {n}" for n in range(11))
    text = '"""\n' + "\n".join(f"line {n}" for n in range(20)) + '\n"""\n'
    found = make(tmp_path, one=f"{text}{code}", two=f"{text}\n{code}", three="\n".join(code.splitlines()[1:]))
    assert found.runs_twice() == ["helix_crawl_otel.one: x0 = 0 | helix_crawl_otel.two"]
