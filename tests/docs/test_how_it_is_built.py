"""The page about the code names what is there: a name that is gone, or has moved, is found."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.rules.tree import PACKAGE, ROOT

PAGE = ROOT / "docs" / "explanation" / "how-it-is-built.md"
MOST_STEPS = 12

_CODE = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def sections() -> dict[str, str]:
    """The page's sections by their headings."""
    heading, *rest = re.split(r"^## (.+)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert heading
    return dict(zip(rest[::2], rest[1::2], strict=True))


def steps(text: str) -> list[str]:
    """The numbered lines."""
    return re.findall(r"^\d+\. .+$", text, flags=re.MULTILINE)


def resolve(name: str) -> object:
    """What a name of the page means.

    Raises:
        AttributeError, ModuleNotFoundError: Nothing.
    """
    parts = name.split(".")
    found: object = importlib.import_module(PACKAGE.name)
    for index, part in enumerate(parts):
        module = ".".join((PACKAGE.name, *parts[: index + 1]))
        folder = PACKAGE.joinpath(*parts[: index + 1])
        is_module = folder.is_dir() or folder.with_suffix(".py").is_file()
        found = importlib.import_module(module) if is_module else getattr(found, part)
    return found


@pytest.mark.parametrize(
    "title", ["The way of a batch", "The way of a file to a vector", "The way of a shard in a fleet"]
)
def test_each_way_has_at_most_twelve_named_steps(title: str) -> None:
    """Each step names a piece of the code that is there."""
    found = steps(sections()[title])
    assert 8 <= len(found) <= MOST_STEPS
    for step in found:
        names = [name for name in _CODE.findall(step) if _NAME.fullmatch(name)]
        assert names, f"names nothing: {step}"
        for name in names:
            resolve(name)


def test_every_package_has_its_line() -> None:
    """And no line is of one that is gone."""
    rows = re.findall(r"^\| (`.+?) \|", sections()["The packages"], flags=re.MULTILINE)
    named = {name for row in rows for name in _CODE.findall(row)}
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= named
    for name in named:
        resolve(name)


@pytest.mark.parametrize("name", ["supervise.ear", "build.run.run_nothing", "policy.policy.Policy.guess"])
def test_a_name_that_is_gone_is_found(name: str) -> None:
    """The test can fail."""
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(name)
